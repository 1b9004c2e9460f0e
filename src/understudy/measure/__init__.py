"""(model, data) to figures with units."""

from understudy.measure.calibration import Bin, Calibration, calibration
from understudy.measure.discriminator import fresh_discriminator
from understudy.measure.latency import latency
from understudy.measure.memory import peak_memory
from understudy.measure.quality import accuracy, agreement, parameters, size_mb
from understudy.measure.statistics import Interval, Paired, gap_closed, holm, interval, paired

__all__ = [
    "Bin",
    "Calibration",
    "Interval",
    "Paired",
    "accuracy",
    "agreement",
    "calibration",
    "fresh_discriminator",
    "gap_closed",
    "holm",
    "interval",
    "latency",
    "paired",
    "parameters",
    "peak_memory",
    "size_mb",
]
