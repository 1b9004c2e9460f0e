"""What a whole job was asked to do, checked."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from understudy import methods
from understudy.batch import Call, call
from understudy.compress import Step, check_steps, described
from understudy.errors import CorruptError, InputError, choices, raise_all
from understudy.folder import Lock
from understudy.inference import WAYS
from understudy.method import Method
from understudy.optimize import Optim
from understudy.start import TEACHER, Make
from understudy.state import compare
from understudy.tasks import Task
from understudy.writing import read_json, write_json

__all__ = ["Named", "Plan"]

FACTS = "job.json"
BEFORE = {"lock", "recipe.yaml", "environment.json"}  # what a folder may hold before its job

Named = str | Callable[[Any, Any], Method]
"""A method: its name in :mod:`understudy.methods`, or a function of (student, teacher) that makes it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of :func:`understudy.distill`, under the names that they have there."""

    student: Make
    teacher: Any
    train: Any
    valid: Any
    test: Any
    task: str | Task | None
    method: Named
    epochs: int
    seed: int
    seeds: int
    batch_size: int | None
    optimizer: Optim
    teacher_epochs: int
    teacher_data: Any
    teacher_weights: str | Path | None
    teacher_optimizer: Optim | None
    teacher_run: str
    store: str | Path | None
    draws: int | None
    precision: str
    compress: Sequence[Step]
    fine_tune: bool
    accept: Mapping[str, str] | None
    deadline_ms: float | None
    classes: Sequence[str] | None
    folder: str | Path | None
    resume: bool
    device: str | None
    workers: int
    progress: bool
    console: Any
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        raise_all(InputError, [*self._wrong_numbers(), *self._wrong_method(), *self._wrong_kinds()])

    def _wrong_numbers(self) -> list[str]:
        least = {"epochs": 1, "seed": 0, "seeds": 1, "batch_size": 1, "teacher_epochs": 0, "draws": 1}
        given = {name: getattr(self, name) for name in least}
        return [
            f"distill: {name}={value!r} must be a whole number, {least[name]} or above."
            for name, value in given.items()
            if not (name in ("batch_size", "draws") and value is None)
            and (isinstance(value, bool) or not isinstance(value, int) or value < least[name])
        ]

    def _wrong_method(self) -> list[str]:
        name: object = self.method
        if not isinstance(name, str):
            told = f"distill: method={name!r} is neither a name nor a function of (student, teacher)."
            return [] if callable(name) else [told]
        if name not in methods.__all__:
            return [f"distill: there is no method {name!r}. {choices(name, methods.__all__)}"]
        ours = ("student", "teacher", "options", "task", "label", "example")
        allowed = [n for n in inspect.signature(getattr(methods, name)).parameters if n not in ours]
        allowed += ["call", "compile", "watch"]
        arguments = [field.name for field in fields(self) if field.name != "options"]
        return [
            f"distill: it has no option {n!r}, and neither has the method {name!r}. "
            f"{choices(n, [*allowed, *arguments])}"
            for n in self.options
            if n not in allowed
        ]

    def _wrong_kinds(self) -> list[str]:
        problems = []
        folder, accept, classes = self._as_given("folder", "accept", "classes")
        for name, allowed in (("teacher_run", ["auto", *WAYS]), ("precision", ["auto", "fp32", "bf16", "fp16"])):
            if (given := getattr(self, name)) not in allowed:
                problems.append(f"distill: {name}={given!r}. {choices(given, allowed)}")
        problems += [
            f"distill: {name}={optimizer!r} is not an Optim, such as us.Optim('AdamW', lr=1e-3)."
            for name in ("optimizer", "teacher_optimizer")
            if not isinstance(optimizer := getattr(self, name), Optim)
            and not (name == "teacher_optimizer" and optimizer is None)
        ]
        if folder is not None and (not isinstance(folder, (str, Path)) or str(folder) in ("", ".")):
            problems.append(f"distill: folder={folder!r} is not the name of a folder of its own, such as 'runs/first'.")
        if isinstance(self.student, str) and self.student != TEACHER:
            problems.append(
                f"distill: student={self.student!r}. A student is a module, a function that makes one, or 'teacher'."
            )
        if isinstance(self.compress, str) or not isinstance(self._as_given("compress")[0], Sequence):
            problems.append(
                f"distill: compress={self.compress!r} is no list of names, or of pairs of a name and options."
            )
        else:
            problems += check_steps(self.compress)
        problems += [
            f"distill: {name} is None; give data such as (inputs, labels)."
            for name in ("train", "valid")
            if getattr(self, name) is None
        ]
        store: object = self.store
        if store is not None and (not isinstance(store, (str, Path)) or str(store) in ("", ".")):
            problems.append(
                f"distill: store={store!r} is not the name of a folder of its own, such as 'said'; nor is it 'auto', or None to ask in every step."
            )
        if accept is not None and not isinstance(accept, Mapping):
            problems.append(
                f"distill: accept={accept!r} is no mapping of figures to conditions, such as {{'accuracy': '>= 0.9'}}."
            )
        deadline = self._as_given("deadline_ms")[0]
        if deadline is not None and not (isinstance(deadline, (int, float)) and 0 < deadline < math.inf):
            problems.append(f"distill: deadline_ms={deadline!r} must be a number of milliseconds above 0.")
        if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
            problems.append(f"distill: classes={classes!r} is no list of names.")
        return problems

    def _as_given(self, *names: str) -> list[Any]:
        """Arguments of whatever type they have."""
        return [getattr(self, name) for name in names]

    @property
    def data(self) -> dict[str, Any]:
        """The data sets that there are."""
        names = ("train", "valid", "test", "teacher_data")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    @property
    def every_seed(self) -> range:
        """The seeds of the students."""
        return range(self.seed, self.seed + self.seeds)

    @property
    def path(self) -> Path | None:
        """The folder; None if nothing is to be kept."""
        return None if self.folder is None else Path(self.folder)

    @property
    def call(self) -> Call:
        """How a batch's inputs reach a model."""
        given: Call = self.options.get("call", call)
        return given

    def told(self, task: Task, batch_size: int) -> dict[str, str]:
        """The recipe in words, for the page."""
        method = self.method if isinstance(self.method, str) else getattr(self.method, "__name__", repr(self.method))
        options = {k: v for k, v in self.options.items() if k != "call"}
        facts = {"task": task.name, "method": method, **options, "epochs": self.epochs}
        facts |= {"seed": self.seed, "seeds": self.seeds, "batch size": batch_size}
        facts |= {"optimizer": self.optimizer, "fine-tuning": self.fine_tune}
        facts |= {"compressed": ", ".join(map(described, self.compress))} if self.compress else {}
        return {k: str(v) for k, v in facts.items()}

    def claim(self, facts: Mapping[str, str]) -> None:
        """Note what the folder's job is about; raise InputError if it has a job already, or another one on a resume."""
        if self.path is None:
            return
        file = self.path / FACTS
        if file.exists() and not self.resume:
            raise InputError(
                f"{self.folder}: already holds a job. Say resume=True to go on with it, or choose another folder."
            )
        if file.exists():
            compare(_read(file), facts, self.folder)
        else:
            write_json(file, facts)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while the job runs."""
        folder = self.path
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file. Choose another folder.")
        if folder is not None and folder.is_dir() and not (folder / FACTS).exists():
            foreign = sorted({file.name for file in folder.iterdir()} - BEFORE)
            if foreign:
                raise InputError(f"{folder}: holds {', '.join(foreign[:3])}, which no job made. Choose another folder.")
        lock = Lock(folder)
        lock.take()
        try:
            yield
        finally:
            lock.release()


def _read(file: Path) -> dict[str, str]:
    found = read_json(file)
    if not isinstance(found, dict):
        raise CorruptError(f"{file}: is damaged: it holds no mapping.")
    return {str(k): str(v) for k, v in found.items()}
