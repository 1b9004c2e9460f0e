"""Losses of inner layers and of attention."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from understudy import losses

from .case import TEMPERATURES, Case, Inputs, maps, pair, same, softmax

Row = list[float]
Grid = list[list[float]]


def other_maps(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Maps of other channels, and of another area: 3x4 for the student, 6x8 for the teacher."""
    student = scale * torch.randn(rows, width, 3, 4, generator=generator)
    return student, scale * torch.randn(rows, width + 1, 6, 8, generator=generator)


def flows(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Two maps of the student, then two of the teacher."""
    widths = (width, width + 1, width, width + 1)
    return tuple(scale * torch.randn(rows, w, 2, 3, generator=generator) for w in widths)


def levels(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """A shallow and a deep map of the student, then of the teacher."""
    shapes = [(width, 4, 4), (width, 2, 2), (width + 1, 4, 4), (width + 1, 2, 2)]
    return tuple(scale * torch.randn(rows, *shape, generator=generator) for shape in shapes)


def tokens(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Four tokens of the student's width, and four of a larger one."""
    return tuple(scale * torch.randn(rows, 4, w, generator=generator) for w in (width, width + 2))


def same_tokens(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Four tokens of one width."""
    return tuple(scale * torch.randn(rows, 4, width, generator=generator) for _ in range(2))


def queries_and_keys(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Queries and keys of three tokens, of the student and of the teacher."""
    return tuple(scale * torch.randn(rows, 3, width, generator=generator) for _ in range(4))


def attentions(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Attention of ``width`` heads among three tokens."""
    return tuple(scale * torch.randn(rows, width, 3, 3, generator=generator) for _ in range(2))


# -- the formulas, for one sample or the whole batch -------------------------------------------------------------------


def flat(x: Any) -> Row:
    return [n for item in x for n in flat(item)] if isinstance(x, list) else [x]


def length_one(x: Row) -> Row:
    length = math.sqrt(sum(a * a for a in x))
    return [a / length if length else a for a in x]


def averaged(x: list[Grid], rows: int, columns: int) -> list[Grid]:
    """Maps whose sides are multiples of these, averaged down."""
    found = []
    for grid in x:
        down, right = len(grid) // rows, len(grid[0]) // columns
        cells = [[[] for _ in range(columns)] for _ in range(rows)]
        for i, j in itertools.product(range(down * rows), range(right * columns)):
            cells[i // down][j // right].append(grid[i][j])
        found.append([[sum(c) / len(c) for c in row] for row in cells])
    return found


def activity(x: list[Grid], power: float = 2.0) -> Row:
    channels = [flat(c) for c in x]
    return length_one([sum(abs(c[p]) ** power for c in channels) / len(channels) for p in range(len(channels[0]))])


def attention_map_loops(student: list[Grid], teacher: list[Grid], power: float = 2.0, form: str = "code") -> float:
    if len(teacher[0]) != len(student[0]):
        teacher = averaged(teacher, len(student[0]), len(student[0][0]))
    square = [(a - b) ** 2 for a, b in zip(activity(student, power), activity(teacher, power), strict=True)]
    return math.sqrt(sum(square)) if form == "paper" else sum(square) / len(square)


def dot(a: Row, b: Row) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def scores(query: Grid, key: Grid) -> Grid:
    return [[dot(q, k) / math.sqrt(len(q)) for k in key] for q in query]


def attention_scores_loops(
    query: Grid, key: Grid, other_query: Grid, other_key: Grid, student_heads: int, teacher_heads: int
) -> float:
    assert student_heads == teacher_heads == 1
    return mean_square(scores(query, key), scores(other_query, other_key))


def attention_relation_loops(query: Grid, key: Grid, other_query: Grid, other_key: Grid, heads: int) -> float:
    assert heads == 1
    rows = zip(scores(query, key), scores(other_query, other_key), strict=True)
    gaps = [sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(s), strict=True)) for s, t in rows]
    return sum(gaps) / len(gaps)


def relation_values_loops(student: Grid, teacher: Grid, heads: int) -> float:
    return attention_relation_loops(student, student, teacher, teacher, heads)


def mean_square(a: Any, b: Any) -> float:
    gaps = [(x - y) ** 2 for x, y in zip(flat(a), flat(b), strict=True)]
    return sum(gaps) / len(gaps)


def squared_sum_loops(student: Row, teacher: Row) -> float:
    return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True))


def masked_l2_loops(student: Row, teacher: Row) -> float:
    return sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True) if s > 0 or t > 0)


def cosine_loops(student: Row, teacher: Row) -> float:
    return 1 - dot(length_one(student), length_one(teacher))


def pkd_loops(student: list[list[Grid]], teacher: list[list[Grid]]) -> float:
    def standard(x: list[list[Grid]]) -> Row:
        found = []
        for channel in range(len(x[0])):
            values = flat([sample[channel] for sample in x])
            mean = sum(values) / len(values)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
            found += [(v - mean) / (deviation + 1e-6) for v in values]
        return found

    return mean_square(standard(student), standard(teacher)) / 2


def fsp_loops(first: list[Grid], later: list[Grid], other: list[Grid], other_later: list[Grid]) -> float:
    def flow(a: list[Grid], b: list[Grid]) -> Grid:
        return [[dot(flat(x), flat(y)) / len(flat(x)) for y in b] for x in a]

    return mean_square(flow(first, later), flow(other, other_later))


def kdsvd_loops(
    first: list[Grid], later: list[Grid], other: list[Grid], other_later: list[Grid], vectors: int = 1
) -> float:
    def singular(maps: list[Grid], count: int) -> tuple[np.ndarray, np.ndarray]:
        _, sizes, rows = np.linalg.svd(np.array([flat(channel) for channel in maps]).T, full_matrices=False)
        return rows[:count], sizes[:count]

    def matched(ours: list[Grid], theirs: list[Grid]) -> tuple[np.ndarray, np.ndarray]:
        found, sizes = singular(theirs, vectors)
        found = np.array([row if row.sum() >= 0 else -row for row in found])
        nearest = [max(singular(ours, vectors + 3)[0], key=lambda row, to=to: abs(row @ to)) for to in found]
        turned = np.array([row * np.sign(row @ to) for row, to in zip(nearest, found, strict=True)])
        weight = (sizes / np.linalg.norm(sizes))[:, None]
        return turned * weight, found * weight

    def kernel(v: np.ndarray, w: np.ndarray) -> list[float]:
        return [math.exp(-((a - b) ** 2) / 8) for x, y in zip(v, w, strict=True) for a in x for b in y]

    (v, v_teacher), (w, w_teacher) = matched(first, other), matched(later, other_later)
    return sum((a - b) ** 2 for a, b in zip(kernel(v, w), kernel(v_teacher, w_teacher), strict=True))


def nst_loops(student: list[Grid], teacher: list[Grid]) -> float:
    def kernel(a: list[Row], b: list[Row]) -> float:
        return sum(dot(x, y) ** 2 for x in a for y in b) / (len(a) * len(b))

    teacher = averaged(teacher, len(student[0]), len(student[0][0]))
    s, t = ([length_one(flat(c)) for c in x] for x in (student, teacher))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def cwd_loops(student: list[Grid], teacher: list[Grid], temperature: float) -> float:
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        pairs = zip(softmax(flat(t), temperature), softmax(flat(s), temperature), strict=True)
        total += temperature**2 * sum(p * (math.log(p) - math.log(q)) for p, q in pairs)
    return total / len(student)


def ab_loops(student: Row, teacher: Row, margin: float = 1.0) -> float:
    """As the published code has it."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total += (s + margin) ** 2 if s > -margin and t <= 0 else 0
        total += (s - margin) ** 2 if s <= margin and t > 0 else 0
    return total


def ofd_loops(student: Row, teacher: Row) -> float:
    pairs = [(s, max(t, 0.0)) for s, t in zip(student, teacher, strict=True)]
    return sum((s - t) ** 2 for s, t in pairs if s > t or t > 0)


def ft_loops(student: list[Grid], teacher: list[Grid], form: str = "factors") -> float:
    s, t = (length_one(flat(x)) if form == "factors" else activity(x) for x in (student, teacher))
    return sum(abs(a - b) for a, b in zip(s, t, strict=True)) / len(s)


def hcl_loops(student: list[Grid], teacher: list[Grid]) -> float:
    """For maps of three rows and four columns."""
    total, weights = mean_square(student, teacher), 1.0
    for i, size in enumerate((2, 1), 1):
        total += mean_square(*(pooled(x, size) for x in (student, teacher))) / 2**i
        weights += 1 / 2**i
    return total / weights


def pooled(x: list[Grid], size: int) -> list[Grid]:
    """Adaptive means, whose windows overlap where the size does not divide the side."""

    def windows(side: int) -> list[range]:
        return [range(i * side // size, -(-(i + 1) * side // size)) for i in range(size)]

    def mean(grid: Grid, rows: range, columns: range) -> float:
        return sum(grid[i][j] for i in rows for j in columns) / (len(rows) * len(columns))

    return [[[mean(g, r, c) for c in windows(len(g[0]))] for r in windows(len(g))] for g in x]


def same_two(inputs: Inputs) -> Inputs:
    """The second half, twice."""
    half = len(inputs) // 2
    return (*inputs[half:], *inputs[half:])


class StillMGD(losses.MGD):
    """Hides the same of every sample: what is drawn would not follow the samples. tests/losses/test_masked.py draws."""

    def drawn(self, maps: Tensor) -> Tensor:
        shape = (1, maps.shape[1], 1, 1) if self.mask == "channels" else (1, 1, *maps.shape[2:])
        return torch.arange(math.prod(shape)).view(shape) % 3 != 1


class StillViTKD(losses.ViTKD):
    """The same for tokens."""

    def drawn(self, tokens: Tensor) -> Tensor:
        return torch.tensor([True, False, False, True]).expand(tokens.shape[:2])


CASES = {
    "attention_map": Case(
        maps,
        attention_map_loops,
        learns=(0, 1),
        options=[{}, {"form": "paper"}, {"power": 1.0}, {"power": 3.0}],
        equal=same,
        single=False,
    ),
    "attention_probabilities": Case(attentions, mean_square, learns=(0, 1), equal=same, single=False),
    "attention_scores": Case(
        queries_and_keys,
        attention_scores_loops,
        learns=(0, 1, 2, 3),
        options=[{"student_heads": 1, "teacher_heads": 1}],
        equal=same_two,
        single=False,
    ),
    "attention_relation": Case(
        queries_and_keys,
        attention_relation_loops,
        learns=(0, 1, 2, 3),
        options=[{"heads": 1}],
        equal=same_two,
        single=False,
    ),
    "relation_values": Case(
        same_tokens, relation_values_loops, learns=(0, 1), options=[{"heads": 1}], equal=same, single=False
    ),
    "cosine": Case(pair, cosine_loops, learns=(0, 1), equal=same, single=False),
    "masked_l2": Case(pair, masked_l2_loops, learns=(0, 1), equal=same, single=False),
    "squared_sum": Case(pair, squared_sum_loops, learns=(0, 1), equal=same, single=False),
    "pkd": Case(maps, pkd_loops, learns=(0, 1), equal=same, batch=True, single=False),
    "fsp": Case(flows, fsp_loops, learns=(0, 1, 2, 3), equal=same_two, single=False),
    "kdsvd": Case(flows, kdsvd_loops, learns=(0, 1, 2, 3), equal=same_two, single=False),
    "nst": Case(maps, nst_loops, learns=(0, 1), equal=same, near=1e-6, single=False),
    "cwd": Case(
        maps, cwd_loops, learns=(0, 1), options=[{"temperature": t} for t in TEMPERATURES], equal=same, single=False
    ),
    "ab": Case(pair, ab_loops, options=[{}, {"margin": 0.5}], single=False),
    "ofd": Case(pair, ofd_loops, equal=same, single=False),
    "ft": Case(maps, ft_loops, learns=(0, 1), options=[{}, {"form": "activity"}], equal=same, single=False),
    "hcl": Case(maps, hcl_loops, learns=(0, 1), equal=same, single=False),
    "VID": Case(
        other_maps,
        None,
        build=lambda width, **options: losses.VID(student=width, teacher=width + 1, **options),
        options=[{}, {"variance": 1.0}],
        single=False,
        negative=True,
    ),
    "SRD": Case(
        tokens,
        None,
        build=lambda width, **options: losses.SRD(**options),
        options=[{}, {"power": 2.0}],
        batch=True,
        single=False,
        negative=True,
        fewest=1,
    ),
    "MGD": Case(
        other_maps,
        None,
        build=lambda width, **options: StillMGD(**options),
        options=[{}, {"mask": "positions"}],
        single=False,
    ),
    "ViTKD": Case(tokens, None, build=lambda width: StillViTKD(student=width, teacher=width + 2), single=False),
    "FactorTransfer": Case(other_maps, None, build=lambda width: losses.FactorTransfer(), single=False),
    "ReviewKD": Case(levels, None, learns=(0, 1), build=lambda width: losses.ReviewKD(width=8), single=False),
    "residual": Case(
        lambda rows, width, generator, scale: (
            *pair(rows, width, generator, scale),
            *pair(rows, width, generator, scale)[:1],
        ),
        lambda hint, student, teacher: (
            sum((h - (t - s)) ** 2 for h, s, t in zip(hint, student, teacher, strict=True)) / len(hint)
        ),
        learns=(0, 1, 2),
        equal=lambda inputs: (inputs[2] - inputs[1], inputs[1], inputs[2]),
        tokens=True,
        single=False,
    ),
    "ResidualHint": Case(
        lambda rows, width, generator, scale: (
            *maps(rows, width, generator, scale)[:1],
            *pair(rows, width, generator, scale),
        ),
        None,
        build=lambda width: losses.ResidualHint(),
        single=False,
    ),
    "FSP": Case(
        lambda rows, width, generator, scale: (
            *flows(rows, width, generator, scale)[:2],
            *flows(rows, width + 1, generator, scale)[:2],
        ),
        None,
        learns=(0, 1),
        build=lambda width: losses.FSP(),
        single=False,
    ),
    "KDSVD": Case(
        lambda rows, width, generator, scale: (
            *flows(rows, width, generator, scale)[:2],
            *flows(rows, width + 1, generator, scale)[:2],
        ),
        None,
        learns=(0, 1),
        build=lambda width: losses.KDSVD(),
        single=False,
    ),
}
