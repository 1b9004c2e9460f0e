"""What the conformance suite must know of a named method. Files ``method_cases_<family>.py`` beside this one fill it in.

Such a file has a dictionary CASES, by the methods' names. An entry is a :class:`Case`; or just a function
``make(student, teacher, **options)`` that gives the method, as ``methods.kd`` is one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy import Method

Make = Callable[..., Method]


class Net(nn.Module):
    """BatchNorm and dropout, so that a forward in the wrong mode leaves a trace; maps of two resolutions, and vectors."""

    def __init__(self, width: int, seed: int, batch_norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer1 = _layer(1, width, 1, batch_norm)
            self.layer2 = _layer(width, 2 * width, 2, batch_norm)
            self.layer3 = _layer(2 * width, 2 * width, 1, batch_norm)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.drop = nn.Dropout(0.3 if batch_norm else 0.0)
            self.head = nn.Linear(2 * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.pool(self.layer3(self.layer2(self.layer1(x))))))


def _layer(inputs: int, outputs: int, stride: int, batch_norm: bool) -> nn.Sequential:
    norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), norm, nn.LeakyReLU(0.1))


def student(**more: bool) -> nn.Module:
    return Net(3, seed=1, **more)


def teacher(seed: int = 2, **more: bool) -> nn.Module:
    return Net(8, seed=seed, **more).train()  # in train mode, as a careless user leaves it


def data(rows: int = 12) -> tuple[Tensor, Tensor]:
    """Pictures, and labels of five classes, a third of which is missing."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(5, (rows,), generator=generator)
    label[::3] = -100
    return torch.randn(rows, 1, 6, 6, generator=generator), label


@dataclass(frozen=True)
class Case:
    """What the suite must know of a method.

    Attributes:
        make: ``make(student, teacher, **options)`` gives the method.
        plain: the options that take the distillation away, such as ``{"weight": 0}``, so that the method is the student
            alone to the last bit; None if there are none, which the reason must say where the method has a ``weight``.
        why_not_plain: the reason.
        per_sample: its losses have a value for each sample, so that a batch can be split.
        student: ``student(batch_norm=True)`` makes one; without BatchNorm it looks at each sample by itself, and is the
            same in train and eval mode.
        teacher: ``teacher(seed=2, batch_norm=True)`` makes one, in train mode.
        data: ``data(rows)`` gives inputs and labels. The samples' index is added to them.
        unlabelled: it trains on samples without labels too.
        idle: beginnings of the names of parameters that need not get a gradient at the first step, with the reason in the case's file.
    """

    make: Make
    plain: Mapping[str, Any] | None = None
    why_not_plain: str = ""
    per_sample: bool = True
    student: Callable[..., nn.Module] = student
    teacher: Callable[..., nn.Module] = teacher
    data: Callable[..., Any] = data
    unlabelled: bool = True
    idle: tuple[str, ...] = ()

    def of(self, learns: nn.Module | None = None, frozen: Any = None, **options: Any) -> Method:
        """The method, of these models or of new ones."""
        return self.make(
            self.student() if learns is None else learns, self.teacher() if frozen is None else frozen, **options
        )

    def batch(self, rows: int = 12) -> dict[str, Any]:
        """What the engine would give to the method."""
        inputs, label = self.data(rows)
        return {"input": inputs, "label": label, "index": torch.arange(rows)}


def merged() -> dict[str, Case]:
    """The entries of the files ``method_cases_<family>.py``; a name may be there once."""
    folder = Path(__file__).parent
    modules = [importlib.import_module(f".{f.stem}", __package__) for f in sorted(folder.glob("method_cases_*.py"))]
    return joined(module.CASES for module in modules)


def joined(many: Iterable[Mapping[str, Case | Make]]) -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for some in many:
        if twice := set(cases) & set(some):
            raise ValueError(f"methods with two entries: {sorted(twice)}")
        cases |= {name: entry if isinstance(entry, Case) else Case(entry) for name, entry in some.items()}
    return cases
