"""What the folder to deploy makes of a CSV file and of pictures: what the training made of them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from understudy.data import Parts
from understudy.data.sets import csv, images
from understudy.examples import Examples
from understudy.export import write_folder

WITHOUT_TORCH = "import runpy, sys; sys.modules['torch'] = None; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"

ROWS = """\
age, coat, sold, price
3, long, ?, 1.5
,short,1e3, 2.5
5,long,7,3.5
4,curly,9, 4.5
"""
NEW = ROWS.replace("curly", "wavy").replace("price", "cost")  # a text that is new, and no label


def inputs_of(part: Any) -> Tensor:
    inputs = Examples.read(part, "part").inputs()
    assert inputs is not None
    return inputs


def said(folder: Path, file: Path) -> Any:
    """What predict.py prints, on a machine without torch."""
    command = [sys.executable, "-W", "error", "-c", WITHOUT_TORCH, folder / "predict.py", file]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def handed_on(folder: Path, parts: Parts, raw: Any) -> nn.Module:
    torch.manual_seed(0)
    inputs = inputs_of(parts.valid)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 1))
    write_folder(folder, model, inputs[:2], inputs, task_name="regression", raw=raw)
    return model


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Parts, nn.Module]:
    folder = tmp_path_factory.mktemp("csv")
    (folder / "train.csv").write_text(ROWS)
    (folder / "valid.csv").write_text(ROWS.replace("3, long", "9, long").replace("curly", ""))
    (folder / "new.csv").write_text(NEW)
    parts = csv(train=folder / "train.csv", valid=folder / "valid.csv", label="price", unlabelled=folder / "new.csv")
    return folder, parts, handed_on(folder / "deploy", parts, parts.raw)


@pytest.mark.parametrize(("file", "part"), [("valid.csv", "valid"), ("new.csv", "unlabelled")])
def test_a_csv_file_is_read_as_it_was_in_training(file: str, part: str, table: tuple[Path, Parts, nn.Module]) -> None:
    folder, parts, model = table
    answers = said(folder / "deploy", folder / file)
    assert [a["sample"] for a in answers] == ["line 2", "line 3", "line 4", "line 5"]
    inputs = inputs_of(getattr(parts, part))
    expected = model(inputs).flatten().tolist()
    assert [a["values"][0] for a in answers] == pytest.approx(expected, abs=1e-5)
    assert [a["values"][0] for a in answers] != pytest.approx(model(-inputs).flatten().tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("age,sold\n1,2\n", "it has no column coat."),
        ("age,coat,sold\n", "it has no sample"),
        ("age,coat,sold\n1,long\n", "lines of other lengths"),
        ("age,coat,sold\nold,long,3\n", "bad.csv:2: 'age': 'old' is not a number."),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(
    text: str, told: str, table: tuple[Path, Parts, nn.Module], tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    answer = said(table[0] / "deploy", tmp_path / "bad.csv")
    assert told in answer
    assert "Traceback" not in answer


def test_arrays_are_taken_as_before(table: tuple[Path, Parts, nn.Module], tmp_path: Path) -> None:
    folder, parts, model = table
    np.save(tmp_path / "x.npy", inputs_of(parts.valid).numpy())
    expected = model(inputs_of(parts.valid)).flatten().tolist()
    assert [a["values"][0] for a in said(folder / "deploy", tmp_path / "x.npy")] == pytest.approx(expected, abs=1e-5)


def test_control_without_what_the_data_set_tells_a_csv_file_is_not_read(
    table: tuple[Path, Parts, nn.Module], tmp_path: Path
) -> None:
    handed_on(tmp_path / "deploy", table[1], None)
    assert not (tmp_path / "deploy" / "read_raw.py").exists()
    assert isinstance(said(tmp_path / "deploy", table[0] / "train.csv"), str)


def test_pictures_are_read_as_they_were_in_training(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for name, size, mode in (
        ("a/1.png", (9, 7), "RGB"),
        ("a/2.png", (5, 12), "L"),
        ("b/1.png", (6, 6), "RGBA"),
        ("b/2.jpg", (8, 8), "RGB"),
    ):
        file = tmp_path / "train" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (*size, {"L": 1, "RGB": 3, "RGBA": 4}[mode])
        pixels = random.integers(0, 256, shape, dtype=np.uint8)
        image.fromarray(pixels[..., 0] if mode == "L" else pixels, mode=None).save(file)
    shutil.copytree(tmp_path / "train", tmp_path / "valid")
    parts = images(
        train=tmp_path / "train", valid=tmp_path / "valid", size=(6, 5), mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7]
    )
    model = handed_on(tmp_path / "deploy", parts, parts.raw)
    answers = said(tmp_path / "deploy", tmp_path / "train")
    expected = model(inputs_of(parts.valid)).flatten().tolist()
    assert [a["values"][0] for a in answers] == pytest.approx(expected, abs=1e-5)
    assert [Path(a["sample"]).name for a in answers] == ["1.png", "2.png", "1.png", "2.jpg"]
    (alone,) = said(tmp_path / "deploy", tmp_path / "train/b/1.png")
    assert alone == answers[2]
    # The control: without the normalisation the answers are others.
    plain = handed_on(tmp_path / "plain", parts, {**(parts.raw or {}), "mean": None})
    assert plain(inputs_of(parts.valid)).flatten().tolist() == expected
    assert [a["values"][0] for a in said(tmp_path / "plain", tmp_path / "train")] != pytest.approx(expected, abs=1e-3)
