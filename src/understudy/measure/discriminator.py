"""How well a student can be told from its teacher by somebody new."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.measure.statistics import Interval, interval

__all__ = ["fresh_discriminator"]


def fresh_discriminator(
    student_outputs: Tensor,
    teacher_outputs: Tensor,
    seeds: int | Sequence[int] = 5,
    *,
    hidden: int = 32,
    steps: int = 300,
    lr: float = 0.01,
) -> Interval:
    """How often a small net, trained from scratch on half of held-out outputs, tells in the other half whose an output is.

    A sample's two outputs are in the same half. 0.5 is chance: they are indistinguishable to such a net; 1 is certainty. Each output is
    judged by itself, so that a student may be indistinguishable whose answers are another sample's.

    Args:
        student_outputs: for samples that neither has trained on ``[N, *]``.
        teacher_outputs: for the same samples, of the same shape.
        seeds: of halves and nets; a number n is 0 to n - 1. The process's random numbers are left as they are.
        hidden: units of its two hidden layers.
        steps: of Adam on the whole half, with a weight decay of 1e-3.
        lr: of Adam.

    Returns: the mean of the accuracies over the seeds, with its interval; below 0.5 by chance only.
    Raises: ShapeError if the shapes differ; InputError for fewer than 4 samples, no seed, or outputs that are not finite.

    >>> same = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> fresh_discriminator(same, same, seeds=1).mean <= 0.5
    True
    """
    if student_outputs.shape != teacher_outputs.shape:
        raise ShapeError(
            f"fresh_discriminator: outputs {list(student_outputs.shape)} (student) and {list(teacher_outputs.shape)} (teacher) "
            "must be of the same samples and have one shape."
        )
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    both = torch.stack([x.detach().double().cpu().reshape(len(x), -1) for x in (student_outputs, teacher_outputs)], 1)
    if len(both) < 4 or not chosen:
        raise InputError(
            f"fresh_discriminator: {len(both)} samples and seeds={seeds!r}; give 4 samples and 1 seed, or more."
        )
    if not both.isfinite().all():
        raise InputError("fresh_discriminator: some outputs are NaN or infinite, by which anyone could tell.")
    return interval([_told_apart(both, seed, hidden, steps, lr) for seed in chosen])


@torch.enable_grad()
def _told_apart(both: Tensor, seed: int, hidden: int, steps: int, lr: float) -> float:
    """Its accuracy on the other half, of outputs ``[N, 2, D]``; a tie counts half."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        order = torch.randperm(len(both))
        learn, test = both[order[: len(both) // 2]], both[order[len(both) // 2 :]]
        mean, spread = learn.mean((0, 1)), learn.std((0, 1)).clamp(min=1e-12)
        layers = [nn.Linear(both.shape[-1], hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, hidden), nn.LeakyReLU(0.2)]
        net = nn.Sequential(*layers, nn.Linear(hidden, 1)).double()
        optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-3)
        scaled = (learn - mean) / spread
        for _ in range(steps):
            student, teacher = net(scaled).squeeze(-1).unbind(1)
            optimizer.zero_grad()
            (F.softplus(student) + F.softplus(-teacher)).mean().backward()
            optimizer.step()
        with torch.no_grad():
            judged = net((test - mean) / spread).squeeze(-1)
    student, teacher = judged.unbind(1)
    return float(((student < 0).double() + (teacher > 0).double()).mean() / 2 + (judged == 0).double().mean() / 2)
