"""Between domains, and of what is generated."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.losses import DomainCritic

from .case import Case, Inputs, maps, pair, same, softmax

Rows = list[list[float]]
BIG = 65504.0


def far(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def mmd_loops(student: Rows, other: Rows, bandwidths: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)) -> float:
    both = student + other
    unit = sum(far(a, b) for a in both for b in both) / (len(both) * (len(both) - 1))

    def near(x: Rows, y: Rows) -> float:
        each = [math.exp(-far(a, b) / (width * unit)) for a in x for b in y for width in bandwidths]
        return sum(each) / (len(x) * len(y))

    return near(student, student) + near(other, other) - 2 * near(student, other)


def coral_loops(student: Rows, other: Rows) -> float:
    def covariance(x: Rows) -> list[float]:
        mean = [sum(column) / len(x) for column in zip(*x, strict=True)]
        d = range(len(mean))
        return [sum((r[i] - mean[i]) * (r[j] - mean[j]) for r in x) / (len(x) - 1) for i in d for j in d]

    return far(covariance(student), covariance(other)) / (4 * len(student[0]) ** 2)


def one_hot_loops(student: list[float]) -> float:
    return -math.log(max(softmax(student)))


def entropy_loops(student: Rows) -> float:
    mean = [sum(column) / len(student) for column in zip(*map(softmax, student), strict=True)]
    return sum(p * math.log10(p) for p in mean)


def activation_loops(student: list[float]) -> float:
    return -sum(map(abs, student)) / len(student)


def l1_loops(student: list[float], teacher: list[float]) -> float:
    return sum(abs(s - t) for s, t in zip(student, teacher, strict=True)) / len(student)


def variation_loops(student: list[Rows], power: int = 1) -> float:
    total = 0.0
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        gaps = [
            channel[i + down][j + right] - channel[i][j]
            for channel in student
            for i in range(len(channel) - down)
            for j in range(len(channel[0]))
            if 0 <= j + right < len(channel[0])
        ]
        total += sum(map(abs, gaps)) / len(gaps) if power == 1 else math.sqrt(sum(g * g for g in gaps))
    return total


def statistics_loops(student: Rows, mean: list[float], variance: list[float]) -> float:
    centre = [sum(column) / len(student) for column in zip(*student, strict=True)]
    spread = [sum((row[c] - m) ** 2 for row in student) / len(student) for c, m in enumerate(centre)]
    return math.sqrt(far(centre, mean)) + math.sqrt(far(spread, variance))


def one(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    return pair(rows, width, generator, scale)[:1]


def picture(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    return maps(rows, width, generator, scale)[:1]


def normed(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    mean, variance = (torch.randn(width, generator=generator) for _ in range(2))
    return (*one(rows, width, generator, scale), mean, variance.abs())


def as_kept(inputs: Inputs) -> Inputs:
    x = inputs[0]
    mean = x.mean(0)
    return x, mean, (x - mean).square().mean(0)


def reordered(inputs: Inputs, order: Tensor) -> Inputs:
    return (inputs[0][order], *inputs[1:])


def nothing(inputs: Inputs) -> list[Inputs]:
    """A loss of one tensor refuses none."""
    return []


def unlike_features(inputs: Inputs) -> list[Inputs]:
    student, other = inputs
    return [(student[:, :1], other), (student.unsqueeze(0), other)]


HOSTILE = [(torch.full((4, 3), BIG), -torch.full((4, 3), BIG)), (torch.full((1, 3), BIG), torch.full((1, 3), -BIG))]

CASES = {
    "mmd": Case(
        pair, mmd_loops, learns=(0, 1), options=[{}, {"bandwidths": (1.0,)}], equal=same, near=1e-7, batch=True, single=False,
        unlike=unlike_features, hostile=[*HOSTILE, (torch.tensor([[1e-20], [1e20]]), torch.ones(2, 1))],
        smooth=False,  # the unit of distance is a constant to the gradient; tests/losses/test_domain.py has it fixed
    ),
    "coral": Case(
        pair, coral_loops, learns=(0, 1), equal=same, batch=True, single=False, unlike=unlike_features, hostile=HOSTILE,
    ),
    "DomainCritic": Case(
        pair, None, learns=(0, 1), build=lambda width, **options: DomainCritic(features=width, **options),
        options=[{}, {"gamma": None, "hidden": 7}], single=False, stacks=False,
        smooth=False,  # its gradient is reversed
    ),
    "one_hot": Case(one, one_hot_loops, tokens=True, unlike=nothing, hostile=[(torch.tensor([[-BIG, BIG]]),)]),
    "information_entropy": Case(
        one, entropy_loops, batch=True, negative=True, unlike=nothing, hostile=[(torch.tensor([[-BIG, BIG], [-BIG, 0.0]]),)]
    ),
    "activation": Case(one, activation_loops, negative=True, single=False, unlike=nothing),
    "l1": Case(pair, l1_loops, learns=(0, 1), equal=same, single=False),
    "total_variation": Case(
        picture, variation_loops, options=[{}, {"power": 2}], single=False, unlike=lambda inputs: [(inputs[0][0],)],
        equal=lambda inputs: (torch.full_like(inputs[0], 0.5),), hostile=[(torch.rand(2, 3, 1, 1),), (torch.rand(2, 3, 1, 4),)],
    ),
    "batch_norm_statistics": Case(
        normed, statistics_loops, equal=as_kept, near=1e-3, batch=True, single=False, permute=reordered, stacks=False,
        scales=(0.0, 1.0, 1e2, 1e4), hostile=[(torch.full((4, 2), BIG), torch.zeros(2), torch.zeros(2))],
        unlike=lambda inputs: [(inputs[0], inputs[1][:1], inputs[2]), (inputs[0][0], *inputs[1:])],
    ),
}  # fmt: skip
