"""A model to hand over: a folder that runs wherever numpy and a runtime are."""

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
from understudy.export.preprocessing import describe
from understudy.export.staging import files_in, publish_folder, staged
from understudy.export.targets import FACTS, TARGETS, Target, write_checked
from understudy.export.targets import target as target_of

__all__ = ["write_folder"]

TASKS = ("classification", "multi-label", "regression")
SCRIPT, READER, CARD = "predict.py", "read_raw.py", "README.md"
OURS = {FACTS, SCRIPT, READER, CARD, "__pycache__", *(name for t in TARGETS.values() for name in (t.file, *t.beside))}
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
    raw: Mapping[str, Any] | None = None,
    target: str = "onnx",
    calibration: Inputs | None = None,
    tolerance: float | None = None,
    vendor: str | Path | None = None,
    force: bool = False,
) -> dict[str, float]:
    """Write the model's file, ``preprocessing.json`` and ``predict.py``, which needs numpy and the file's runtime only.

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
        raw: how a file as it comes becomes what the model takes, as :attr:`understudy.data.Parts.raw` has it; ``read_raw.py``
            is then written too, and ``predict.py`` takes CSV files or pictures beside arrays.
        target: what to write: a name in :data:`~understudy.export.TARGETS`.
        calibration: as in :func:`~understudy.export.to_file`; ``check_inputs`` if left out.
        tolerance: as in :func:`~understudy.export.to_file`.
        vendor: for the target "web": a folder, or the package as npm packs it, with the files of onnxruntime-web, which npm
            fetches otherwise.
        force: replace the folder even if it holds other files. They are deleted.

    Returns: what :func:`~understudy.export.to_file` says of ``check_inputs``, and ``size_mb``, the bytes of the model's
        files over 10^6.
    Raises: InputError that lists what is wrong with the arguments, or as in to_file; what was in the folder is intact.
    """
    place, form = Path(folder).absolute(), target_of(target)
    if vendor is not None and form.brings is None:
        raise InputError(
            f"vendor: {target} needs none. It is for: {', '.join(n for n, t in TARGETS.items() if t.brings)}."
        )
    _check_place(place, force)
    model = on_cpu(model)
    facts = _facts(model, example_inputs, task_name, classes, preprocessing or {})
    facts |= {} if raw is None else {"raw": dict(raw)}
    brought = form.brings(vendor) if form.brings else {}
    with staged(place) as new:
        found = write_checked(target, model, example_inputs, new / form.file, check_inputs, calibration, tolerance)
        size = sum(file.stat().st_size for file in files_in(new))
        told = {**facts, **_runs(target, form), "checked": found}
        if form.narrow:
            told["inputs"] = {
                n: {**x, "dtype": x["dtype"].replace("int64", "int32")} for n, x in facts["inputs"].items()
            }
        (new / FACTS).write_text(json.dumps(told, indent=1, allow_nan=False), encoding="utf-8")
        (new / SCRIPT).write_text(form.script.of(_template(SCRIPT), form.file), encoding="utf-8")
        for name, content in brought.items():
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_bytes(content)
        if raw is not None:
            (new / READER).write_text(_template(READER), encoding="utf-8")
        _check_place(place, force)  # again: writing took its time
        publish_folder(new, place)
    return {**found, "size_mb": size / 1e6}


def _template(name: str) -> str:
    return importlib.resources.files(__package__).joinpath("template", name).read_text(encoding="utf-8")


def _runs(name: str, form: Target) -> dict[str, Any]:
    return {"target": name, "runtime": form.runtime, "file": form.file, "batch": form.batch}


def _check_place(place: Path, force: bool) -> None:
    if not place.exists() and not place.is_symlink():
        return
    if place.is_symlink() or not place.is_dir():
        raise InputError(f"{place}: is a file or a link, not a folder. Choose another name, or delete it.")
    if any(held.resolve().is_relative_to(place.resolve()) for held in (Path.cwd(), Path(os.environ.get("HOME", "/")))):
        raise InputError(f"{place}: you are in it, and it would be replaced as a whole. Name a folder inside it.")
    foreign = sorted({file.name for file in place.iterdir()} - OURS)
    if not force and (foreign or not (_is_ours(place) or not any(place.iterdir()))):
        what = f"holds {', '.join(foreign[:5])}" if foreign else "was not written by an earlier export"
        raise InputError(f"{place}: {what}. Choose another folder, or give force=True to delete what is in it.")


def _is_ours(place: Path) -> bool:
    try:
        written = json.loads((place / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
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
