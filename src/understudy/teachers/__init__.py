"""What can be read besides a module."""

from understudy.teachers.ema import Ema
from understudy.teachers.named import named_model
from understudy.teachers.stored import Stored
from understudy.teachers.weights import load_weights

__all__ = ["Ema", "Stored", "load_weights", "named_model"]
