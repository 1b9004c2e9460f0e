"""What can be read besides a module."""

from understudy.teachers.ema import Ema

__all__ = ["Ema"]
