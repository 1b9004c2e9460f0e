"""One job after another: what a job has made teaches in the next."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from understudy.data.order import preserved, seed_all
from understudy.errors import InputError
from understudy.job import OPTIMIZER, distill
from understudy.material import Material
from understudy.methods.dml import another
from understudy.outcome import Distilled
from understudy.plan import Plan
from understudy.start import Make, begun

__all__ = ["born_again", "takd"]

OF_THE_FIRST = ("teacher_epochs", "teacher_data", "teacher_weights", "teacher_optimizer")
"""Arguments of :func:`understudy.distill` that are about the teacher at the head of a chain."""

SEEDS_APART = 1000  # so that no student of a generation has the seed of one of another


def takd(
    student: Make,
    assistants: Sequence[Make],
    teacher: Any,
    train: Any,
    valid: Any,
    *,
    folder: str | Path | None = None,
    **options: Any,
) -> list[Distilled]:
    """From the teacher to the student over assistants of sizes in between, each taught by the one before it.

    Args:
        student: as :func:`understudy.distill` takes it.
        assistants: the same, from the largest to the smallest.
        teacher: of the first assistant.
        train: of every job.
        valid: of every job.
        folder: where each job has a folder of its own, ``1-assistant``, ..., ``3-student``; None keeps nothing on the disk.
        **options: of :func:`understudy.distill`, for every job; what is about the teacher (``teacher_epochs``, ...) for the first.

    Returns: what each job has come to; the student is in the last, whose table has the last assistant for a teacher.
    Raises: InputError without an assistant; what distill raises.
    Source: Mirzadeh et al. 2020 (TAKD), arXiv:1902.03393, figure 1; by any method, where the paper has :func:`kd`.
    """
    if not assistants:
        raise InputError(
            "takd: assistants=[]: give one or more, from the largest to the smallest; without any it is distill."
        )
    names = [f"{i}-assistant" for i in range(1, len(assistants) + 1)] + [f"{len(assistants) + 1}-student"]
    found: list[Distilled] = []
    for name, model in zip(names, [*assistants, student], strict=True):
        before = found[-1].student if found else teacher
        given = options if not found else _later(options)
        found.append(distill(model, before, train, valid, folder=_within(folder, name), **given))
    return found


def born_again(
    student: Make,
    train: Any,
    valid: Any,
    *,
    generations: int = 3,
    epochs: int = 20,
    temperature: float = 1.0,
    alpha: float = 0.5,
    seed: int = 0,
    folder: str | Path | None = None,
    **options: Any,
) -> list[Distilled]:
    """A model that is taught by one of its own kind, which was taught by one of its own kind.

    The first of them learns from labels alone; each of the generations from the one before it. Their mean may be better still:
    ``Ensemble(*(job.student for job in found))``.

    Args:
        student: a function that makes one; or a module, of which each generation begins as a copy with weights drawn anew.
        train: of every job.
        valid: of every job.
        generations: after the first model; 1 or more.
        epochs: of each. The first model, which learns from labelled samples only, takes as many steps.
        temperature: T > 0, of :func:`kd`.
        alpha: share of the soft labels.
        seed: of the first generation's students; each later one has another.
        folder: where each job has a folder of its own, ``generation-1``, ...; None keeps nothing on the disk.
        **options: of :func:`understudy.distill`, for every job.

    Returns: what each job has come to, generation by generation. The teacher in the first one's table is the first model.
    Raises: InputError for a number that is none, or for another method than kd; what distill raises.
    Source: Furlanello et al. 2018 (BAN), arXiv:1805.04770, section 3.
    Differs: the paper's generations learn from soft labels, with hard ones or without: alpha = 1 is without.
    """
    if isinstance(generations, bool) or not isinstance(generations, int) or generations < 1:
        raise InputError(f"born_again: generations={generations!r} must be a whole number, 1 or above.")
    if given := [name for name in (*OF_THE_FIRST, "teacher") if name in options]:
        raise InputError(
            f"born_again: {', '.join(given)}: there is no teacher but the generation before. Leave it out."
        )
    if (method := options.get("method", "kd")) != "kd":
        raise InputError(
            f"born_again: method={method!r}: a generation learns by kd. Write the loop over distill for another."
        )
    shared = {"temperature": temperature, "alpha": alpha, "epochs": epochs, **options}
    found: list[Distilled] = []
    for generation in range(1, generations + 1):
        teacher = found[-1].student if found else _first(student, seed)
        first: dict[str, Any] = {}
        if not found:
            first["teacher_epochs"] = _epochs(student, teacher, train, valid, shared)
            first["teacher_optimizer"] = options.get("optimizer", OPTIMIZER)
        made = another(student, seed + generation) if isinstance(student, nn.Module) else student
        place = _within(folder, f"generation-{generation}")
        own = seed + SEEDS_APART * generation
        job = distill(made, teacher, train, valid, seed=own, folder=place, **first, **shared)
        found.append(job)
    return found


def _first(student: Make, seed: int) -> nn.Module:
    """The model that has no teacher."""
    with preserved():
        seed_all(seed, "first")
        return begun(student, None)


def _epochs(student: Make, teacher: nn.Module, train: Any, valid: Any, options: Mapping[str, Any]) -> int:
    """Of the first model, over what is labelled, for as many steps as a generation has; one that had fewer would be easy to beat."""
    given = inspect.signature(distill).bind(student, teacher, train, valid, **options)
    given.apply_defaults()
    material = Material(Plan(**given.arguments))
    steps = material.stages["distilled"].steps
    return math.ceil(steps / material.steps_an_epoch(material.hard)) if material.hard else 1


def _later(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in OF_THE_FIRST}


def _within(folder: str | Path | None, name: str) -> Path | None:
    return None if folder is None else Path(folder) / name
