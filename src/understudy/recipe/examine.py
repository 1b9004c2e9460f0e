"""Everything that is wrong with a recipe, at once, before anything is trained.

By its schema first; then whatever is sound by itself is made, data, models, each term, and tried on a batch, so that an
address that names nothing is told beside a key that is misspelt.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from understudy import zoo
from understudy.accept import parse
from understudy.data.order import preserved
from understudy.data.parts import Parts
from understudy.errors import InputError, UnderstudyError
from understudy.evaluate import FIGURES, STAGES
from understudy.examples import Examples, device_of, outputs
from understudy.export import TARGETS
from understudy.job import distill
from understudy.material import Material
from understudy.method import Distillation
from understudy.plan import Plan
from understudy.preflight import check
from understudy.progress import START
from understudy.recipe.build import Sizes, arguments, data_of, maker, sizes_of, step_of, teacher_of, term_of, train_of
from understudy.recipe.complaints import complaints
from understudy.recipe.frame import deployment
from understudy.recipe.problems import Problems
from understudy.recipe.resolved import Resolved, resolve
from understudy.recipe.schema import schema
from understudy.recipe.text import Document, Where, shown
from understudy.recipe.trials import check_reading, check_takes, check_term, try_optimizer, use_threads
from understudy.recipe.tries import check_tries
from understudy.registry import FROM_DATA, entry
from understudy.settings import Settings
from understudy.source import sized
from understudy.start import TEACHER, begun, compressed
from understudy.tasks import TASKS
from understudy.teachers.weights import load_weights

__all__ = ["Examined", "examine"]


@dataclass
class Examined:
    """A recipe that is sound.

    Attributes:
        resolved: its values in full.
        parts: the data.
        sizes: what models were told of it.
        material: what the job works with.
    """

    resolved: Resolved
    parts: Parts
    sizes: Sizes
    material: Material

    @property
    def notes(self) -> list[str]:
        """What is worth knowing before the run."""
        teacher = self.resolved.value["teacher"]
        chosen = entry("teacher", teacher["model"]["name"])
        untaught = not teacher["epochs"] and "weights" not in teacher
        random = "The teacher has neither weights nor epochs: it is random, and the run will refuse it."
        return [*self.parts.notes, *([random] if untaught and chosen.make in vars(zoo).values() else [])]


def examine(document: Document, **more: Any) -> Examined:
    """Check a recipe, with ``more`` arguments of :func:`understudy.distill`: folder, resume, console.

    Raises: InputError, or what else it is, with every problem and its line.
    """
    problems = Problems(document)
    with preserved():
        pieces = Pieces(problems, _sound(problems))
        problems.tell()
        examined = problems.attempt((), lambda: pieces.together(more))
    problems.tell()
    assert examined is not None  # else there was a problem
    return examined


def _sound(problems: Problems, only: Collection[str] | None = None) -> Resolved:
    """Tell what is wrong by the schema, and resolve the rest.

    An option that is wrong is taken out, so that what stands beside it can still be tried; a key or a term that then
    lacks something is left out as a whole.
    """
    document, allowed = problems.document, schema()
    if only is not None:
        document = dataclasses.replace(document, value={k: v for k, v in document.value.items() if k in only})
    found = [(w, told) for w, told in complaints(document, allowed) if only is None or w[0] in only]
    rest = dataclasses.replace(document, value=copy.deepcopy(document.value))
    for where, told in found:
        problems.add(where, told)
        _take_out(rest.value, where)
    left = {where[:2] if where[:1] == ("terms",) else where[:1] for where, _ in complaints(rest, allowed)}
    return resolve(rest, left)


def _take_out(value: Any, where: Where) -> None:
    """Of a mapping the key; of a list nothing, but the key that the list stands at: the others would get new numbers."""
    while where and isinstance(where[-1], int):
        where = where[:-1]
    if not where or where == ("terms",):
        return
    for part in where[:-1]:
        value = value[part] if isinstance(value, list) else value.get(part)
    if isinstance(value, dict):
        value.pop(where[-1], None)


class Pieces:
    """What a recipe is made of, each piece by itself; None where it, or what it needs, is missing or wrong."""

    parts: Parts | None = None
    sizes: Sizes | None = None
    student: Callable[[], nn.Module] | None = None
    made: Any = None  # what the job is given as its student
    teacher: Any = None

    def __init__(self, problems: Problems, resolved: Resolved) -> None:
        self.problems, self.resolved, self.recipe = problems, resolved, resolved.value
        if self.recipe.get("threads"):
            problems.attempt(("threads",), lambda: use_threads(self.recipe["threads"]))
        self._data()
        self._models()
        if "optimizer" in self.recipe:
            small = None if self.student is None else problems.attempt(("student",), self.student)
            problems.attempt(("optimizer",), lambda: try_optimizer(self.recipe["optimizer"], small))
        if "optimizer" in self.recipe.get("teacher", ()):
            raw = self.recipe["teacher"]["optimizer"]
            problems.attempt(("teacher", "optimizer"), lambda: try_optimizer(raw, self.teacher))
        if self.recipe.get("device"):
            problems.attempt(("device",), lambda: Settings(steps=1, device=self.recipe["device"]).on())
        if self.recipe.get("accept"):
            problems.attempt(("accept",), self._conditions)
        if self.recipe.get("search") is not None:
            check_tries(problems, resolved)
        if self.recipe.get("export"):
            problems.attempt(("export",), self._deployed)
        if self.few is not None and self.teacher is not None:
            self._terms()

    @classmethod
    def of(cls, document: Document, only: Collection[str]) -> Pieces:
        """The pieces of these keys. Raises: InputError, or what else it is, for what is wrong in them."""
        problems = Problems(document)
        with preserved():
            pieces = cls(problems, _sound(problems, only))
        problems.tell()
        return pieces

    def together(self, more: Mapping[str, Any]) -> Examined:
        """The whole: checked as :func:`understudy.distill` does before it trains."""
        assert self.parts is not None  # else there was a problem
        assert self.sizes is not None
        assert self.student is not None
        told = arguments(self.recipe, self.parts, self.made, self.teacher)
        bound = inspect.signature(distill).bind(**told, **more)
        bound.apply_defaults()
        material = Material(Plan(**bound.arguments))
        check(material)
        self.resolved.fill(("task",), material.task.name)
        for model in (("student",), ("teacher", "model")):
            chosen = self.recipe["student"] if model == ("student",) else self.recipe["teacher"]["model"]
            for name in FROM_DATA if chosen != TEACHER else ():
                if name in entry("teacher", chosen["name"]).options:
                    self.resolved.fill((*model, name), getattr(self.sizes, name))
        return Examined(self.resolved, self.parts, self.sizes, material)

    def _data(self) -> None:
        self.few: Examples | None = None
        if "data" in self.recipe:
            self.parts = self.problems.attempt(("data",), lambda: data_of(self.recipe["data"]))
        if self.parts is not None:
            parts = self.parts
            self.sizes = self.problems.attempt(("data",), lambda: sizes_of(parts))
            self.few = self.problems.attempt(
                ("data",),
                lambda: Examples("train", sized(parts.train, "train", lack="cannot be read twice"), None).few(4),
            )
            self.problems.attempt(("data", "unlabelled"), lambda: train_of(parts))

    def _models(self) -> None:
        attempt, sizes, recipe = self.problems.attempt, self.sizes, self.recipe
        if sizes is None:
            return
        if "teacher" in recipe:
            self.teacher = attempt(
                ("teacher", "model"), lambda: teacher_of(recipe["teacher"], sizes, recipe.get("seed", 0))
            )
            self._try("teacher", self.teacher)
            if self.teacher is not None and "weights" in recipe["teacher"]:
                file = recipe["teacher"]["weights"]
                attempt(("teacher", "weights"), lambda: load_weights(copy.deepcopy(self.teacher), file))
        if "student" in recipe:
            own = recipe["student"] != TEACHER
            self.made = attempt(("student",), lambda: maker("model", recipe["student"], sizes)) if own else TEACHER
            sound = self.made is not None and (own or self.teacher is not None)
            whole = attempt(("student",), lambda: begun(self.made, self.teacher)) if sound else None
            self._try("student", whole)
            if whole is not None and attempt(("compress",), self.start) is not None:
                self.student = self.start

    def start(self) -> nn.Module:
        """A student as it begins to learn."""
        assert self.parts is not None  # it was made of their sizes
        train = Examples("train", sized(self.parts.train, "train", lack="cannot be read twice"), None)
        steps = [step_of(raw) for raw in self.recipe.get("compress") or ()]
        return compressed(begun(self.made, self.teacher), steps, train)

    def _try(self, name: str, model: Any) -> None:
        few = self.few
        if model is not None and few is not None:
            self.problems.attempt((name,), lambda: outputs(model, few, who=name))

    def _conditions(self) -> None:
        tasks = [TASKS[self.recipe["task"]]] if self.recipe.get("task") else list(TASKS.values())
        parse(self.recipe["accept"], [*dict.fromkeys(f for task in tasks for f in task.figures), *FIGURES])

    def _deployed(self) -> None:
        """Inside the run's folder, and no name that the run itself gives."""
        name, target = deployment(self.recipe["export"])
        form = TARGETS[target]
        taken = name in (*(stage for stage in STAGES if stage != "kept"), "lock")
        if Path(name).name != name or name == ".." or len(name) > 100 or Path(name).suffix not in form.endings or taken:
            told = f"; {shown(name)} is taken by the run itself" if taken else f"; you wrote {shown(name)}"
            alone = "" if form.brings else f", or of a file that ends in {form.suffix}"
            raise InputError(f"export: must be the name of a folder in that of the run, such as deploy{alone}{told}.")

    def _terms(self) -> None:
        """Each by itself, so that each tells what is wrong with it."""
        sound = self.recipe.get("terms") or ()
        given = self.problems.document.value["terms"] if sound else ()
        at = [i for i in range(len(given)) if ("terms", i) not in self.resolved.left_out]
        for i, raw in zip(at, sound, strict=True):
            self.problems.attempt(("terms", i), functools.partial(self._try_term, i, raw))

    def _try_term(self, i: int, raw: Mapping[str, Any]) -> None:
        student = None if self.student is None else self.student()
        if student is None or self.few is None:
            return
        (batch,) = self.few.source.in_order()
        try:
            check_takes(raw)
            made = term_of(raw)
            method = Distillation(made, student=student, teacher=self.teacher)
            check_term(made)
            (reading,) = method.dry_run(batch.to(device_of(student)))
            check_reading(reading, made.weight_at(START))
        except UnderstudyError as error:  # which takes it for the first and only one
            told = [f"terms[{i}] {line.removeprefix('terms[0] ')}" for line in str(error).split("\n")]
            raise type(error)("\n".join(told)) from error
