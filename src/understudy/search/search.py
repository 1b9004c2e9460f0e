"""Decide: try other values of a recipe until its student is accepted, or until the budget is used up.

The recipe as it is comes first. Then one kind of value after another, in order of cost, each laid over the best attempt so far.
All are judged on the validation data. The best is measured once on the test data, and handed on, accepted or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from understudy.accept import parse
from understudy.errors import InputError
from understudy.outcome import Distilled
from understudy.parallel import one_process
from understudy.recipe.examine import examine
from understudy.recipe.problems import Problems
from understudy.recipe.running import FREE, Ran, claim, fetched, handed_on, tried, wished
from understudy.recipe.running import run as run_recipe
from understudy.recipe.text import Document
from understudy.recipe.tries import Change, Tries, brief
from understudy.search.attempts import BEST, Attempts, Tried, missing, priced
from understudy.writing import write_text

__all__ = ["run", "search"]

FREE_HERE = [key for key in FREE if key not in ("accept", "deadline_ms")]  # by which attempts were judged

AS_IT_IS = "the recipe as it is"
REMEDY = "Other values can be tried until it is: give the recipe `search: 10m`, or --set search=10m and another --out."


def run(document: Document, out: Path, *, resume: bool = False, console: Console | None = None) -> Ran:
    """A recipe's run, with a search if it has one. What is missing is said where the student is not accepted.

    Raises: what :func:`understudy.recipe.running.run` raises.
    """
    console = console or Console(highlight=False)
    wants = document.value.get("search") is not None
    ran = (search if wants else run_recipe)(document, out, resume=resume, console=console)
    if ran.result.accepted is False:
        console.print()
        for lack in missing(parse(document.value.get("accept")), ran.result.rows):
            console.print(f"Missing: {lack}.", soft_wrap=True)
        if not wants:
            console.print(REMEDY, soft_wrap=True)
    return ran


def search(document: Document, out: Path, *, resume: bool = False, console: Console | None = None) -> Ran:
    """Try what a recipe's ``search`` says, and hand on the best.

    Raises: InputError for what cannot be tried, before anything is trained; what :func:`understudy.distill` raises.
    """
    one_process("understudy run")
    console = console or Console(highlight=False)
    examined = examine(document, folder=out, resume=resume, progress=False, console=console)
    tries = Tries(document, examined.resolved)
    attempts = Attempts(document, out, examined, console)
    _check(document, tries, attempts)
    wishes, lacking = wished(document, examined)
    fetched(wishes)
    tried(document, examined, wishes)
    for note in [*lacking, *claim(out, examined, resume, FREE_HERE), *examined.notes, *tries.passed_over]:
        console.print(note, soft_wrap=True)
    with examined.material.plan.locked():
        digests = {f"data {name!r}": data.digest for name, data in examined.material.data.items()}
        examined.material.plan.claim({"what": "a search", **digests})
        result = _Search(tries, attempts, console).run()
        result.keep(with_teacher=True)
    return handed_on(result, out, wishes, examined, console)


def _check(document: Document, tries: Tries, attempts: Attempts) -> None:
    """Every value by itself, before any training."""
    problems = Problems(document)
    for kind in tries.kinds:
        for change in tries.changes(kind, tries.recipe):
            try:
                attempts.check([change])
            except InputError as error:
                told = str(error).partition("\n")[0].removeprefix(f"{change.place}: ")
                problems.add(("search", kind), f"search.{kind}: {brief(change.value)} cannot be tried: {told}")
    problems.tell()


class _Search:
    """The attempts of a search, one after another."""

    def __init__(self, tries: Tries, attempts: Attempts, console: Console) -> None:
        self.tries, self.attempts, self.console = tries, attempts, console
        self.task, self.conditions = attempts.material.task, attempts.material.conditions
        self.costs = priced([c.name for c in self.conditions])
        self.made: list[tuple[Tried, list[Change]]] = []
        self.rows: list[dict[str, Any]] = []

    def run(self) -> Distilled:
        """Until it is accepted or the budget is used up."""
        self.attempts.train_teacher()
        first = self.attempts.attempt([], costs=self.costs)
        self._note(first, [])
        if first.state == "failed":
            raise InputError(f"the recipe as it is: {first.why}")
        steps = self._steps()
        ended = next((why for why in steps if why is not None), "everything was tried")
        tried, changes = self._best
        self.console.print(f"{ended}: the best of {_count(self.rows)} is attempt {tried.number}", soft_wrap=True)
        return self._handed_on(tried, changes, ended)

    def _steps(self) -> Iterator[str | None]:
        """Make attempt after attempt; what ends them, at the end."""
        for kind in self.tries.kinds:
            base = self._best[1]
            now = self.attempts.check(base).resolved.plain() if base else self.tries.recipe
            for change in self.tries.changes(kind, now):
                if self._best[0].accepted:
                    yield "accepted on the validation data"
                if not self.tries.budget.left(self._spent, len(self.rows) - 1):
                    yield f"the budget of {self.tries.budget} is used up"
                self._try([*(c for c in base if c.where != change.where), change])
                yield None
        if self._best[0].accepted:
            yield "accepted on the validation data"

    def _try(self, changes: list[Change]) -> None:
        seconds = self.tries.budget.seconds
        left = None if seconds is None else seconds - self._spent
        self._note(self.attempts.attempt(changes, seconds=left, costs=self.costs), changes)

    def _note(self, tried: Tried, changes: list[Change]) -> None:
        self.made.append((tried, changes))
        changed = ", ".join(map(self.tries.told, changes)) or AS_IT_IS
        told = _told(tried, self.task.metric)
        self.rows.append({**dataclasses.asdict(tried), "attempt": tried.number, "changed": changed, "told": told})
        self.rows[-1]["values"] = dict(tried.changed)
        self.console.print(f"attempt {tried.number}: {changed}: {told}", soft_wrap=True)

    @property
    def _spent(self) -> float:
        """Seconds of the attempts after the first."""
        return sum(tried.seconds for tried, _ in self.made[1:])

    @property
    def _best(self) -> tuple[Tried, list[Change]]:
        """By how many conditions it meets, then by the task's metric; the first of equals."""
        return max(self.made, key=lambda made: self._rank(made[0]))

    def _rank(self, tried: Tried) -> tuple[bool, int, float]:
        figure = tried.figures.get(self.task.metric)
        return (figure is not None, tried.met, float("-inf") if figure is None else self.task.sign * figure)

    def _handed_on(self, tried: Tried, changes: Sequence[Change], ended: str) -> Distilled:
        """The best, measured on the test data, with what was tried."""
        result = self.attempts.concluded(tried, changes, self.rows)
        write_text(self.attempts.out / BEST, self.attempts.recipe(tried, changes))
        others = f" {_count(self.rows)} by its figures on the validation data, which are therefore a little too good"
        chosen = f"Attempt {tried.number} ({self.rows[self.made.index((tried, list(changes)))]['changed']}) was chosen among{others}; {ended}."
        once = f"The {result.measured_on} data was used once, for this attempt." if result.measured_on == "test" else ""
        return dataclasses.replace(result, verdict=[*result.verdict, " ".join(filter(None, [chosen, once]))])


def _count(rows: Sequence[Any]) -> str:
    return f"{len(rows)} attempt{'' if len(rows) == 1 else 's'}"


def _told(tried: Tried, metric: str) -> str:
    """An attempt in a line."""
    if tried.state != "done":
        return f"{tried.state}: {tried.why}"
    figure = tried.figures.get(metric)
    shown = f"{metric} {'not a number' if figure is None else format(figure, '.3f')} on valid"
    return f"{shown}; {'accepted' if tried.accepted else 'missing: ' + '; '.join(tried.missing)}"
