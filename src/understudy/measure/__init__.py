"""(model, data) to figures with units."""

from understudy.measure.bench import Bench, bench
from understudy.measure.budget import BUDGETS, Budget
from understudy.measure.calibration import Bin, Calibration, calibration
from understudy.measure.discriminator import fresh_discriminator
from understudy.measure.energy import Meter, meter
from understudy.measure.flops import flops
from understudy.measure.latency import latency
from understudy.measure.memory import peak_memory
from understudy.measure.processor import low_precision, processor
from understudy.measure.quality import accuracy, agreement, parameters, size_mb
from understudy.measure.statistics import Interval, Paired, gap_closed, holm, interval, paired

__all__ = [
    "BUDGETS",
    "Bench",
    "Bin",
    "Budget",
    "Calibration",
    "Interval",
    "Meter",
    "Paired",
    "accuracy",
    "agreement",
    "bench",
    "calibration",
    "flops",
    "fresh_discriminator",
    "gap_closed",
    "holm",
    "interval",
    "latency",
    "low_precision",
    "meter",
    "paired",
    "parameters",
    "peak_memory",
    "processor",
    "size_mb",
]
