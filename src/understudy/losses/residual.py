"""What a student's output lacks of its teacher's, as a hint that a second head learns to give."""

from __future__ import annotations

from torch import Tensor, nn

from understudy.errors import ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.fitted import Fitted
from understudy.losses.maps import channels_first

__all__ = ["HintHead", "ResidualHint", "residual"]


@exact
def residual(student_hint: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of a hint from what the student's output lacks of the teacher's.

    .. math:: \frac{1}{C} \sum_c (h_c - (t_c - s_c))^2

    Args:
        student_hint: h ``[*N, C]``, the output of the student's second head. It learns.
        student: s ``[*N, C]``, the student's output; read it behind ``stop``.
        teacher: t ``[*N, C]``.

    Returns: one value per row ``[*N]``, in the square of the outputs' unit, >= 0, and 0 where hint and output together are
        the teacher's.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size and of the number of outputs.
    Family: feature.
    Source: Gao et al. 2020, arXiv:2002.09168; Li et al. 2020 (ResKD), arXiv:2006.04719, for outputs.
    Differs: both take a network for the residual; this is one head on the student's own features.
    See also: ResidualHint, mse.

    >>> residual(torch.tensor([[1., 0.]]), torch.tensor([[1., 1.]]), torch.tensor([[2., 3.]]))
    tensor([2.])
    """
    fix = "Both models must give the same outputs, and so must the hint's head."
    same_shape("residual", student, teacher, fix)
    same_shape("residual", student_hint, teacher, fix)
    return (student_hint - (teacher - student)).square().mean(-1)


class ResidualHint(Fitted):
    r"""The loss residual with the head inside: a linear map of the features, in the mean over their positions.

    .. math:: \frac{1}{C} \sum_c \left( (W \bar f + b)_c - (t_c - s_c) \right)^2

    The head learns with the student, whose features the gradient reaches; its output stands behind ``stop``.

    Args:
        features: of the student; fitted by the dry run if not given, as the outputs.
        outputs: of both models.

    Features are vectors ``[N, D]``, tokens ``[N, T, D]`` or maps ``[N, D, H, W]``; outputs are ``[N, C]``.

    Returns: one value per sample ``[N]``, in the square of the outputs' unit, >= 0.
    Raises: ShapeError if samples or outputs do not go together; InputError if only one of the sizes is given.
    Scale: free of the batch's size and of the number of outputs.
    Family: feature.
    Source: Gao et al. 2020, arXiv:2002.09168; Li et al. 2020 (ResKD), arXiv:2006.04719, for outputs.
    Differs: both take a network for the residual; this is one head on the student's own features.
    See also: residual.

    >>> ResidualHint(features=2, outputs=1)(torch.zeros(1, 2), torch.ones(1, 1), torch.ones(1, 1)).shape
    torch.Size([1])
    """

    def __init__(self, *, features: int | None = None, outputs: int | None = None) -> None:
        super().__init__()
        self.given(features, outputs)

    def build(self, *sizes: int) -> None:
        """The head."""
        features, outputs = sizes
        self.head = HintHead(features, outputs)

    @exact
    def forward(self, student_features: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss of each sample."""
        fix = "Both models must give the same outputs."
        same_shape("ResidualHint", student, teacher, fix)
        if student.ndim != 2 or student_features.shape[0] != student.shape[0]:
            raise ShapeError(
                f"ResidualHint: features {list(student_features.shape)} and output {list(student.shape)} do not go "
                "together; allowed: [N, ...] and [N, C] of the same samples."
            )
        self.fit((channels_first("ResidualHint", student_features).shape[1], student.shape[1]), like=student)
        return residual(self.head(student_features), student, teacher)


class HintHead(nn.Linear):
    """A linear map of features ``[N, D]``, ``[N, T, D]`` or ``[N, D, H, W]``, in the mean over their positions."""

    def forward(self, features: Tensor) -> Tensor:
        """The hint ``[N, C]``."""
        return super().forward(channels_first("HintHead", features).mean(2))
