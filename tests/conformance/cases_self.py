"""Losses with which a student learns from itself, or from its own branches."""

from __future__ import annotations

import torch

from understudy.losses import BYOT, ONE, PSKD

from .case import Case, Inputs, pair, same, softmax

Row = list[float]


def layers(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits, class indices, and three layers from shallow to deep."""
    student = scale * torch.randn(rows, width, generator=generator)
    shapes = [(2, 4, 4), (3, 4, 2), (2, 2, 2)]
    return (
        student,
        torch.randint(width, (rows,), generator=generator),
        *(scale * torch.randn(rows, *shape, generator=generator) for shape in shapes),
    )


def one_layer(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits, class indices, and a layer."""
    return layers(rows, width, generator, scale)[:3]


def numbered(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits, class indices, and the samples' numbers."""
    student, label, *_ = layers(rows, width, generator, scale)
    return student, label, torch.arange(rows) * 3 % 20


def consistency_loops(student: Row, teacher: Row) -> float:
    return sum((a - b) ** 2 for a, b in zip(softmax(student), softmax(teacher), strict=True)) / len(student)


UP = torch.tensor([[-65504.0, 65504.0], [1e4, -1e4]])
FAR = torch.tensor([[0.0, 1e4, 2.0], [-1e4, 0.0, 1e4]])

CASES = {
    "consistency": Case(
        pair, consistency_loops, learns=(0, 1), equal=same, tokens=True, hostile=[(UP, -UP), (FAR, -FAR)]
    ),
    # The final output and the deepest layer are cut from the graph.
    "BYOT": Case(
        layers,
        None,
        learns=(2, 3),
        options=[{}, {"alpha": 0.5, "beta": 1e-2}],
        build=lambda width, **options: BYOT(**options),
        stacks=False,
        single=False,
    ),
    # What the branches learn from is cut from the graph.
    "ONE": Case(
        one_layer,
        None,
        learns=(0, 2),
        options=[{}, {"branches": 1, "temperature": 1.0}],
        build=lambda width, **options: ONE(**options),
        stacks=False,
        smooth=False,
    ),
    "PSKD": Case(numbered, None, build=lambda width, **options: PSKD(samples=20), stacks=False),
}
