"""Attempts: a recipe with a few values changed, again and again, with one teacher that is trained once and asked once.

Each is a job in a folder of its own, judged on the validation data alone, and so can be stopped and gone on with::

    OUT/teacher/             the teacher's training; its weights in OUT/teacher.safetensors
    OUT/said/                what it says, by what it is asked about
    OUT/alone/               students alone, by what they depend on
    OUT/attempts/00/         an attempt's job; what came of it is in 00.json beside it, its assistant in 00-assistant/

The test data is touched once, at the end, for those that are handed on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from understudy import answers
from understudy.accept import Condition
from understudy.answers import Answers
from understudy.callbacks import Bar, Callback
from understudy.choices import FILE as CHOICES
from understudy.errors import CorruptError, InputError, NonFiniteError, UnderstudyError
from understudy.evaluate import COSTS, MISSED, STAGES
from understudy.job import Trying, perform, train_stage
from understudy.material import Material
from understudy.outcome import STUDENT, TEACHER, Distilled
from understudy.preflight import check_teacher, is_known
from understudy.progress import Progress
from understudy.recipe.examine import Examined, examine
from understudy.recipe.text import Document, Place
from understudy.recipe.tries import Change, laid
from understudy.state import digest, whole
from understudy.writing import make_folder, read_json, save_tensors, strict, write_json

__all__ = ["BEST", "Attempts", "OutOfTime", "Tried", "Until", "missing", "priced"]

BEST = "best.yaml"
"""The recipe of the attempt that is handed on, in full."""

OF_NO_WEIGHT = (
    "method",
    "terms",
    "teacher",
    "accept",
    "deadline_ms",
    "search",
    "report",
    "export",
    "fine_tune",
    "seeds",
    "precision",
)
"""Keys of a recipe that change nothing of a student that learns alone, but for one that begins as the teacher."""


class OutOfTime(UnderstudyError):
    """The budget is used up."""


class Until(Callback):
    """Ends a training at the end of a step, once it is this late by :func:`time.monotonic`."""

    def __init__(self, late: float) -> None:
        self.late = late

    def stepped(self, progress: Progress) -> None:
        """Look at the clock."""
        if time.monotonic() >= self.late:
            raise OutOfTime(f"the budget was used up after step {progress.step + 1} of {progress.steps}")


@dataclass(frozen=True)
class Tried:
    """What an attempt has come to.

    Attributes:
        number: that of its folder.
        changed: its values, by key as ``--set`` has it.
        state: "done"; "failed"; "stopped", where the budget or whoever watches has ended it; or "begun".
        figures: of the kept student, means over seeds, by validation.
        accepted: whether it meets every condition there; None without conditions.
        met: how many it meets.
        missing: a sentence for each of the others.
        seconds: that it took.
        why: it failed or was stopped.
    """

    number: int
    changed: Mapping[str, Any]
    state: str = "begun"
    figures: Mapping[str, float] = field(default_factory=dict)
    accepted: bool | None = None
    met: int = 0
    missing: Sequence[str] = field(default_factory=list)
    seconds: float = 0.0
    why: str = ""

    @property
    def key(self) -> str:
        """By which it is found again."""
        return _key(self.changed)


class Attempts:
    """The attempts in a folder.

    Args:
        document: the recipe.
        out: the folder.
        examined: the recipe as it is, found sound.
        console: where progress is shown.
        alone: whether attempts train the student alone too.
    """

    def __init__(
        self, document: Document, out: Path, examined: Examined, console: Console, *, alone: bool = True
    ) -> None:
        self.document, self.out, self.examined, self.console = document, out, examined, console
        self.material, self.plan, self.alone = examined.material, examined.material.plan, alone
        self.teacher = self.material.teacher
        self.known = {tried.key: tried for tried in self._records()}

    def _records(self) -> list[Tried]:
        found = []
        for file in sorted((self.out / "attempts").glob("*.json")):
            try:
                found.append(Tried(**read_json(file)))
            except TypeError as error:
                raise CorruptError(f"{file}: is damaged: it is not what a search writes.") from error
        return found

    # -- the teacher ---------------------------------------------------------------------------------------------------

    def train_teacher(self, *callbacks: Callback) -> None:
        """If the recipe trains it; and see that it has something to teach."""
        if "teacher" in self.material.stages:
            shown = [Bar("teacher", self.console)] if self.console.is_terminal else []
            folder, listening = self.out / "teacher" / "seed-0", [*shown, *callbacks]
            hard = self.material.alone(self.teacher)
            train_stage(self.material, "teacher", hard, 0, folder=folder, resume=True, callbacks=listening)
            save_tensors(self.out / TEACHER, whole(self.teacher))
        if isinstance(self.teacher, nn.Module):
            self.teacher.eval()
        check_teacher(self.material)

    def _taught(self, made: Document) -> Document:
        """A recipe in which the teacher is the one that was trained."""
        if "teacher" in self.material.stages:
            _teach_by(made, self.out / TEACHER)
        return made

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def folder(self, number: int) -> Path:
        """Of an attempt."""
        return self.out / "attempts" / f"{number:02}"

    def _assistants(self, number: int) -> Path:
        return self.out / "attempts" / f"{number:02}-assistant"

    def number(self, changes: Sequence[Change]) -> int:
        """Of an attempt with these changes: the one that it had before, or the next."""
        known = self.known.get(_key(_changed(changes)))
        return known.number if known else 1 + max((tried.number for tried in self.known.values()), default=-1)

    def check(self, changes: Sequence[Change]) -> Examined:
        """See that it can be done, before anything is trained. Raises: InputError, with the line of the change."""
        assistant = _assistant(changes)
        if assistant is not None:
            examine(self._document([_as_student(assistant)]), progress=False)
        made = self._document([c for c in changes if c is not assistant])
        if assistant is not None:
            made.set(("teacher", "model"), assistant.value, assistant.place)
        examined = examine(made, progress=False)
        self._check_same_data(examined.material, changes)
        return examined

    def _check_same_data(self, other: Material, changes: Sequence[Change]) -> None:
        """Validation data that changes compares nothing, and samples of the test data are not to be learnt from."""
        for part in ("valid", "test"):
            mine, theirs = (m.data[part].digest if part in m.data else None for m in (self.material, other))
            if mine != theirs:
                change = next((c for c in changes if c.where[0] == "data"), changes[0])
                raise InputError(
                    f"{change.place}: {change} has other {part} data than the recipe. Only train may differ."
                )

    def attempt(
        self,
        changes: Sequence[Change],
        *,
        seconds: float | None = None,
        callbacks: Sequence[Callback] = (),
        costs: bool = False,
        ends: tuple[type[BaseException], ...] = (),
    ) -> Tried:
        """Do it, or read what it came to when it was done before.

        Args:
            changes: of the recipe.
            seconds: that there are for it; it is stopped at the end of a step. None for as long as it takes.
            callbacks: of its trainings.
            costs: whether latency and memory are wanted among its figures.
            ends: exceptions by which callbacks stop it.
        """
        number, changed = self.number(changes), _changed(changes)
        before = self.known.get(_key(changed), Tried(number, changed))
        if before.state in ("done", "failed"):
            return before
        left = None if seconds is None else seconds - before.seconds
        if before.state == "stopped" and left is not None and left <= 0:
            return before
        self._note(dataclasses.replace(before, state="begun"))
        began = time.monotonic()
        stops: tuple[type[BaseException], ...] = (OutOfTime, *ends)
        until = [] if left is None else [Until(began + left)]
        try:
            result = self._perform(number, changes, Trying(costs=costs, callbacks=(*until, *callbacks)))
            told = self._told(result)
        except stops as stop:
            told = {"state": "stopped", "why": str(stop)}
        except (InputError, NonFiniteError) as error:
            told = {"state": "failed", "why": str(error).partition("\n")[0]}
        except BaseException:  # whoever goes on has that much less time
            taken = before.seconds + time.monotonic() - began
            self._note(dataclasses.replace(before, state="begun", seconds=taken))
            raise
        taken = before.seconds + time.monotonic() - began
        tried = Tried(**{"number": number, "changed": changed, **told, "seconds": taken})
        self._note(tried)
        return tried

    def _told(self, result: Distilled) -> dict[str, Any]:
        kept = next(row for row in result.rows if row["model"] == STAGES["kept"])
        figures = {
            k: v for k, v in kept.items() if isinstance(v, (int, float)) and not k.startswith(("valid_", "step"))
        }
        lacks = missing(self.material.conditions, result.rows)
        met = len(self.material.conditions) - len(lacks)
        told = {"figures": figures, "accepted": result.accepted, "met": met, "missing": lacks, "state": "done"}
        return dict(strict(told))

    def _note(self, tried: Tried) -> None:
        make_folder(self.folder(tried.number).parent)
        write_json(self.folder(tried.number).with_suffix(".json"), dataclasses.asdict(tried))
        self.known[tried.key] = tried

    def _perform(self, number: int, changes: Sequence[Change], trying: Trying) -> Distilled:
        return perform(*self.prepared(number, changes, trying))

    def prepared(self, number: int, changes: Sequence[Change], trying: Trying) -> tuple[Material, Trying]:
        """What an attempt is done with. An assistant is trained on the way."""
        assistant = _assistant(changes)
        place = self.folder(number)
        made = self.document_of(number, changes)
        if assistant is not None:
            self._assist(assistant, changes, self._assistants(number), trying)
        examined = self._examined(made, place)
        material = examined.material
        shared = {}
        if self.alone and "alone" in material.stages:
            shared["alone"] = self.out / "alone" / _alone(examined)
        else:
            material.stages.pop("alone", None)
        if assistant is None:
            self._share_answers(material)
        judge = self.teacher if assistant is not None else None
        return material, dataclasses.replace(trying, shared=shared, judge=judge)

    def document_of(self, number: int, changes: Sequence[Change]) -> Document:
        """The recipe of an attempt, whose teacher is trained."""
        assistant = _assistant(changes)
        made = self._taught(self._document([c for c in changes if c is not assistant]))
        if assistant is not None:
            made.set(("teacher", "model"), assistant.value, assistant.place)
            _teach_by(made, self._assistants(number) / STUDENT)
        first = self.folder(0) / CHOICES
        if number and first.exists() and made.value.get("precision", "auto") == "auto":
            # All in that of the first: what is chosen by time may be another one the next time.
            chosen = read_json(first).get("precision", {}).get("name", "fp32")
            made.set(("precision",), chosen, Place(str(first), 0, Path()))
        return made

    def _assist(self, assistant: Change, changes: Sequence[Change], place: Path, trying: Trying) -> None:
        """Train the assistant, as the student is, but once."""
        if (place / STUDENT).exists():
            return
        others = [c for c in changes if c is not assistant and c.where[0] not in ("student", "compress")]
        made = self._taught(self._document([*others, _as_student(assistant)]))
        made.value |= {"seeds": 1, "compress": None}
        material = self._examined(made, place).material
        material.stages.pop("alone", None)
        self._share_answers(material)
        perform(material, trying).keep(with_teacher=False)

    def _document(self, changes: Sequence[Change]) -> Document:
        made = laid(self.document, self.examined.resolved.value, changes)
        made.value.pop("search", None)
        return made

    def _examined(self, made: Document, place: Path) -> Examined:
        return examine(made, folder=place, resume=True, progress=self.console.is_terminal, console=self.console)

    def _share_answers(self, material: Material) -> None:
        """Let it read what the teacher says where other attempts do, if that can be told beforehand and there is room."""
        teacher, plan = material.teacher, material.plan
        if plan.store != "auto" or not is_known(teacher):
            return
        asked = Answers(material, teacher, material.method(material.student(), teacher))
        if not asked.addresses or asked.bytes(2) > answers.MOST:
            return
        facts = [digest(teacher), asked.data.digest, asked.draws, sorted(map(str, asked.addresses))]
        facts += [] if asked.fixed else [asked.seed]
        material.plan = dataclasses.replace(plan, store=self.out / "said" / _short(facts))

    # -- the end -------------------------------------------------------------------------------------------------------

    def concluded(self, tried: Tried, changes: Sequence[Change], rows: Sequence[Mapping[str, Any]]) -> Distilled:
        """An attempt that is handed on, measured on the test data, in the folder of all."""
        made = self._perform(tried.number, changes, Trying(last=True))
        return dataclasses.replace(
            made, path=self.out, runs=self.folder(tried.number), attempts=[dict(r) for r in rows]
        )

    def recipe(self, tried: Tried, changes: Sequence[Change]) -> str:
        """Of an attempt, in full."""
        made = self.document_of(tried.number, changes)
        return self._examined(made, self.folder(tried.number)).resolved.text()


def missing(conditions: Sequence[Condition], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the kept student lacks, a sentence for each condition that it does not meet."""
    by_name = {row["model"]: row for row in rows}
    kept, teacher, alone = (by_name.get(STAGES[s], {}) for s in ("kept", "teacher", "alone"))
    told = [c.lack(kept.get(c.name), teacher.get(c.name), alone.get(c.name)) for c in conditions]
    return [lack for lack in told if lack is not None]


