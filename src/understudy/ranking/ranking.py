"""What a comparison of methods has found: every figure against the student alone's, in words and in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Console
from torch import Tensor

from understudy.measure import Paired, holm, interval, paired
from understudy.report import Column, render
from understudy.tasks import Task
from understudy.writing import strict

__all__ = ["ALONE", "Entrant", "Ranking", "near_boundary"]

ALONE = "student alone"
TEACHER = "teacher"
VERDICTS = {True: "helped", False: "hurt", None: "no clear difference"}
SHORT = {"no clear difference": "unclear"}  # where the screen has 80 columns
LEVEL = 0.05

NEAREST = 0.1
"""Share of the samples, those of which the teacher is least certain, that count as near to its boundary."""


def near_boundary(task: Task, taught: Tensor) -> Tensor | None:
    """The ids of the tenth of the samples at which the teacher is nearest to another answer; None where nothing has a boundary."""
    margin = task.margin(taught)
    return None if margin is None else margin.argsort(stable=True)[: math.ceil(NEAREST * len(margin))]


@dataclass
class Entrant:
    """A method, or the student alone, and what its students came to: lists have a value for each seed.

    Attributes:
        factor: on its distillation weight, where that was tuned.
        outputs: of its students for the samples that all are measured on.
        step_ms: the median step of each training.
        memory_mb: of a step, as the rehearsal estimates it.
    """

    name: str
    factor: float | None = None
    outputs: list[Tensor] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)
    memory_mb: float | None = None


@dataclass(frozen=True)
class Ranking:
    """A comparison that is done.

    Attributes:
        rows: the teacher, then everything else with the best first; units in the keys, ``*_ci95`` is half the width of
            the 95 % t-interval over seeds, ``difference`` is to the student alone, paired over seeds.
        left_out: methods that are not in the table, each with ``method``, ``why`` ("skipped" or "failed") and ``reason``.
        told: what the table says, in sentences.
        protocol: what all had alike, in words.
        metric: the task's figure, by which it is sorted.
        measured_on: "test", or "valid" where there was no test data.
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    told: list[str]
    protocol: dict[str, str]
    metric: str
    measured_on: str

    @classmethod
    def of(
        cls,
        task: Task,
        taught: Tensor,
        labels: Tensor,
        alone: Entrant,
        methods: Sequence[Entrant],
        left_out: Sequence[Mapping[str, str]],
        protocol: Mapping[str, str],
        measured_on: str,
    ) -> Ranking:
        """Measure every student on the same samples, of which these are the teacher's outputs and the labels."""
        judge = _Judge(task, taught, labels, alone)
        rows = [judge.row(entrant) for entrant in methods]
        for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
            row["p_holm"] = p
        told = _sentences(task, judge, rows, len(alone.outputs))
        ranked = sorted([judge.row(alone), *rows], key=lambda row: _place(task, row))
        table = [{"method": TEACHER, task.metric: judge.teacher}, *ranked]
        return cls(table, [dict(one) for one in left_out], told, dict(protocol), task.metric, measured_on)

    def results(self) -> dict[str, Any]:
        """As strict JSON can hold it."""
        told = {name: getattr(self, name) for name in ("rows", "left_out", "told", "protocol", "metric", "measured_on")}
        plain: dict[str, Any] = strict(told)
        return plain

    @property
    def columns(self) -> list[str]:
        """What stands in the columns that do not say it themselves."""
        seeds = len(self.rows[-1]["values"])
        of = "of which there is one each" if seeds == 1 else f"of {seeds} each"
        return [
            f"To alone: {self.metric} less that of the student alone of the same seed.",
            "As the teacher: the share of samples that a student answers as the teacher does.",
            f"Above the teacher: how many of a method's students, {of}, are better than the teacher.",
        ]

    def show(self, console: Console) -> None:
        """Print the tables and the sentences, in 80 columns."""
        rows = [_cells(self.metric, row, signed="-") for row in self.rows]
        shown = [{**row, "verdict": SHORT.get(row["verdict"] or "", row["verdict"])} for row in rows]
        left, right = _columns(self.metric)
        seeds = len(self.rows[-1]["values"])
        title = f"On {self.measured_on}; {_spread(seeds)}"
        console.print(render(shown, left, title=title, emphasis=ALONE))
        console.print(render(shown, right, title="Likeness to the teacher, and costs", emphasis=ALONE))
        for line in [*self.told, *self.columns]:
            console.print(line, highlight=False, soft_wrap=True)
        for one in self.left_out:
            console.print(f"{one['why'].capitalize()}: {one['reason']}", highlight=False, soft_wrap=True)

    def markdown(self, title: str, command: str) -> str:
        """A page of its own."""
        left, right = _columns(self.metric)
        columns = [*left, *right[1:]]
        rows = [_cells(self.metric, row, signed="\u2212") for row in self.rows]
        heads = [column.title.replace("\n", " ") for column in columns]
        body = [[column.cell(row) for column in columns] for row in rows]
        body = [[f"**{cell}**" for cell in line] if line[0] == ALONE else line for line in body]
        parts = [
            f"# {title}",
            f"```sh\n{command}\n```",
            "\n".join(f"- {name}: {value}" for name, value in self.protocol.items()),
            _markdown(heads, body),
            "\n".join(f"- {line}" for line in [*self.told, *self.columns]),
        ]
        if self.left_out:
            lines = [[o["method"], o["why"], o["reason"].removeprefix(f"{o['method']}: ")] for o in self.left_out]
            parts += ["## Not in the table", _markdown(["method", "was", "because"], lines)]
        return "\n\n".join(parts) + "\n"


