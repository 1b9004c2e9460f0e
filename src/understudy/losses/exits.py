"""Heads on a student's own layers, which learn from its last. Shapes: N samples, C classes, K exits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import counted_by, exact
from understudy.losses.distributions import check_temperature, cross, divergence, log_softened
from understudy.losses.feature import masked_l2
from understudy.losses.fitted import Fitted
from understudy.losses.labels import check_label, labelled
from understudy.losses.response import cross_entropy

__all__ = ["BYOT", "ONE", "Exit"]


class Exit(nn.Module):
    """From a layer's output to logits: two convolutions, the mean over positions, a linear layer.

    Args:
        inputs: channels of the layer.
        width: channels within, and of the features that can be compared with a deeper layer's.
        classes: of the logits.
    """

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        # GroupNorm: a sample's value does not depend on the others, in training and evaluation alike.
        self.body = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.GroupNorm(1, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(1, width),
            nn.ReLU(),
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor, area: torch.Size | None = None) -> tuple[Tensor, Tensor]:
        """Features ``[N, width, *area]``, of the layer's own area if none is given, and logits ``[N, classes]``."""
        x = as_map(x)
        if area is not None and x.shape[2:] != area:
            x = F.adaptive_avg_pool2d(x, (area[0], area[1]))
        features: Tensor = self.body(x)
        return features, self.head(features.mean((2, 3)))


def as_map(x: Tensor) -> Tensor:
    """Maps as they are; tokens ``[N, T, D]`` as maps of one column, vectors ``[N, D]`` as maps of one position."""
    if x.ndim == 3:
        return x.transpose(1, 2).unsqueeze(-1)
    if x.ndim not in (2, 4):
        raise ShapeError(
            f"exit: shape {list(x.shape)} is of no layer; allowed: maps [N, C, H, W], tokens [N, T, D], vectors [N, D]."
        )
    return x if x.ndim == 4 else x[:, :, None, None]


@counted_by("label", labelled)
class BYOT(Fitted):
    r"""Exits on a student's shallower layers, which learn labels, the last output's soft ones, and its deepest features.

    .. math:: \sum_k (1 - \alpha)\, \mathrm{CE}(z_k, y) + \alpha\, T^2\, H(p, q_k) + \beta \sum_d [f_{kd} > 0 \lor g_d > 0]\, (f_{kd} - g_d)^2,
              \quad p = \mathrm{softmax}(s/T),\ q_k = \mathrm{softmax}(z_k/T)

    with :math:`z_k` an exit's logits, :math:`f_k` its features and g the deepest layer's, of whose area :math:`f_k` is. No
    gradient flows into p and g. The student's own cross-entropy is another term.

    Args:
        alpha: share of the soft labels, in [0, 1].
        temperature: T > 0.
        beta: weight of the features, a sum over all of them.

    It is called with the student's last logits ``[N, C]``, the labels ``[N]``, and its layers from shallow to deep: two or more,
    maps ``[N, C, H, W]``, tokens ``[N, T, D]`` or vectors ``[N, D]``. All but the last have an exit.

    Returns: one value per label ``[N]``, >= 0; 0 for an unlabelled sample, which a :class:`~understudy.Term` moreover leaves out.
    Raises: ShapeError if the shapes do not go together; InputError for options or labels that are none.
    Scale: a sum over exits; the soft labels times T²; free of the batch's size.
    Family: self.
    Source: Zhang et al. 2019 (Be Your Own Teacher), arXiv:1905.08094, equations 2 to 5; numbers as in its published code.
    Differs: each exit is two convolutions with GroupNorm, and not a stack of bottlenecks with BatchNorm that grows with the
        distance; as in the code, the features' squares are summed and the soft labels' entropy is left in.
    See also: soft_cross_entropy, masked_l2, ONE.

    >>> _ = torch.manual_seed(0)
    >>> loss = BYOT().eval()
    >>> with torch.no_grad():
    ...     loss(torch.zeros(2, 3), torch.tensor([1, -100]), torch.zeros(2, 4), torch.zeros(2, 5)).shape
    torch.Size([2])
    """

    def __init__(self, *, alpha: float = 0.1, temperature: float = 3.0, beta: float = 1e-6) -> None:
        check_temperature("BYOT", temperature)
        if not 0 <= alpha <= 1 or not 0 <= beta < math.inf:
            raise InputError(f"BYOT: alpha={alpha!r} must be in [0, 1], and beta={beta!r} finite and 0 or above.")
        super().__init__()
        self.alpha, self.temperature, self.beta = alpha, temperature, beta

    def build(self, *sizes: int) -> None:
        """An exit for each layer but the deepest."""
        classes, deepest, *shallower = sizes
        self.exits = nn.ModuleList([Exit(size, deepest, classes) for size in shallower])

    @exact
    def forward(self, student: Tensor, label: Tensor, *layers: Tensor) -> Tensor:
        """One value per label."""
        check_label("BYOT", student, label)
        if student.ndim != 2 or len(layers) < 2 or len({x.shape[0] for x in (student, *layers)}) > 1:
            raise ShapeError(
                f"BYOT: student {list(student.shape)} and layers {[list(x.shape) for x in layers]} do not go together; allowed: "
                "logits [N, C] and two layers or more of the same samples."
            )
        *shallower, deepest = map(as_map, layers)
        self.fit((student.shape[1], deepest.shape[1], *(x.shape[1] for x in shallower)), like=student)
        known = labelled(label)
        log_p = log_softened(student.detach().masked_fill(~known[:, None], 0), self.temperature)
        value = torch.zeros_like(log_p[:, 0])
        for head, layer in zip(self.exits, shallower, strict=True):
            features, logits = head(layer, deepest.shape[2:])
            soft = cross(log_p, log_softened(logits, self.temperature)) * self.temperature**2
            hint = masked_l2(features, deepest.detach()) if self.beta else 0.0
            value = value + (1 - self.alpha) * cross_entropy(logits, label) + self.alpha * soft + self.beta * hint
        return value.masked_fill(~known, 0)


