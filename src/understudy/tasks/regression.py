"""Measured values. Shapes: N samples, D values of each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from understudy.losses import mse, squared_error
from understudy.losses.regression import measured
from understudy.tasks.task import Best, Loss, Task

__all__ = ["Regression"]


@dataclass(frozen=True)
class Regression(Task):
    """Outputs and labels are values ``[N]``, ``[N, 1]`` or ``[N, D]``; NaN is a value that was not measured.

    Figures, each the mean over the D columns: ``r2``, the share of the variance that is explained, without columns
    whose measured values are all the same; ``rmse`` and ``mae``, in the label's unit. And ``loss``, the mean squared
    error of a value. NaN where nothing is measured, and ``r2`` where no column varies, as with one sample.

    Args:
        metric: the figure by which weights are chosen.
        tolerance: models agree where they differ by no more, in the label's unit; if not given, a tenth of the standard
            deviation of the teacher's values, column by column over the samples at hand.

    >>> Regression().metrics(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0]))["r2"]
    0.5
    """

    metric: str = "r2"
    tolerance: float | None = None

    name: ClassVar[str] = "regression"
    figures: ClassVar[Mapping[str, Best]] = {"r2": "max", "rmse": "min", "mae": "min", "loss": "min"}

    @property
    def label_loss(self) -> Loss:
        """Squared error."""
        return squared_error

    def soft_loss(self, temperature: float) -> Loss:
        """Squared difference from the teacher's value, which has no temperature."""
        return squared_difference

    @torch.no_grad()
    def metrics(self, output: Tensor, label: Tensor) -> dict[str, float]:
        """R², errors and loss."""
        squared_error(output, label)  # for its check of the shapes
        truth = _Truth.of(label)
        error = (_table(output) - truth.values).masked_fill(~truth.known, 0)
        squares = error.square().sum(0)
        return {
            "r2": float((1 - squares / truth.spread).nanmean()),
            "rmse": float((squares / truth.counts).sqrt().nanmean()),
            "mae": float((error.abs().sum(0) / truth.counts).nanmean()),
            "loss": float(squares.sum() / truth.counts.sum()),
        }

    def chance(self, label: Tensor) -> float:
        """The metric of always giving each column's mean, or its median for ``mae``."""
        truth = _Truth.of(label)
        if not truth.known.any():
            return math.nan
        if self.metric == "mae":
            median = truth.values.masked_fill(~truth.known, torch.nan).nanmedian(0).values
            label = median.expand_as(truth.values)
        else:
            label = truth.mean.expand_as(truth.values)
        return self.metrics(label, truth.values.masked_fill(~truth.known, torch.nan))[self.metric]

    def predict(self, output: Tensor) -> Tensor:
        """The value itself."""
        return output

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The share of values in which the models differ by no more than the tolerance."""
        squared_difference(student, teacher)  # for its check of the shapes
        student, teacher = _table(student), _table(teacher)
        deviation = (teacher - teacher.mean(0)).square().mean(0).sqrt()
        allowed = 0.1 * deviation if self.tolerance is None else self.tolerance
        return ((student - teacher).abs() <= allowed).float().mean(1)

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The squared difference, the mean over columns."""
        return squared_difference(student, teacher)

    def labelled(self, label: Tensor) -> Tensor:
        """The samples of which at least one value was measured."""
        return _table(measured(label)).any(1)


def squared_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """:func:`~understudy.losses.mse` of values, a column or not; a teacher's NaN is not passed over as a label's is."""
    return mse(_table(student), _table(teacher))


class _Truth(NamedTuple):
    """Labels ``[N, D]`` in float64, 0 where unknown; and of each column their number, mean, and squares around it."""

    values: Tensor
    known: Tensor
    counts: Tensor
    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, label: Tensor) -> _Truth:
        values, known = _table(label).double(), _table(measured(label))
        values = values.masked_fill(~known, 0)
        counts = known.sum(0)
        mean = values.sum(0) / counts
        spread = (values - mean).masked_fill(~known, 0).square().sum(0)
        # Equal values whose mean was rounded leave some 1e-32 of their square; there is no variance to be explained.
        varies = spread > 1e-24 * values.square().sum(0)
        return cls(values, known, counts, mean, spread.where(varies, torch.nan))


def _table(value: Tensor) -> Tensor:
    """``[N, D]``, also for single values."""
    return value.unsqueeze(1) if value.ndim == 1 else value.flatten(1)