class _Judge:
    """What every row is held against."""

    def __init__(self, task: Task, taught: Tensor, labels: Tensor, alone: Entrant) -> None:
        self.task, self.taught, self.labels = task, taught, labels
        self.near = near_boundary(task, taught)
        self.alone = self._figures(alone)
        self.alone_ms = _median(alone.step_ms)
        self.teacher = task.metrics(taught, labels)[task.metric]

    def _figures(self, entrant: Entrant) -> list[float]:
        return [self.task.metrics(made, self.labels)[self.task.metric] for made in entrant.outputs]

    def versus(self, figures: Sequence[float], others: Sequence[float]) -> Paired:
        """The paired test, in which more is better."""
        return paired([self.task.sign * v for v in figures], [self.task.sign * v for v in others])

    def row(self, entrant: Entrant) -> dict[str, Any]:
        """A line of the table."""
        figures, metric, step_ms = self._figures(entrant), self.task.metric, _median(entrant.step_ms)
        mean = interval(figures)
        row: dict[str, Any] = {"method": entrant.name, metric: mean.mean, f"{metric}_ci95": mean.half}
        row |= {"values": figures, "factor": entrant.factor, **self._likeness(entrant.outputs)}
        row |= {"step_ms": step_ms, "memory_mb": entrant.memory_mb, "p_value": None, "p_holm": None, "verdict": None}
        row["step_ratio"] = None if step_ms is None or not self.alone_ms else step_ms / self.alone_ms
        row["beats_teacher"] = sum(self.task.better(v, self.teacher) for v in figures)
        above = self.versus(figures, [self.teacher] * len(figures))
        row["p_teacher"] = above.p_value if above.difference.mean > 0 else None
        if entrant.name != ALONE:
            test = self.versus(figures, self.alone)
            row |= {"difference": self.task.sign * test.difference.mean, "difference_ci95": test.difference.half}
            row |= {"p_value": test.p_value, "verdict": None if test.p_value is None else VERDICTS[test.better]}
        return row

    def _likeness(self, made: Sequence[Tensor]) -> dict[str, float | None]:
        """The share of samples, of all and of those near the boundary, at which a student answers as the teacher does."""
        same = [self.task.agreement(student, self.taught).double() for student in made]
        told: dict[str, float | None] = {"agreement": _mean([float(s.mean()) for s in same]), "agreement_near": None}
        if self.near is not None:
            told["agreement_near"] = _mean([float(s[self.near].mean()) for s in same])
        return told


