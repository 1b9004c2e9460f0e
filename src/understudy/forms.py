"""Other forms of a student: what a method trains beside it can be put to use at inference, or dropped.

A method that has any says so by a method of its own, which is asked for after its dry run::

    def forms(self) -> dict[str, nn.Module]:
        return {"with hint": ...}

Each form is called as the student is, gives what the student gives, and shares its parameters with the method. A job
measures every one of them beside the student, which alone is kept and handed on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from understudy.callbacks import Callback
from understudy.engine import Result
from understudy.method import Method
from understudy.progress import Progress
from understudy.state import load_module, snapshot
from understudy.tasks import Task
from understudy.writing import load_tensors, save_tensors

__all__ = ["BestForms", "HasForms", "forms_of"]

STEP, WORTH = "step", "worth"


@runtime_checkable
class HasForms(Protocol):
    """A method whose student can be used in other forms."""

    def forms(self) -> Mapping[str, nn.Module]:
        """By name, such as "with hint"; after the dry run."""
        ...


def forms_of(method: Method) -> dict[str, nn.Module]:
    """The forms of a method's student; none if it offers none. Their modes are the student's own: it may be in training."""
    return dict(method.forms()) if isinstance(method, HasForms) else {}


class BestForms(Callback):
    """Keeps each form as it was when the student was best by validation: these are the weights that the student comes back with.

    The engine keeps the student alone. A head that has gone on learning would be added to a student that has not.

    Args:
        method: in training.
        task: by whose metric the student is judged.
        folder: of the training; a resumed one finds there what was kept before.
    """

    def __init__(self, method: Method, task: Task, folder: Path | None = None) -> None:
        self.method, self.task = method, task
        self.file = None if folder is None else folder / "forms.safetensors"
        self.step, self.worth = 0, -math.inf
        self.kept: dict[str, Tensor] = {}

    def started(self, progress: Progress) -> None:
        """Take up what was kept."""
        if progress.step and self.file is not None and self.file.exists():
            self.kept = load_tensors(self.file)
            self.step, self.worth = int(self.kept.pop(STEP)), float(self.kept.pop(WORTH))

    def logged(self, record: Mapping[str, Any]) -> None:
        """Keep them if the student was never better, as :class:`understudy.validation.Validation` judges it."""
        if "valid" not in record or not record["step"] or not (forms := forms_of(self.method)):
            return
        figure = record["valid"][self.task.metric]
        worth = -math.inf if math.isnan(figure) else self.task.sign * figure
        if self.step and worth <= self.worth:
            return
        self.step, self.worth = record["step"], worth
        self.kept = {f"{n}/{k}": v for n, form in forms.items() for k, v in snapshot(form).items()}
        if self.file is not None:
            told = {STEP: torch.tensor(self.step), WORTH: torch.tensor(self.worth, dtype=torch.float64)}
            save_tensors(self.file, {**self.kept, **told})

    def restore(self, result: Result) -> dict[str, nn.Module]:
        """After training: the forms as they were at the student's best, or as they are now if that is not what was kept."""
        forms = forms_of(self.method)
        if result.best is not None and result.best["step"] == self.step:
            for name, form in forms.items():
                state = {k.removeprefix(f"{name}/"): v for k, v in self.kept.items() if k.startswith(f"{name}/")}
                load_module(form, state)
        return forms
