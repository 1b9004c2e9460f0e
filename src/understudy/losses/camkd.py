"""Features of several teachers, weighed by how well their classifiers do with the student's. Shapes: N samples, C classes, K teachers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import ShapeError
from understudy.losses.arithmetic import counted_by, exact
from understudy.losses.feature import mse
from understudy.losses.fitted import Fitted
from understudy.losses.labels import check_label, labelled
from understudy.losses.several import confidence

__all__ = ["CAMKD", "confident_mse"]


class Classifier(NamedTuple):
    """What a teacher's last linear layer takes in, and the layer."""

    features: Tensor
    weight: Tensor
    bias: Tensor | None


@counted_by("label", labelled)
class CAMKD(Fitted):
    r"""Squared differences to the features of several teachers, of which those weigh more whose classifier finds the label in the student's.

    .. math:: \frac{1}{K} \sum_k \frac{w_k}{D_k} \| f_k - A_k s \|^2, \quad w_k = \frac{1}{K - 1} \left(1 -
              \frac{e^{\ell_k}}{\sum_j e^{\ell_j}}\right),\ \ell_k = \mathrm{CE}(W_k A_k s + b_k, y)

    with :math:`A_k` a linear layer for each teacher, which learns with the student, and :math:`W_k, b_k` the teacher's last layer.

    Call it with the student's features ``[N, D]`` that go into its last layer, the labels ``[N]``, and of each teacher its
    features ``[N, D_k]``, its last layer's weight ``[C, D_k]`` and, if it has one, its bias ``[C]``:
    ``Term(CAMKD(), "student.head<", "batch.label", "teacher.0.head<", "teacher.0:head.weight", "teacher.0:head.bias")``.

    Args: none; the sizes are the dry run's.

    Returns: one value per label ``[N]``, in the square of the features' unit, >= 0, and 0 where each mapped feature is the
        teacher's; 0 for an unlabelled sample, which a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError for a label that is none.
    Scale: free of the batch's size; the weights add up to 1 / K; the usual weight is 50.
    Family: several teachers.
    Source: Zhang et al. 2022, arXiv:2201.00007, equations 5 to 7.
    Differs: features are vectors, after the last pooling, and A a linear layer; the code compares maps before it, through a
        1x1 convolution, BatchNorm and ReLU. The weights as in the code, where a gradient flows through them. One teacher alone
        weighs 1.
    See also: ca_mkd, mse.

    >>> _ = torch.manual_seed(0)
    >>> loss, features = CAMKD(), torch.ones(1, 2)
    >>> with torch.no_grad():
    ...     _ = loss(features, torch.tensor([1]), torch.zeros(1, 3), torch.zeros(4, 3))
    ...     _ = loss.maps[0].weight.fill_(1.0), loss.maps[0].bias.fill_(0.0)
    ...     loss(features, torch.tensor([1]), torch.zeros(1, 3), torch.zeros(4, 3))
    tensor([4.])
    """

    def __init__(self) -> None:
        super().__init__()

    def build(self, *sizes: int) -> None:
        """A linear layer from the student's features to those of each teacher."""
        ours, *theirs = sizes
        self.maps = nn.ModuleList([nn.Linear(ours, size) for size in theirs])

    @exact
    def forward(self, student: Tensor, label: Tensor, *teachers: Tensor) -> Tensor:
        """One value per label."""
        heads = _classifiers(student, teachers)
        scored = student.new_zeros(()).expand(*student.shape[:-1], heads[0].weight.shape[0])
        check_label("CAMKD", scored, label)
        self.fit((student.shape[-1], *(head.features.shape[-1] for head in heads)), like=student)
        known = labelled(label)
        features = student.masked_fill(~known.unsqueeze(-1), 0)
        mapped = [layer(features) for layer in self.maps]
        logits = [F.linear(x, head.weight, head.bias) for x, head in zip(mapped, heads, strict=True)]
        targets = [head.features.masked_fill(~known.unsqueeze(-1), 0) for head in heads]
        return confident_mse(mapped, targets, logits, label).masked_fill(~known, 0)


def confident_mse(
    mapped: Sequence[Tensor], teachers: Sequence[Tensor], logits: Sequence[Tensor], label: Tensor
) -> Tensor:
    """The weighted squared differences, of the student's features as each teacher has them, and what each classifier says of them."""
    apart = torch.stack([mse(x, features) for x, features in zip(mapped, teachers, strict=True)])
    return (confidence(label, *logits) * apart).mean(0)


def _classifiers(student: Tensor, given: Sequence[Tensor]) -> list[Classifier]:
    """Two tensors for each teacher, or three: a bias has one axis."""
    found: list[Classifier] = []
    rest = list(given)
    while rest:
        own, rest = rest[:2], rest[2:]
        bias = rest.pop(0) if rest and rest[0].ndim == 1 else None
        wrong = len(own) < 2 or own[1].ndim != 2 or own[0].shape[-1:] != own[1].shape[1:]
        if wrong or own[0].shape[:-1] != student.shape[:-1] or own[0].ndim != 2:
            raise ShapeError(
                f"CAMKD: teacher {len(found)} has {[list(t.shape) for t in own]} beside student {list(student.shape)}; "
                "allowed: features [N, D], the last layer's weight [C, D], and its bias [C] if it has one."
            )
        found.append(Classifier(own[0], own[1], bias))
    if not found or len({head.weight.shape[0] for head in found}) > 1:
        raise ShapeError(
            f"CAMKD: {len(found)} teachers with {[h.weight.shape[0] for h in found]} classes; give one or more with the same."
        )
    return found