def _spread(seeds: int) -> str:
    return "one seed, and so no interval" if seeds == 1 else f"{seeds} seeds, ± 95 % t-interval"


def _place(task: Task, row: Mapping[str, Any]) -> float:
    value: float = row[task.metric]
    return math.inf if math.isnan(value) else -task.sign * value


def _sentences(task: Task, judge: _Judge, rows: Sequence[Mapping[str, Any]], seeds: int) -> list[str]:
    told = [_counted(rows, seeds)]
    if judge.near is not None:
        told.append(
            f"Near the boundary: the {len(judge.near)} of {len(judge.taught)} samples at which the teacher's first answer leads by least."
        )
    return [*told, _above_teacher(task, judge, rows)]


def _counted(rows: Sequence[Mapping[str, Any]], seeds: int) -> str:
    if seeds == 1:
        return "One seed: no interval, no test, no verdict."
    verdicts = [row["verdict"] for row in rows]
    counts = ", ".join(f"{word} {verdicts.count(word)}" for word in VERDICTS.values())
    held = sum(_holds(row) for row in rows)
    return (
        f"Against the student alone (paired over {seeds} seeds, p < {LEVEL}): {counts}. Of {len(rows)} comparisons about "
        f"{LEVEL * len(rows):.2g} would come out so by chance: * marks the {held} that hold after Holm's correction for all of them."
    )


def _above_teacher(task: Task, judge: _Judge, rows: Sequence[Mapping[str, Any]]) -> str:
    above = [row for row in rows if row["beats_teacher"]]
    figure = f"{task.metric} {judge.teacher:.3f}"
    if not above:
        return f"Did any student beat its teacher ({figure})? No."
    names = ", ".join(f"{row['method']} {row['beats_teacher']} of {len(row['values'])}" for row in above)
    adjusted = holm([row["p_teacher"] for row in rows])
    sure = [row["method"] for row, p in zip(rows, adjusted, strict=True) if p is not None and p <= LEVEL]
    beyond = f"By more than chance (p < {LEVEL} after Holm's correction): {', '.join(sure) if sure else 'none'}."
    return f"Did any student beat its teacher ({figure})? Of single students: {names}. {beyond}"


def _holds(row: Mapping[str, Any]) -> bool:
    return row.get("p_holm") is not None and row["p_holm"] <= LEVEL


def _columns(metric: str) -> tuple[list[Column], list[Column]]:
    left = [
        Column("method", "method"),
        Column("figure", metric),
        Column("change", "to alone"),
        Column("p", "p"),
        Column("verdict", "verdict"),
    ]
    right = [
        Column("method", "method"),
        Column("agreement", "as the\nteacher", "{:.3f}"),
        Column("agreement_near", "near the\nboundary", "{:.3f}"),
        Column("step_ms", "ms\na step", "{:.1f}"),
        Column("step_ratio", "times\nalone", "{:.2f}"),
        Column("memory_mb", "MB\na step", "{:.1f}"),
        Column("beats_teacher", "above the\nteacher"),
    ]
    return left, right


def _cells(metric: str, row: Mapping[str, Any], *, signed: str) -> dict[str, Any]:
    """A row with what is written of it."""
    made = {
        **row,
        "verdict": row.get("verdict"),
        "figure": _with_half(row[metric], row.get(f"{metric}_ci95"), "{:.3f}"),
    }
    if row.get("factor") is not None:
        made["method"] = f"{row['method']} (x{row['factor']:g})"
    if row.get("difference") is not None:
        made["change"] = _with_half(row["difference"], row["difference_ci95"], "{:+.3f}").replace("-", signed)
    if row.get("p_value") is not None:
        made["p"] = f"{row['p_value']:.2g}" + ("*" if _holds(row) else "")
    return made


def _with_half(value: float, half: float | None, form: str) -> str:
    return form.format(value) + ("" if half is None else f" ± {half:.3f}")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None
