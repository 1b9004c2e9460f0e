"""What every kind of teacher is put to: a task that only it can tell of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import Distillation, Term
from understudy.errors import AddressError
from understudy.losses import mse
from understudy.outcome import Distilled

INPUTS = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
NEW = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(1))
CLASSES = 3


def labels(inputs: Tensor) -> Tensor:
    """Which of the first three rows is the brightest."""
    return inputs.flatten(1).unflatten(1, (4, 4)).sum(2)[:, :CLASSES].argmax(1)


class Net(nn.Module):
    """A small net of its own for each seed, trained on the labels if so wished."""

    def __init__(self, seed: int = 0, width: int = 24) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)

    def trained(self) -> Net:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self(INPUTS), labels(INPUTS)).backward()
            optimizer.step()
        return self.eval().requires_grad_(False)


def teach(teacher: Any, folder: Path | None = None, *, resume: bool = False) -> Distilled:
    """A job of which no training sample has a label."""
    train = (INPUTS, torch.full((len(INPUTS),), -100))
    return us.distill(
        lambda: Net(width=8), teacher, train, (NEW, labels(NEW)), epochs=25, seeds=1, batch_size=50, alpha=1.0,
        temperature=1.0, optimizer=us.Optim("Adam", lr=0.03), device="cpu", progress=False, folder=folder, resume=resume,
    )  # fmt: skip


def agreement(student: nn.Module, teacher: Any) -> float:
    """The share of new samples in which both say the same."""
    with torch.no_grad():
        return float((student.eval()(NEW).argmax(1) == teacher(NEW).argmax(1)).float().mean())


def put_to_it(teacher: Any, other: Any, folder: Path) -> None:
    """It teaches; a run is resumed with it and not with another; and none of its layers can be read."""
    result = teach(teacher, folder)
    assert agreement(result.student, teacher) > 0.85
    assert agreement(Net(width=8), teacher) < 0.7
    again = teach(teacher, folder, resume=True)
    assert torch.equal(again.student(NEW), result.student(NEW))
    with pytest.raises(us.errors.InputError, match="teacher was"):
        teach(other, folder, resume=True)
    if not isinstance(teacher, nn.Module):
        with pytest.raises(AddressError, match=r"'teacher\.layer3': teacher is a \w+ that gives its last output only"):
            Distillation(Term(mse, "student.body", "teacher.layer3"), student=Net(), teacher=teacher)
