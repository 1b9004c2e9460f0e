"""What the scripts here train: sequences with ragged masks, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Batch, Distillation, Move, Optim, Progress, Settings, Term, parallel
from understudy.losses import cross_entropy, kl, mse
from understudy.progress import cosine, linear
from understudy.projectors import Linear

SAMPLES, TOKENS, INPUTS, CLASSES = 51, 5, 6, 4


class Network(nn.Module):
    """Tokens ``[N, T, D]`` to logits ``[N, T, C]``."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(INPUTS, width), nn.Tanh())
        self.head = nn.Linear(width, CLASSES)
        generator = torch.Generator().manual_seed(seed)
        for p in self.parameters():
            nn.init.normal_(p, std=0.5, generator=generator)
        self.double()

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.body(input))


def sequences() -> dict[str, Tensor]:
    """Tokens with a mask and labels, each with a count of its own, which differs much from sample to sample."""
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randn(SAMPLES, TOKENS, INPUTS, generator=generator).double()
    label = torch.randint(0, CLASSES, (SAMPLES, TOKENS), generator=generator)
    lengths = torch.randint(0, TOKENS + 1, (SAMPLES, 1), generator=generator)
    unlabelled = torch.rand(SAMPLES, TOKENS, generator=generator) < torch.rand(SAMPLES, 1, generator=generator)
    return {
        "input": tokens,
        "label": label.masked_fill(unlabelled, -100),
        "mask": torch.arange(TOKENS).expand(SAMPLES, -1) < lengths,
    }


class Adversarial(Distillation):
    """Terms, and a critic outside of the student that tells the teacher's logits from the student's: two players."""

    def __init__(self, *terms: Term, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(*terms, student=student, teacher=teacher)
        self.critic = nn.Sequential(nn.Linear(CLASSES, 7), nn.Tanh(), nn.Linear(7, 1)).double()
        self.real, self.fake = Term(_is_real, "teacher"), Term(_is_real, "stop student")

    def players(self) -> dict[str, list[nn.Parameter]]:
        critic = list(self.critic.parameters())
        others = [p for p in self.parameters() if all(p is not c for c in critic)]
        return {"critic": critic, "student": others}

    def moves(self, batch: Batch, progress: Progress) -> Iterator[Move]:
        read = self.reader.read(batch, [*self.real.addresses, *self.fake.addresses])
        real, fake = (self.critic(read[t.addresses[0]]).mean((1, 2)) for t in (self.real, self.fake))
        yield Move(batch.mean(F.softplus(-real) + F.softplus(fake)), "critic")
        student = self.reader.read(batch, [self.terms[0].addresses[0]])
        fooled = F.softplus(-self.critic(next(iter(student.values()))).mean((1, 2)))
        move = self.move(batch, progress)
        yield Move(move.loss + 0.3 * batch.mean(fooled), "student", move.parts, move.watched)


def _is_real(value: Tensor) -> Tensor:
    return value


def adversarial() -> Adversarial:
    """Two players, two counts besides the samples', a projector whose weight falls."""
    torch.manual_seed(11)
    return Adversarial(
        Term(partial(kl, temperature=2), "student", "teacher", mask="batch.mask"),
        Term(cross_entropy, "student", "batch.label", weight=0.5),
        Term(mse, "student.body", "teacher.body", project=Linear(), weight=linear(1, 0.1)),
        student=Network(8, seed=1),
        teacher=Network(12, seed=2),
    )


def settings(steps: int, **changes: object) -> Settings:
    """Two optimizers, with momentum, clipping, a schedule and warm-up: all that a step can hold."""
    sgd = Optim("SGD", lr=0.2, momentum=0.9, weight_decay=1e-3, clip=0.5, schedule=cosine(1, 0.1), warmup=5)
    given = {
        "steps": steps,
        "batch_size": 9,
        "optimizer": {"student": sgd, "critic": Optim("AdamW", lr=3e-3)},
        "log_every": 50,
        "device": "cpu",
    }
    return Settings(**{**given, **changes})  # type: ignore[arg-type]


def keep(folder: Path, weights: dict[str, Tensor], name: str = "weights") -> None:
    """Write one rank's weights for the test to compare."""
    save_file({k: v.detach().contiguous().clone() for k, v in weights.items()}, folder / f"{name}-{parallel.rank()}")
