"""The figures of every model of a job, measured once, at the end; and what they say."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from understudy.accept import Condition
from understudy.batch import Call
from understudy.engine import Result
from understudy.errors import UnderstudyError
from understudy.examples import Examples, device_of, outputs
from understudy.export import to_onnx
from understudy.measure import Paired, gap_closed, interval, latency, paired, parameters, peak_memory, size_mb
from understudy.modes import evaluating
from understudy.tasks import Task
from understudy.views import View

__all__ = [
    "FIGURES",
    "MISSED",
    "STAGES",
    "Evidence",
    "Trial",
    "best_trial",
    "costs",
    "decide",
    "quality",
    "rows",
    "verdict",
]

STAGES = {
    "teacher": "teacher",
    "alone": "student alone",
    "distilled": "distilled",
    "fine-tuned": "+ fine-tuned",
    "kept": "kept",
}
FORM = "distilled, "
"""What the table has before a form's name."""

NOTHING, MUCH = 0.1, 0.8
"""Who has no more than the first share of what the teacher has above the best constant answer has learnt next to nothing; who has
less than the second of what the student alone has, much less than that."""

COSTS = ("parameters", "size_mb", "latency_ms_p50", "latency_ms_p99", "peak_memory_mb")
MISSED = "missed_share"
"""Of inferences that take longer than ``deadline_ms``; told where that is given."""
FIGURES = ("divergence", "agreement", "gap_closed", "seconds", *COSTS, MISSED)
"""Figures of every task, beside its own."""

Figures = dict[str, dict[str, list[float]]]
"""By stage and figure: a value for each seed."""


@dataclass
class Trial:
    """The students of one seed, by stage, and what their training came to. ``chosen`` is the better by validation.

    ``forms`` are other forms of the distilled student, by name; see :mod:`understudy.forms`.
    """

    seed: int
    students: dict[str, nn.Module] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    chosen: str = "distilled"
    forms: dict[str, nn.Module] = field(default_factory=dict)

    def add(self, stage: str, student: nn.Module, result: Result, forms: Mapping[str, nn.Module] | None = None) -> None:
        """A stage that is done, with other forms of its student if it has any."""
        self.students[stage], self.results[stage] = student.eval(), result
        self.forms |= {name: form.eval() for name, form in (forms or {}).items()}

    def keep(self, task: Task) -> None:
        """Keep the distilled or the fine-tuned student; the distilled one if they are equal."""
        if "fine-tuned" in self.results and task.better(self.valid("fine-tuned", task), self.valid("distilled", task)):
            self.chosen = "fine-tuned"
        self.students["kept"] = self.students[self.chosen]

    def valid(self, stage: str, task: Task) -> float:
        """A stage's figure on the validation data, at its best weights."""
        best = self.results[stage].best
        return float(best["valid"][task.metric]) if best else math.nan


@dataclass(frozen=True)
class Evidence:
    """What is measured: the models, and the data that was not trained on.

    Attributes:
        task: what the labels mean.
        data: the test data, or the validation data where there is none.
        teacher: in eval mode, if it has one.
        trials: the students.
        seconds: of each stage, a value for each seed.
        give: how a batch's inputs reach a model.
        views: which layers of teacher and student the method compares.
    """

    task: Task
    data: Examples
    teacher: Any
    trials: Sequence[Trial]
    seconds: Mapping[str, Sequence[float]]
    give: Call
    views: Sequence[View] = ()

    @property
    def stages(self) -> list[str]:
        """Those that there are, in order."""
        return ["teacher", *(s for s in STAGES if s in self.trials[0].students)]

    @property
    def forms(self) -> list[str]:
        """Other forms of the distilled student, as the table calls them."""
        return [FORM + name for name in self.trials[0].forms]

    @property
    def measured(self) -> list[str]:
        """All that has a row in the table: the stages, and the forms behind theirs."""
        return [each for stage in self.stages for each in (stage, *(self.forms if stage == "distilled" else ()))]

    def model(self, stage: str, at: int = 0) -> Any:
        """The model of a stage or a form, of the trial at this place."""
        if stage == "teacher":
            return self.teacher
        trial = self.trials[at]
        return trial.students[stage] if stage in trial.students else trial.forms[stage.removeprefix(FORM)]


