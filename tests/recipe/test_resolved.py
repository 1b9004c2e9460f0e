"""A recipe in full: every value, where it comes from, and what another one has otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recipe.kit import SMALL, document, examined, without
from understudy.recipe.resolved import Resolved, resolve
from understudy.recipe.text import read

DOTS = """\
# a comment
data: {name: csv, train: data/a.csv, label: y, test: 0.2}
student: CNN
teacher:
  model: {name: MLP, hidden: [3, 4]}
  weights: ../w.safetensors
optimizer: SGD
terms:
  - {loss: kl, at: [student, teacher], weight: {name: linear, start: 1, end: 0}, project: Linear}
"""


def origins(folder: Path, made: Resolved) -> dict[str, str]:
    return {".".join(map(str, w)): told.replace(f"{folder}/", "") for w, told in made.origins.items()}


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    told = origins(tmp_path, resolve(document(tmp_path, DOTS, "optimizer.lr=0.5")))
    assert {
        "data.name": "r.yaml:2", "data.train": "r.yaml:2", "data.valid": "default", "student.name": "r.yaml:3", "teacher.model.hidden": "r.yaml:5",
        "teacher.weights": "r.yaml:6", "teacher.model.dropout": "default", "optimizer.name": "r.yaml:7", "optimizer.lr": "--set 'optimizer.lr=0.5'",
        "terms.0.loss": "r.yaml:9", "terms.0.weight.start": "r.yaml:9", "terms.0.temperature": "default", "terms.0.project.name": "r.yaml:9",
        "epochs": "default", "task": "default",
    }.items() <= told.items()  # fmt: skip


def test_names_become_mappings_with_their_defaults(tmp_path: Path) -> None:
    value = resolve(document(tmp_path, DOTS)).value
    assert value["student"] == {"name": "CNN"}
    assert value["optimizer"]["name"] == "SGD"
    assert value["optimizer"]["momentum"] == 0
    assert value["terms"][0] == {
        "loss": "kl", "at": ["student", "teacher"], "weight": {"name": "linear", "start": 1, "end": 0}, "project": {"name": "Linear"},
        "temperature": 1.0,
    }  # fmt: skip
    assert value["epochs"] == 20
    assert "method" not in value or value["method"] is None


def test_without_method_and_terms_it_is_kd(tmp_path: Path) -> None:
    value = resolve(document(tmp_path, without(SMALL, "method"))).value
    assert value["method"] == {"name": "kd", "temperature": 4.0, "alpha": 0.9}


def test_a_path_is_relative_to_the_file_that_it_stands_in(tmp_path: Path) -> None:
    made = resolve(document(tmp_path, DOTS, "data.valid=here.csv", name="sub/r.yaml"))
    assert made.value["data"]["train"] == str(tmp_path / "sub" / "data/a.csv")
    assert made.value["teacher"]["weights"] == str(tmp_path / "sub" / "../w.safetensors")
    assert made.value["data"]["valid"] == "here.csv"  # of the command line: relative to where it is given
    assert made.value["data"]["test"] == 0.2
    assert made.paths == {("data", "train"), ("data", "valid"), ("teacher", "weights")}


def test_a_store_is_a_path_like_any_other_and_auto_is_none(tmp_path: Path) -> None:
    text = DOTS.replace("teacher:\n", "teacher:\n  store: said/it\n")
    made = resolve(document(tmp_path, text, name="sub/r.yaml"))
    assert made.value["teacher"]["store"] == str(tmp_path / "sub" / "said/it")
    assert ("teacher", "store") in made.paths
    assert f"store: {json.dumps(str(tmp_path / 'sub' / 'said/it'))}" in made.text()
    for typed, value in (("auto", "auto"), ("null", None)):
        made = resolve(document(tmp_path, text.replace("said/it", typed), name="sub/r.yaml"))
        assert made.value["teacher"]["store"] == value
        assert ("teacher", "store") not in made.paths


def test_no_variable_of_the_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/elsewhere")
    monkeypatch.setenv("LABEL", "elsewhere")
    text = DOTS.replace("data/a.csv", "$HOME/a.csv").replace("label: y", "label: ${LABEL}").replace("../w", "~/w")
    made = resolve(document(tmp_path, text.replace("label: ${LABEL}", 'label: "${LABEL}"')))
    assert made.value["data"]["train"] == str(tmp_path / "$HOME/a.csv")
    assert made.value["data"]["label"] == "${LABEL}"
    assert made.value["teacher"]["weights"] == str(tmp_path / "~/w.safetensors")
    assert "elsewhere" not in made.text()


def test_the_text_is_a_recipe_of_the_same_values(tmp_path: Path) -> None:
    made = examined(tmp_path, SMALL, "accept={accuracy: '>= 0.5 * teacher', size_mb: '<= 1'}").resolved
    (tmp_path / "full.yaml").write_text(made.text())
    again = resolve(read(tmp_path / "full.yaml"))
    assert again.value == made.value
    assert set(origins(tmp_path, again).values()) <= {f"full.yaml:{i}" for i in range(100)} | {"default"}


@pytest.mark.parametrize(
    "text",
    [
        "a # b",
        "a: b",
        "- x",
        "true",
        "null",
        "1e-3",
        "no",
        "a'b",
        'a"b',
        "é",
        "",
        " x ",
        "*a",
        "&a",
        "{x}",
        "[",
        "x\ny",
        "\t",
    ],
)
def test_a_text_comes_back_from_the_text_as_it_was(tmp_path: Path, text: str) -> None:
    made = examined(tmp_path, SMALL).resolved
    made.value["data"]["name"] = text
    made.value["student"][text] = text
    (tmp_path / "full.yaml").write_text(made.text(), encoding="utf-8")
    back = read(tmp_path / "full.yaml").value
    assert back["data"]["name"] == text
    assert back["student"][text] == text


def test_each_line_of_the_text_says_where_its_value_is_from(tmp_path: Path) -> None:
    lines = examined(tmp_path, SMALL, "epochs=3").resolved.text().replace(f"{tmp_path}/", "").splitlines()
    by_key = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in lines}
    assert by_key["alpha"] == "r.yaml:5"
    assert by_key["epochs"] == "--set 'epochs=3'"
    assert by_key["workers"] == "default"
    assert by_key["inputs"] == by_key["classes"] == "data"
    assert [line for line in lines if "#" not in line] == [
        "data:",
        "student:",
        "teacher:",
        "  model:",
        "  data:",
        "method:",
        "optimizer:",
    ]


def test_differences_name_key_values_and_line(tmp_path: Path) -> None:
    old = examined(tmp_path, SMALL).resolved
    new = examined(tmp_path, SMALL, "method.alpha=0.25", "epochs=3", "device=null").resolved
    assert old.differences(old.value, ()) == []
    assert new.differences(old.value, ("device",)) == [
        "method.alpha was 0.5 and is 0.25 (--set 'method.alpha=0.25')",
        "epochs was 2 and is 3 (--set 'epochs=3')",
    ]
    assert len(new.differences(old.value, ())) == 3


def test_a_difference_in_a_list_is_one(tmp_path: Path) -> None:
    text = without(SMALL, "student") + "student: {name: MLP, hidden: [3, 4], inputs: 64}\n"
    one, other = (resolve(document(tmp_path, t)) for t in (text, text.replace("[3, 4]", "[4, 3]")))
    assert other.differences(one.value, ()) == [f"student.hidden was [3, 4] and is [4, 3] ({tmp_path}/r.yaml:13)"]


def test_a_path_is_the_same_from_wherever_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = resolve(document(tmp_path, DOTS))
    (tmp_path / "full.yaml").write_text(one.text())
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    other = resolve(document(Path("../"), DOTS))
    assert other.differences(read(tmp_path / "full.yaml").value, ()) == []


def test_what_is_left_out_is_not_resolved(tmp_path: Path) -> None:
    made = resolve(document(tmp_path, DOTS), [("optimizer",), ("terms", 0)])
    assert "optimizer" not in made.value
    assert made.value["terms"] == []


def test_null_is_another_thing_than_a_default_that_is_not(tmp_path: Path) -> None:
    assert resolve(document(tmp_path, SMALL)).value["export"] is None
    assert resolve(document(tmp_path, without(SMALL, "export"))).value["export"] == "deploy"
    assert resolve(document(tmp_path, without(SMALL, "method") + "method: null\n")).value["method"]["name"] == "kd"
