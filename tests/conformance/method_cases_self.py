"""Methods in which a student teaches itself, or is taught by others that learn along."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from understudy import Method, methods

from .method_case import Case

PLAIN = {"weight": 0, "label_weight": 1}


def untaught(make: Callable[..., Method], **given: Any) -> Callable[..., Method]:
    """A method without a teacher."""
    return lambda student, teacher, **options: make(student, **given, **options)


def two_peers(student: nn.Module, teacher: nn.Module, **options: Any) -> Method:
    return methods.dml(student, peers=2, **options)


CASES = {
    "dml": Case(two_peers, plain=PLAIN),
    "one": Case(untaught(methods.one, layer="layer2"), plain=PLAIN),
    "byot": Case(untaught(methods.byot, layers=["layer1", "layer2", "layer3"]), plain=PLAIN),
    "ema_teacher": Case(untaught(methods.ema_teacher), plain=PLAIN),
    "ps_kd": Case(untaught(methods.ps_kd, samples=12), plain={"alpha": 0}, idle=()),
    "cs_kd": Case(untaught(methods.cs_kd), plain=PLAIN, per_sample=False),
    "joint": Case(methods.joint, plain=PLAIN),
}
