"""What the job asks of a task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from understudy.errors import InputError, choices

__all__ = ["Best", "Loss", "Task"]

Loss = Callable[[Tensor, Tensor], Tensor]
"""A loss of :mod:`understudy.losses`: of the student's output and what it should be."""

Best = Literal["max", "min"]
"""Whether more of a figure is better, or less."""


@dataclass(frozen=True)
class Task(ABC):
    """What labels mean.

    Samples without a label count nowhere. A figure that is not defined, as those of no sample at all, is NaN.

    Args:
        metric: the figure by which weights are chosen; one of :attr:`figures`.

    Raises: InputError if the task has no such figure.
    """

    metric: str

    name: ClassVar[str]
    figures: ClassVar[Mapping[str, Best]]
    """Every key of :meth:`metrics`, and whether ``"max"`` or ``"min"`` is best."""

    def __post_init__(self) -> None:
        if self.metric not in self.figures:
            raise InputError(f"{self.name}: metric {self.metric!r} is not known. {choices(self.metric, self.figures)}")

    @property
    def best_is(self) -> Best:
        """Whether ``"max"`` or ``"min"`` of the metric is best."""
        return self.figures[self.metric]

    @property
    def sign(self) -> int:
        """What the metric is multiplied by so that more is better: 1 or -1."""
        return 1 if self.best_is == "max" else -1

    def better(self, figure: float, than: float) -> bool:
        """Whether one value of the metric is better than another; NaN is better than nothing."""
        return self.sign * figure > self.sign * than

    @property
    @abstractmethod
    def label_loss(self) -> Loss:
        """The loss of the student's output against the label."""

    @abstractmethod
    def soft_loss(self, temperature: float) -> Loss:
        """The loss of the student's output against the teacher's."""

    @abstractmethod
    def metrics(self, output: Tensor, label: Tensor) -> dict[str, float]:
        """Every one of the :attr:`figures`, over all samples that have a label."""

    @abstractmethod
    def chance(self, label: Tensor) -> float:
        """The metric of the best answer that is the same for every sample. Who is no better has learnt nothing."""

    @abstractmethod
    def predict(self, output: Tensor) -> Tensor:
        """The answer that an output gives."""

    @abstractmethod
    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far both models give the same answer, for each sample ``[N]``, in [0, 1]."""

    @abstractmethod
    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """How far the student's output is from the teacher's, for each sample ``[N]``, >= 0."""

    def margin(self, output: Tensor) -> Tensor | None:
        """How far each sample ``[N]`` is from another answer, in nats of log-odds; None where answers have no boundary."""
        return None

    @abstractmethod
    def labelled(self, label: Tensor) -> Tensor:
        """Which samples have a label, in whole or in part: a mask ``[N]``."""