def priced(names: Collection[str]) -> bool:
    """Whether any of these figures is one that takes a stopwatch or a scale."""
    return any(name in (*COSTS, MISSED) for name in names)


def _changed(changes: Sequence[Change]) -> dict[str, Any]:
    return {change.key: change.value for change in changes}


def _key(changed: Mapping[str, Any]) -> str:
    return json.dumps(changed, sort_keys=True)


def _assistant(changes: Sequence[Change]) -> Change | None:
    return next((c for c in changes if c.where == ("assistant",)), None)


def _as_student(assistant: Change) -> Change:
    return Change(("student",), assistant.value, assistant.place)


def _teach_by(made: Document, weights: Path) -> None:
    """Let a recipe's teacher be one that was trained."""
    for key in ("data", "optimizer"):
        made.value["teacher"].pop(key, None)
    place = Place(str(weights), 0, Path())
    made.set(("teacher", "epochs"), 0, place)
    made.set(("teacher", "weights"), str(weights.resolve()), place)


def _alone(examined: Examined) -> str:
    """What names a student that learns alone."""
    told = {k: v for k, v in examined.resolved.value.items() if k not in OF_NO_WEIGHT}
    return _short([told, examined.material.settings(examined.material.stages["alone"], 0).identity()])


def _short(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
