"""A smaller model made from a model: pruned, factorized, quantized, or a student of its own shape.

Each way is a function of the model and of samples as the model takes them (``example``), with options that are plain
values; it leaves the model as it is and returns a new module that is called as the model is. What comes back can be
trained, and so be the student of :func:`understudy.distill`; :func:`finished` then makes it what runs. ``__all__``
has the ways and nothing else: it is what recipes may name.
"""

from understudy.compress.aware import qat
from understudy.compress.finish import Step as Step
from understudy.compress.finish import chain as chain
from understudy.compress.finish import check_steps as check_steps
from understudy.compress.finish import copied as copied
from understudy.compress.finish import described as described
from understudy.compress.finish import finished as finished
from understudy.compress.low_rank import low_rank
from understudy.compress.prune import magnitude, movement, n_m
from understudy.compress.prune import sparsity as sparsity
from understudy.compress.quantize import bf16, fp16, int4_weights, int8_dynamic, int8_static, int8_weights
from understudy.compress.shrink import narrower, shallower
from understudy.compress.structured import channels

__all__ = [
    "bf16",
    "channels",
    "fp16",
    "int4_weights",
    "int8_dynamic",
    "int8_static",
    "int8_weights",
    "low_rank",
    "magnitude",
    "movement",
    "n_m",
    "narrower",
    "qat",
    "shallower",
]
