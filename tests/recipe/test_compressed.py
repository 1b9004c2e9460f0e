"""Students that a recipe makes of their teacher."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from recipe.kit import SMALL, differing, document, problems, ran
from understudy.outcome import TEACHER
from understudy.recipe.finished import Finished
from understudy.recipe.running import run
from understudy.recipe.text import read
from understudy.state import digest

pytestmark = pytest.mark.usefixtures("quick")

TEXT = SMALL.replace("student: {name: CNN, channels: 2}", "student: teacher") + (
    "compress:\n  - {name: low_rank, ratio: 0.7}\n  - {name: magnitude, amount: 0.3}\n"
)


def test_a_run_of_one_is_made_again_from_its_folder(tmp_path: Path) -> None:
    made = ran(tmp_path, TEXT)
    again = Finished.open(tmp_path / "out", read(tmp_path / "out" / "recipe.yaml"))
    kept = next(row for row in made.result.rows if row["model"] == "kept")
    assert digest(again.student) == digest(made.result.student)
    assert kept["parameters"] == sum(p.numel() for p in again.student.parameters())
    assert kept["parameters"] < next(row for row in made.result.rows if row["model"] == "teacher")["parameters"]


def test_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    ran(tmp_path, TEXT)
    ran(tmp_path, TEXT, out="other")
    assert not differing(tmp_path / "out", tmp_path / "other")
    ran(tmp_path, TEXT, resume=True)
    assert not differing(tmp_path / "out", tmp_path / "other")


def test_the_resolved_recipe_is_the_same_run(tmp_path: Path) -> None:
    made = ran(tmp_path, TEXT)
    assert made.result.recipe["compressed"].startswith("low_rank(ratio=0.7")
    run(read(tmp_path / "out" / "recipe.yaml"), tmp_path / "again", console=Console(quiet=True))
    assert not differing(tmp_path / "out", tmp_path / "again")


def test_terms_are_tried_on_the_compressed_student(tmp_path: Path) -> None:
    """low_rank makes two layers of one: what an address names is there only then."""
    text = TEXT.replace("method: {name: kd, temperature: 2, alpha: 0.5}", "terms:\n  - {loss: mse, at: [student.layer3.0.1, teacher.layer3.0]}\n  - {loss: kl, at: [student, teacher]}")  # fmt: skip
    assert document(tmp_path, text)
    found = problems(tmp_path, text.replace("layer3.0.1", "layer9"))
    assert any("no submodule 'layer9'" in line for line in found)
    ran(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("low_rank", "low_rang", "there is no compression 'low_rang'. Did you mean 'low_rank'?"),
        ("ratio: 0.7", "rati: 0.7", "low_rank has no option 'rati'. Did you mean 'ratio'?"),
        ("ratio: 0.7", "ratio: 1.7", "ratio"),
        ("student: teacher", "student: techer", "there is no model 'techer'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    found = problems(tmp_path, TEXT.replace(old, new))
    assert any(told in line for line in found)
    assert all(line.startswith("r.yaml:") for line in found if told in line)


@pytest.mark.parametrize("student", ["teacher", "{name: CNN, channels: 4}"])
def test_shapes_that_depend_on_weights_are_found_again(student: str, tmp_path: Path) -> None:
    """Of the teacher's file, and of the seed by which a student begins; ranks of other weights would be others."""
    ran(tmp_path, SMALL, "seeds=1", "fine_tune=false", out="first")
    weights = f"weights: {tmp_path / 'first' / TEACHER}}}"
    text = SMALL.replace("epochs: 4, data: {name: digits, train: 300, valid: 100}}", weights)
    text = text.replace("student: {name: CNN, channels: 2}", f"student: {student}")
    made = ran(tmp_path, f"{text}compress: [{{name: low_rank, energy: 0.8}}]\n", "seed=5", "fine_tune=false")
    again = Finished.open(tmp_path / "out", read(tmp_path / "out" / "recipe.yaml"))
    assert digest(again.student) == digest(made.result.student)
