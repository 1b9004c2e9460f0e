"""The main job on real images, end to end, in about two minutes.

A team has 200 labelled handwritten digits and 800 without labels, and a teacher of 57 thousand parameters that was
trained on all 1,000 with labels. What can a student of 4 thousand parameters learn from the 200 labels, and what from
the teacher's soft labels of all 1,000 images?
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from understudy.data.digits import digits
from understudy.errors import InputError, MachineError
from understudy.job import distill
from understudy.losses.response import UNLABELLED
from understudy.outcome import Distilled
from understudy.plan import FACTS
from understudy.zoo import CNN

__all__ = ["run"]

LABELLED = 200
EPOCHS, TEACHER_EPOCHS = 40, 30
OURS = {"run", "report.html", "deploy"}  # what a demo makes, and the next one may replace


def run(
    seeds: int = 5, *, out: Path = Path("runs/demo"), console: Console | None = None, epochs: int = EPOCHS
) -> Distilled:
    """Do the whole job, print the table, and write page, student and exported folder to ``out``.

    Raises: InputError if ``out`` holds something else than an earlier demo.
    """
    console = console or Console()
    data = digits()
    _clear(out)
    images, labels = data.train
    console.print(
        f"[bold]understudy demo[/bold]: {len(images)} images of handwritten digits, {LABELLED} of them labelled\n"
    )
    torch.manual_seed(0)
    result = distill(
        lambda: CNN(8),
        CNN(32),
        (images, _hide(labels)),
        data.valid,
        test=data.test,
        epochs=epochs,
        seeds=seeds,
        teacher_epochs=min(TEACHER_EPOCHS, epochs),
        teacher_data=data.train,
        temperature=2.0,
        alpha=1.0,
        folder=out / "run",
        device="cpu",
        console=console,
    )
    console.print()
    result.show(console)
    page = result.report(out / "report.html")
    told = result.export(out / "deploy")
    console.print(
        f"\nThe page:    {page}\nThe student: {out / 'run' / 'student.safetensors'}\n"
        f"To deploy:   {out / 'deploy'} (model.onnx, preprocessing.json, predict.py; test accuracy of the file {told['accuracy']:.3f})",
        highlight=False,
        soft_wrap=True,
    )
    return result


def _hide(labels: Tensor) -> Tensor:
    """The labels, all but the first 200 taken away."""
    hidden = labels.clone()
    hidden[LABELLED:] = UNLABELLED
    return hidden


def _clear(out: Path) -> None:
    """Make the folder, empty but for a demo's own files, which are deleted; refuse anything else in it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Choose another folder with --out.")
    found = {file.name for file in out.iterdir()} if out.exists() else set()
    if found and (found - OURS or not (out / "run" / FACTS).exists()):
        told = ", ".join(sorted(found - OURS or found)[:3])
        raise InputError(f"{out}: holds {told}, which no demo made. Choose another folder with --out.")
    for name in found:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{out}: cannot be made: {error}. Choose another folder with --out.") from error
