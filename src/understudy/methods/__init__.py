"""Named methods with the papers' defaults: each a function that returns a Method."""

from understudy.methods.alone import alone
from understudy.methods.fitnets import fitnets
from understudy.methods.kd import kd

__all__ = ["alone", "fitnets", "kd"]
