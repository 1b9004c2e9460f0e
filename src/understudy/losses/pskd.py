"""What a student said of each sample before. Shapes: N samples, C classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import counted_by, exact
from understudy.losses.distributions import cross, log_softened
from understudy.losses.fitted import Fitted
from understudy.losses.labels import check_label, labelled
from understudy.losses.ranks import of_all, several
from understudy.progress import Progress

__all__ = ["PSKD"]


@counted_by("label", labelled)
class PSKD(Fitted):
    r"""Cross-entropy to what the student itself said of the sample when it saw it last, an epoch ago.

    .. math:: -\sum_c p_c \log q_c, \quad q = \mathrm{softmax}(s),\ p = \text{the kept prediction, or } [c = y] \text{ before there is one}

    Predictions are kept for every sample, and saved with the method.

    Args:
        samples: how many the training set has; ``batch.index`` is below it.

    Call it with logits ``[N, C]``, the labels ``[N]`` and the samples' index ``[N]``.

    Returns: one value per label ``[N]``, in nats, >= 0. It is not 0 where both agree. It is 0 for an unlabelled sample, which a
        :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError for a label, or (on the CPU) an index, that is none.
    Scale: free of the batch's size.
    Family: self.
    Source: Kim et al. 2021 (PS-KD), arXiv:2006.12000, equations 2 and 3, of which it is the second summand: with weights 1 -
        :math:`\alpha` and :math:`\alpha` beside :func:`cross_entropy` the loss is linear in both.
    Differs: nothing.
    See also: ps_kd, cross_entropy.

    >>> with torch.no_grad():
    ...     PSKD(samples=10)(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([7]))
    tensor([0.6931])
    """

    previous: Tensor
    seen: Tensor

    def __init__(self, *, samples: int) -> None:
        if samples < 1:
            raise InputError(f"PSKD: samples={samples!r} must be 1 or more: how many the training set has.")
        super().__init__()
        self.samples = samples
        self._told: list[tuple[Tensor, Tensor]] = []

    def build(self, *sizes: int) -> None:
        """Room for a prediction of each sample."""
        self.register_buffer("previous", torch.zeros(self.samples, *sizes))
        self.register_buffer("seen", torch.zeros(self.samples, dtype=torch.bool))

    def fit(self, sizes: Any, like: Tensor) -> None:
        """See :meth:`Fitted.fit`; predictions are kept in float32."""
        first = self.sizes is None
        super().fit(sizes, like)
        if first:
            self.previous, self.seen = self.previous.float(), self.seen.bool()

    @exact
    def forward(self, student: Tensor, label: Tensor, index: Tensor) -> Tensor:
        """One value per label."""
        check_label("PSKD", student, label)
        if student.ndim != 2 or index.shape != label.shape or index.is_floating_point():
            raise ShapeError(
                f"PSKD: student {list(student.shape)}, label {list(label.shape)} and index {list(index.shape)} of {index.dtype} do "
                "not go together; allowed: [N, C], [N], and integers [N] as in batch.index."
            )
        if (
            index.device.type == "cpu"
            and index.numel()
            and not 0 <= int(index.min()) <= int(index.max()) < self.samples
        ):
            raise InputError(
                f"PSKD: index {int(index.min())} to {int(index.max())} is not within {self.samples} samples. "
                "Give samples=, how many the training set has."
            )
        self.fit((student.shape[1],), like=student)
        known = labelled(label)
        hard = F.one_hot(label.long().masked_fill(~known, 0), student.shape[1]).log()
        before = self.previous[index].to(student.dtype).log_softmax(-1)
        target = torch.where(self.seen[index][:, None], before, hard.to(student.dtype))
        if self.training and torch.is_grad_enabled():
            self._told.append((index, student.detach().float()))
        log_q = log_softened(student.masked_fill(~known[:, None], 0), 1.0)
        return cross(target, log_q).masked_fill(~known, 0)

    @torch.no_grad()
    def after(self, progress: Progress) -> None:
        """Keep what this step said, on all ranks alike."""
        told, self._told = self._told, []
        if self.sizes is None or (not told and not several()):
            return
        empty = (torch.zeros(0, dtype=torch.long, device=self.seen.device), self.previous[:0])
        index, logits = (of_all(torch.cat(parts)) for parts in zip(empty, *told, strict=True))
        self.previous[index] = logits.to(self.previous.dtype)
        self.seen[index] = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._told = []
