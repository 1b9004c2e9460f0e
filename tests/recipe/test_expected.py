"""The ready recipes give what their heads say."""

import re
from pathlib import Path

import pytest

from understudy.data.written import write_example
from understudy.recipe.ready import ready
from understudy.recipe.text import read
from understudy.search.search import run

ROWS = {"teacher": "teacher", "alone": "student alone", "distilled": "distilled"}
FIGURE = re.compile(r"(teacher|alone|distilled) (\.\d+)(?: \+- (\.\d+))?")


TIMED = sorted(name for name in ready() if "/" not in name)  # those in folders take a user's data and hours


def expected(name: str) -> dict[str, tuple[float, float]]:
    """A model's mean on test, and half the width of its interval; of the teacher, which has none, two points."""
    (line,) = re.findall(r"^# Expected: (.*)$", ready()[name].path.read_text(), flags=re.MULTILINE)
    return {ROWS[model]: (float(mean), float(half or 0.02)) for model, mean, half in FIGURE.findall(line)}


def test_every_ready_recipe_says_what_to_expect_and_how_it_was_made() -> None:
    assert len(TIMED) >= 6
    for name in TIMED:
        recipe = ready()[name]
        assert set(expected(name)) == set(ROWS.values()), name
        assert re.search(
            rf"^# Made by: (understudy data \S+ \S+ && )?understudy run {name}$", recipe.path.read_text(), re.M
        )


@pytest.mark.long
@pytest.mark.parametrize("name", TIMED)
def test_a_ready_recipe_gives_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "hugging-face":
        pytest.importorskip("transformers")
    text = ready()[name].path.read_text()
    monkeypatch.chdir(tmp_path)
    for example, folder in re.findall(r"understudy data (\S+) (\S+) &&", text):
        write_example(example, Path(folder))
    Path("recipe.yaml").write_text(text)
    rows = {row["model"]: row for row in run(read(Path("recipe.yaml")), Path("run")).result.rows}
    for model, (mean, half) in expected(name).items():
        assert abs(rows[model]["accuracy"] - mean) <= half, (model, rows[model]["accuracy"])
