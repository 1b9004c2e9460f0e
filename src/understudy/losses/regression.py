"""Losses of measured values. Shapes: N samples, D values of each."""

from __future__ import annotations

from torch import Tensor

from understudy.losses.arithmetic import counted_by, exact, same_shape

__all__ = ["squared_error"]


def measured(label: Tensor) -> Tensor:
    """Which values are there: everything but NaN."""
    return ~label.isnan()


@counted_by("label", measured)
@exact
def squared_error(student: Tensor, label: Tensor) -> Tensor:
    r"""Squared difference from the label, element by element.

    .. math:: (s - y)^2

    Args:
        student: ``[N]`` or ``[N, *D]``.
        label: of the same shape, or ``[N]`` beside ``[N, 1]`` (either way round); NaN where it was not measured.

    Returns: one value per element (``[N]`` for ``[N]`` beside ``[N, 1]``), in the label's unit squared, >= 0; 0 where
        it was not measured, which a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes differ otherwise: nothing is broadcast.
    Scale: free of the batch's size and of the number of values; it grows with the square of the label's unit, so
        standardise labels that are far from 1.
    Family: response.
    Source: the usual one, as in ``torch.nn.functional.mse_loss``.
    Differs: what was not measured is left out, and nothing is averaged or broadcast.
    See also: mse.

    >>> squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([3.0, float("nan")]))
    tensor([4., 0.])
    """
    student, label = _beside(student, label)
    same_shape("squared_error", student, label, "Nothing is broadcast; reshape the label.", other="label")
    known = measured(label)
    # Both are taken away before the maths, not only the value after it: a NaN there would leave a NaN gradient.
    return (student.masked_fill(~known, 0) - label.to(student.dtype).masked_fill(~known, 0)).square()


def _beside(student: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """A column beside a row, which torch would broadcast to ``[N, N]`` without a word, as two rows."""
    if {student.ndim, label.ndim} == {1, 2}:
        return tuple(t.squeeze(1) if t.ndim == 2 else t for t in (student, label))  # type: ignore[return-value]
    return student, label
