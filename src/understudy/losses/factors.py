"""Factor transfer with its paraphraser and translator."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from understudy.errors import InputError
from understudy.losses.arithmetic import exact
from understudy.losses.feature import mse
from understudy.losses.fitted import BatchNorm, Fitted
from understudy.losses.ft import ft
from understudy.losses.maps import as_maps, same_area

__all__ = ["FactorTransfer"]


class FactorTransfer(Fitted):
    r"""Distance of the student's factor from the teacher's, which an autoencoder of the teacher's feature gives.

    .. math:: \frac{1}{D} \sum_d \left| \frac{z^s_d}{\|z^s\|_2} - \frac{z^t_d}{\|z^t\|_2} \right|
              + \rho\, \mathrm{MSE}(P'(z^t), t), \quad z^s = T(s),\ z^t = P(t)

    The paraphraser P with its way back P', and the translator T, are three 3x3 convolutions each, with BatchNorm and leaky
    ReLU; all three learn. The first summand reaches the translator and the student only, the second the paraphraser only.

    Args:
        student: channels of the student's map; fitted by the dry run if not given, as the teacher's.
        teacher: channels of the teacher's.
        rate: k, the factor's channels as a share of the teacher's.
        reconstruction: rho, above 0 to let the paraphraser learn on.

    Both are maps ``[N, C, H, W]``; of two areas the smaller counts.

    Returns: one value per sample ``[N]``, >= 0.
    Raises: ShapeError if they are no maps of the same samples; InputError for a rate or a rho that cannot be.
    Scale: as ft; with the usual weight of 500 the reconstruction has the weight 1.
    Family: feature.
    Source: Kim et al. 2018, arXiv:1802.04977, equations 1 to 3.
    Differs: the paper trains the paraphraser before the student, and then freezes it. :func:`reconstructed` is what it
        learns by then: methods.factor_transfer gives it a share of the run to itself. BatchNorm looks at the batch always.
    See also: ft.

    >>> FactorTransfer(student=1, teacher=1)(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)).detach()
    tensor([0.0020])
    """

    def __init__(
        self,
        *,
        student: int | None = None,
        teacher: int | None = None,
        rate: float = 0.5,
        reconstruction: float = 0.002,
    ) -> None:
        super().__init__()
        if not rate > 0 or not reconstruction >= 0:
            raise InputError(
                f"FactorTransfer: rate={rate!r}, reconstruction={reconstruction!r} is not allowed; rate above 0, "
                "reconstruction 0 or above."
            )
        self.rate, self.reconstruction = rate, reconstruction
        self.given(student, teacher)

    def build(self, *sizes: int) -> None:
        """Paraphraser, its way back, and translator."""
        student, teacher = sizes
        factor = max(1, round(self.rate * teacher))
        self.paraphrase = _convolutions(teacher, teacher, factor, factor)
        self.back = _convolutions(factor, factor, teacher, teacher)
        self.translate = _convolutions(student, student, factor, factor)

    @exact
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each sample."""
        as_maps("FactorTransfer", student, teacher)
        s, t = same_area("FactorTransfer", student, teacher)
        self.fit((s.shape[1], t.shape[1]), like=s)
        factor = self.paraphrase(t)
        value = ft(self.translate(s), factor.detach())
        return value + self.reconstruction * mse(self.back(factor), t) if self.reconstruction else value

    @exact
    def reconstructed(self, teacher: Tensor) -> Tensor:
        """How far the paraphraser's way there and back is from the teacher's map: one value per sample ``[N]``."""
        if self.sizes is None:
            raise InputError(
                "FactorTransfer() has no sizes yet. Give them, or put the term of both models before that of one."
            )
        return mse(self.back(self.paraphrase(teacher)), teacher)


def _convolutions(*channels: int) -> nn.Sequential:
    layers = []
    for inputs, outputs in itertools.pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), BatchNorm(outputs), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
