"""Losses that tell a sample's own features from those of others. Shapes: N samples, D features, K negatives."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.fitted import Fitted
from understudy.losses.ranks import of_all, several
from understudy.losses.relation import directions, same_samples, scaled, vectors
from understudy.progress import Progress

__all__ = ["CRD", "crd_in_batch", "drawn", "noise_contrast"]


@exact
def crd_in_batch(student: Tensor, teacher: Tensor, *, temperature: float = 0.07) -> Tensor:
    r"""Which of the batch's teacher features belongs to a sample of the student, and the other way round.

    .. math:: -\frac{1}{2N} \sum_i \left( \log \frac{e^{z_{ii}}}{\sum_j e^{z_{ij}}} + \log \frac{e^{z_{ii}}}{\sum_j e^{z_{ji}}} \right),
              \quad z_{ij} = \cos(s_i, t_j) / \tau

    Args:
        student: ``[N, D]``, or tokens ``[N, T, D]`` or maps ``[N, D, *area]``, of which the mean is taken.
        teacher: the same; its vectors have as many features.
        temperature: :math:`\tau` > 0.

    Returns: a scalar, in nats, >= 0; not 0 where both are equal, unless the samples are far from one another.
    Raises: ShapeError if samples or features differ (a Term's ``project=Linear()`` makes the features equal);
        InputError if the temperature is not positive and finite.
    Scale: log N where nothing is told apart. It grows with the batch, as the task does.
    Family: contrastive.
    Source: Tian et al. 2020 (CRD), arXiv:1910.10699, with the batch for negatives and the loss of van den Oord et al. 2018,
        arXiv:1807.03748.
    Differs: no bank, no sample's index, nothing to save; as many negatives as the batch holds, where :class:`CRD` has 16384.
    See also: CRD.

    >>> crd_in_batch(torch.eye(2), torch.eye(2), temperature=1.0)
    tensor(0.3133)
    """
    same_samples("crd_in_batch", student, teacher)
    if not 0 < temperature < math.inf:
        raise InputError(f"crd_in_batch: temperature {temperature!r} must be finite and above 0; 0.07 to 0.5 is usual.")
    s, t = vectors(student), vectors(teacher)
    same_shape("crd_in_batch", s, t, f"Add `project=Linear()` to the term ({s.shape[-1]} -> {t.shape[-1]} features).")
    likeness = directions(scaled(s)) @ directions(scaled(t)).T / temperature
    own = torch.arange(s.shape[0], device=s.device)
    both = F.cross_entropy(likeness, own, reduction="sum") + F.cross_entropy(likeness.T, own, reduction="sum")
    return both / (2 * max(s.shape[0], 1))


class CRD(Fitted):
    r"""Tells a sample's features in the other model from those of thousands of other samples, kept in a bank.

    .. math:: \sum_{f \in \{s, t\}} \left( -\log \frac{P_i}{P_i + c} - \sum_{k=1}^{K} \log \frac{c}{P_k + c} \right), \quad
              P_j = \frac{e^{\langle f, b_j \rangle / \tau}}{Z},\ c = K / n

    Both models' features are mapped to a common size and length 1; each is compared with the bank :math:`b` of the other
    model's. After a step, the banks move to what the step has seen. Banks and layers are saved with the method.

    Args:
        samples: n, how many the training set has; ``batch.index`` is below it.
        negatives: K; at most n - 1 are taken.
        features: that both are mapped to.
        temperature: :math:`\tau` > 0.
        momentum: share of the old in a bank's entry, in [0, 1).
        seed: of the banks' first values and of the negatives.

    Call it with the student's and the teacher's ``[N, *D]`` (the mean is taken of tokens and maps) and ``index`` ``[N]``.

    Returns: one value per sample ``[N]``, in nats, >= 0; never 0.
    Raises: ShapeError if the shapes do not go together; InputError for options out of range, or an index (on the CPU) that
        is no sample's.
    Scale: at first about 2 (K + 1) log 2 of K = n; the usual weight is 0.8.
    Family: contrastive.
    Source: Tian et al. 2020, arXiv:1910.10699, section 3; constants, noise and Z as in its code, where Z is n times the
        mean of the first batch's exponentials.
    Differs: all samples of a step share its negatives, drawn with replacement from all samples but their own (weighed up
        where one's own is among them), where the original draws for each sample, from other classes only: the same in
        expectation, a hundredth of the memory. The first batch is the dry run's.
    See also: crd_in_batch.

    >>> _ = torch.manual_seed(0)
    >>> crd = CRD(samples=100, negatives=50, features=16).eval()
    >>> with torch.no_grad():
    ...     crd(torch.zeros(2, 4), torch.zeros(2, 8), torch.tensor([7, 9])).shape
    torch.Size([2])
    """

    partition: Tensor
    bank_student: Tensor
    bank_teacher: Tensor
    step: Tensor

    def __init__(
        self,
        *,
        samples: int,
        negatives: int = 16384,
        features: int = 128,
        temperature: float = 0.07,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        if min(samples, negatives, features) < 1 or not 0 < temperature < math.inf or not 0 <= momentum < 1:
            raise InputError(
                f"CRD: samples {samples!r}, negatives {negatives!r} and features {features!r} must be 1 or more, "
                f"temperature {temperature!r} finite and above 0, momentum {momentum!r} in [0, 1)."
            )
        super().__init__()
        self.features = features
        self.samples, self.negatives, self.seed = samples, min(negatives, max(samples - 1, 1)), seed
        self.temperature, self.momentum = temperature, momentum
        generator = torch.Generator().manual_seed(seed)
        for name in ("bank_student", "bank_teacher"):
            first = torch.rand(samples, features, generator=generator).mul_(2).sub_(1).div_(math.sqrt(features / 3))
            self.register_buffer(name, first)
        self.register_buffer("partition", torch.zeros(2))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self._known: int | None = None  # the step as a number, so that a GPU is asked for it once
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def build(self, *sizes: int) -> None:
        """A linear layer for each model."""
        student, teacher = sizes
        self.embed_student = nn.Linear(student, self.features)
        self.embed_teacher = nn.Linear(teacher, self.features)

    @exact
    def forward(self, student: Tensor, teacher: Tensor, index: Tensor) -> Tensor:
        """One value per sample."""
        same_samples("CRD", student, teacher)
        self._check(student, index)
        s, t = vectors(student), vectors(teacher)
        first = self.sizes is None
        self.fit((s.shape[1], t.shape[1]), like=s)
        s, t = directions(self.embed_student(s)), directions(self.embed_teacher(t))
        if self._known is None:
            self._known = int(self.step)
        others = drawn(self.seed, self._known, self.negatives, self.samples, index.device)
        own = index[:, None] == others
        scores = [self._scores(f, b, index, others) for f, b in ((s, self.bank_teacher), (t, self.bank_student))]
        if first:
            means = torch.stack([torch.cat([p[:, None], n], 1).exp().mean() for p, n in scores])
            self.partition.copy_(means * self.samples)
        if self.training and torch.is_grad_enabled():
            self._seen.append((index, s.detach(), t.detach()))
        sides = (
            noise_contrast(positive - z.log(), negative - z.log(), self.samples, own)
            for (positive, negative), z in zip(scores, self.partition, strict=True)
        )
        return sum(sides, torch.zeros_like(s[:, 0]))

    def _scores(self, f: Tensor, bank: Tensor, index: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
        return (f * bank[index]).sum(1) / self.temperature, f @ bank[others].T / self.temperature

    def _check(self, student: Tensor, index: Tensor) -> None:
        if index.shape != student.shape[:1] or index.is_floating_point():
            raise ShapeError(
                f"CRD: index {list(index.shape)} of {index.dtype} does not go with {student.shape[0]} samples; "
                "allowed: integers [N], as in batch.index."
            )
        if (
            index.device.type == "cpu"
            and index.numel()
            and not 0 <= int(index.min()) <= int(index.max()) < self.samples
        ):
            raise InputError(
                f"CRD: index {int(index.min())} to {int(index.max())} is not within the {self.samples} samples of the bank. "
                "Give samples=, how many the training set has."
            )

    @torch.no_grad()
    def after(self, progress: Progress) -> None:
        """Move the banks to what this step has seen, on all ranks alike."""
        self._known = int(self.step) + 1 if self._known is None else self._known + 1
        self.step.fill_(self._known)
        seen, self._seen = self._seen, []
        if not seen and not several():
            return
        empty = (self.step.new_zeros(0), self.bank_student[:0], self.bank_teacher[:0])
        index, *features = (of_all(torch.cat(parts)) for parts in zip(empty, *seen, strict=True))
        for bank, new in zip((self.bank_student, self.bank_teacher), features, strict=True):
            bank[index] = directions(bank[index] * self.momentum + new * (1 - self.momentum))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._known, self._seen = None, []


def noise_contrast(positive: Tensor, negative: Tensor, samples: int, own: Tensor | None = None) -> Tensor:
    """Noise-contrastive estimation for each sample, of log P of its own ``[N]`` and of its negatives ``[N, K]``.

    ``own`` is true where a negative is the sample itself: it is left out, and the others are weighed up for it.
    """
    count = negative.shape[1]
    noise = count / samples
    c = math.log(noise + 1e-7)
    rejected = F.softplus(negative - c, threshold=50)
    if own is None:
        total = rejected.sum(1)
    else:
        total = rejected.masked_fill(own, 0).sum(1) * (count / (~own).sum(1).clamp(min=1))
    return F.softplus(c - positive, threshold=50) + total + count * (c - math.log(noise))


def drawn(seed: int, step: int, count: int, samples: int, device: torch.device | str = "cpu") -> Tensor:
    """So many numbers below ``samples``: a function of seed and step alone, the same on every device.

    >>> drawn(0, 0, 4, 100).tolist() == drawn(0, 0, 4, 100).tolist() != drawn(0, 1, 4, 100).tolist()
    True
    """
    start = _mixed(_mixed(seed & _ALL) + step & _ALL)
    x = torch.arange(count, device=device) * _signed(0x9E3779B97F4A7C15) + _signed(start)
    for shift, factor in _ROUNDS:
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * _signed(factor)
    return (x >> 31 & (1 << 33) - 1) % samples


_ALL = (1 << 64) - 1
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Of the SplitMix64 generator (Steele et al. 2014), whose n-th number needs no numbers before it."""


def _mixed(x: int) -> int:
    x = x + 0x9E3779B97F4A7C15 & _ALL
    for shift, factor in _ROUNDS:
        x = (x ^ x >> shift) * factor & _ALL
    return x ^ x >> 31


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
