"""(model, data) to figures with units."""

from understudy.measure.quality import accuracy, agreement, parameters, size_mb
from understudy.measure.statistics import Interval, gap_closed, interval

__all__ = ["Interval", "accuracy", "agreement", "gap_closed", "interval", "parameters", "size_mb"]
