"""Methods that the package does not have, written as a user would: they must need no change to the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Batch, Distillation, Method, Move, Part, Progress, Term
from understudy.losses import cross_entropy, kl


class Net(nn.Module):
    """A small model with all that a resumed run can get wrong: BatchNorm, Dropout, layers to read at."""

    def __init__(self, width: int, inputs: int = 12, classes: int = 5, dropout: float = 0.3, norm: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, width),
            nn.BatchNorm1d(width) if norm else nn.Identity(),
            nn.Tanh(),
            nn.Dropout(dropout),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)))


class Critic(nn.Module):
    """Tells a student's logits from a teacher's."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(classes, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return F.softplus(self.net(student)).squeeze(1) + F.softplus(-self.net(teacher)).squeeze(1)


class Fooled(nn.Module):
    """How far a critic is from taking the student for the teacher. The critic is another player's."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, student: Tensor) -> Tensor:
        return F.softplus(-self.critic.net(student)).squeeze(1)


class Adversarial(Distillation):
    """Two moves a step: the critic learns to tell them apart, then the student learns to be mistaken for its teacher."""

    def __init__(self, student: nn.Module, teacher: nn.Module, critic: Critic) -> None:
        super().__init__(
            Term(critic, "stop student", "teacher", name="critic"),
            Term(cross_entropy, "student", "batch.label"),
            Term(Fooled(critic), "student", weight=0.3, name="fool"),
            student=student,
            teacher=teacher,
        )
        self.critic = critic

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        yield self.move(batch, progress, player="critic", only=[0])
        yield self.move(batch, progress, player="student", only=[1, 2])

    def players(self) -> dict[str, list[nn.Parameter]]:
        critic = list(self.critic.parameters())
        return {"critic": critic, "student": [p for p in self.parameters() if all(p is not c for c in critic)]}


class Bank(nn.Module):
    """Contrast with what the teacher said of other samples before: a memory of one row for each sample."""

    memory: Tensor
    seen: Tensor

    def __init__(self, samples: int, classes: int = 5) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(samples, classes))
        self.register_buffer("seen", torch.zeros(samples, dtype=torch.bool))
        self.scale = nn.Parameter(torch.ones(()))
        self.pending: list[tuple[Tensor, Tensor]] = []

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        if self.training:
            self.pending.append((index, teacher.detach().float()))
        positive = (student * teacher).sum(1, keepdim=True) * self.scale
        negative = (student @ self.memory.T * self.scale).masked_fill(~self.seen, float("-inf"))
        scores = torch.cat([positive, negative], 1)
        return torch.logsumexp(scores, 1) - scores[:, 0]

    def after(self, progress: Progress) -> None:
        for index, teacher in self.pending:
            self.memory[index] = self.memory[index].lerp(teacher, 0.5)
            self.seen[index] = True
        self.pending.clear()


def contrastive(student: nn.Module, teacher: nn.Module, samples: int) -> Distillation:
    return Distillation(
        Term(Bank(samples), "student", "teacher", "batch.index", weight=0.1, name="bank"),
        Term(partial(kl, temperature=2.0), "student", "teacher"),
        student=student,
        teacher=teacher,
    )


class ByHand(Method):
    """The least that a method can be: no terms, no reader, everything written out."""

    def __init__(self, student: nn.Module, sweeps: int = 1) -> None:
        super().__init__()
        self.models = nn.ModuleDict({"student": student})
        self.sweeps = sweeps

    @property
    def student(self) -> nn.Module:
        return self.models["student"]

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        return dict(self.models.items())

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        for _ in range(self.sweeps):
            square = (self.student(batch["input"]) ** 2).mean(1)
            value = batch.mean(square)
            yield Move(value, "student", {"square": Part(1.0, value)}, {"size": value.detach().sqrt()})
