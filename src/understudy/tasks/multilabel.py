"""Several questions, each with yes or no. Shapes: N samples, L labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from understudy.losses import binary_cross_entropy, binary_kl
from understudy.losses.arithmetic import same_shape
from understudy.losses.binary import answered
from understudy.tasks.task import Best, Loss, Task

__all__ = ["MultiLabel"]


@dataclass(frozen=True)
class MultiLabel(Task):
    """Outputs are logits ``[N, L]`` (or ``[N]``, a single label), labels 1 for yes and 0 for no, of the same shape.

    A negative label or NaN is an answer that is not known; it counts nowhere, also where others of its sample do.

    Figures: ``f1_macro``, the mean over labels of 2 TP / (2 TP + FP + FN), without those labels to which nothing and
    nobody says yes; ``subset_accuracy``, the share of samples whose known answers are all right; ``loss_nats``, the
    mean binary cross-entropy of an answer. NaN where nothing is known.

    >>> logits, label = torch.tensor([[2.0, -2.0], [2.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    >>> MultiLabel().metrics(logits, label)["f1_macro"]
    0.6666666666666666
    """

    metric: str = "f1_macro"

    name: ClassVar[str] = "multi-label"
    figures: ClassVar[Mapping[str, Best]] = {"f1_macro": "max", "subset_accuracy": "max", "loss_nats": "min"}

    @property
    def label_loss(self) -> Loss:
        """Binary cross-entropy."""
        return binary_cross_entropy

    def soft_loss(self, temperature: float) -> Loss:
        """KL divergence from each of the teacher's softened answers, times T²."""
        return partial(binary_kl, temperature=temperature)

    @torch.no_grad()
    def metrics(self, output: Tensor, label: Tensor) -> dict[str, float]:
        """F1, subset accuracy and loss."""
        loss = _table(binary_cross_entropy(output, label))
        label = _table(label)
        known = answered(label)
        yes, said = label > 0.5, (_table(self.predict(output)) == 1) & known
        right = (yes == said).all(1)[known.any(1)]
        f1 = 2 * (yes & said).sum(0).double() / (yes.sum(0) + said.sum(0))
        return {
            "f1_macro": float(f1.nanmean()),
            "subset_accuracy": float(right.double().mean()),
            "loss_nats": float(loss[known].double().mean()),
        }

    def chance(self, label: Tensor) -> float:
        """The metric of the best fixed answers: always yes, the most frequent complete row, or each label's share."""
        label = _table(label)
        known = answered(label)
        if not known.any():
            return math.nan
        counts = known.sum(0)
        if self.metric == "f1_macro":
            yes = (label > 0.5).sum(0).double()
            return float((2 * yes / (yes + counts)).where(yes > 0, torch.nan).nanmean())
        if self.metric == "subset_accuracy":
            rows = label[known.all(1)] > 0.5
            return int(rows.unique(dim=0, return_counts=True)[1].max()) / len(rows) if len(rows) else math.nan
        share = label.double().masked_fill(~known, 0).sum(0) / counts.clamp(min=1)
        entropy = torch.special.entr(share) + torch.special.entr(1 - share)
        return float((entropy * counts).sum() / counts.sum())

    def predict(self, output: Tensor) -> Tensor:
        """1 where yes is likelier than no, else 0; of the output's shape."""
        return (output > 0).long()

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The share of labels to which both give the same answer."""
        same_shape("agreement", student, teacher, "Both models must score the same labels in the same order.")
        return _table((self.predict(student) == self.predict(teacher)).float()).mean(1)

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence at temperature 1, in nats, the mean over labels."""
        return _table(binary_kl(student, teacher)).mean(1)

    def margin(self, output: Tensor) -> Tensor:
        """Of the least certain of the answers."""
        return _table(output).abs().amin(1)

    def labelled(self, label: Tensor) -> Tensor:
        """The samples with at least one answer."""
        return _table(answered(label)).any(1)


def _table(value: Tensor) -> Tensor:
    """``[N, L]``, also for a single label."""
    return value.unsqueeze(1) if value.ndim == 1 else value
