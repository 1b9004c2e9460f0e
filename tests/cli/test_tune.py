"""``understudy tune``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe.kit import SMALL
from understudy.search import tune as tune_module

from .calls import call


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the verb asks for, in a folder with a recipe."""
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(SMALL)
    seen: list[Any] = []

    class Made:
        def results(self) -> dict[str, Any]:
            return {"best": [0]}

    monkeypatch.setattr(tune_module, "tune", lambda *args, **more: seen.append((args, more)) or Made())
    return seen


def test_ranges_objectives_and_budget_are_read(given: list[Any]) -> None:
    words = [
        "--over",
        "temperature=1:20:log",
        "--over",
        "method.name=kd,dkd",
        "--objective",
        "accuracy",
        "--objective",
        "size_mb",
    ]
    answer = call("tune", "r.yaml", "--trials", "7", "--budget", "30m", *words, "--set", "epochs=3", "--json")
    assert answer.code == 0, answer.err
    ((document, folder), more) = given[0]
    assert document.value["epochs"] == 3
    assert folder == Path("runs/r-tune")
    assert (more["trials"], more["budget"].seconds, more["resume"]) == (7, 1800.0, False)
    assert [each.key for each in more["over"]] == ["method.temperature", "method.name"]
    assert more["objectives"] == ("accuracy", "size_mb")
    assert '"best": [0]' in answer.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "5"], "--budget 5: is no time, such as 30m; how many there are is --trials."),
        (["--budget", "soon"], "--budget: 'soon' is no budget"),
        (["--over", "temperature"], "is not of the form key=low:high"),
        (["--trials", "0"], "--trials"),
        (["--out", "."], "is not the name of a folder of its own"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: list[Any], words: list[str], told: str) -> None:
    answer = call("tune", "r.yaml", *words)
    assert answer.code == 2
    assert told in answer.err
    assert given == []
