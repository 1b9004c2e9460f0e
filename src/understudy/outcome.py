"""What a job has come to: the students, the table, the verdict, and how to hand them on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from understudy.cards import story, write_card
from understudy.environment import environment
from understudy.errors import InputError, choices
from understudy.evaluate import FORM, STAGES
from understudy.examples import Examples
from understudy.export import TARGETS, Target, load, targets, to_file, write_folder
from understudy.pages import PAGE, Outcome, contents, write_page
from understudy.report import Column, render
from understudy.report.card import check
from understudy.state import whole
from understudy.tasks import Task
from understudy.writing import make_folder, save_tensors, strict, write_json

__all__ = ["Distilled", "deploy"]

STUDENT, TEACHER, RESULTS = "student.safetensors", "teacher.safetensors", "results.json"
CHECKED = 256  # samples on which an exported file is compared with its model


@dataclass(frozen=True)
class Distilled(Outcome):
    """What :func:`understudy.distill` returns: what was found out, and the models.

    Attributes:
        student: the kept student of the seed that is best by validation, in eval mode.
        teacher: as it was given, or trained.
    """

    student: nn.Module
    teacher: Any

    def __str__(self) -> str:
        screen = io.StringIO()
        self.show(Console(file=screen, width=80, highlight=False))
        return screen.getvalue().rstrip()

    def show(self, console: Console) -> None:
        """Print the tables and the verdict."""
        seeds = len(self.evidence.trials)
        spread = "one seed, and so no interval" if seeds == 1 else f"{seeds} seeds, ± 95 % t-interval"
        title = f"On {self.measured_on}; {spread}"
        knows, costs = _columns(self.task)
        shown = [{**row, "figure": _with_interval(row, self.task.metric)} for row in self.rows]
        console.print(render(shown, knows, title=title, emphasis="kept"))
        console.print(
            render(self.rows, costs, title="What it costs: latency of one sample on one thread", emphasis="kept")
        )
        for line in [*self.verdict, *self.reasons]:
            console.print(line, highlight=False)
        if self.accepted is not None:
            console.print("Accepted." if self.accepted else "Not accepted.", highlight=False)

    @cached_property
    def page(self) -> dict[str, Any]:
        """What the page shows, as plain data."""
        return contents(self)

    def report(self, path: str | Path) -> Path:
        """Write the page: one HTML file that needs no network. Needs ``understudy[report]``."""
        return write_page(path, self.page)

    def keep(self, *, with_teacher: bool) -> None:
        """Write models, results and what the page shows into the job's folder, if it has one; what is there is replaced."""
        if self.path is None:
            return
        save_tensors(self.path / STUDENT, whole(self.student))
        if with_teacher:
            save_tensors(self.path / TEACHER, whole(self.teacher))
        write_json(self.path / RESULTS, self.results())
        write_json(self.path / PAGE, self.page, indent=None)

    def results(self) -> dict[str, Any]:
        """What was found out, as strict JSON can hold it: None for what is not defined. ``seed`` is the kept student's."""
        told = {
            name: getattr(self, name)
            for name in ("rows", "verdict", "accepted", "reasons", "measured_on", "seed", "choices")
        }
        told |= {"task": self.task.name, "metric": self.task.metric}
        told |= {"seeds": [t.seed for t in self.evidence.trials], "seconds": self.evidence.seconds}
        told |= {"attempts": list(self.attempts)} if self.attempts else {}
        plain: dict[str, Any] = strict(told)
        return plain

    def form(self, name: str) -> nn.Module:
        """Another form of the distilled student of the seed that is handed on: see :mod:`understudy.forms`.

        Raises: InputError if the method offers no such form.
        """
        forms = next(trial.forms for trial in self.evidence.trials if trial.seed == self.seed)
        if name not in forms:
            raise InputError(f"form: the student has no form {name!r}. {choices(name, forms)}")
        return forms[name]

    def export(
        self,
        path: str | Path,
        *,
        preprocessing: Mapping[str, Any] | None = None,
        raw: Mapping[str, Any] | None = None,
        form: str | None = None,
        target: str | None = None,
        training: Examples | None = None,
        card: Mapping[str, Any] | None = None,
        vendor: str | Path | None = None,
    ) -> dict[str, float]:
        """Write the student for deployment: as a file, or as a folder with model, preprocessing, ``predict.py`` and a card.

        Args:
            path: ends in ``.onnx``, or as the target's files do, for the file alone; without an ending it is the folder.
            preprocessing: what ``predict.py`` is to do to raw inputs: ``layout``, ``scale``, ``mean``, ``std``; see
                :func:`understudy.export.write_folder`. By default inputs are those that the student was trained on.
            raw: how a CSV file or a picture becomes an input, as ``Parts.raw`` of a data set has it, so that ``predict.py`` takes
                them too.
            form: another form of the student, such as "with hint", in its place.
            target: a name in :data:`understudy.export.TARGETS`; ONNX, or by the path's ending, if left out.
            training: samples on which a target in 8 bits sees the ranges of activations; those of the table, without their
                labels, if left out.
            card: what the folder's ``README.md`` is to say beside what the job knows, such as its ``name``, ``license``, ``data`` and
                ``limits``; the keys are those of :func:`understudy.report.card.card`.
            vendor: for a page: where the files of onnxruntime-web are, as :func:`understudy.export.write_folder` has it.

        Returns: largest error and agreement against the student on up to 256 samples, and the task's figures of the file
            on the data that the table was made on; without these where the target does not run on this system.
        Raises: InputError if the model cannot be exported, or if the file does not do what the student does.
        """
        model = self.student if form is None else self.form(form)
        stage = STAGES["kept"] if form is None else f"{FORM}{form}"
        told = story(self.results(), self.recipe, environment(torch.device("cpu")), stage) | dict(card or {})
        return deploy(
            Path(path),
            model,
            self.evidence.data,
            self.task,
            self.classes,
            preprocessing,
            raw,
            target,
            training,
            told,
            vendor,
        )


