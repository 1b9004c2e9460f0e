"""Every named method by itself, killed and resumed: the same bits as without."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from understudy import Callback, Distillation, Method, Optim, Progress, Settings, Term, methods, train
from understudy.losses import cross_entropy, kl, mse

from .method_case import Case, merged

CASES = merged()
SETTINGS = Settings(
    steps=6, batch_size=4, optimizer=Optim("SGD", lr=0.01, momentum=0.9), save_every=2, keep=1, device="cpu"
)
"""Two epochs: in the second a sample comes back of which a bank may know something."""


class Killed(Exception):
    """What stops a run here."""


class Kill(Callback):
    """After the third step, of which no checkpoint knows."""

    def stepped(self, progress: Progress) -> None:
        if progress.step == 2:
            raise Killed


def built(case: Case, seed: int) -> Method:
    """The method as a new process makes it. What it draws at the start depends on the seed."""
    torch.manual_seed(seed)
    return case.of()


def not_resumed(case: Case, folder: Path) -> list[str]:
    """Names of tensors that differ between a run that was killed and resumed, and one that was not.

    The resumed one begins with other random weights, so that whatever a checkpoint lacks shows.
    """
    whole, killed, resumed = built(case, 0), built(case, 0), built(case, 1)
    for p in filter(lambda p: p.requires_grad, resumed.parameters()):
        nn.init.normal_(p)
    train(whole, case.data(), SETTINGS)
    with pytest.raises(Killed):
        train(killed, case.data(), SETTINGS, folder=folder, callbacks=[Kill()])
    assert train(resumed, case.data(), SETTINGS, folder=folder, resume=True).steps == SETTINGS.steps
    one, two = ({n: v for n, v in m.state_dict().items() if isinstance(v, Tensor)} for m in (whole, resumed))
    assert any(n.startswith("models.") for n in one)
    return sorted(n for n in one.keys() | two.keys() if n not in one or n not in two or not one[n].equal(two[n]))


@pytest.mark.parametrize("name", methods.__all__)
def test_a_killed_run_that_is_resumed_ends_with_the_same_bits(name, tmp_path):
    assert not_resumed(CASES[name], tmp_path) == []


class Bank(nn.Module):
    """Draws to the mean of what the teacher has said so far."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        if kept:
            self.register_buffer("mean", torch.zeros(5))
        else:
            self.mean = torch.zeros(5)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.seen = teacher.mean(0)
        return mse(student, self.mean.expand_as(student))

    def after(self, progress: Progress) -> None:
        self.mean = self.mean.lerp(self.seen, 0.5)


class Cooling(nn.Module):
    """A temperature that falls from step to step."""

    def __init__(self, kept: bool) -> None:
        super().__init__()
        self.register_buffer("temperature", torch.tensor(8.0), persistent=kept)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl(student, teacher, temperature=float(self.temperature))

    def after(self, progress: Progress) -> None:
        self.temperature = self.temperature * 0.7


class Average(Distillation):
    """Draws to its own moving average."""

    def __init__(self, student: nn.Module, kept: bool) -> None:
        average = copy.deepcopy(student).requires_grad_(False)
        super().__init__(
            Term(cross_entropy, "student", "batch.label"), Term(kl, "student", "average", weight=9.0),
            student=student, average=average,
        )  # fmt: skip
        self.kept = average if kept else None  # a submodule, and so in the state_dict
        self.average = [average]

    def after(self, progress: Progress) -> None:
        for mine, new in zip(self.average[0].parameters(), self.student.parameters(), strict=True):
            mine.lerp_(new, 0.3)

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters())}


def of_loss(loss: type[nn.Module], kept: bool) -> Case:
    return Case(
        lambda student, teacher: Distillation(Term(loss(kept), "student", "teacher"), student=student, teacher=teacher)
    )


@pytest.mark.parametrize("what", ["bank", "temperature", "average"])
def test_control_what_is_not_saved_shows(what, tmp_path):
    case = {
        "bank": lambda kept: of_loss(Bank, kept),
        "temperature": lambda kept: of_loss(Cooling, kept),
        "average": lambda kept: Case(lambda student, teacher: Average(student, kept)),
    }[what]
    assert "models.student.head.weight" in not_resumed(case(False), tmp_path / "lost")
    assert not_resumed(case(True), tmp_path / "kept") == []
