"""Tune: the values of a recipe with which its student is best, found by Optuna on the validation data.

Every trial is an attempt at the recipe with other values, of one student; see :mod:`understudy.search.attempts`. The first trial has the recipe's own
values. Of one objective, trials that are worse at half their way than the median are pruned; of several there is no such
order, and what comes out is the Pareto front. The test data is used once, at the end, for the best.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console

from understudy.callbacks import Callback
from understudy.errors import InputError, MissingExtra, choices, raise_all
from understudy.evaluate import COSTS, MISSED
from understudy.outcome import Distilled
from understudy.parallel import one_process
from understudy.recipe.examine import examine
from understudy.recipe.running import claim
from understudy.recipe.text import Document, Place
from understudy.recipe.tries import Budget, Change, brief, laid
from understudy.search.attempts import BEST, Attempts, OutOfTime, Tried, Until, priced
from understudy.search.pruning import Pruned, Watching
from understudy.search.ranges import Range, change_of, defaults, read_range
from understudy.search.tuned import PAGE, page
from understudy.state import compare
from understudy.tasks import Task
from understudy.writing import read_json, strict, write_json, write_text

__all__ = ["Tuned", "objectives_of", "tune"]

RESULTS, FACTS, JOURNAL = "results.json", "tune.json", "study.journal"
NAME = "understudy"
FIRST = 5  # trials before the sampler looks at what others came to, and before any is pruned
WARM = 30  # per cent of a training before it may be pruned
SEEDLESS = {"seeds": 1, "accept": None, "search": None}
"""Of a trial: one student, of which nothing is required."""


@dataclass(frozen=True)
class Tuned:
    """What :func:`tune` returns.

    Attributes:
        folder: where everything is.
        objectives: by name, and whether more is better.
        rows: a trial each: its values, what it came to by validation, and how it ended.
        best: the number of the best trial, or those of the Pareto front, the best by the first objective first.
        measured: their figures on the test data, which is used once, for these.
        measured_on: "test", or "valid" where there is no test data.
        importance: of each value for each objective; empty where too few trials were done.
        ended: why there are no more.
    """

    folder: Path
    objectives: Mapping[str, bool]
    rows: Sequence[Mapping[str, Any]]
    best: Sequence[int]
    measured: Sequence[Mapping[str, Any]]
    measured_on: str
    importance: Mapping[str, Mapping[str, float]]
    ended: str

    def results(self) -> dict[str, Any]:
        """As strict JSON can hold it."""
        told = {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "folder"}
        plain: dict[str, Any] = strict({**told, "objectives": dict(self.objectives)})
        return plain

    def show(self, console: Console) -> None:
        """Say what was best, and where everything is."""
        console.print(f"\n{self.ended}; {len(self.rows)} trials")
        for row in self.measured:
            figures = ", ".join(f"{name} {row[name]:.4g}" for name in self.objectives if row.get(name) is not None)
            console.print(f"trial {row['trial']} ({row['changed']}): {figures} on {self.measured_on}", soft_wrap=True)
        first = self.folder / BEST
        console.print(f"The page: {self.folder / PAGE}\nThe best: {first}; understudy run {first}", soft_wrap=True)


def tune(
    document: Document,
    out: Path,
    *,
    trials: int = 20,
    budget: Budget | None = None,
    over: Sequence[Range] = (),
    objectives: Sequence[str] = (),
    resume: bool = False,
    console: Console | None = None,
) -> Tuned:
    """Find the best values of a recipe.

    Args:
        document: the recipe.
        out: the folder.
        trials: how many, those that were pruned or have failed among them.
        budget: the time for all of them and the teacher; the trial that is under way then is stopped at the end of a step.
        over: what is tried; by default temperature, alpha and learning rate of the recipe's method.
        objectives: figures of the student; by default the task's metric.
        resume: go on with what is in the folder; ranges and objectives are as they were, where they are not given.
        console: where progress is shown.

    Raises: InputError for what cannot be tried, before anything is trained; MissingExtra without Optuna.
    """
    one_process("understudy tune")
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("understudy tune", "tune") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    console = console or Console(highlight=False)
    whole = examine(document, folder=out, resume=resume, progress=False, console=console)
    place = Place("tune", 0, Path())
    single = laid(document, whole.resolved.value, [Change((k,), v, place) for k, v in SEEDLESS.items()])
    examined = examine(single, folder=out, resume=resume, progress=False, console=console)
    if resume and (out / FACTS).exists():  # what is not said again is as it was
        before = read_json(out / FACTS)
        over = over or [read_range(line) for line in before["over"].split("\n")]
        objectives = objectives or before["objectives"].split(", ")
    wanted = objectives_of(examined.material.task, objectives)
    ranges = list(over) or defaults(whole.resolved.plain())
    attempts = Attempts(single, out, examined, console, alone=False)
    _check(attempts, ranges)
    for note in [*claim(out, whole, resume), *whole.notes]:
        console.print(note, soft_wrap=True)
    with examined.material.plan.locked():
        digests = {f"data {name!r}": data.digest for name, data in examined.material.data.items()}
        examined.material.plan.claim({"what": "tuning", **digests})
        _claim(out, ranges, wanted)
        tuning = _Tuning(attempts, ranges, wanted, trials, budget, console)
        made = tuning.run()
        for number in made.best:
            found = tuning.recipe(number, {"seeds": whole.resolved.value["seeds"]})
            write_text(out / (BEST if number == made.best[0] else f"best-{number:02}.yaml"), found)
        write_json(out / RESULTS, made.results())
        write_text(out / PAGE, page(made.results(), f"Tuning {document.top.source}"))
    made.show(console)
    return made


def objectives_of(task: Task, names: Sequence[str]) -> dict[str, bool]:
    """The figures by name, and whether more is better. Raises: InputError for what is none."""
    known = {name: better == "max" for name, better in task.figures.items()}
    known |= {"agreement": True, "divergence": False, "seconds": False, **dict.fromkeys((*COSTS, MISSED), False)}
    wrong = [f"--objective: there is no figure {name!r}. {choices(name, known)}" for name in names if name not in known]
    raise_all(InputError, wrong)
    return {name: known[name] for name in names or [task.metric]}


def _check(attempts: Attempts, ranges: Sequence[Range]) -> None:
    """Every end of every range by itself, before any training."""
    recipe, problems = attempts.examined.resolved.plain(), []
    doubled = {each.key for each in ranges if sum(other.where == each.where for other in ranges) > 1}
    problems += [f"--over: {key} is there twice. Remove one." for key in sorted(doubled)]
    named = [each for each in ranges if each.where == ("method", "name")]
    for each in ranges:
        for value in each.ends:
            chosen = [{("method", "name"): n} for n in (named[0].ends if named else ())] if each.of_method else []
            tried = [{**names, each.where: value} for names in chosen] or [{each.where: value}]
            found = [_refused(attempts, change_of(recipe, values, ranges)) for values in tried]
            if all(found) and found[0] is not None:
                problems.append(f"{each.place}: {brief(value)} cannot be tried: {found[0]}")
    raise_all(InputError, list(dict.fromkeys(problems)))


def _refused(attempts: Attempts, changes: list[Change]) -> str | None:
    try:
        attempts.check(changes)
    except InputError as error:
        return re.sub(r"^--over [^:]*(:[^ :]+)*: ", "", str(error).partition("\n")[0])
    return None


def _claim(out: Path, ranges: Sequence[Range], wanted: Mapping[str, bool]) -> None:
    """Note what is tuned; on a resume, see that it is the same."""
    facts = {"over": "\n".join(map(str, ranges)), "objectives": ", ".join(wanted)}
    if (out / FACTS).exists():
        compare(read_json(out / FACTS), facts, out)
    else:
        write_json(out / FACTS, facts)


class _Tuning:
    """The trials, one after another."""

    def __init__(
        self,
        attempts: Attempts,
        ranges: Sequence[Range],
        wanted: Mapping[str, bool],
        trials: int,
        budget: Budget | None,
        console: Console,
    ) -> None:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        self.optuna, self.attempts, self.ranges, self.wanted = optuna, attempts, ranges, wanted
        self.trials, self.console = trials, console
        self.seconds = None if budget is None else budget.seconds
        self.recipe_now = attempts.examined.resolved.plain()
        self.began, self.before = monotonic(), sum(t.seconds for t in attempts.known.values())
        self.rows: list[dict[str, Any]] = []
        backend = JournalFileBackend(str(attempts.out / JOURNAL))
        self.study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=NAME,
            directions=["maximize" if more else "minimize" for more in wanted.values()],
            pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST, n_warmup_steps=WARM),
            load_if_exists=True,
        )

    @property
    def _prunes(self) -> bool:
        """Only what is seen while a student learns can end it."""
        return list(self.wanted) == [self.attempts.material.task.metric]

    def run(self) -> Tuned:
        """Until there are so many, or the budget is used up."""
        stale = self._forget_broken_off()
        ended = f"all {self.trials} are done"
        try:
            self.attempts.train_teacher(*self._until)
            while len(self._finished) < self.trials:
                left = self._left
                if left is not None and left <= 0:
                    ended = f"the budget of {Budget(self.seconds)} is used up"
                    break
                stale = self._try(stale)
        except OutOfTime as error:
            raise InputError(
                f"--budget: {error} of the teacher's training. Nothing was tried yet; give more."
            ) from error
        return self._concluded(ended)

    # -- a trial -------------------------------------------------------------------------------------------------------

    @property
    def _states(self) -> Any:
        return self.optuna.trial.TrialState

    @property
    def _finished(self) -> list[Any]:
        """Trials that have come to something; those that a kill has broken off have not."""
        return [t for t in self.study.get_trials(deepcopy=False) if "attempt" in t.user_attrs and t.state.is_finished()]

    def _forget_broken_off(self) -> Any:
        """End trials that a kill has left running; what the last of them reported is reported again by the one that goes on with it."""
        running = self.study.get_trials(deepcopy=True, states=(self._states.RUNNING, self._states.WAITING))
        for trial in running:
            self.study.tell(trial.number, state=self._states.FAIL)
        return running[-1] if running else None

    @property
    def _left(self) -> float | None:
        if self.seconds is None:
            return None
        return self.seconds - self.before - (monotonic() - self.began)

    @property
    def _until(self) -> list[Callback]:
        left = self._left
        return [] if left is None else [Until(monotonic() + left)]

    def _try(self, stale: Any) -> Any:
        """One trial. Its place in the order is its seed, so that one which was broken off is drawn again as it was."""
        count = len(self._finished)
        seed = self.attempts.plan.seed + count
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=FIRST)
        if count == 0:
            self.study.enqueue_trial({r.key: v for r in self.ranges if (v := r.own(self.recipe_now)) is not None})
        trial = self.study.ask()
        changes = self._drawn(trial)
        known = dict(stale.intermediate_values) if stale is not None and stale.params == trial.params else {}
        watching = Watching(trial, self.attempts.material.task, known) if self._prunes else None
        number, left = self.attempts.number(changes), self._left
        before = self.attempts.known.get(Tried(number, {c.key: c.value for c in changes}).key)
        tried = self.attempts.attempt(
            changes,
            seconds=None if left is None else left + (before.seconds if before else 0.0),
            callbacks=[] if watching is None else [watching],
            costs=priced(list(self.wanted)),
            ends=(Pruned,),
        )
        self._tell(trial, tried, changes)
        return None

    def _drawn(self, trial: Any) -> list[Change]:
        values: dict[Any, Any] = {}
        for each in sorted(self.ranges, key=lambda r: r.where != ("method", "name")):  # by which others are or are not
            if each.fits(values):
                values[each.where] = each.drawn(trial)
        return change_of(self.recipe_now, values, self.ranges)

    def _tell(self, trial: Any, tried: Tried, changes: Sequence[Change]) -> None:
        figures = [value for name in self.wanted if (value := tried.figures.get(name)) is not None]
        trial.set_user_attr("attempt", tried.number)
        trial.set_user_attr("changes", [[list(c.where), c.value] for c in changes])
        if tried.state == "done" and len(figures) == len(self.wanted):
            self.study.tell(trial, figures)
        else:
            self.study.tell(trial, state=self._states.FAIL if tried.state == "failed" else self._states.PRUNED)
        row = self._row(self.study.get_trials(deepcopy=False)[trial.number])
        self.rows.append(row)
        self.console.print(
            f"trial {row['trial']}: {row['changed'] or 'as the recipe has it'}: {row['told']}", soft_wrap=True
        )

    # -- the end -------------------------------------------------------------------------------------------------------

    def _row(self, trial: Any) -> dict[str, Any]:
        tried = next(t for t in self.attempts.known.values() if t.number == trial.user_attrs["attempt"])
        figures = {name: tried.figures.get(name) for name in self.wanted}
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
        state = {"done": "done", "failed": "failed"}.get(tried.state, "pruned")
        told = f"{shown} on valid" if state == "done" else f"{state}: {tried.why}"
        changed = ", ".join(f"{key} {brief(value)}" for key, value in trial.params.items())
        return {
            "trial": tried.number,
            "changed": changed,
            "values": dict(trial.params),
            **figures,
            "state": state,
            "told": told,
            "seconds": tried.seconds,
        }

    def _changes(self, trial: Any) -> list[Change]:
        place = Place("tune", 0, Path())
        return [Change(tuple(where), value, place) for where, value in trial.user_attrs["changes"]]

    def _concluded(self, ended: str) -> Tuned:
        """The best, on the test data."""
        finished = self._finished
        if not any(t.state == self._states.COMPLETE for t in finished):
            why = finished[-1] if finished else None
            told = f" The last: {self._row(why)['told']}." if why else " Give more time, or more trials."
            raise InputError(f"tune: no trial has come to its end.{told}")
        front = self.study.best_trials if len(self.wanted) > 1 else [self.study.best_trial]
        front = list({t.user_attrs["attempt"]: t for t in front}.values())  # of equal values one
        front.sort(
            key=lambda t: t.values[0], reverse=next(iter(self.wanted.values()))
        )  # the best by the first objective is the first
        self.best = {t.user_attrs["attempt"]: t for t in front}
        measured, part = [], "valid"
        for number, trial in self.best.items():
            result = self._measured(trial)
            kept = next(row for row in result.rows if row["model"] == "kept")
            part, row = result.measured_on, self._row(trial)
            measured.append({"trial": number, "changed": row["changed"], **{n: kept.get(n) for n in self.wanted}})
        rows = [self._row(t) for t in finished]
        return Tuned(self.attempts.out, self.wanted, rows, [*self.best], measured, part, self._importance(), ended)

    def _measured(self, trial: Any) -> Distilled:
        changes = self._changes(trial)
        tried = next(t for t in self.attempts.known.values() if t.number == trial.user_attrs["attempt"])
        return self.attempts.concluded(tried, changes, [])

    def _importance(self) -> dict[str, dict[str, float]]:
        found = {}
        for i, (name, more) in enumerate(self.wanted.items()):

            def worse(trial: Any, i: int = i, sign: float = -1.0 if more else 1.0) -> float:
                return sign * float(trial.values[i])

            evaluator = self.optuna.importance.PedAnovaImportanceEvaluator()
            try:
                with warnings.catch_warnings():  # that less should be better, which the sign sees to
                    warnings.simplefilter("ignore")
                    found[name] = self.optuna.importance.get_param_importances(
                        self.study, evaluator=evaluator, target=worse
                    )
            except (ValueError, RuntimeError):  # of too few trials, or of equal ones
                continue
        return {name: {k: float(v) for k, v in told.items()} for name, told in found.items() if told}

    def recipe(self, number: int, others: Mapping[str, Any]) -> str:
        """Of a trial, with what others say of the recipe."""
        trial = self.best[number]
        place = Place("tune", 0, Path())
        changes = [*self._changes(trial), *(Change((k,), v, place) for k, v in others.items())]
        tried = next(t for t in self.attempts.known.values() if t.number == number)
        return self.attempts.recipe(tried, changes)