def deploy(
    path: Path,
    student: nn.Module,
    data: Examples,
    task: Task,
    classes: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None = None,
    raw: Mapping[str, Any] | None = None,
    target: str | None = None,
    training: Examples | None = None,
    card: Mapping[str, Any] | None = None,
    vendor: str | Path | None = None,
) -> dict[str, float]:
    """Write a student as a file or a folder, and score the file on labelled data: see :meth:`Distilled.export`."""
    inputs = data.inputs()
    if inputs is None:
        raise InputError(
            "export: the student's input is not one tensor; use understudy.export.to_file with named inputs."
        )
    name, form = _form(path, target)
    if data.labels is None:
        raise InputError(f"export: {data.name} has no label, on which the file could be scored.")
    check(card or {})
    make_folder(path.parent)
    checked, seen = inputs[:CHECKED], _spread(training or data) if form.calibrated else None
    if path.suffix:
        told = to_file(student, checked, path, target=name, calibration=seen)
    else:
        told = write_folder(
            path,
            student,
            inputs[:1],
            checked,
            task_name=task.name,
            classes=None if classes is None else list(classes),
            preprocessing=preprocessing,
            raw=raw,
            target=name,
            calibration=seen,
            vendor=vendor,
        )
    figures = told if form.load is None else {**told, **task.metrics(load(path)(inputs), data.labels)}
    if not path.suffix:
        write_card(path, card or {}, data, task, figures)
    return figures


def _form(path: Path, name: str | None) -> tuple[str, Target]:
    """The target of a path: as it is named, or by the path's ending."""
    if name is None:
        name = next((name for name, form in TARGETS.items() if form.suffix == path.suffix), "onnx")
    form = targets.target(name)
    if path.suffix not in form.endings:
        raise InputError(f"export: {path} ends in {path.suffix!r}; give {form.wants}.")
    return name, form


def _spread(data: Examples) -> Any:
    """Inputs of samples from all over the data, which may be sorted by class."""
    return data.only(torch.linspace(0, data.samples - 1, CHECKED).long().unique()).inputs()


def _with_interval(row: Mapping[str, Any], metric: str) -> str | None:
    value, half = row.get(metric), row.get(f"{metric}_ci95")
    if value is None:
        return None
    return f"{value:.3f}" if half is None else f"{value:.3f} ± {half:.3f}"


def _columns(task: Task) -> tuple[list[Column], list[Column]]:
    loss = next((name for name in task.figures if name.startswith("loss")), None)
    knows = [
        Column("model", "model"),
        Column("figure", task.metric),
        *([Column(loss, "loss", "{:.3f}")] if loss else []),
        Column("gap_closed", "gap\nclosed", "{:.0%}"),
        Column("agreement", "agrees\nwith it", "{:.3f}"),
        Column("divergence", "KL from\nteacher" if task.name != "regression" else "from\nteacher", "{:.3f}"),
        Column("seconds", "seconds\na seed", "{:.1f}"),
    ]
    costs = [
        Column("model", "model"),
        Column("parameters", "parameters", "{:,}"),
        Column("size_mb", "MB", "{:.3f}"),
        Column("latency_ms_p50", "ms p50", "{:.2f}"),
        Column("latency_ms_p99", "ms p99", "{:.2f}"),
        Column("peak_memory_mb", "peak MB", "{:.0f}"),
    ]
    return knows, costs
