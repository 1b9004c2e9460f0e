"""From a resolved recipe to models, data and the arguments of :func:`understudy.distill`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from understudy.batch import Batch
from understudy.compress import Step
from understudy.data.order import preserved, seed_all
from understudy.data.parts import Parts
from understudy.errors import InputError, MachineError, UnderstudyError
from understudy.method import Distillation
from understudy.pool import with_unlabelled
from understudy.recipe.forms import fields_of, given
from understudy.recipe.frame import TermOf
from understudy.registry import FROM_DATA, Entry, entry
from understudy.source import sized
from understudy.term import Term

__all__ = [
    "Sizes",
    "arguments",
    "build",
    "data_of",
    "maker",
    "method_of",
    "sizes_of",
    "step_of",
    "teacher_of",
    "term_of",
]

Raw = Mapping[str, Any]


@dataclass(frozen=True)
class Sizes:
    """What models are told of the data, where a recipe leaves it out.

    Attributes:
        inputs: channels of an image, or features of a vector; None for other inputs.
        classes: outputs: classes, labels, or values.
    """

    inputs: int | None
    classes: int | None


def arguments(recipe: Raw, parts: Parts, student: Any, teacher: Any) -> dict[str, Any]:
    """What :func:`understudy.distill` is called with, but for folder, resume and console."""
    same = (
        "task",
        "epochs",
        "seeds",
        "seed",
        "batch_size",
        "fine_tune",
        "accept",
        "deadline_ms",
        "device",
        "workers",
        "draws",
        "precision",
    )
    teaching = recipe["teacher"]
    told = {
        "student": student,
        "compress": [step_of(raw) for raw in recipe["compress"] or ()],
        "teacher": teacher,
        "train": train_of(parts),
        "valid": parts.valid,
        "test": parts.test,
        "classes": parts.classes,
        "teacher_epochs": teaching.get("epochs", 0),
        "teacher_weights": teaching.get("weights"),
        "teacher_data": data_of(teaching["data"]).train if "data" in teaching else None,
        "teacher_optimizer": build("optimizer", teaching["optimizer"]) if "optimizer" in teaching else None,
        "teacher_run": teaching.get("run", "auto"),
        "store": teaching.get("store", "auto"),
        "optimizer": build("optimizer", recipe["optimizer"]),
        **{name: recipe[name] for name in same},
    }
    return told | method_of(recipe)


def step_of(raw: Raw) -> Step:
    """A way to make a model smaller."""
    return raw["name"], _options(entry("compression", raw["name"]), raw)


def method_of(recipe: Raw) -> dict[str, Any]:
    """``method`` and its options; a plugin's method, or one of terms, as a function of student and teacher."""
    if recipe.get("terms") is not None:

        def terms(student: nn.Module, teacher: Any) -> Distillation:
            return Distillation(*map(term_of, recipe["terms"]), student=student, teacher=teacher)

        return {"method": terms}
    chosen = entry("method", recipe["method"]["name"])
    options = _options(chosen, recipe["method"])
    if chosen.source == "understudy":
        return {"method": chosen.name, **options}
    return {"method": functools.update_wrapper(functools.partial(chosen.make, **options), chosen.make)}


def term_of(raw: Raw) -> Term:
    """A term of a recipe's ``terms``."""
    loss = entry("loss", raw["loss"])
    options = {k: v for k, v in _options(loss, raw).items() if k in loss.options}
    frame = {
        k: given(o.annotation, raw[k], build)
        for k, o in fields_of(TermOf).items()
        if k in raw and k not in ("loss", "at")
    }
    made = _make(loss, options) if inspect.isclass(loss.make) else functools.partial(loss.make, **options)
    return Term(made if options or inspect.isclass(loss.make) else loss.make, *raw["at"], **frame)


def data_of(raw: Raw) -> Parts:
    """A data set. Raises: InputError if a plugin's function gives something else."""
    made = build("data", raw)
    if not isinstance(made, Parts):
        raise InputError(f"{raw['name']}: gave a {type(made).__name__}; a data set is an understudy.data.Parts.")
    return made


def train_of(parts: Parts) -> Any:
    """What the student learns from: samples with a label, and those without one."""
    return parts.train if parts.unlabelled is None else with_unlabelled(parts.train, parts.unlabelled)


def sizes_of(parts: Parts) -> Sizes:
    """Read off the first sample, and off all labels where the data set does not name its classes."""
    source = sized(parts.train, "data", lack="cannot be read twice")
    first = Batch.of(source.fetch([(0, 0)], 0))
    tensor = first.fields.get("input")
    inputs = int(tensor.shape[1]) if isinstance(tensor, Tensor) and tensor.ndim in (2, 4) else None
    label = first.fields.get("label")
    if not isinstance(label, Tensor):
        return Sizes(inputs, None)
    if label.ndim > 1 or label.is_floating_point():
        return Sizes(inputs, int(label.shape[1]) if label.ndim > 1 else 1)
    if parts.classes is not None:
        return Sizes(inputs, len(parts.classes))
    most = max(
        _largest(part) for part in (parts.train, parts.valid)
    )  # of few labels in train, some may be in valid only
    return Sizes(inputs, most + 1 if most >= 0 else None)


def _largest(part: Any) -> int:
    """Of the labels; below 0 if there is none."""
    labels = (batch.fields.get("label") for batch in sized(part, "data", lack="cannot be read twice").in_order())
    return max((int(label.max()) for label in labels if isinstance(label, Tensor)), default=-1)


def maker(kind: str, raw: Raw, sizes: Sizes) -> Callable[[], Any]:
    """A function that makes the model anew, with what the recipe leaves out of ``inputs`` and ``classes`` from the data."""
    chosen = entry(kind, raw["name"])
    options = dict(_options(chosen, raw))
    for name in FROM_DATA:
        if name in chosen.options and name not in options:
            value = getattr(sizes, name)
            if value is None:
                raise InputError(f"{raw['name']}: {name} cannot be told from this data. Give it: {name}: ...")
            options[name] = value
    return functools.partial(_make, chosen, options)


def teacher_of(raw: Raw, sizes: Sizes, seed: int) -> Any:
    """The teacher, its weights drawn from the seed."""
    with preserved():
        seed_all(seed, "teacher")
        return maker("teacher", raw["model"], sizes)()


def build(kind: str, raw: Raw) -> Any:
    """An entry with its options."""
    chosen = entry(kind, raw["name"])
    return _make(chosen, _options(chosen, raw))


def _options(chosen: Entry, raw: Raw) -> dict[str, Any]:
    return {k: given(chosen.options[k].annotation, v, build) for k, v in raw.items() if k in chosen.options}


def _make(chosen: Entry, options: Mapping[str, Any]) -> Any:
    try:
        return chosen.make(**options)
    except UnderstudyError:
        raise
    except Exception as error:  # of torch, of the data's library, of a plugin: the values of options led to it
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise MachineError(f"{chosen.name}: needs more memory than this machine has. Make it smaller.") from error
        raise InputError(f"{chosen.name}: cannot be made: {type(error).__name__}: {error}") from error