@counted_by("label", labelled)
class ONE(Fitted):
    r"""Further branches on one of the student's layers, and the gated ensemble of all, from which each of them learns.

    .. math:: \sum_{k \geq 1} \mathrm{CE}(z_k, y) + \mathrm{CE}(z_e, y) + T^2 \sum_{k \geq 0} \mathrm{KL}(p_e \| q_k), \quad
              z_e = \sum_k g_k z_k,\ g = \mathrm{softmax}(W \bar h)

    with :math:`z_0` the student's logits, :math:`z_k` a branch's, :math:`\bar h` the layer's mean over positions, and p, q softened
    by T. No gradient flows into :math:`p_e`. The student's own cross-entropy is another term. The branches are dropped after
    training; the student is what was given.

    Args:
        branches: besides the student's own, 1 or more.
        temperature: T > 0.

    It is called with the student's logits ``[N, C]``, the labels ``[N]``, and the layer from which the branches grow.

    Returns: one value per label ``[N]``, in nats, >= 0; 0 for an unlabelled sample, which a :class:`~understudy.Term` moreover
        leaves out.
    Raises: ShapeError if the shapes do not go together; InputError for options or labels that are none.
    Scale: a sum over branches, the divergences times T²; free of the batch's size.
    Family: online.
    Source: Lan et al. 2018 (ONE), arXiv:1806.04606, section 3; T = 3 and three branches in all as in its code, which cuts
        :math:`p_e` too.
    Differs: a branch is two convolutions and a linear layer, and not a copy of the student's last stage; the gate has no
        BatchNorm and ReLU; the divergences count from the first step, where the code lets them rise over 80 epochs.
    See also: BYOT, kl.

    >>> _ = torch.manual_seed(0)
    >>> loss = ONE().eval()
    >>> with torch.no_grad():
    ...     loss(torch.zeros(2, 3), torch.tensor([1, -100]), torch.zeros(2, 4))[1]
    tensor(0.)
    """

    def __init__(self, *, branches: int = 2, temperature: float = 3.0) -> None:
        check_temperature("ONE", temperature)
        if branches < 1:
            raise InputError(f"ONE: branches={branches!r} must be 1 or more, besides the student's own.")
        super().__init__()
        self.count, self.temperature = branches, temperature

    def build(self, *sizes: int) -> None:
        """The branches and the gate."""
        classes, width = sizes
        self.branches = nn.ModuleList([Exit(width, width, classes) for _ in range(self.count)])
        self.gate = nn.Linear(width, self.count + 1)

    @exact
    def forward(self, student: Tensor, label: Tensor, layer: Tensor) -> Tensor:
        """One value per label."""
        check_label("ONE", student, label)
        if student.ndim != 2 or layer.shape[:1] != student.shape[:1]:
            raise ShapeError(
                f"ONE: student {list(student.shape)} and layer {list(layer.shape)} do not go together; allowed: logits [N, C] and "
                "a layer of the same samples."
            )
        trunk = as_map(layer)
        self.fit((student.shape[1], trunk.shape[1]), like=student)
        known = labelled(label)
        student = student.masked_fill(~known[:, None], 0)
        several = torch.stack([student, *(branch(trunk)[1] for branch in self.branches)], 1)
        gate = self.gate(trunk.mean((2, 3))).softmax(-1)
        ensemble = (gate[:, :, None] * several).sum(1)
        log_p = log_softened(ensemble.detach(), self.temperature)[:, None]
        apart = divergence(log_p, log_softened(several, self.temperature)).sum(1) * self.temperature**2
        hard = sum((cross_entropy(z, label) for z in (*several[:, 1:].unbind(1), ensemble)), torch.zeros_like(apart))
        return (hard + apart).masked_fill(~known, 0)
