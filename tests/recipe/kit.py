"""What the tests of recipes share."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console

from understudy.errors import UnderstudyError
from understudy.recipe.examine import Examined, examine
from understudy.recipe.running import Ran, run
from understudy.recipe.text import Document, read, read_setting

SMALL = """\
task: classification
data: {name: digits, train: 200, valid: 100, labelled: 100}
student: {name: CNN, channels: 2}
teacher: {model: {name: CNN, channels: 4}, epochs: 4, data: {name: digits, train: 300, valid: 100}}
method: {name: kd, temperature: 2, alpha: 0.5}
epochs: 2
seeds: 2
batch_size: 50
optimizer: {name: AdamW, lr: 1e-2}
device: cpu
threads: 1
report: false
export: null
"""
"""A recipe that runs in about a second."""


def without(text: str, *keys: str) -> str:
    """A recipe without these keys, each of which is on a line of its own."""
    return "".join(line for line in text.splitlines(keepends=True) if line.partition(":")[0] not in keys)


def document(folder: Path, text: str, *settings: str, name: str = "r.yaml") -> Document:
    """A recipe in a file, with values laid over it."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    made = read(file)
    for where, value, place in map(read_setting, settings):
        made.set(where, value, place)
    return made


def examined(folder: Path, text: str, *settings: str) -> Examined:
    """A recipe that is sound."""
    return examine(document(folder, text, *settings), progress=False)


def problems(folder: Path, text: str, *settings: str) -> list[str]:
    """What is wrong with a recipe, without the folder's name."""
    with pytest.raises(UnderstudyError) as caught:
        examined(folder, text, *settings)
    return str(caught.value).replace(f"{folder}/", "").split("\n")


def ran(folder: Path, text: str, *settings: str, resume: bool = False, out: str = "out") -> Ran:
    """A recipe's run."""
    return run(document(folder, text, *settings), folder / out, resume=resume, console=Console(quiet=True))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every model that a run has left, by file and name."""
    files = [file for file in folder.rglob("*.safetensors") if "checkpoints" not in file.parts]
    return {
        f"{file.relative_to(folder)}: {name}": tensor
        for file in files
        for name, tensor in safetensors.torch.load_file(file).items()
    }


def differing(one: Path, other: Path) -> list[str]:
    """Names of the tensors in which two runs differ in any bit."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert any(name.startswith("distilled") for name in a)
    return [name for name in a if not torch.equal(a[name], b[name])]