def quality(evidence: Evidence) -> Figures:
    """The task's figures of every model, and how far each is from the teacher. The one time that the test data is used."""
    taught = outputs(evidence.teacher, evidence.data, give=evidence.give)
    told: Figures = {}
    for stage in evidence.measured:
        for at in range(len(evidence.trials)):
            # The teacher is one model: it is the same for every seed.
            of_teacher = stage == "teacher"
            made = taught if of_teacher else outputs(evidence.model(stage, at), evidence.data, give=evidence.give)
            for name, value in _figures(evidence, made, taught, stage).items():
                told.setdefault(stage, {}).setdefault(name, []).append(value)
    return told


def _figures(evidence: Evidence, made: Tensor, taught: Tensor, stage: str) -> dict[str, float]:
    labels = evidence.data.labels
    assert labels is not None  # checked before training
    figures = evidence.task.metrics(made, labels)
    if stage != "teacher":
        figures["divergence"] = float(evidence.task.divergence(made, taught).double().mean())
        figures["agreement"] = float(evidence.task.agreement(made, taught).double().mean())
    return figures


def costs(evidence: Evidence, deadline_ms: float | None = None) -> dict[str, dict[str, float | None]]:
    """Size, latency and memory of the teacher and of the student, whose stages are all alike in this; of forms the size."""
    one = evidence.data.few(1)
    forms = {name: evidence.model(name) for name in evidence.forms}
    sizes: dict[str, dict[str, float | None]] = {
        name: {"parameters": parameters(form), "size_mb": size_mb(form)} for name, form in forms.items()
    }
    timed = {name: _costs(evidence.model(name), one, evidence.give, deadline_ms) for name in ("teacher", "kept")}
    return timed | sizes


def _costs(model: Any, one: Examples, give: Call, deadline_ms: float | None) -> dict[str, float | None]:
    (batch,) = one.source.in_order()
    inputs = batch.to(device_of(model)).inputs
    # A teacher that came in training mode would be timed in it, and its BatchNorm would follow the one sample.
    with evaluating(model) if isinstance(model, nn.Module) else contextlib.nullcontext():
        timed = latency(lambda: give(model, inputs), deadline_ms=deadline_ms)
    told: dict[str, float | None] = {k: v for k, v in timed.items() if k.startswith("latency") or k == MISSED}
    if isinstance(model, nn.Module):
        told |= {"parameters": parameters(model), "size_mb": size_mb(model), "peak_memory_mb": _memory(model, one)}
    return told


def _memory(model: nn.Module, one: Examples) -> float | None:
    """Of a fresh process that runs the exported model; None where it cannot be exported or nothing can run it here."""
    inputs = one.inputs()
    if inputs is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            to_onnx(model, inputs, Path(folder) / "model.onnx")
            return peak_memory(Path(folder) / "model.onnx", inputs)["peak_memory_mb"]
        except UnderstudyError:
            return None


def rows(evidence: Evidence, told: Figures, cost: Mapping[str, Mapping[str, float | None]]) -> list[dict[str, Any]]:
    """The table: a row for each stage and form, with the mean over seeds and, as ``*_ci95``, half the width of its interval."""
    table = []
    for stage in evidence.measured:
        row: dict[str, Any] = {"model": STAGES.get(stage, stage)}
        for name, values in told[stage].items():
            mean = interval(values[:1] if stage == "teacher" else values)
            row |= {name: _none(mean.mean), f"{name}_ci95": mean.half}
        if stage not in ("teacher", "alone") and "alone" in told:
            row["gap_closed"] = _share(evidence.task, told, stage)
        row |= cost[stage if stage in cost else "kept"]
        row |= {} if stage in evidence.forms else _training(evidence, stage)  # trained along with the student
        table.append(row)
    return table


