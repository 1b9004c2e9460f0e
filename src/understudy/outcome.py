"""What a job has come to: the students, the table, the verdict, and how to hand them on."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from understudy.checkpoint import write_text
from understudy.errors import InputError, MachineError
from understudy.evaluate import Evidence
from understudy.export import run_onnx, to_onnx, write_folder
from understudy.pages import contents
from understudy.report import Column, render
from understudy.tasks import Task

__all__ = ["Distilled"]

CHECKED = 256  # samples on which an exported file is compared with its model


@dataclass(frozen=True)
class Distilled:
    """What :func:`understudy.distill` returns.

    Attributes:
        student: the kept student of the seed that is best by validation, in eval mode.
        teacher: as it was given, or trained.
        task: what the labels mean.
        rows: the table: a row for each stage, means over seeds, units in the keys; ``*_ci95`` is half the width of the
            95 % t-interval, None for a single model.
        verdict: what the table says, in words.
        accepted: whether every condition is met; None if there was none.
        reasons: a sentence for each condition.
        path: the run's folder; None if nothing was written.
        measured_on: "test", or "valid" where there was no test data.
    """

    student: nn.Module
    teacher: Any
    task: Task
    rows: list[dict[str, Any]]
    verdict: list[str]
    accepted: bool | None
    reasons: list[str]
    path: Path | None
    measured_on: str
    classes: Sequence[str] | None = field(repr=False)
    recipe: Mapping[str, str] = field(repr=False)
    evidence: Evidence = field(repr=False)

    def __str__(self) -> str:
        screen = io.StringIO()
        self.show(Console(file=screen, width=80, highlight=False))
        return screen.getvalue().rstrip()

    def show(self, console: Console) -> None:
        """Print the tables and the verdict."""
        seeds = len(self.evidence.trials)
        title = f"On {self.measured_on}; {seeds} seed{'s' if seeds > 1 else ''}, ± 95 % t-interval"
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

    def report(self, path: str | Path) -> Path:
        """Write the page: one HTML file that needs no network. Needs ``understudy[report]``."""
        from understudy.report.page import page

        path = Path(path)
        if path.suffix not in (".html", ".htm") or path.is_dir():
            raise InputError(f"report: {path} is not the name of a page; give one that ends in .html.")
        _make(path.parent)
        write_text(path, page(contents(self)))
        return path

    def export(self, path: str | Path, *, preprocessing: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Write the student for deployment: as an ONNX file, or as a folder with model, preprocessing and ``predict.py``.

        Args:
            path: ends in ``.onnx`` for the file alone; anything else is the folder. Needs ``understudy[onnx]``.
            preprocessing: what ``predict.py`` is to do to raw inputs: ``layout``, ``scale``, ``mean``, ``std``; see
                :func:`understudy.export.write_folder`. By default inputs are those that the student was trained on.

        Returns: largest error and agreement against the student on up to 256 samples, and the task's figures of the file
            on the data that the table was made on.
        Raises: InputError if the model cannot be exported, or if the file does not do what the student does.
        """
        path, data = Path(path), self.evidence.data
        inputs = data.inputs()
        if inputs is None:
            raise InputError(
                "export: the student's input is not one tensor; use understudy.export.to_onnx with named inputs."
            )
        checked = inputs[:CHECKED]
        student = self.student
        if path.suffix not in ("", ".onnx"):
            raise InputError(
                f"export: {path} ends in {path.suffix!r}; give a name that ends in .onnx, or that of a folder."
            )
        _make(path.parent)
        if path.suffix == ".onnx":
            told, file = to_onnx(student, checked, path), path
        else:
            classes = None if self.classes is None else list(self.classes)
            told = write_folder(
                path,
                student,
                inputs[:1],
                checked,
                task_name=self.task.name,
                classes=classes,
                preprocessing=preprocessing,
            )
            file = path / "model.onnx"
        assert data.labels is not None  # checked before training
        return {**told, **self.task.metrics(run_onnx(file, inputs), data.labels)}


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder}: cannot be made: {error}. Choose another place.") from error


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
