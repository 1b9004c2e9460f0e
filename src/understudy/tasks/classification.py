"""One of several classes. Shapes: N samples, C classes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from understudy.losses import cross_entropy, kl
from understudy.losses.arithmetic import same_shape
from understudy.losses.response import labelled
from understudy.tasks.task import Best, Loss, Task

__all__ = ["Classification"]


@dataclass(frozen=True)
class Classification(Task):
    """Outputs are logits ``[N, C]``, labels are class indices ``[N]``; -100 is no label.

    Figures: ``accuracy``; ``balanced_accuracy``, the mean over the classes that occur of the share of each that is
    found, for data in which some classes are rare; ``loss_nats``, the mean cross-entropy. NaN if nothing is labelled.

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> Classification().metrics(logits, torch.tensor([0, 1, -100]))["accuracy"]
    0.5
    """

    metric: str = "accuracy"

    name: ClassVar[str] = "classification"
    figures: ClassVar[Mapping[str, Best]] = {"accuracy": "max", "balanced_accuracy": "max", "loss_nats": "min"}

    @property
    def label_loss(self) -> Loss:
        """Cross-entropy."""
        return cross_entropy

    def soft_loss(self, temperature: float) -> Loss:
        """KL divergence from the teacher's softened distribution, times T²."""
        return partial(kl, temperature=temperature)

    @torch.no_grad()
    def metrics(self, output: Tensor, label: Tensor) -> dict[str, float]:
        """Accuracy, balanced accuracy and loss."""
        loss = cross_entropy(output, label)
        known = self.labelled(label)
        loss, label = loss[known], label[known]
        right = self.predict(output)[known] == label
        _, place, counts = _classes(label)
        found = torch.bincount(place[right], minlength=len(counts)).double() / counts
        return {
            "accuracy": float(right.double().mean()),
            "balanced_accuracy": float(found.mean()),
            "loss_nats": float(loss.double().mean()),
        }

    def chance(self, label: Tensor) -> float:
        """The metric of always naming the most frequent class, or of always giving the classes' shares."""
        _, _, counts = _classes(label[self.labelled(label)])
        if not len(counts):
            return math.nan
        shares = counts.double() / counts.sum()
        best = {
            "accuracy": shares.max(),
            "balanced_accuracy": torch.tensor(1 / len(counts)),
            "loss_nats": torch.special.entr(shares).sum(),
        }
        return float(best[self.metric])

    def predict(self, output: Tensor) -> Tensor:
        """The class that is ranked first ``[N]``."""
        return output.argmax(-1)

    def agreement(self, student: Tensor, teacher: Tensor) -> Tensor:
        """1 where both rank the same class first, else 0."""
        same_shape("agreement", student, teacher, "Both models must score the same classes in the same order.")
        return (self.predict(student) == self.predict(teacher)).float()

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL divergence at temperature 1, in nats."""
        return kl(student, teacher)

    def margin(self, output: Tensor) -> Tensor:
        """The first class before the second."""
        first, second = output.topk(2, dim=-1).values.unbind(-1)
        return first - second

    def labelled(self, label: Tensor) -> Tensor:
        """Everything but -100."""
        return labelled(label)


def _classes(label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The classes that occur, the place of each label among them, and how often each occurs."""
    found, place, counts = label.unique(return_inverse=True, return_counts=True)
    return found, place, counts
