"""Losses: pure functions of tensors.

Each returns one value for every sample (or token), or a scalar if it is a loss of the batch as a whole. None has a
``reduction``, none has a weight against another term, none cuts a gradient: :class:`understudy.Term` reduces, weighs
and masks, and an address says ``stop``. All maths in float32 or the input's own dtype if that is wider, whatever
autocast says; all logarithms natural.

The first argument is what learns.
"""

from understudy.losses.binary import binary_cross_entropy, binary_kl
from understudy.losses.feature import mse
from understudy.losses.regression import squared_error
from understudy.losses.response import cross_entropy, kl

__all__ = ["binary_cross_entropy", "binary_kl", "cross_entropy", "kl", "mse", "squared_error"]
