"""What the conformance suite must know of a loss, and inputs for it. Files ``cases_<family>.py`` beside this one fill it in."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
TEMPERATURES = (0.01, 0.1, 1.0, 4.0, 100.0)
SCALES = (0.0, 1e-6, 1.0, 1e2, 1e4)
INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Case:
    """What the suite must know of a loss.

    Attributes:
        make: ``make(rows, width, generator, scale)`` gives its inputs, each with the samples first; any ``width`` from 1.
        loops: the formula in plain Python, for the lists that one row's inputs are, with the case's options; for a loss of
            the ``batch``, for the lists that the whole inputs are. May be None for a class only.
        learns: which inputs take a gradient.
        options: of a function; of a class, what it is built with.
        build: for a class: ``build(width, **options)`` gives an instance for inputs of this width.
        equal: gives inputs at which the loss claims to be 0.
        near: how far from 0 it may be there, by rounding.
        batch: it is a scalar, a loss of the batch as a whole.
        permute: ``permute(inputs, order)`` puts the samples in another order, for a loss with an input that has no row for
            each sample; ``loops`` is for the whole inputs then.
        stacks: its vectors may be tokens as well.
        tokens: there is a value for each position of ``[N, T, C]``.
        elements: there is a value for each number.
        single: a single class gives 0, with gradient 0.
        negative: it may be below 0.
        unlike: the shapes that it refuses, as changes of ``inputs``; if None, one row less in the first, and an axis more.
        hostile: further inputs at which value and gradient must be finite.
        scales: of the inputs at which value and gradient must be finite.
        fewest: rows below which it is not defined.
        smooth: gradcheck and a step downhill hold at random inputs.
    """

    make: Callable[[int, int, torch.Generator, float], Inputs]
    loops: Callable[..., Any] | None
    learns: tuple[int, ...] = (0,)
    options: Sequence[dict[str, Any]] = ({},)
    build: Callable[..., nn.Module] | None = None
    equal: Callable[[Inputs], Inputs] | None = None
    near: float = 0.0
    batch: bool = False
    permute: Callable[[Inputs, Tensor], Inputs] | None = None
    stacks: bool = True
    tokens: bool = False
    elements: bool = False
    single: bool = True
    negative: bool = False
    unlike: Callable[[Inputs], Sequence[Inputs]] | None = None
    hostile: Sequence[Inputs] = field(default_factory=tuple)
    scales: Sequence[float] = SCALES
    fewest: int = 0
    smooth: bool = True

    def refused(self, inputs: Inputs) -> Sequence[Inputs]:
        """Inputs whose shapes do not go together."""
        if self.unlike is not None:
            return self.unlike(inputs)
        first, *others = inputs
        return [(first[:1], *others), (first.unsqueeze(0), *others)]


def merged(pattern: str, attribute: str = "CASES") -> dict[str, Any]:
    """The dictionaries of this name in all files beside this one whose name fits; a name that two of them have is refused."""
    found: dict[str, Any] = {}
    for path in sorted(Path(__file__).parent.glob(pattern)):
        more: Mapping[str, Any] = getattr(importlib.import_module(f".{path.stem}", __package__), attribute)
        twice = found.keys() & more.keys()
        assert not twice, f"{path.name}: {sorted(twice)} have an entry already"
        found.update(more)
    return found


# -- inputs ------------------------------------------------------------------------------------------------------------


def pair(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Two of one shape."""
    return tuple(scale * torch.randn(rows, width, generator=generator) for _ in range(2))


def unequal_pair(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Two with the same rows, of which the second has more features."""
    return tuple(scale * torch.randn(rows, w, generator=generator) for w in (width, width + 2))


def maps(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Two feature maps of ``width`` channels."""
    return tuple(scale * torch.randn(rows, width, 3, 4, generator=generator) for _ in range(2))


def labelled(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits and class indices."""
    label = torch.randint(width, (rows,), generator=generator)
    return scale * torch.randn(rows, width, generator=generator), label


def labelled_pair(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Student's logits, teacher's logits and class indices."""
    return (*pair(rows, width, generator, scale), torch.randint(width, (rows,), generator=generator))


def answered(rows: int, width: int, generator: torch.Generator, scale: float) -> Inputs:
    """Logits and yes or no for each."""
    label = torch.randint(2, (rows, width), generator=generator).float()
    return scale * torch.randn(rows, width, generator=generator), label


def same(inputs: Inputs) -> Inputs:
    """The student in the teacher's place."""
    return (inputs[1], *inputs[1:])


# -- arithmetic in plain Python ----------------------------------------------------------------------------------------


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    e = [math.exp(x / temperature) for x in logits]
    return [x / sum(e) for x in e]
