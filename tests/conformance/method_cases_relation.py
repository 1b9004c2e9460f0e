"""Methods of relations between samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from understudy import Method, methods

from .method_case import Case, data


def seen(make: Callable[..., Method]) -> Callable[..., Method]:
    """It finds its layers by an example."""
    return partial(make, example=data())


def related(make: Callable[..., Method], **more: object) -> Case:
    return Case(seen(make), **{"plain": {"weight": 0}, "per_sample": False, **more})


CASES = {
    "similarity_preserving": related(methods.similarity_preserving),
    "rkd": related(methods.rkd, plain={"distance_weight": 0, "angle_weight": 0}),
    "pkt": related(methods.pkt),
    "correlation_congruence": related(methods.correlation_congruence),
    "cka": related(methods.cka),
    "neighbour_graph": related(methods.neighbour_graph),
    "crd_in_batch": related(methods.crd_in_batch),
    "ickd": related(methods.ickd, per_sample=True),
    "crd": related(partial(methods.crd, samples=12, negatives=6, features=8), per_sample=True),
    "sskd": related(methods.sskd, plain={"weight": 0, "soft_weight": 0, "view_weight": 0, "label_weight": 1}),
}