def _none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _share(task: Task, told: Figures, stage: str) -> float | None:
    teacher, alone, student = ([task.sign * v for v in told[s][task.metric]] for s in ("teacher", "alone", stage))
    return gap_closed(teacher, alone, student)


def _training(evidence: Evidence, stage: str) -> dict[str, Any]:
    """Steps, seconds, and the validated figure at the best and at the last weights."""
    seconds = (
        [_seconds(trial, stage) for trial in evidence.trials] if stage != "teacher" else evidence.seconds.get(stage)
    )
    told: dict[str, Any] = {"seconds": sum(seconds) / len(seconds) if seconds else None}
    results = [t.results[stage] for t in evidence.trials if stage in t.results]
    if not results:
        return told
    metric = evidence.task.metric
    for which in ("best", "last"):
        records = [r for r in (getattr(result, which) for result in results) if r]
        told[f"valid_{metric}_{which}"] = sum(r["valid"][metric] for r in records) / len(records) if records else None
        told[f"step_{which}"] = sum(r["step"] for r in records) / len(records) if records else None
    return told | {"steps": results[0].steps}


def _seconds(trial: Trial, stage: str) -> float:
    """Of training, over all processes that took part: for the kept student, of all that went into it."""
    stages = [stage] if stage != "kept" else dict.fromkeys(("distilled", trial.chosen))
    return sum(trial.results[s].seconds for s in stages)


def verdict(evidence: Evidence, told: Figures) -> list[str]:
    """What the table says, in words: only what the intervals bear out."""
    task, labels = evidence.task, evidence.data.labels
    assert labels is not None  # checked before training
    lines = _warned(task, told, task.chance(labels))
    if "alone" in told:
        lines.append(_compare(task, "Distillation", "the student alone", told["distilled"], told["alone"]))
        if _share(task, told, "kept") is None:
            lines.append(_no_gap(task, told))
    lines += [
        _compare(task, f'The form "{form.removeprefix(FORM)}"', "the distilled student", told[form], told["distilled"])
        for form in evidence.forms
    ]
    if "fine-tuned" in told:
        lines.append(
            _compare(task, "Fine-tuning on the hard labels", "distillation", told["fine-tuned"], told["distilled"])
        )
    chosen = [t.chosen for t in evidence.trials]
    kinds = {kind: chosen.count(kind) for kind in ("distilled", "fine-tuned") if kind in evidence.stages}
    lines.append("Kept by validation: " + ", ".join(f"{kind} {n} of {len(chosen)}" for kind, n in kinds.items()) + ".")
    lines += _unfinished(evidence)
    best = best_trial(task, evidence.trials)
    figure = told["kept"][task.metric][best]
    lines.append(
        f"Handed on: the kept student of seed {evidence.trials[best].seed}, the best by validation ({evidence.data.name} {task.metric} {figure:.3f})."
    )
    return lines


def _warned(task: Task, told: Figures, chance: float) -> list[str]:
    """A warning, if what is handed on has learnt next to nothing, or much less than it would have without a teacher.

    Args:
        chance: the figure of the best answer that is the same for every sample.
    """

    def learnt(stage: str) -> float:
        """How far the mean is above that answer."""
        return task.sign * (interval(told[stage][task.metric]).mean - chance)

    kept, least = interval(told["kept"][task.metric]).mean, f"the best constant answer ({chance:.3f})"
    if learnt("kept") <= NOTHING * learnt("teacher"):
        return [
            f"Warning: the student ({task.metric} {kept:.3f}) is hardly better than {least}; it has learnt next to nothing. "
            f"{_remedy(learnt('alone') > NOTHING * learnt('teacher') if 'alone' in told else None)}"
        ]
    if "alone" in told and learnt("kept") < MUCH * learnt("alone") and _hurt(task, told["kept"], told["alone"]):
        lost = 1 - learnt("kept") / learnt("alone")
        return [f"Warning: the student has lost {lost:.0%} of what it learns alone, above {least}. {_remedy(True)}"]
    return []


