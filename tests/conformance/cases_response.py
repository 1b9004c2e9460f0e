"""Losses on a model's last outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.losses import CTKD

from .case import INF, NAN, Case, Inputs, labelled, labelled_pair, pair, same, softmax
from .case import TEMPERATURES as WIDE

MIXED = (2.0, 3.0, 4.0, 5.0, 6.0)


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


def cross(p: Sequence[float], q: Sequence[float]) -> float:
    return -sum(a * math.log(b) for a, b in zip(p, q, strict=True))


def others(values: Sequence[float], label: int) -> list[float]:
    return [v for c, v in enumerate(values) if c != label]


# -- one value for each sample -----------------------------------------------------------------------------------------


def multi_loops(student: list[float], teacher: list[float], temperatures: Sequence[float] = MIXED) -> float:
    return sum(t**2 * kl(softmax(teacher, t), softmax(student, t)) for t in temperatures)


def standardized_loops(student: list[float], teacher: list[float], temperature: float = 2.0) -> float:
    def z(x: list[float]) -> list[float]:
        mean = sum(x) / len(x)
        return [(v - mean) / math.sqrt(sum((w - mean) ** 2 for w in x) / (len(x) - 1) + 1e-6) for v in x]

    return temperature**2 * kl(softmax(z(teacher), temperature), softmax(z(student), temperature))


def hard_loops(student: list[float], teacher: list[float]) -> float:
    return -math.log(softmax(student)[teacher.index(max(teacher))])


def soft_loops(
    student: list[float], teacher: list[float], temperature: float = 1.0, probabilities: bool = False
) -> float:
    p = softmax([math.log(v) for v in teacher] if probabilities else teacher, temperature)
    return temperature**2 * cross(p, softmax(student, temperature))


def dkd_loops(
    student: list[float],
    teacher: list[float],
    label: int,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> float:
    q, p = softmax(student, temperature), softmax(teacher, temperature)
    target = kl(*([x[label], sum(others(x, label))] for x in (p, q)))
    rest = kl(*([v / sum(others(x, label)) for v in others(x, label)] for x in (p, q)))
    return temperature**2 * (alpha * target + beta * rest)


def nkd_loops(
    student: list[float], teacher: list[float], label: int, temperature: float = 1.0, gamma: float = 1.5
) -> float:
    target = -softmax(teacher)[label] * math.log(softmax(student)[label])
    rest = cross(*(softmax(others(x, label), temperature) for x in (teacher, student)))
    return target + gamma * temperature**2 * rest


def wsld_loops(student: list[float], teacher: list[float], label: int, temperature: float = 2.0) -> float:
    ce_s, ce_t = (-math.log(softmax(x)[label]) for x in (student, teacher))
    weight = 1 - math.exp(-ce_s / (ce_t + 1e-7))
    return weight * temperature**2 * cross(softmax(teacher, temperature), softmax(student, temperature))


def made_up(classes: int, label: int, temperature: float, correct: float) -> list[float]:
    return softmax([correct if c == label else (1 - correct) / (classes - 1) for c in range(classes)], temperature)


def tf_kd_loops(student: list[float], label: int, temperature: float = 20.0, correct: float = 0.99) -> float:
    return kl(made_up(len(student), label, temperature, correct), softmax(student))


def ps_kd_loops(student: list[float], previous: list[float], label: int, alpha: float = 0.8) -> float:
    p = softmax(previous)
    mixed = [(1 - alpha) * (c == label) + alpha * v for c, v in enumerate(p)]
    return cross(mixed, softmax(student))


def ctkd_loops(student: list[float], teacher: list[float], start: float = 1.0, span: float = 20.0) -> float:
    temperature = start + span / (1 + math.exp(-1.0))
    return temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))


# -- one value for the batch -------------------------------------------------------------------------------------------


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    a, b = ([v - sum(x) / len(x) for v in x] for x in (a, b))
    floor = 1e-12  # under each root; test_correlation.py has the formula without
    norms = math.sqrt((sum(v * v for v in a) + floor) * (sum(v * v for v in b) + floor))
    return (sum(v * w for v, w in zip(a, b, strict=True)) + floor) / norms


def inter_loops(student: list[float], teacher: list[float], temperature: float = 1.0) -> float:
    return temperature**2 * (1 - pearson(softmax(student, temperature), softmax(teacher, temperature)))


def intra_loops(student: list[list[float]], teacher: list[list[float]], temperature: float = 1.0) -> float:
    q, p = ([softmax(row, temperature) for row in x] for x in (student, teacher))
    columns = [1 - pearson(a, b) for a, b in zip(zip(*q, strict=True), zip(*p, strict=True), strict=True)]
    return temperature**2 * sum(columns) / len(columns)


def gram(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]


def gram_gap(p: Sequence[Sequence[float]], q: Sequence[Sequence[float]]) -> float:
    return sum((a - b) ** 2 for x, y in zip(gram(p), gram(q), strict=True) for a, b in zip(x, y, strict=True)) / len(p)


def class_loops(student: list[list[float]], teacher: list[list[float]], temperatures: Sequence[float] = MIXED) -> float:
    soft = [[[softmax(row, t) for row in x] for x in (teacher, student)] for t in temperatures]
    return sum(gram_gap(*(list(zip(*x, strict=True)) for x in both)) for both in soft)


def batch_loops(student: list[list[float]], teacher: list[list[float]], temperatures: Sequence[float] = MIXED) -> float:
    return sum(gram_gap(*([softmax(row, t) for row in x] for x in (teacher, student))) for t in temperatures)


def cs_kd_loops(student: list[list[float]], label: list[int], temperature: float = 4.0) -> float:
    p = [softmax(row, temperature) for row in student]
    values = []
    for n, y in enumerate(label):
        partners = [m for m, z in enumerate(label) if z == y and m != n]
        if partners:
            values.append(sum(kl(p[m], p[n]) for m in partners) / len(partners))
    return temperature**2 * sum(values) / len(values) if values else 0.0


def uskd_loops(
    student: list[list[float]],
    label: list[int],
    weak: list[list[float]] | None = None,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
) -> float:
    q = [softmax(row) for row in student]
    mean = sum(row[y] ** 2 for row, y in zip(q, label, strict=True)) / len(q)
    total = 0.0
    for n, y in enumerate(label):
        standing = [math.log(v) / (1 - math.log(q[n][y]) + 1e-6) for v in q[n]]
        if weak is not None:
            r = softmax(weak[n])
            standing = [a + b / (1 - r[y] + 1e-6) for a, b in zip(standing, r, strict=True)]
            smooth = [0.9 * (c == y) + 0.1 / len(r) for c in range(len(r))]
            total += mu * cross(smooth, r)
        order = sorted(range(len(standing)), key=lambda c, by=standing: -by[c])
        share = others([1 / (order.index(c) + 1) for c in range(len(order))], y)
        total += -alpha * (q[n][y] ** 2 + 1 - mean) * math.log(q[n][y])
        total += beta * cross([v / sum(share) for v in share], softmax(others(student[n], y)))
    return total / len(label)


# -- inputs ------------------------------------------------------------------------------------------------------------


def shares(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits, and shares of the classes."""
    return scale * torch.randn(rows, width, generator=generator), torch.rand(
        rows, width, generator=generator
    ) + 1 / 1024


