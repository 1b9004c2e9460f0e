import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .calls import BARE, call


def evaluated(*arguments: Any) -> dict[str, Any]:
    told = call("eval", *arguments, "--json")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("\n") == 1
    answer: dict[str, Any] = json.loads(told.out)
    return answer


def kept(run: Path) -> dict[str, Any]:
    rows: list[dict[str, Any]] = json.loads((run / "results.json").read_text())["rows"]
    return next(row for row in rows if row["model"] == "kept")


def test_the_figures_are_those_of_the_runs_table(run: Path) -> None:
    figures = evaluated(run)
    assert (figures["part"], figures["samples"]) == ("test", 400)
    # The run has one seed, so that the table's mean is this student's own figure.
    for name in ("accuracy", "balanced_accuracy", "loss_nats"):
        assert figures[name] == kept(run)[name]


def test_control_another_student_has_other_figures(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    shutil.copy(run / "alone/seed-0/student.safetensors", other / "student.safetensors")
    assert evaluated(other)["loss_nats"] != kept(run)["loss_nats"]


def test_the_exported_file_is_scored_by_itself(run: Path) -> None:
    student, file = evaluated(run), evaluated(run, "--file", run / "deploy")
    assert file["accuracy"] == student["accuracy"]
    assert file["loss_nats"] == pytest.approx(student["loss_nats"], rel=1e-5)
    assert file == evaluated(run, "--file", run / "deploy/model.onnx")


def test_another_part_of_the_data_can_be_asked_for(run: Path) -> None:
    assert [evaluated(run, "--on", part)["samples"] for part in ("train", "valid", "test")] == [1000, 397, 400]


def test_people_get_a_line_for_each_figure(run: Path) -> None:
    lines = call("eval", run).out.splitlines()
    assert lines[0].split() == ["part", "test"]
    assert f"accuracy           {evaluated(run)['accuracy']:.4f}" in lines


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call("data", "breast-cancer", "data/breast-cancer").code == 0
        assert call("run", "csv", *BARE, "--out", "run").code == 0
    return folder


def test_new_data_can_be_laid_over(table: Path) -> None:
    lines = (table / "data/breast-cancer/test.csv").read_text().splitlines(keepends=True)
    Path("new.csv").write_text("".join(lines[:51]))
    told = evaluated(table / "run", "--set", "data.test=new.csv")
    assert told["samples"] == 50
    assert evaluated(table / "run")["samples"] == 100


def test_columns_that_are_others_are_told(table: Path) -> None:
    Path("new.csv").write_text("a,diagnosis\n1,benign\n")
    told = call("eval", table / "run", "--set", "data.test=new.csv")
    assert (told.code, told.out) == (2, "")
    assert "new.csv" in told.err


# -- what is no run, or a damaged one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["eval", "export"])
def test_what_is_no_run_is_told_and_the_nearest_is_named(verb: str, run: Path) -> None:
    shutil.copytree(run, "runs/digits", ignore=lambda _, names: set(names) - {"recipe.yaml"})
    Path("my.yaml").write_text("task: classification")
    for name in ("nope", "my.yaml", ".", "digits"):
        told = call(verb, name)
        assert (told.code, told.out) == (2, "")
        assert told.err.startswith(f"{name}: is not the folder of a run: there is no recipe.yaml in it. ")
    assert "Did you mean 'runs/digits'?" in call(verb, "runs/digit").err
    told = call(verb, "runs/digits")
    assert told.code == 2
    assert "holds no finished run. Let it end first: understudy run runs/digits --resume" in told.err


@pytest.mark.parametrize("file", ["student.safetensors", "results.json"])
@pytest.mark.parametrize("verb", ["eval", "export"])
@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_is_told_as_such(file: str, verb: str, damage: str, run: Path) -> None:
    shutil.copytree(run, "run", ignore=lambda _, names: {"teacher", "alone", "deploy"} & set(names))
    path = Path("run") / file
    held = path.read_bytes()
    path.write_bytes({"cut": held[: len(held) // 2], "other": b"[1, 2]", "empty": b""}[damage])
    told = call(verb, "run", "--json")
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith(f"run/{file}: ")
    assert not Path("run/deploy").exists()


@pytest.mark.parametrize(
    ("typed", "code", "told"),
    [
        (["--on", "tst"], 2, "'tst' is not one of 'train', 'valid', 'test'."),
        (["--file", "nope.onnx"], 2, "'--file': Path 'nope.onnx' does not exist."),
        (["--file", "note.txt"], 2, "note.txt: is no exported folder"),
        (["--file", "."], 2, ".: is no exported folder"),
        (["--set", "data.test=x"], 2, "--set 'data.test=x': data: digits has no option 'test'."),
        (["--set", "student.channels=9"], 2, "does not fit the model (CNN)"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_does_not_go_together_is_told(typed: list[str], code: int, told: str, run: Path) -> None:
    Path("note.txt").write_text("buy milk")
    answer = call("eval", run, *typed)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
