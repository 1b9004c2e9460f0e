"""What ``preprocessing.json`` says of a model's inputs, as its ``predict.py`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from understudy.errors import choices

__all__ = ["describe"]

LAYOUTS = ("channels_first", "channels_last")
ARITHMETIC = {"scale": 1.0, "mean": 0.0, "std": 1.0}
"""(x * scale - mean) / std, and what is done where a step is left out."""


def describe(given: Mapping[str, Tensor], steps: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """For each input ``dtype``, the ``shape`` of a sample in the file, and the steps from there to the model.

    Args:
        given: example inputs, as the model takes them.
        steps: of the only input, or by the inputs' names.
        problems: takes what is wrong with the steps.
    """
    if len(given) == 1:
        steps = dict.fromkeys(given, steps)
    problems += [
        f"preprocessing: there is no input {name!r}. {choices(name, given)}" for name in steps if name not in given
    ]
    return {name: _input(f"preprocessing of {name}", x, steps.get(name, {}), problems) for name, x in given.items()}


def _input(where: str, x: Tensor, steps: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    known = ["layout", *ARITHMETIC]
    problems += [f"{where}: there is no step {step!r}. {choices(step, known)}" for step in steps if step not in known]
    layout = steps.get("layout", LAYOUTS[0])
    shape = list(x.shape[1:])
    if layout not in LAYOUTS:
        problems.append(f"{where}: there is no layout {layout!r}. {choices(layout, LAYOUTS)}")
    elif layout == "channels_last" and len(shape) < 2:
        problems.append(f"{where}: samples of shape {shape} have no channels that could be last.")
    dtype = str(x.dtype).removeprefix("torch.")
    arithmetic: dict[str, Any] = dict.fromkeys(ARITHMETIC)
    if x.is_floating_point():
        for step, default in ARITHMETIC.items():
            lengths = [1] if step == "scale" else [1, *shape[:1]]
            arithmetic[step] = _number(f"{where}: {step}", steps.get(step, default), lengths, step != "mean", problems)
    elif scaled := [step for step in ARITHMETIC if step in steps]:
        problems.append(f"{where}: the model takes {dtype}, which cannot be scaled. Leave {' and '.join(scaled)} out.")
    shape = shape[1:] + shape[:1] if layout == "channels_last" else shape
    return {"dtype": dtype, "shape": shape, "layout": layout, **arithmetic}


def _number(where: str, value: Any, lengths: list[int], divides: bool, problems: list[str]) -> Any:
    """A number or a list of them; ``divides`` where none of them may be zero."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.array(np.nan)
    if not np.isfinite(array).all() or (divides and (array == 0).any()):
        problems.append(f"{where} is {value!r}; allowed: finite numbers{', but not zero' * divides}.")
    elif array.ndim > 1 or array.size not in lengths:
        problems.append(f"{where} holds {array.size} numbers; allowed: {' or '.join(map(str, lengths))}.")
    return array.tolist()