def with_weak(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits, class indices, and a weak head's logits."""
    student, weak = pair(rows, width, generator, scale)
    return student, torch.randint(width, (rows,), generator=generator), weak


def few_classes(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Labels that repeat, as a loss of pairs needs them."""
    return scale * torch.randn(rows, width, generator=generator), torch.arange(rows) % min(width, 2)


def taught(inputs: Inputs) -> Inputs:
    """The student as the teacher that :func:`tf_kd` makes up by default."""
    student, label = inputs
    virtual = torch.full_like(student, 0.01 / max(student.shape[1] - 1, 1))
    return virtual.scatter(1, label.unsqueeze(1), 0.99) / 20, label


UP = torch.tensor([[-65504.0, 65504.0], [1e4, -1e4]])
FAR = torch.tensor([[0.0, 1e4, 2.0], [-1e4, 0.0, 1e4]])
NONE = torch.tensor([-100, -100])
PARTLY = torch.tensor([-100, 2])
UNREAD = torch.tensor([[NAN, INF, -INF], [-1e4, 0.0, 1e4]])


def two(label: Tensor, *given: Tensor) -> Inputs:
    return given[0], *given[1:], label


HOSTILE_PAIRS = [(UP, -UP), (FAR, -FAR), (FAR, FAR.flip(0))]
HOSTILE_LABELLED = [
    two(torch.tensor([0, 0]), UP, -UP),
    two(torch.tensor([0, 1]), FAR, -FAR),
    two(NONE, FAR, FAR.flip(0)),
    two(PARTLY, UNREAD, UNREAD),
]
T = [{"temperature": t} for t in WIDE]
# Below 1, random logits give rows that are constant but for one class: all of them correlate.
SOFT = [{"temperature": t} for t in WIDE if t >= 1]

CASES = {
    "kl_multi_temperature": Case(
        pair,
        multi_loops,
        learns=(0, 1),
        options=[{}, {"temperatures": (1.0,)}, {"temperatures": [4.0, 20.0]}],
        equal=same,
        tokens=True,
        hostile=[*HOSTILE_PAIRS, (FAR, torch.tensor([[0.0, -INF, 1.0], [-INF, -INF, 0.0]]))],
    ),
    "kl_standardized": Case(
        pair, standardized_loops, learns=(0, 1), options=T, equal=same, tokens=True, hostile=HOSTILE_PAIRS
    ),
    "hard_label": Case(pair, hard_loops, tokens=True, hostile=HOSTILE_PAIRS),
    "soft_cross_entropy": Case(
        shares,
        soft_loops,
        options=[*T, {"probabilities": True}, {"probabilities": True, "temperature": 4.0}],
        tokens=True,
        hostile=[
            (UP, torch.tensor([[0.0, 1.0], [1e4, 0.0]])),
            (FAR, torch.tensor([[0.0, 1.0, 0.0], [1e-30, 0.0, 1e30]])),
        ],
    ),
    "dkd": Case(
        labelled_pair,
        dkd_loops,
        learns=(0, 1),
        options=[*T, {"alpha": 0.0}, {"beta": 0.0}, {"alpha": 2.0, "beta": 0.5}],
        equal=same,
        tokens=True,
        hostile=HOSTILE_LABELLED,
    ),
    "nkd": Case(
        labelled_pair,
        nkd_loops,
        learns=(0, 1),
        options=[*T, {"gamma": 0.0}],
        tokens=True,
        hostile=HOSTILE_LABELLED,
    ),
    # Its weight is cut from the graph, so that the gradient is not the derivative: test_weighted.py has what it is.
    "wsld": Case(labelled_pair, wsld_loops, options=T, tokens=True, hostile=HOSTILE_LABELLED, smooth=False),
    "tf_kd": Case(
        labelled,
        tf_kd_loops,
        options=[{}, {"temperature": 1.0}, {"correct": 0.5}, {"correct": 1.0}],
        tokens=True,
        hostile=[(UP, torch.tensor([0, 0])), (UNREAD, PARTLY), (FAR, NONE)],
    ),
    "ps_kd": Case(
        labelled_pair,
        ps_kd_loops,
        options=[{}, {"alpha": 0.0}, {"alpha": 1.0}],
        tokens=True,
        hostile=HOSTILE_LABELLED,
    ),
    "CTKD": Case(
        pair,
        ctkd_loops,
        options=[{}, {"start": 2.0, "span": 5.0}],
        build=lambda width, **options: CTKD(**options),
        equal=same,
        tokens=True,
    ),
    "dist_inter": Case(pair, inter_loops, learns=(0, 1), options=SOFT, equal=same, tokens=True, hostile=HOSTILE_PAIRS),
    "dist_intra": Case(pair, intra_loops, learns=(0, 1), options=SOFT, equal=same, batch=True, hostile=HOSTILE_PAIRS),
    "class_correlation": Case(
        pair,
        class_loops,
        learns=(0, 1),
        options=[{}, {"temperatures": (1.0,)}],
        equal=same,
        batch=True,
        hostile=HOSTILE_PAIRS,
    ),
    "batch_correlation": Case(
        pair,
        batch_loops,
        learns=(0, 1),
        options=[{}, {"temperatures": (1.0,)}],
        equal=same,
        batch=True,
        hostile=HOSTILE_PAIRS,
    ),
    # Each prediction is cut where it is another's target, so that the gradient is not the derivative.
    "cs_kd": Case(
        few_classes,
        cs_kd_loops,
        options=T,
        batch=True,
        hostile=[(UP, torch.tensor([0, 0])), (UNREAD, PARTLY), (FAR, NONE)],
        smooth=False,
    ),
    # Weights and ranks are cut from the graph.
    "uskd": Case(
        with_weak,
        uskd_loops,
        learns=(0, 2),
        options=[{}, {"mu": 1.0}, {"alpha": 0.0}, {"beta": 2.0}],
        batch=True,
        single=False,  # with a weak head its smoothed label is left
        hostile=[(UP, torch.tensor([0, 0]), -UP), (UNREAD, PARTLY, UNREAD), (FAR, NONE, FAR)],
        smooth=False,
    ),
}
