"""Losses of one student and several teachers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from understudy.losses import CAMKD

from .case import INF, NAN, Case, Inputs, labelled_pair, softmax
from .case import TEMPERATURES as WIDE

Row = list[float]


def teachers(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """A student and three teachers."""
    return tuple(scale * torch.randn(rows, width, generator=generator) for _ in range(4))


def two_teachers(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """A student and two of them: of more, the weights have no formula."""
    return teachers(rows, width, generator, scale)[:3]


def labelled_teachers(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """A student, class indices, and three teachers."""
    student, *others = teachers(rows, width, generator, scale)
    return student, torch.randint(width, (rows,), generator=generator), *others


KNOWN = [[0, 2], [2, 1]]


def specialists(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """A student of two classes more than the width, and teachers of two each."""
    student = scale * torch.randn(rows, width + 2, generator=generator)
    return student, *(scale * torch.randn(rows, len(own), generator=generator) for own in KNOWN)


def classifiers(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Features of a student, class indices, and of two teachers their features and last layers, one of them without bias."""
    student, _, label = labelled_pair(rows, width, generator, scale)
    ours, theirs = (scale * torch.randn(rows, w, generator=generator) for w in (width + 1, width))
    one, two = (torch.randn(width, w, generator=generator) for w in (width + 1, width))
    return student, label, ours, one, torch.randn(width, generator=generator), theirs, two


def rows_in_order(inputs: Inputs, order: Tensor) -> Inputs:
    return tuple(t if i in (3, 4, 6) else t[order] for i, t in enumerate(inputs))


# -- the formulas ------------------------------------------------------------------------------------------------------


def kl(p: Row, q: Row) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def softened(student: Row, teacher: Row, temperature: float) -> float:
    return temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))


def average_loops(student: Row, *given: Row, temperature: float = 4.0, weights: Row | None = None) -> float:
    weights = weights or [1.0] * len(given)
    return sum(w * softened(student, t, temperature) for w, t in zip(weights, given, strict=True)) / sum(weights)


def ebkd_loops(student: Row, *given: Row, temperature: float = 4.0) -> float:
    entropy = [-sum(p * math.log(p) for p in softmax(t)) for t in given]
    shares = [1 - h / sum(entropy) for h in entropy]
    return sum(w * softened(student, t, temperature) for w, t in zip(shares, given, strict=True)) / len(given)


def ca_mkd_loops(student: Row, label: int, *given: Row, temperature: float = 4.0) -> float:
    loss = [math.exp(-math.log(softmax(t)[label])) for t in given]
    shares = [(1 - x / sum(loss)) / (len(given) - 1) for x in loss]
    return sum(w * softened(student, t, temperature) for w, t in zip(shares, given, strict=True)) / len(given)


def aekd_loops(student: list[Row], one: list[Row], two: list[Row], temperature: float = 4.0, cap: float = 1.0) -> float:
    """Of two teachers the shortest gradient is found by going through the shares."""

    def mean(rows: list[Row]) -> Row:
        return [sum(column) / len(rows) for column in zip(*rows, strict=True)]

    q, *p = ([softmax(row, temperature) for row in rows] for rows in (student, one, two))
    first, second = (mean([[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(q, t, strict=True)]) for t in p)
    away = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    share = sum(b * (b - a) for a, b in zip(first, second, strict=True)) / away
    share = min(max(share, 1 - max(cap, 0.5)), max(cap, 0.5))
    apart = [
        sum(softened(s, t, temperature) for s, t in zip(student, rows, strict=True)) / len(student)
        for rows in (one, two)
    ]
    return share * apart[0] + (1 - share) * apart[1]


def specialist_loops(student: Row, *given: Row, classes: list[list[int]], temperature: float = 4.0) -> float:
    apart = [softened([student[c] for c in own], t, temperature) for own, t in zip(classes, given, strict=True)]
    return sum(apart) / len(apart)


UP = torch.tensor([[-65504.0, 65504.0], [1e4, -1e4]])
FAR = torch.tensor([[0.0, 1e4, 2.0], [-1e4, 0.0, 1e4]])
RULED_OUT = torch.tensor([[0.0, -INF, 1.0], [-INF, -INF, 0.0]])
UNREAD = torch.tensor([[NAN, INF, -INF], [-1e4, 0.0, 1e4]])
T = [{"temperature": t} for t in WIDE]
HOSTILE = [(UP, -UP, UP), (FAR, -FAR, FAR.flip(0)), (FAR, FAR), (FAR, RULED_OUT, FAR)]


def all_the_same(inputs: Inputs) -> Inputs:
    return (inputs[-1],) * len(inputs)


CASES = {
    "average_kl": Case(
        teachers,
        average_loops,
        learns=(0, 1, 3),
        options=[*T, {"weights": [1.0, 0.0, 3.0]}],
        equal=all_the_same,
        tokens=True,
        hostile=[(*given, -given[0])[:4] for given in HOSTILE if len(given) > 2],
    ),
    "ebkd": Case(teachers, ebkd_loops, options=T, equal=all_the_same, tokens=True, hostile=HOSTILE),
    "ca_mkd": Case(
        labelled_teachers,
        ca_mkd_loops,
        options=T,
        equal=lambda inputs: (inputs[2], inputs[1], *(inputs[2],) * 3),
        tokens=True,
        hostile=[
            (UP, torch.tensor([0, 0]), -UP, UP),
            (FAR, torch.tensor([0, 1]), -FAR, FAR.flip(0)),
            (FAR, torch.tensor([0, 1]), -FAR),
            (UNREAD, torch.tensor([-100, 2]), UNREAD, UNREAD),
            (FAR, torch.tensor([-100, -100]), -FAR, FAR),
        ],
    ),
    # The weights are cut from the graph.
    "aekd": Case(
        two_teachers,
        aekd_loops,
        options=[*T, {"cap": 0.6}, {"cap": 0.1}],
        equal=all_the_same,
        batch=True,
        smooth=False,
        hostile=HOSTILE,
    ),
    "specialist_kl": Case(
        specialists,
        specialist_loops,
        learns=(0, 1),
        options=[{"temperature": t, "classes": KNOWN} for t in WIDE if t >= 0.1],  # of two classes one is soon certain
        equal=lambda inputs: (inputs[0], *(inputs[0][:, own] for own in KNOWN)),
        tokens=True,
        single=False,
        hostile=[(FAR, UP, -UP), (FAR, torch.tensor([[0.0, -INF], [-INF, 0.0]]), UP)],
    ),
    "CAMKD": Case(
        classifiers,
        None,
        build=lambda width, **options: CAMKD(**options),
        permute=rows_in_order,
        stacks=False,
        single=False,
    ),
}
