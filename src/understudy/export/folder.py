"""A model to hand over: a folder that runs wherever numpy and onnxruntime are."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from understudy.errors import InputError, choices, raise_all
from understudy.export.model import Inputs, first, named, on_cpu, outputs
from understudy.export.onnx import TOLERANCE, write_checked
from understudy.export.preprocessing import describe
from understudy.export.staging import publish_folder, staged

__all__ = ["write_folder"]

TASKS = ("classification", "multi-label", "regression")
FACTS, MODEL, SCRIPT = "preprocessing.json", "model.onnx", "predict.py"
OURS = {FACTS, MODEL, f"{MODEL}.data", SCRIPT, "__pycache__"}
MAKER = "understudy"


def write_folder(
    folder: str | Path,
    model: nn.Module,
    example_inputs: Inputs,
    check_inputs: Inputs,
    *,
    task_name: str,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
    force: bool = False,
) -> dict[str, float]:
    """Write ``model.onnx``, ``preprocessing.json`` and ``predict.py``, which needs numpy and onnxruntime only.

    ::

        python predict.py input.npy                          prints JSON, one entry for each sample
        python predict.py input.npy --out predictions.npy    writes class indices, 0 or 1 per label, or values

    An entry has ``class``, ``index`` and ``probabilities``, or ``labels`` (those above one half) and ``probabilities``, or
    ``values``.

    Args:
        folder: made, or replaced as a whole if an earlier call wrote it.
        model: as in :func:`~understudy.export.to_onnx`; with logits ``[N, C]`` unless the task is a regression.
        example_inputs: as in :func:`~understudy.export.to_onnx`.
        check_inputs: samples on which the file is compared with the model; give 256 or more.
        task_name: "classification", "multi-label" or "regression": what the outputs mean.
        classes: names of the classes or labels in the order of the outputs; their numbers if left out.
        preprocessing: how a sample in a file becomes what the model takes, ``(x * scale - mean) / std`` in this order:
            ``layout``, "channels_last" if the file's arrays are ``[N, ..., C]`` and the model's ``[N, C, ...]``;
            ``scale``, a number; ``mean`` and ``std``, a number, or one for each channel or column. For a model of several
            inputs: such a mapping for each that needs one, by its name. Integers are taken as they are.
        tolerance: as in :func:`~understudy.export.check_onnx`.
        force: replace the folder even if it holds other files. They are deleted.

    Returns: what :func:`~understudy.export.check_onnx` says of ``check_inputs``, and ``size_mb``, the bytes of the model's
        files over 10^6.
    Raises: InputError that lists what is wrong with the arguments, or as in to_onnx; what was in the folder is intact.
    """
    target = Path(folder).absolute()
    _check_target(target, force)
    model = on_cpu(model)
    facts = _facts(model, example_inputs, task_name, classes, preprocessing or {})
    with staged(target) as new:
        found = write_checked(model, example_inputs, new / MODEL, check_inputs, tolerance)
        size = sum(file.stat().st_size for file in new.iterdir())
        (new / FACTS).write_text(json.dumps({**facts, "checked": found}, indent=1, allow_nan=False), encoding="utf-8")
        (new / SCRIPT).write_bytes(importlib.resources.files(__package__).joinpath("template", SCRIPT).read_bytes())
        _check_target(target, force)  # again: writing took its time
        publish_folder(new, target)
    return {**found, "size_mb": size / 1e6}


def _check_target(target: Path, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{target}: is a file or a link, not a folder. Choose another name, or delete it.")
    if any(
        place.resolve().is_relative_to(target.resolve()) for place in (Path.cwd(), Path(os.environ.get("HOME", "/")))
    ):
        raise InputError(f"{target}: you are in it, and it would be replaced as a whole. Name a folder inside it.")
    foreign = sorted({file.name for file in target.iterdir()} - OURS)
    if not force and (foreign or not (_is_ours(target) or not any(target.iterdir()))):
        what = f"holds {', '.join(foreign[:5])}" if foreign else "was not written by an earlier export"
        raise InputError(f"{target}: {what}. Choose another folder, or give force=True to delete what is in it.")


def _is_ours(target: Path) -> bool:
    try:
        written = json.loads((target / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(written, dict) and written.get("made_by") == MAKER


def _facts(
    model: nn.Module, inputs: Inputs, task: str, classes: Sequence[str] | None, steps: Mapping[str, Any]
) -> dict[str, Any]:
    problems: list[str] = []
    described = describe(named(inputs), steps, problems)
    if task not in TASKS:
        problems.append(f"task_name: there is no {task!r}. {choices(task, TASKS)}")
    shape = list(outputs(model, first(inputs)).shape)
    names = _names(task, shape, classes, problems) if task in TASKS else None
    raise_all(InputError, problems)
    return {"made_by": MAKER, "task": task, "classes": names, "inputs": described}


def _names(task: str, shape: list[int], classes: Sequence[str] | None, problems: list[str]) -> list[str] | None:
    if task == "regression":
        if classes is not None:
            problems.append("classes: a regression has none. Leave them out.")
        return None
    if len(shape) != 2:
        problems.append(f"task_name: {task} needs outputs [N, C], but {['N', *shape[1:]]} is what the model gives.")
    elif classes is not None and len(classes) != shape[1]:
        problems.append(f"classes: {len(classes)} names are given, but the model has {shape[1]} outputs.")
    return [str(name) for name in (range(shape[-1]) if classes is None else classes)]
