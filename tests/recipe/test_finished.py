"""A run that has ended: its student and data, made again from the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from recipe.kit import SMALL, document, ran
from understudy.errors import CorruptError, InputError
from understudy.recipe.finished import Finished
from understudy.recipe.text import Document, read, read_setting


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.evaluate._memory", lambda *_: None)
        ran(folder, SMALL, "fine_tune=false", "seeds=1")
    return folder / "out"


def resolved(folder: Path, *settings: str) -> Document:
    made = read(folder / "recipe.yaml")
    for where, value, place in map(read_setting, settings):
        made.set(where, value, place)
    return made


def test_the_student_is_the_one_that_was_kept(once: Path) -> None:
    finished = Finished.open(once, resolved(once))
    told = json.loads((once / "results.json").read_text())
    row = next(row for row in told["rows"] if row["model"] == "distilled")
    assert finished.task.name == "classification"
    assert not finished.student.training
    assert finished.examples.name == "test"
    assert finished.examples.samples == 1497
    assert {name: value for name, value in finished.figures().items() if name in row} == {
        name: row[name] for name in ("accuracy", "balanced_accuracy", "loss_nats")
    }


def test_its_figures_are_those_of_its_weights(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "other")
    weights = safetensors.torch.load_file(once / "student.safetensors")
    safetensors.torch.save_file(
        {k: torch.zeros_like(v) for k, v in weights.items()}, tmp_path / "other/student.safetensors"
    )
    good, bad = (Finished.open(folder, resolved(folder)).figures() for folder in (once, tmp_path / "other"))
    assert bad["loss_nats"] == pytest.approx(2.302585, abs=1e-5)  # of ten classes alike
    assert good["loss_nats"] != pytest.approx(2.302585, abs=1e-3)
    assert good.keys() >= {"part", "samples", "accuracy", "calibration_error"}


def test_another_part_can_be_asked_for(once: Path) -> None:
    assert Finished.open(once, resolved(once), "valid").examples.samples == 100
    train = Finished.open(once, resolved(once), "train")
    assert train.examples.samples == 200
    assert 0 <= train.figures()["accuracy"] <= 1  # of those that have a label


def test_other_data_can_be_laid_over(once: Path) -> None:
    assert Finished.open(once, resolved(once, "data.valid=50"), "valid").examples.samples == 50


def test_the_rest_of_the_recipe_is_not_looked_at(once: Path) -> None:
    assert Finished.open(once, resolved(once, "teacher=nothing", "epochs=x")).student is not None


def test_an_exported_file_scores_as_its_student(once: Path, tmp_path: Path) -> None:
    finished = Finished.open(once, resolved(once))
    told = finished.export(tmp_path / "student.onnx")
    of_file, of_student = finished.figures(tmp_path / "student.onnx"), finished.figures()
    assert of_file["accuracy"] == pytest.approx(of_student["accuracy"], abs=2e-3)
    assert told["accuracy"] == of_file["accuracy"]


def test_a_folder_without_a_finished_run_is_told(once: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no finished run\. Let it end first: understudy run "):
        Finished.open(tmp_path, resolved(once))


@pytest.mark.parametrize("content", ["[]", "{}", '{"task": "cooking"}', "{", ""])
def test_damaged_results_are_told(once: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(CorruptError, match=r"results\.json"):
        Finished.open(tmp_path, resolved(once))


def test_damaged_weights_are_told(once: Path, tmp_path: Path) -> None:
    shutil.copytree(once, tmp_path / "run")
    file = tmp_path / "run/student.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorruptError, match=r"student\.safetensors"):
        Finished.open(tmp_path / "run", resolved(once))


def test_weights_of_another_student_are_told(once: Path) -> None:
    with pytest.raises(InputError, match=r"student\.safetensors: does not fit the model \(CNN\)"):
        Finished.open(once, resolved(once, "student.channels=3"))


def test_a_part_that_is_not_there_is_told(once: Path, tmp_path: Path) -> None:
    from understudy.data.written import write_example

    write_example("breast-cancer", tmp_path / "data")
    text = "data: {name: csv, train: data/train.csv, valid: data/valid.csv, label: diagnosis}\nstudent: {name: MLP, hidden: [2]}\n"
    shutil.copy(once / "results.json", tmp_path / "results.json")
    with pytest.raises(InputError, match=r"the data has no part 'test'\. Give another: --on valid\."):
        Finished.open(tmp_path, document(tmp_path, text), "test")


def test_labels_that_are_not_there_are_told(once: Path) -> None:
    with pytest.raises(InputError, match=r"train: has no label to compare with\. Choose another part: --on\."):
        Finished.open(once, resolved(once, "data.labelled=0"), "train").figures()
