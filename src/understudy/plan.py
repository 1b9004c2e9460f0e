"""What a whole job was asked to do, checked."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy import methods
from understudy.batch import Call, call
from understudy.checkpoint import write_text
from understudy.errors import CorruptError, InputError, choices, raise_all
from understudy.folder import Lock
from understudy.method import Method
from understudy.optimize import Optim
from understudy.settings import Settings
from understudy.state import compare
from understudy.tasks import Task

__all__ = ["Named", "Plan"]

FACTS = "job.json"

Named = str | Callable[[Any, Any], Method]
"""A method: its name in :mod:`understudy.methods`, or a function of (student, teacher) that makes it."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked for; see :func:`distill`."""

    method: Named
    epochs: int
    seeds: int
    batch_size: int | None
    optimizer: Optim
    teacher_epochs: int
    fine_tune: bool
    folder: Path | None
    resume: bool
    device: str | None
    workers: int
    progress: bool
    console: Any
    options: Mapping[str, Any]
    known: Collection[str]  # the names of distill's own arguments, to say what was meant by a wrong one

    def __post_init__(self) -> None:
        problems = []
        for name, least in (("epochs", 1), ("seeds", 1), ("teacher_epochs", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                problems.append(f"distill: {name}={value!r} must be a whole number, {least} or above.")
        given_method: object = self.method
        if isinstance(self.method, str):
            problems += self._method_problems(self.method)
        elif not callable(given_method):
            problems.append(f"distill: method={self.method!r} is neither a name nor a function of (student, teacher).")
        size: object = self.batch_size
        optimizer: object = self.optimizer
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            problems.append(f"distill: batch_size={size!r} must be a whole number, 1 or above.")
        if not isinstance(optimizer, Optim):
            problems.append(
                f"distill: optimizer={self.optimizer!r} is not an Optim, such as us.Optim('AdamW', lr=1e-3)."
            )
        raise_all(InputError, problems)

    def _method_problems(self, name: str) -> list[str]:
        if name not in methods.__all__:
            return [f"distill: there is no method {name!r}. {choices(name, methods.__all__)}"]
        ours = ("student", "teacher", "options", "task", "label")
        allowed = [n for n in inspect.signature(getattr(methods, name)).parameters if n not in ours]
        allowed += ["call", "compile", "watch"]
        return [
            f"distill: it has no option {n!r}, and neither has the method {name!r}. "
            f"{choices(n, [*allowed, *self.known])}"
            for n in self.options
            if n not in allowed
        ]

    @property
    def call(self) -> Call:
        """How a batch's inputs reach a model."""
        given: Call = self.options.get("call", call)
        return given

    def told(self, task: Task, batch_size: int) -> dict[str, str]:
        """The recipe in words, for the page."""
        method = self.method if isinstance(self.method, str) else getattr(self.method, "__name__", repr(self.method))
        options = {k: v for k, v in self.options.items() if k != "call"}
        facts = {"task": task.name, "method": method, **options, "epochs": self.epochs, "seeds": self.seeds}
        facts |= {"batch size": batch_size, "optimizer": self.optimizer, "fine-tuning": self.fine_tune}
        return {k: str(v) for k, v in facts.items()}

    def settings(
        self, steps: int, batch_size: int, every: int, seed: int, task: Task, lr: float, drop_last: bool
    ) -> Settings:
        """Those of one stage, at a share ``lr`` of the learning rate."""
        return Settings(
            steps=steps,
            batch_size=batch_size,
            optimizer=self.optimizer.at(lr),
            seed=seed,
            validate_every=every,
            best=task.metric,
            best_is="max" if task.best_is == "max" else "min",
            drop_last=drop_last,
            device=self.device,
            workers=self.workers,
        )

    def claim(self, facts: Mapping[str, str]) -> None:
        """Note what the folder's job is about; raise InputError if it has a job already, or another one on a resume."""
        if self.folder is None:
            return
        file = self.folder / FACTS
        if file.exists() and not self.resume:
            raise InputError(
                f"{self.folder}: already holds a job. Say resume=True to go on with it, or choose another folder."
            )
        if file.exists():
            compare(_read(file), facts, self.folder)
        else:
            write_text(file, json.dumps(dict(facts), indent=1))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder while the job runs."""
        folder = self.folder
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: is a file. Choose another folder.")
        if folder is not None and folder.is_dir() and not (folder / FACTS).exists():
            foreign = sorted({file.name for file in folder.iterdir()} - {"lock"})
            if foreign:
                raise InputError(f"{folder}: holds {', '.join(foreign[:3])}, which no job made. Choose another folder.")
        lock = Lock(folder)
        lock.take()
        try:
            yield
        finally:
            lock.release()


def _read(file: Path) -> dict[str, str]:
    try:
        return {str(k): str(v) for k, v in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise CorruptError(f"{file}: is damaged: {error}") from error
