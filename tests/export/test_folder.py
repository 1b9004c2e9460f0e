from __future__ import annotations

import ast
import errno
import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy import writing
from understudy.errors import InputError, MachineError
from understudy.export import check_onnx, graph, staging, write_folder
from understudy.export.model import outputs

from .models import Bessel, Noise, Text, digits_model, text, varied

CLASSES = ["aardvark", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay"]
FILES = ["model.onnx", "predict.py", "preprocessing.json"]
LINEAR = torch.linspace(-2, 2, 20).reshape(5, 4)
# What a machine without torch does, on a machine that has it.
WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return varied(300)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, images: Tensor) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "student"
    write_folder(folder, digits_model(), images[:2], images, task_name="classification", classes=CLASSES)
    return folder


def linear(folder: Path, task_name: str = "regression", student: nn.Module | None = None, **more: Any) -> nn.Module:
    torch.manual_seed(0)
    student = student or nn.Linear(4, 3)
    write_folder(folder, student, LINEAR, LINEAR, task_name=task_name, **more)
    return student


@pytest.fixture(scope="module")
def linear_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("linear") / "s"
    linear(folder)
    return (folder / "model.onnx").read_bytes()


@pytest.fixture
def quick(linear_file: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the exporter where only the folder matters; the file is checked all the same."""
    monkeypatch.setattr(graph, "write", lambda model, inputs, file: file.write_bytes(linear_file))


def script(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("predict", folder / "predict.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(folder: Path, *arguments: Any, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
    command = [python, "-W", "error", "-c", WITHOUT_TORCH, folder / "predict.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)


def entries(folder: Path, raw: Any, tmp_path: Path, **run_options: Any) -> list[dict[str, Any]]:
    file = tmp_path / ("raw.npz" if isinstance(raw, dict) else "raw.npy")
    np.savez(file, **raw) if isinstance(raw, dict) else np.save(file, raw)
    done = run(folder, file, **run_options)
    assert done.stderr == ""
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def same_as_the_model(answers: list[dict[str, Any]], logits: Tensor) -> bool:
    assert all(a["class"] == CLASSES[a["index"]] for a in answers)
    close = np.allclose([a["probabilities"] for a in answers], logits.softmax(1).numpy(), rtol=0, atol=1e-6)
    return [a["index"] for a in answers] == logits.argmax(1).tolist() and close


# -- the folder without torch ------------------------------------------------------------------------------------------


def test_the_folder_runs_without_torch_and_says_what_the_model_says(
    exported: Path, images: Tensor, tmp_path: Path
) -> None:
    logits = outputs(digits_model(), images)
    answers = entries(exported, images.numpy(), tmp_path)
    assert len(answers) == 300
    assert len({a["index"] for a in answers}) > 1
    assert same_as_the_model(answers, logits)
    assert not same_as_the_model(answers, outputs(digits_model(), images.flip(3)))


def test_predictions_are_written_instead_of_printed(exported: Path, images: Tensor, tmp_path: Path) -> None:
    np.save(tmp_path / "raw.npy", images.numpy())
    done = run(exported, tmp_path / "raw.npy", "--out", tmp_path / "predictions.npy")
    assert (done.stdout, done.stderr) == ("", "")
    expected = outputs(digits_model(), images).argmax(1)
    assert np.load(tmp_path / "predictions.npy").tolist() == expected.tolist()


def test_control_in_that_process_torch_cannot_be_imported(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "predict.py").write_text("import torch")
    assert "ModuleNotFoundError" in run(tmp_path).stderr


@pytest.mark.long
def test_the_folder_runs_in_an_environment_that_has_no_torch(exported: Path, images: Tensor, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "numpy", "onnxruntime"]
    subprocess.run(install, check=True)
    assert "No module named 'torch'" in subprocess.run([python, "-c", "import torch"], stderr=-1, text=True).stderr
    assert (
        "No module named 'understudy'"
        in subprocess.run([python, "-c", "import understudy"], stderr=-1, text=True).stderr
    )
    moved = (exported.rename(tmp_path / "elsewhere"), exported)
    try:
        np.save(tmp_path / "raw.npy", images[:256].numpy())
        command = [python, moved[0] / "predict.py", tmp_path / "raw.npy"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert same_as_the_model(json.loads(done.stdout), outputs(digits_model(), images[:256]))
        subprocess.run([*command, "--out", tmp_path / "p.npy"], check=True)
        assert np.load(tmp_path / "p.npy").tolist() == outputs(digits_model(), images[:256]).argmax(1).tolist()
    finally:
        moved[0].rename(moved[1])


def test_the_script_is_short_and_needs_numpy_and_onnxruntime_only(exported: Path) -> None:
    source = (exported / "predict.py").read_text()
    assert len(source.splitlines()) < 60
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, (ast.Import, ast.ImportFrom))]
    names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names} | {
        n.module for n in nodes if isinstance(n, ast.ImportFrom)
    }
    assert names - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_the_folder_holds_three_files_that_others_may_read(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir() if p.name != "__pycache__") == FILES
    plain = exported.parent / "plain"
    plain.mkdir()
    assert exported.stat().st_mode == plain.stat().st_mode  # as the user's umask has it, not as of a temporary folder
    facts = json.loads((exported / "preprocessing.json").read_text())
    assert facts.pop("checked")["samples"] == 300
    about = {"dtype": "float32", "shape": [1, 8, 8], "layout": "channels_first", "scale": 1.0, "mean": 0.0, "std": 1.0}
    assert facts == {
        "made_by": "understudy",
        "task": "classification",
        "classes": CLASSES,
        "inputs": {"input": about},
        "target": "onnx",
        "runtime": "onnxruntime",
        "file": "model.onnx",
        "batch": 256,
    }


def test_what_was_found_is_told(tmp_path: Path, images: Tensor) -> None:
    found = write_folder(tmp_path / "s", digits_model(), images[:1], images[:256], task_name="classification")
    assert {k: found[k] for k in ("samples", "agreement")} == {"samples": 256, "agreement": 1.0}
    assert found["max_error"] < 1e-5
    assert found["size_mb"] == (tmp_path / "s" / "model.onnx").stat().st_size / 1e6
    assert check_onnx(digits_model(), tmp_path / "s" / "model.onnx", images[:256])["max_error"] == found["max_error"]


# -- from the file's arrays to what the model takes --------------------------------------------------------------------


def test_raw_images_go_through_the_same_steps_as_in_training(tmp_path: Path) -> None:
    raw = torch.randint(256, (40, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    taken = (raw.permute(0, 3, 1, 2).float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    steps = {"layout": "channels_last", "scale": 1 / 255, "mean": mean, "std": std.numpy()}
    folder, student = tmp_path / "s", digits_model(channels=3)
    write_folder(folder, student, taken, taken, task_name="classification", classes=CLASSES, preprocessing=steps)
    predict = script(folder)
    prepared = predict.prepare(raw.numpy(), predict.FACTS["inputs"]["input"])
    assert prepared.dtype == np.float32
    np.testing.assert_allclose(prepared, taken.numpy(), rtol=0, atol=1e-5)
    _, answers = predict.predict({"input": prepared})
    assert same_as_the_model(answers, outputs(student, taken))
    unscaled = {**predict.FACTS["inputs"]["input"], "scale": 1.0}
    assert not np.allclose(predict.prepare(raw.numpy(), unscaled), taken.numpy(), rtol=0, atol=1e-5)


@pytest.mark.usefixtures("quick")
def test_columns_of_a_table_have_a_mean_and_a_deviation_each(tmp_path: Path) -> None:
    student = linear(tmp_path / "s", preprocessing={"mean": [1, 2, 3, 4], "std": [1, 2, 4, 8]})
    predict = script(tmp_path / "s")
    raw = np.arange(12, dtype=np.float64).reshape(3, 4)
    taken = (torch.from_numpy(raw).float() - torch.tensor([1.0, 2, 3, 4])) / torch.tensor([1.0, 2, 4, 8])
    array, told = predict.predict({"input": predict.prepare(raw, predict.FACTS["inputs"]["input"])})
    np.testing.assert_allclose(array, student(taken).detach().numpy(), rtol=0, atol=1e-5)
    assert [entry["values"] for entry in told] == array.tolist()


def test_one_sample_needs_no_axis_for_the_batch(exported: Path, images: Tensor) -> None:
    predict = script(exported)
    facts = predict.FACTS["inputs"]["input"]
    np.testing.assert_array_equal(predict.prepare(images[3].numpy(), facts), images[3:4].numpy())
    with pytest.raises(SystemExit, match=r"have the shape \[8, 8\], but \[1, 8, 8\] is needed"):
        predict.prepare(images[:, 0].numpy(), facts)


def test_token_ids_and_several_inputs_come_as_arrays_by_name(tmp_path: Path) -> None:
    student, samples = Text(), text(270)
    write_folder(tmp_path / "s", student, samples, samples, task_name="classification", classes=CLASSES[:3])
    arrays = {name: x.numpy() for name, x in samples.items()}
    answers = entries(tmp_path / "s", {"mask": arrays["mask"], "ids": arrays["ids"].astype(np.int32)}, tmp_path)
    assert same_as_the_model(answers, outputs(student, samples))
    np.save(tmp_path / "one.npy", arrays["ids"])
    assert "ValueError" in run(tmp_path / "s", tmp_path / "one.npy").stderr  # not the same array for both
    predict = script(tmp_path / "s")
    with pytest.raises(TypeError, match="Cannot cast array data from dtype\\('float64'\\) to dtype\\('int64'\\)"):
        predict.prepare(arrays["ids"] + 0.5, predict.FACTS["inputs"]["ids"])


@pytest.mark.usefixtures("quick")
def test_labels_are_those_above_one_half(tmp_path: Path) -> None:
    student = linear(tmp_path / "s", "multi-label", classes=["red", "round", "ripe"])
    logits = student(LINEAR * 100)
    array, told = script(tmp_path / "s").predict({"input": (LINEAR * 100).numpy()})
    assert array.tolist() == (logits > 0).long().tolist()
    names = np.array(["red", "round", "ripe"])
    assert [entry["labels"] for entry in told] == [names[row].tolist() for row in (logits > 0).numpy()]
    assert 0 < array.sum() < array.size
    np.testing.assert_allclose(
        [e["probabilities"] for e in told], logits.sigmoid().detach().numpy(), rtol=1e-5, atol=1e-7
    )


@pytest.mark.usefixtures("quick")
def test_classes_without_names_have_their_numbers(tmp_path: Path) -> None:
    linear(tmp_path / "s", "classification")
    _, told = script(tmp_path / "s").predict({"input": LINEAR.numpy()})
    assert all(entry["class"] == str(entry["index"]) for entry in told)


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_with_the_arguments_is_told_at_once(tmp_path: Path) -> None:
    steps = {"sclae": 2, "scale": 0, "mean": [1, 2], "std": "wide", "layout": "NHWC"}
    with pytest.raises(InputError) as caught:
        linear(tmp_path / "s", "classification", classes=["a", "b"], preprocessing=steps)
    assert str(caught.value).splitlines() == [
        "preprocessing of input: there is no step 'sclae'. Did you mean 'scale'?",
        "preprocessing of input: there is no layout 'NHWC'. Allowed: channels_first, channels_last.",
        "preprocessing of input: scale is 0; allowed: finite numbers, but not zero.",
        "preprocessing of input: mean holds 2 numbers; allowed: 1 or 4.",
        "preprocessing of input: std is 'wide'; allowed: finite numbers, but not zero.",
        "classes: 2 names are given, but the model has 3 outputs.",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task_name": "clasification"}, "task_name: there is no 'clasification'. Did you mean 'classification'"),
        ({"task_name": "regression", "classes": ["a"] * 3}, "classes: a regression has none"),
        ({"task_name": "classification", "student": nn.Unflatten(1, (2, 2))}, r"classification needs outputs \[N, C\], but \['N', 2, 2\]"),
        ({"preprocessing": {"layout": "channels_last"}}, r"samples of shape \[4\] have no channels"),
        ({"preprocessing": {"std": [1, 1, 0, 1]}}, "std is .* not zero"),
        ({"preprocessing": {"mean": [1, 2, 3, float("nan")]}}, "mean is .* finite"),
    ],
)  # fmt: skip
def test_an_argument_that_does_not_fit_is_refused(more: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        linear(tmp_path / "s", **more)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"ids": {"scale": 2}}, "preprocessing of ids: the model takes int64, which cannot be scaled. Leave scale out"),
        ({"msk": {}}, "preprocessing: there is no input 'msk'. Did you mean 'mask'"),
    ],
)
def test_steps_of_several_inputs_are_checked_by_name(steps: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        write_folder(tmp_path / "s", Text(), text(4), text(4), task_name="classification", preprocessing=steps)


@pytest.mark.parametrize("student", [Bessel(), Noise()])
def test_a_model_that_cannot_be_exported_leaves_nothing_behind(student: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bessel_j0|random"):
        linear(tmp_path / "deep" / "s", student=student)
    assert list(tmp_path.iterdir()) == []


# -- what is in the folder's place -------------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.usefixtures("quick")
def test_an_empty_folder_and_an_earlier_export_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    linear(tmp_path / "s")
    (tmp_path / "s" / "__pycache__").mkdir()
    linear(tmp_path / "s", "classification")
    assert sorted(content(tmp_path / "s")) == FILES
    assert json.loads((tmp_path / "s" / "preprocessing.json").read_text())["task"] == "classification"
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def foreign_file(folder: Path) -> None:
    linear(folder)
    (folder / "thesis.tex").write_text("years")


def foreign_facts(folder: Path) -> None:
    folder.mkdir()
    (folder / "preprocessing.json").write_text('{"made_by": "hand"}')


def torn_facts(folder: Path) -> None:
    linear(folder)
    (folder / "preprocessing.json").write_text('{"made_by": "underst')


@pytest.mark.parametrize(
    ("make", "message"),
    [(foreign_file, "s: holds thesis.tex"), (foreign_facts, "was not written by"), (torn_facts, "was not written by")],
)
@pytest.mark.usefixtures("quick")
def test_a_folder_that_is_not_ours_is_replaced_only_with_force(make: Any, message: str, tmp_path: Path) -> None:
    make(tmp_path / "s")
    before = content(tmp_path / "s")
    with pytest.raises(InputError, match=f"{message}.* give force=True to delete"):
        linear(tmp_path / "s")
    assert content(tmp_path / "s") == before
    linear(tmp_path / "s", force=True)
    assert sorted(content(tmp_path / "s")) == FILES
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.usefixtures("quick")
def test_a_file_a_link_and_the_folder_one_is_in_are_never_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "link"):
        with pytest.raises(InputError, match=f"{name}: is a file or a link, not a folder"):
            linear(tmp_path / name, force=True)
    (tmp_path / "real" / "below").mkdir()
    monkeypatch.chdir(tmp_path / "real" / "below")
    for here in (tmp_path / "real", Path("..")):
        with pytest.raises(InputError, match="you are in it"):
            linear(here, force=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "real" / "below"))
    with pytest.raises(InputError, match="you are in it"):
        linear(tmp_path / "real", force=True)


@pytest.mark.usefixtures("quick")
def test_a_file_that_appears_meanwhile_is_not_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = graph.write

    def slowly(*args: Any) -> None:
        write(*args)
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "thesis.tex").write_text("years")

    monkeypatch.setattr(graph, "write", slowly)
    with pytest.raises(InputError, match="holds thesis"):
        linear(tmp_path / "s")
    assert content(tmp_path / "s") == {"thesis.tex": b"years"}


@pytest.mark.parametrize("fails_at", [1, 2])
@pytest.mark.usefixtures("quick")
def test_whatever_fails_the_earlier_folder_is_intact(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linear(tmp_path / "s")
    before, rename, calls = content(tmp_path / "s"), Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == fails_at:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(MachineError, match=r"s: cannot be written: .*Input/output error.*intact"):
        linear(tmp_path / "s", "classification")
    assert content(tmp_path / "s") == before
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_an_error_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(MachineError, match="No space left") as caught:
        linear(tmp_path / "new" / "s")
    assert caught.value.exit_code == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_every_file_and_the_folder_are_on_the_disk_before_the_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = staging.sync, Path.rename
    monkeypatch.setattr(staging, "sync", lambda path: (done.append(path.name), sync(path)))
    monkeypatch.setattr(Path, "rename", lambda self, target: (done.append("rename"), rename(self, target))[1])
    linear(tmp_path / "s")
    assert sorted(done[:3]) == FILES
    assert done[3].startswith(".s.")
    assert done[4:] == ["rename", tmp_path.name]
