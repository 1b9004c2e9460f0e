import json
import sys
from pathlib import Path

import onnxruntime
import pytest

from understudy.export import TARGETS

from .calls import call


def test_a_file_alone(run: Path) -> None:
    told = call("export", run, "--to", "x.onnx", "--json")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    assert answer["path"] == "x.onnx"
    assert answer["max_error"] < 1e-4
    assert answer["accuracy"] == json.loads(call("eval", run, "--json").out)["accuracy"]
    assert onnxruntime.InferenceSession("x.onnx").get_inputs()[0].shape[1:] == [1, 8, 8]
    assert [path.name for path in Path().iterdir()] == ["x.onnx"]


def test_a_folder_like_that_of_the_run(run: Path) -> None:
    told = call("export", run, "--to", "here/deploy")
    assert told.code == 0
    assert told.out.splitlines()[0] == "here/deploy"
    names = {path.name for path in Path("here/deploy").iterdir()}
    assert names == {path.name for path in (run / "deploy").iterdir()}
    assert {"model.onnx", "preprocessing.json", "predict.py"} <= names


@pytest.mark.parametrize(
    ("to", "code", "told"),
    [
        ("note.txt", 2, "export: note.txt ends in '.txt'; give a name that ends in .onnx, or that of a folder."),
        ("mine", 2, "mine: holds thesis.txt"),
        ("/", 2, "/: "),
        ("note.txt/x.onnx", 4, "note.txt: cannot be made"),
        ("/proc/nothing/x.onnx", 4, "/proc/nothing: cannot be made"),
    ],
)
def test_a_place_that_cannot_be_is_refused_and_left_alone(to: str, code: int, told: str, run: Path) -> None:
    Path("mine").mkdir()
    for path in ("note.txt", "mine/thesis.txt"):
        Path(path).write_text("years of work")
    answer = call("export", run, "--to", to)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
    assert sorted(str(path) for path in Path().rglob("*")) == ["mine", "mine/thesis.txt", "note.txt"]


def test_a_target_is_written_where_it_is_named(run: Path) -> None:
    told = call("export", run, "--target", "onnx-int8", "--to", "small", "--json")
    assert (told.code, told.err) == (0, "")
    answer = json.loads(told.out)
    assert answer["agreement"] >= 0.9
    assert json.loads(Path("small/preprocessing.json").read_text())["target"] == "onnx-int8"
    assert json.loads(call("eval", run, "--file", "small", "--json").out)["accuracy"] == answer["accuracy"]
    assert sorted(path.name for path in Path("small").iterdir()) == [
        "README.md",
        "model.onnx",
        "predict.py",
        "preprocessing.json",
    ]


def test_several_targets_get_a_folder_each(run: Path) -> None:
    told = call("export", run, "--target", "onnx", "--target", "torch", "--to", "all", "--json")
    answers = json.loads(told.out)
    assert [answer["path"] for answer in answers] == ["all/onnx", "all/torch"]
    assert answers[0]["accuracy"] == answers[1]["accuracy"]
    refused = call("eval", run, "--file", "all/torch")
    assert refused.code == 2
    assert "to open it is to run the code that is in it" in refused.err


def test_a_target_that_is_not_there_or_another_files_ending_is_refused(run: Path) -> None:
    told = call("export", run, "--target", "onxx")
    assert (told.code, told.out) == (2, "")
    assert "there is no target 'onxx'. Did you mean 'onnx'?" in told.err
    told = call("export", run, "--target", "torch", "--to", "x.onnx")
    assert (told.code, told.out) == (2, "")
    assert "x.onnx ends in '.onnx'; give a name that ends in .pt2, or that of a folder" in told.err
    assert list(Path().iterdir()) == []


def test_a_vendor_is_for_a_page_only_and_has_to_be_there(run: Path) -> None:
    told = call("export", run, "--target", "onnx", "--vendor", "ort")
    assert (told.code, told.out) == (2, "")
    assert "--vendor: is for --target web" in told.err
    told = call("export", run, "--target", "web", "--vendor", "ort")
    assert (told.code, told.out) == (2, "")
    assert "vendor: ort: there is no such folder or package" in told.err
    told = call("export", run, "--target", "web", "--to", "x.onnx")
    assert (told.code, told.out) == (2, "")
    assert "x.onnx ends in '.onnx'; give the name of a folder, without an ending" in told.err
    assert list(Path().iterdir()) == []


def test_the_targets_are_listed() -> None:
    rows = json.loads(call("list", "targets", "--json").out)
    assert {row["name"]: row["runs_here"] for row in rows} == {name: name != "coreml" for name in TARGETS}
    assert "there is no target" in call("list", "targets", "onxx").err


def test_a_package_that_is_missing_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    told = call("export", run, "--to", "x.onnx")
    assert (told.code, told.out) == (4, "")
    assert "pip install 'understudy[onnx]'" in told.err
