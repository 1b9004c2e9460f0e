"""The models of a run that has ended, as they are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from understudy.errors import InputError
from understudy.measure.weight import SUFFIXES
from understudy.recipe.examine import Pieces
from understudy.recipe.finished import Finished, taught
from understudy.recipe.text import Document

__all__ = ["models"]

PROGRAM = ".pt2"


def models(folder: Path, document: Document, samples: int) -> tuple[dict[str, Any], Tensor]:
    """Teacher, if it is a module, student, and what was exported, by name; and so many samples as they take them.

    A name begins with that of the run's folder.

    Raises: InputError for a folder without a finished run, or for a model whose input is not one tensor.
    """
    done = Finished.open(folder, document)
    inputs = done.examples.few(samples).inputs()
    if inputs is None:
        raise InputError(
            f"{folder}: its models take inputs by name, which is not supported here. Name its exported file."
        )
    pieces = Pieces.of(document, only=("data", "teacher"))
    found: dict[str, Any] = {}
    if isinstance(pieces.teacher, nn.Module):
        found["teacher"] = taught(folder, pieces).eval()
    found["student"] = done.student
    found |= {path.name: path for path in _exported(folder)}
    return {f"{folder.resolve().name}: {name}": model for name, model in found.items()}, inputs


def _exported(folder: Path) -> list[Path]:
    """Files and folders of a run that were exported, as far as something here can run them.

    Programs of torch are left out: to open one is to run the code in it, for which it must be named itself.
    """
    known = set(SUFFIXES) - {PROGRAM}
    folders = sorted(path.parent for path in folder.glob("*/preprocessing.json"))
    runnable = [
        f for f in folders if [path.suffix in known for path in f.iterdir() if path.suffix in SUFFIXES] == [True]
    ]
    return [*runnable, *sorted(path for path in folder.iterdir() if path.suffix in known)]
