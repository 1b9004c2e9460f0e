"""What can be read besides a module."""

from understudy.teachers.ema import Ema
from understudy.teachers.stored import Stored

__all__ = ["Ema", "Stored"]
