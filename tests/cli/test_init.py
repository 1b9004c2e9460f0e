from pathlib import Path

import pytest

from understudy.recipe.ready import templates

from .calls import Answer, call

DATA = {
    "image-classification": [],
    "multi-label": [("digits-attributes", "data/digits-attributes")],
    "tabular-classification": [("breast-cancer", "data/breast-cancer")],
    "tabular-regression": [("diabetes", "data/diabetes")],
}


def test_there_is_a_template_for_each_of_these() -> None:
    assert templates().keys() == DATA.keys()


@pytest.mark.parametrize("task", DATA)
def test_what_it_prints_passes_the_check_as_it_stands(task: str) -> None:
    told = call("init", task)
    assert (told.code, told.err) == (0, "")
    Path("my.yaml").write_text(told.out)
    for name, folder in DATA[task]:
        assert f"understudy data {name} {folder}\n" in told.out  # a comment says so
        assert call("check", "my.yaml").code == 2
        assert call("data", name, folder).code == 0
    checked = call("check", "my.yaml")
    assert checked.code == 0, checked.err
    assert checked.out.startswith("my.yaml: sound.")


def test_a_task_must_be_named() -> None:
    told = call("init")
    assert (told.code, told.out) == (2, "")
    assert all(task in told.err for task in DATA)
    assert isinstance(told, Answer)
