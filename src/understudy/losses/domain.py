"""Losses between the features of two domains, neither of which has to be labelled. Shapes: N and M samples, D features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact
from understudy.losses.fitted import Fitted
from understudy.losses.maps import same_samples
from understudy.progress import Progress

__all__ = ["DomainCritic", "coral", "grad_reverse", "mmd"]

BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)


@exact
def mmd(student: Tensor, other: Tensor, *, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    r"""Maximum mean discrepancy: how far two sets of features are from being of one distribution, under Gaussian kernels.

    .. math:: \frac{1}{N^2} \sum_{ij} k(s_i, s_j) + \frac{1}{M^2} \sum_{ij} k(o_i, o_j) - \frac{2}{NM} \sum_{ij} k(s_i, o_j),
              \quad k(a, b) = \sum_\sigma \exp\left(-\frac{\|a - b\|^2}{\sigma \bar d}\right)

    with d the mean squared distance of two of all N + M samples, which is taken as a constant.

    Args:
        student: features ``[N, *D]`` of one domain, flattened to a row a sample.
        other: features ``[M, *D]`` of the other; of the student, or of a teacher.
        bandwidths: of the kernels, in units of the mean squared distance, each above 0.

    Returns: a scalar, without unit, >= 0, and 0 where both sets are the same.
    Raises: ShapeError if the features differ in size; InputError if a bandwidth is not above 0.
    Scale: free of the features' scale, and of the numbers of samples but for a bias of order 1/N + 1/M; at most 2 for each
        bandwidth.
    Family: domain.
    Source: Gretton et al. 2012, JMLR 13, equation 5; Long et al. 2015 (DAN), arXiv:1502.02791, for several kernels.
    Differs: biased, so that it is never below 0: a sample counts as near to itself. The paper's unbiased estimate leaves those
        pairs out, and learns the kernels' weights, which are equal here as in the code that is in use.
    See also: coral, DomainCritic.

    >>> mmd(torch.zeros(2, 1), torch.ones(2, 1), bandwidths=(1.0,))
    tensor(1.5537)
    """
    if not bandwidths or not all(0 < b < math.inf for b in bandwidths):
        raise InputError(f"mmd: bandwidths {list(bandwidths)!r} must be one or more finite numbers above 0.")
    s, o = _two_sets("mmd", student, other)
    n, m = len(s), len(o)
    if not n or not m:
        return s.sum() + o.sum()
    square = _squared_distances(torch.cat([s, o]))
    mean = square.detach().sum() / max((n + m) * (n + m - 1), 1)
    relative = square / mean.masked_fill(mean == 0, 1)
    kernel = sum(((-relative / b).exp() for b in bandwidths), torch.zeros_like(relative))
    return (kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()).to(student.dtype)


def _squared_distances(x: Tensor) -> Tensor:
    """Of all rows, in units of the largest number; 0 with gradient 0 for rows that are equal to seven digits."""
    wide = x.double()
    largest = wide.detach().abs().max() if x.numel() else wide.new_zeros(())
    wide = wide / largest.masked_fill(largest == 0, 1)
    centred = wide - wide.mean(0)
    gram = centred @ centred.T
    both = gram.diagonal()[:, None] + gram.diagonal()
    square = both - 2 * gram
    return square.masked_fill(square <= 1e-13 * both, 0)


@exact
def coral(student: Tensor, other: Tensor) -> Tensor:
    r"""Squared difference of the features' covariances in two domains.

    .. math:: \frac{1}{4 D^2} \left\| C_s - C_o \right\|_F^2

    Args:
        student: features ``[N, *D]`` of one domain, flattened to a row a sample.
        other: features ``[M, *D]`` of the other; of the student, or of a teacher.

    Returns: a scalar, in the features' unit to the fourth power, >= 0, and 0 where the covariances agree. A single sample has
        covariance 0.
    Raises: ShapeError if the features differ in size.
    Scale: grows with the fourth power of the features; free of the numbers of samples. Covariances are over N - 1.
    Family: domain.
    Source: Sun and Saenko 2016 (Deep CORAL), arXiv:1607.01719, equations 1 to 3.
    Differs: nothing.
    See also: mmd, DomainCritic.

    >>> coral(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 0.0]]))
    tensor(0.2500)
    """
    s, o = _two_sets("coral", student, other)
    return (_covariance(s) - _covariance(o)).square().sum() / (4 * max(s.shape[1], 1) ** 2)


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.sum(0) / max(len(x), 1)
    return centred.T @ centred / max(len(x) - 1, 1)


def _two_sets(loss: str, student: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    if min(student.ndim, other.ndim) < 2 or student.shape[1:] != other.shape[1:]:
        raise ShapeError(
            f"{loss}: features {list(student.shape)} and {list(other.shape)} must be [N, *D] and [M, *D]: the numbers of "
            "samples may differ, the features' sizes may not. Add a projector."
        )
    return student.flatten(1), other.flatten(1)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: Tensor) -> Tensor:
        ctx.save_for_backward(strength)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (strength,) = ctx.saved_tensors
        return -strength.to(gradients[0].dtype) * gradients[0], None


def grad_reverse(x: Tensor, strength: float | Tensor = 1.0) -> Tensor:
    """The same tensor, whose gradient comes back times ``-strength``: what follows learns one thing, what is before the opposite.

    Source: Ganin and Lempitsky 2015, arXiv:1409.7495, section 3.

    >>> x = torch.ones(1, requires_grad=True)
    >>> grad_reverse(3 * x, 0.5).sum().backward()
    >>> x.grad
    tensor([-1.5000])
    """
    return cast("Tensor", _Reversed.apply(x, torch.as_tensor(strength, device=x.device)))  # type: ignore[no-untyped-call]


class DomainCritic(Fitted):
    r"""How well a small net tells two domains by their features: it learns to, and the features learn that it cannot.

    .. math:: -\log(1 - \sigma(c(s))) - \log \sigma(c(o)), \quad c \text{ of one hidden layer, behind a reversed gradient}

    The gradient that comes back to the features is multiplied by :math:`-\lambda`, which grows over the run as
    :math:`2 / (1 + e^{-\gamma p}) - 1`, p being the share of the run that is done. It is a buffer, kept in step by
    :meth:`after`.

    Args:
        features: of one sample; fitted by the dry run if not given.
        hidden: units of the hidden layer.
        gamma: how fast the reversed gradient grows from 0 to 1; without it, it is 1 throughout.

    Returns: one value per pair of samples ``[N]``, in nats, >= 0; 2 log 2 = 1.386 for a critic that cannot tell.
    Raises: ShapeError if the shapes of the two features ``[N, *D]`` differ, or are not those that it was made for.
    Scale: free of the batch's size.
    Family: domain.
    Source: Ganin et al. 2016 (DANN), arXiv:1505.07818, equations 9 and 14; 100 hidden units as for digits, gamma 10.
    Differs: nothing. It needs as many samples of one domain as of the other, so that each pair has a value.
    See also: mmd, coral, grad_reverse.

    >>> critic = DomainCritic(features=2)
    >>> _ = nn.init.zeros_(critic.net[2].weight), nn.init.zeros_(critic.net[2].bias)
    >>> critic(torch.zeros(1, 2), torch.ones(1, 2)).detach()
    tensor([1.3863])
    """

    strength: Tensor

    def __init__(self, *, features: int | None = None, hidden: int = 100, gamma: float | None = 10.0) -> None:
        super().__init__()
        if hidden < 1 or (gamma is not None and not 0 < gamma < math.inf):
            raise InputError(
                f"DomainCritic: hidden={hidden!r} must be 1 or more, and gamma={gamma!r} above 0, or None."
            )
        self.hidden, self.gamma = hidden, gamma
        self.register_buffer("strength", torch.tensor(1.0 if gamma is None else 0.0))
        self.given(features)

    def build(self, *sizes: int) -> None:
        """The critic."""
        self.net = nn.Sequential(nn.Linear(sizes[0], self.hidden), nn.ReLU(), nn.Linear(self.hidden, 1))

    @exact
    def forward(self, student: Tensor, other: Tensor) -> Tensor:
        """The loss of each pair of samples."""
        same_samples("DomainCritic", student, other)
        s, o = _two_sets("DomainCritic", student, other)
        self.fit(s.shape[1:], like=s)
        here, there = (self.net(grad_reverse(x, self.strength)).squeeze(1) for x in (s, o))
        return F.softplus(here) + F.softplus(-there)

    def after(self, progress: Progress) -> None:
        """The reversed gradient's strength at the next step."""
        if self.gamma is not None:
            done = (progress.step + 1) / progress.steps
            self.strength.fill_(2 / (1 + math.exp(-self.gamma * done)) - 1)