def _remedy(alone: bool | None) -> str:
    """What to try, by whether the student alone learns more; None if that is not known."""
    if not alone:
        also = "" if alone is None else "So is the student alone. "
        return f"{also}See whether learning rate, epochs, weights and data are right."
    return "Alone it learns more, so give the teacher's terms less weight: `understudy compare RECIPE --methods all --tune` finds one."


def _hurt(task: Task, these: Mapping[str, Sequence[float]], those: Mapping[str, Sequence[float]]) -> bool:
    """Whether the difference is beyond chance; of one seed that cannot be told, and it counts."""
    test = _paired(task, these, those)
    return test.p_value is None or test.better is False


def _unfinished(evidence: Evidence) -> list[str]:
    """A hint, if the distilled students were still getting better when they stopped."""
    results = [t.results["distilled"] for t in evidence.trials]
    last = [r for r in results if r.best and r.best["step"] > 0.95 * r.steps]
    if len(last) < len(results):
        return []
    return ["Every distilled student was best at its last validations: more epochs may do better."]


def _no_gap(task: Task, told: Figures) -> str:
    teacher, alone = interval(told["teacher"][task.metric][:1]), interval(told["alone"][task.metric])
    if not task.better(teacher.mean, alone.mean):
        return "The teacher is not better than the student alone: there is no gap to close."
    seeds = len(alone.values)
    return (
        f"Whether the teacher ({task.metric} {teacher}) is better than the student alone ({alone}) cannot be told from "
        f"{seeds} seed{'s' if seeds > 1 else ''}, so that there is no share of a gap either. More seeds would tell."
    )


def best_trial(task: Task, trials: Sequence[Trial]) -> int:
    """The place of the trial whose kept student is best by validation."""
    best = 0
    for i, trial in enumerate(trials):
        if task.better(trial.valid(trial.chosen, task), trials[best].valid(trials[best].chosen, task)):
            best = i
    return best


def _compare(
    task: Task, what: str, than: str, these: Mapping[str, Sequence[float]], those: Mapping[str, Sequence[float]]
) -> str:
    test = _paired(task, these, those)
    change = f"{task.sign * test.difference.mean:+.3f}"
    seeds = len(these[task.metric])
    if test.difference.half is None or test.p_value is None:
        return f"{what} changed {task.metric} by {change} against {than} (one seed: no interval)."
    if test.difference.half == 0:
        return f"{what} changed {task.metric} by {change} against {than}, the same in all {seeds} seeds."
    spread = f"{task.metric} {change} ± {test.difference.half:.3f}, paired over {seeds} seeds, p = {test.p_value:.2g}"
    words = {True: "helped against", False: "hurt against", None: "made no clear difference to"}[test.better]
    return f"{what} {words} {than} ({spread})."


def _paired(task: Task, these: Mapping[str, Sequence[float]], those: Mapping[str, Sequence[float]]) -> Paired:
    """The paired test of the metric, in which more is better."""
    return paired(*([task.sign * v for v in figures[task.metric]] for figures in (these, those)))


def decide(conditions: Sequence[Condition], table: Sequence[Mapping[str, Any]]) -> tuple[bool | None, list[str]]:
    """Whether the kept student meets every condition, and a sentence for each; None without conditions."""
    by_name = {row["model"]: row for row in table}
    kept, teacher, alone = (by_name.get(STAGES[s], {}) for s in ("kept", "teacher", "alone"))
    told = [c.check(kept.get(c.name), teacher.get(c.name), alone.get(c.name)) for c in conditions]
    return (all(met for met, _ in told) if told else None), [reason for _, reason in told]
