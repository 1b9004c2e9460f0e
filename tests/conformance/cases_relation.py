"""Relations between the samples of a batch, contrast with others, graphs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from understudy.losses import CRD

from .case import Case, Inputs, maps, pair, same, unequal_pair

Rows = list[list[float]]
BIG = 65504.0


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def norm(a: Sequence[float]) -> float:
    return math.sqrt(dot(a, a))


def minus(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return dot(a, b) / (norm(a) * norm(b))


def mean_square(a: Rows, b: Rows) -> float:
    return sum((x - y) ** 2 for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True)) / len(a) ** 2


def huber(x: float) -> float:
    return x * x / 2 if abs(x) < 1 else abs(x) - 0.5


def similarity_loops(student: Rows, teacher: Rows) -> float:
    def rows(x: Rows) -> Rows:
        gram = [[dot(a, b) for b in x] for a in x]
        return [[g / norm(row) for g in row] for row in gram]

    return mean_square(rows(student), rows(teacher))


def rkd_distance_loops(student: Rows, teacher: Rows) -> float:
    def far(x: Rows) -> list[float]:
        d = [norm(minus(a, b)) for a in x for b in x]
        mean = sum(d) / sum(v > 0 for v in d)
        return [v / mean for v in d]

    return sum(huber(a - b) for a, b in zip(far(student), far(teacher), strict=True)) / len(student) ** 2


def rkd_angle_loops(student: Rows, teacher: Rows) -> float:
    def angles(x: Rows) -> list[float]:
        n = range(len(x))
        return [
            cosine(minus(x[j], x[i]), minus(x[k], x[i])) if i not in (j, k) else 0.0 for i in n for j in n for k in n
        ]

    return sum(huber(a - b) for a, b in zip(angles(student), angles(teacher), strict=True)) / len(student) ** 3


def pkt_loops(student: Rows, teacher: Rows) -> float:
    def rows(x: Rows) -> Rows:
        likeness = [[(cosine(a, b) + 1) / 2 for b in x] for a in x]
        return [[v / sum(row) for v in row] for row in likeness]

    return sum(
        p * math.log((p + 1e-7) / (q + 1e-7))
        for a, b in zip(rows(teacher), rows(student), strict=True)
        for p, q in zip(a, b, strict=True)
    ) / len(student) ** 2  # fmt: skip


def congruence_loops(student: Rows, teacher: Rows, gamma: float = 0.4, order: int = 2) -> float:
    def kernel(x: Rows) -> Rows:
        return [
            [
                math.exp(-2 * gamma)
                * sum((2 * gamma) ** p / math.factorial(p) * cosine(a, b) ** p for p in range(order + 1))
                for b in x
            ]
            for a in x
        ]

    return mean_square(kernel(student), kernel(teacher))


def cka_loops(student: Rows, teacher: Rows) -> float:
    def kernel(x: Rows) -> list[float]:
        mean = [sum(column) / len(x) for column in zip(*x, strict=True)]
        centred = [minus(row, mean) for row in x]
        return [dot(a, b) for a in centred for b in centred]

    return 1 - cosine(kernel(student), kernel(teacher))


def ickd_loops(student: list[Rows], teacher: list[Rows]) -> float:
    def rows(x: list[Rows]) -> Rows:
        channels = [[v for line in channel for v in line] for channel in x]
        gram = [[dot(a, b) for b in channels] for a in channels]
        return [[g / norm(row) for g in row] for row in gram]

    return mean_square(rows(student), rows(teacher)) * len(student)


def in_batch_loops(student: Rows, teacher: Rows, temperature: float = 0.07) -> float:
    n = range(len(student))
    z = [[cosine(s, t) / temperature for t in teacher] for s in student]
    each = [math.log(sum(math.exp(z[i][j] - z[i][i]) for j in n)) for i in n]
    other = [math.log(sum(math.exp(z[j][i] - z[i][i]) for j in n)) for i in n]
    return sum(each + other) / (2 * len(student))


def neighbour_loops(student: Rows, teacher: Rows, neighbours: int = 8) -> float:
    n = range(len(student))
    k = min(neighbours, len(student) - 1)
    near = [sorted((j for j in n if j != i), key=lambda j: -cosine(teacher[i], teacher[j]))[:k] for i in n]

    def weights(x: Rows) -> Rows:
        w = [[(1 + cosine(x[i], x[j])) / 2 if j in near[i] or i in near[j] else 0.0 for j in n] for i in n]
        degree = [sum(row) for row in w]
        return [[w[i][j] / math.sqrt(degree[i] * degree[j]) for j in n] for i in n]

    return mean_square(weights(student), weights(teacher)) * len(student)


def structure_loops(student: Rows, teacher: Rows, edges: list[list[int]], width: float = 100.0) -> list[float]:
    def share(x: Rows, i: int) -> list[float]:
        kernel = [math.exp(-sum(map(abs, minus(x[a], x[b]))) / width) for a, b in zip(*edges, strict=True) if b == i]
        return [math.exp(k) / sum(map(math.exp, kernel)) for k in kernel]

    return [
        sum(p * math.log(p / q) for p, q in zip(share(teacher, i), share(student, i), strict=True))
        for i in range(len(student))
    ]


def view_loops(student: Rows, student_view: Rows, teacher: Rows, teacher_view: Rows, temperature: float = 0.5) -> float:
    def share(x: Rows, view: Rows) -> Rows:
        e = [[math.exp(cosine(v, o) / temperature) for o in x] for v in view]
        return [[a / sum(row) for a in row] for row in e]

    p, q = share(teacher, teacher_view), share(student, student_view)
    return temperature**2 * sum(
        a * math.log(a / b) for r, s in zip(p, q, strict=True) for a, b in zip(r, s, strict=True)
    ) / len(p)  # fmt: skip


def scores_loops(student: list[float], teacher: list[float]) -> float:
    return sum(huber(s - t) for s, t in zip(student, teacher, strict=True)) / len(student)


def triple_loops(sh: list[float], st: list[float], th: list[float], tt: list[float]) -> float:
    angle = cosine(sh, st) - cosine(th, tt)
    length = norm(sh) / (norm(sh) + norm(st)) - norm(th) / (norm(th) + norm(tt))
    return huber(angle) + huber(length)


def four(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    return tuple(scale * torch.randn(rows, w, generator=generator) for w in (width, width, width + 1, width + 1))


def with_edges(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """A ring and as many edges more; without an edge where there are no nodes."""
    ring = torch.stack([torch.arange(rows), torch.arange(rows).roll(1)])
    more = torch.randint(max(rows, 1), (2, rows), generator=generator)
    return (*pair(rows, width, generator, scale), torch.cat([ring, more], 1))


def relabelled(inputs: Inputs, order: Tensor) -> Inputs:
    student, teacher, edges = inputs
    return student[order], teacher[order], order.argsort()[edges]


def indexed(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    return (*unequal_pair(rows, width, generator, scale), torch.randperm(200, generator=generator)[:rows])


def crd(width: int, **options: float) -> CRD:
    return CRD(samples=200, negatives=50, features=8, **options)


def itself(inputs: Inputs) -> Inputs:
    return inputs[1], inputs[1]


def wrong_edges(inputs: Inputs) -> list[Inputs]:
    student, teacher, edges = inputs
    return [(student[:1], teacher, edges), (student[None], teacher, edges), (student, teacher, edges.T)]


def wrong_views(inputs: Inputs) -> list[Inputs]:
    a, b, c, d = inputs
    return [(a[:1], b, c, d), (a, b[:1], c, d), (a[:, :1], b, c, d)]


def wrong_triples(inputs: Inputs) -> list[Inputs]:
    a, b, c, d = inputs
    return [(a[:1], b, c, d), (a, b, c, d[:1]), (a, b, c, d[:, :1]), (a[None], b, c, d)]


def opposite(rows: int) -> Inputs:
    """What half precision can hold at most, and equal samples among it."""
    high = torch.full((rows, 3), BIG)
    return high, -high


HOSTILE = [
    opposite(1),
    opposite(4),
    (torch.zeros(3, 2), torch.eye(3)),
    (torch.eye(3), torch.zeros(3, 2)),
    (torch.tensor([[0.0, 0.0], [1.0, 2.0], [1.0, 2.0]]), torch.tensor([[1.0], [-1.0], [1e-30]])),
    (torch.tensor([[1e-20, 0.0], [1e20, 2.0], [1.0, 2.0]]), torch.tensor([[1e19], [-1e19], [0.0]])),
]


def relation(loops: object, **more: object) -> Case:
    return Case(
        unequal_pair, loops, **{"learns": (0, 1), "equal": itself, "batch": True, "single": False, "hostile": HOSTILE, **more}
    )  # fmt: skip


CASES = {
    "similarity": relation(similarity_loops),
    "rkd_distance": relation(rkd_distance_loops),
    "rkd_angle": relation(rkd_angle_loops, near=1e-12),
    "pkt": relation(pkt_loops, negative=True),
    "correlation_congruence": relation(congruence_loops, options=[{}, {"gamma": 2.0, "order": 5}]),
    "cka": relation(cka_loops),
    "neighbour_graph": relation(neighbour_loops, options=[{}, {"neighbours": 2}]),
    "ickd": Case(
        maps, ickd_loops, learns=(0, 1), equal=same, single=False, hostile=[(torch.zeros(2, 3, 4), torch.ones(2, 3, 5))]
    ),
    "crd_in_batch": Case(
        pair, in_batch_loops, learns=(0, 1), options=[{}, {"temperature": 1.0}], batch=True, single=False,
        hostile=HOSTILE[:2],
    ),
    "CRD": Case(indexed, None, learns=(0, 1), build=crd, options=[{}, {"momentum": 0.0, "seed": 3}], single=False,
        stacks=False),
    "local_structure": Case(
        with_edges, structure_loops, learns=(0, 1), options=[{}, {"width": 1.0}], equal=same, single=False,
        permute=relabelled, stacks=False, unlike=wrong_edges,
    ),
    "view_relations": Case(
        four, view_loops, learns=(0, 1, 2, 3), options=[{}, {"temperature": 4.0}], batch=True, single=False,
        equal=lambda inputs: (inputs[2], inputs[3], inputs[2], inputs[3]), unlike=wrong_views,
    ),
    "triple_scores": Case(pair, scores_loops, learns=(0, 1), equal=same, single=False),
    "triple_structure": Case(
        four, triple_loops, learns=(0, 1, 2, 3), tokens=True, single=False, unlike=wrong_triples,
        equal=lambda inputs: (inputs[2], inputs[3], inputs[2], inputs[3]),
    ),
}  # fmt: skip
