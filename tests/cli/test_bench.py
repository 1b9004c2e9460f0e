import json
import re
from pathlib import Path

import pytest

from understudy.measure import BUDGETS
from understudy.recipe.models import _exported

from .calls import call, too_wide

QUICK = ("--batch", "1", "--threads", "1", "--runs", "5")


def test_a_runs_models_and_its_file_in_one_table(run: Path) -> None:
    told = call("bench", run, *QUICK, "--json")
    assert told.code == 0, told.err
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    names = [f"{run.name}: teacher", f"{run.name}: student", f"{run.name}: deploy"]
    assert [fact["model"] for fact in answer["models"]] == [row["model"] for row in answer["rows"]] == names
    costs = {row["model"]: row["parameters"] for row in json.loads((run / "results.json").read_text())["rows"]}
    assert [fact.get("parameters") for fact in answer["models"]] == [costs["teacher"], costs["kept"], None]
    assert answer["models"][2]["size_bytes"] == (run / "deploy" / "model.onnx").stat().st_size
    assert [fact["runtime"] for fact in answer["models"]] == ["torch", "torch", "onnxruntime"]


def test_two_runs_of_one_name_are_refused_where_one_would_hide_the_other(run: Path) -> None:
    told = call("bench", run, run, *QUICK)
    assert (told.code, told.out) == (2, "")
    assert f"{run}: there is a '{run.name}: deploy' already." in told.err


def test_programs_of_a_run_are_left_out_since_to_open_one_is_to_run_its_code(run: Path) -> None:
    (run / "other").mkdir()
    (run / "other" / "model.pt2").write_bytes(b"whoever made it")
    (run / "other" / "preprocessing.json").write_text("{}")
    (run / "mine.pt2").write_bytes(b"whoever made it")
    found = [path.name for path in _exported(run)]
    assert found == ["deploy"]
    (run / "mine.onnx").write_bytes(b"")  # control: another file is found
    assert [path.name for path in _exported(run)] == ["deploy", "mine.onnx"]


def test_files_side_by_side_are_printed_and_fit(run: Path) -> None:
    Path("a.onnx").write_bytes((run / "deploy" / "model.onnx").read_bytes())
    Path("b-int8.onnx").write_bytes(Path("a.onnx").read_bytes())
    told = call("bench", "a.onnx", "b-int8.onnx", "--batch", "4", "--threads", "1", "--runs", "5", "--deadline", "1000")
    assert told.code == 0, told.err
    assert too_wide(told.out) == []
    for words in (
        "On the disk",
        "Batch of 1, 1 thread",
        "Batch of 4, 1 thread",
        "times",
        "misses",
        "0.0%",
        "Energy is ",
    ):
        assert words in told.out
    assert len(re.findall(r"^ ?b-int8\.onnx", told.out, re.MULTILINE)) >= 3


def test_a_budget_says_whether_a_model_is_within_it(run: Path) -> None:
    told = call("bench", run / "deploy", "--budget", "phone", "--json")
    assert told.code == 0, told.err
    (row,) = json.loads(told.out)["rows"]
    assert (row["within_budget"], row["memory_fits"], row["runs"] >= 1000) == (True, True, True)
    assert all(name in call("bench", "--help").out for name in BUDGETS)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "Missing argument"),
        (("nowhere.onnx",), 2, "nowhere.onnx: there is no such file."),
        (("note.txt",), 2, "note.txt: its name does not end as that of a model that can be run here."),
        (("empty",), 2, "empty: one model is looked for in a folder, and there is none."),
        (("torn.onnx", *QUICK), 3, "torn.onnx: onnxruntime cannot load it: "),
        (("torn.onnx", "--budget", "phnoe"), 2, "budget: there is no 'phnoe'. Did you mean 'phone'?"),
        (("torn.onnx", "--deadline", "0"), 2, "--deadline 0: allowed: a number of milliseconds above 0."),
        (("torn.onnx", "--deadline", "-3"), 2, "--deadline -3: allowed"),
        (("torn.onnx", "--deadline", "nan"), 2, "--deadline nan: allowed"),
        (("torn.onnx", "--shape", "1,x"), 2, "--shape 1,x: allowed: whole numbers from 1, with commas between them."),
        (("torn.onnx", "--threads", "0"), 2, "--threads 0: allowed: whole numbers from 1"),
        (("good.onnx", "--shape", "3,8,8", *QUICK), 2, "good.onnx: takes input [N, 1, 8, 8], but samples of [3, 8, 8]"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: tuple[str, ...], code: int, told: str, run: Path) -> None:
    Path("empty").mkdir()
    Path("note.txt").write_text("years of work")
    Path("torn.onnx").write_text("no model")
    Path("good.onnx").write_bytes((run / "deploy" / "model.onnx").read_bytes())
    answer = call("bench", *arguments)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
