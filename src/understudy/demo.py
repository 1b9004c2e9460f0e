"""The main job on real images, end to end, in about a minute.

A team has 200 labelled handwritten digits and 800 without labels, and a teacher of 57 thousand parameters that was
trained on all 1,000 with labels. What can a student of 4 thousand parameters learn from the 200 labels, and what from
the teacher's soft labels of all 1,000 images?
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from understudy.callbacks import Bar
from understudy.checkpoint import save_tensors
from understudy.data.digits import Digits, digits
from understudy.engine import train
from understudy.losses.response import UNLABELLED
from understudy.measure import accuracy, gap_closed, interval, parameters, size_mb
from understudy.method import Method
from understudy.methods import alone, kd
from understudy.optimize import Optim
from understudy.progress import cosine
from understudy.report import Column, render
from understudy.settings import Settings
from understudy.zoo import CNN

__all__ = ["Outcome", "run"]

LABELLED = 200
TEMPERATURE = 2.0
BATCH = 64
TEACHER_STEPS, STUDENT_STEPS, TUNING_STEPS = 480, 640, 64

COLUMNS = (
    Column("model", "model"),
    Column("accuracy", "test accuracy"),
    Column("gap_closed", "gap\nclosed", "{:.0%}"),
    Column("parameters", "parameters", "{:,}"),
    Column("size_mb", "MB", "{:.3f}"),
    Column("steps", "steps"),
    Column("seconds", "seconds\na seed", "{:.1f}"),
)


@dataclass
class Outcome:
    """What the demo found: the table's rows, the figures of each seed, and the student that is kept."""

    rows: list[dict[str, Any]]
    verdict: list[str]
    figures: dict[str, list[float]]
    student: nn.Module = field(repr=False)


@dataclass
class _Lab:
    """What every stage needs: the data, the screen, and the clock of each stage."""

    data: Digits
    console: Console
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def valid(self, model: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy(model, *self.data.valid)}

    def test(self, model: nn.Module) -> float:
        return accuracy(model, *self.data.test)

    def timed(self, stage: str, work: Callable[[], Any]) -> Any:
        began = perf_counter()
        result = work()
        self.seconds.setdefault(stage, []).append(perf_counter() - began)
        return result

    def train(self, stage: str, title: str, method: Method, data: Any, *, steps: int, lr: float, seed: int) -> float:
        """Train, and return the accuracy of the kept weights on the validation images."""
        optimizer = Optim("AdamW", lr=lr, schedule=cosine(1, 0), warmup=0.05)
        every = max(1, steps // 20)
        settings = Settings(
            steps=steps, batch_size=BATCH, optimizer=optimizer, seed=seed, validate_every=every, device="cpu"
        )
        bar = Bar(title, self.console)
        result = self.timed(stage, lambda: train(method, data, settings, validate=self.valid, callbacks=[bar]))
        assert result.best is not None  # there was a validation
        return float(result.best["valid"]["accuracy"])


def run(seeds: Sequence[int] = (0, 1, 2, 3, 4), *, out: Path | None = None, console: Console | None = None) -> Outcome:
    """Run every stage for each seed, print the table, and write the kept student to ``out`` if given."""
    console = console or Console()
    lab = _Lab(digits(), console)
    images, labels = lab.data.train
    console.print(
        f"[bold]understudy demo[/bold]: {len(images)} images of handwritten digits, {LABELLED} of them labelled\n"
    )

    teacher = _teacher(lab)
    soft = lab.timed("soft labels", lambda: _soft_labels(teacher, images))
    console.print(f"soft labels: {len(soft)} x {soft.shape[1]} logits of the teacher", highlight=False)
    pool = {"input": images, "label": _hide(labels), "soft": soft}
    hard = (images[:LABELLED], labels[:LABELLED])

    figures: dict[str, list[float]] = {k: [] for k in ("alone", "distilled", "fine-tuned", "kept")}
    kept: tuple[float, nn.Module] | None = None
    choices: list[str] = []
    for i, seed in enumerate(seeds):
        torch.manual_seed(seed)
        single = CNN(8)
        student = copy.deepcopy(single)
        mark = f"({i + 1}/{len(seeds)})"
        lab.train("alone", f"student alone {mark}", alone(single), hard, steps=STUDENT_STEPS, lr=3e-3, seed=seed)
        method = kd(student, "batch.soft", temperature=TEMPERATURE, alpha=1.0)
        before = lab.train("distilled", f"distil {mark}", method, pool, steps=STUDENT_STEPS, lr=3e-3, seed=seed)
        tuned = copy.deepcopy(student)
        after = lab.train("fine-tuned", f"fine-tune {mark}", alone(tuned), hard, steps=TUNING_STEPS, lr=3e-4, seed=seed)
        best, choice, valid = (tuned, "fine-tuned", after) if after > before else (student, "distilled", before)
        choices.append(choice)
        for name, model in (("alone", single), ("distilled", student), ("fine-tuned", tuned), ("kept", best)):
            figures[name].append(lab.test(model))
        if kept is None or valid > kept[0]:
            kept = (valid, best)
    assert kept is not None  # there is at least one seed
    figures["teacher"] = [lab.test(teacher)] * len(seeds)
    outcome = Outcome(_rows(figures, lab, teacher, kept[1]), _verdict(figures, choices), figures, kept[1])
    _show(outcome, console, len(seeds))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        save_tensors(out / "student.safetensors", kept[1].state_dict())
        console.print(f"\nThe student is in {out / 'student.safetensors'}", highlight=False)
    return outcome


def _teacher(lab: _Lab) -> nn.Module:
    torch.manual_seed(0)
    teacher = CNN(32)
    lab.train("teacher", "teacher", alone(teacher), lab.data.train, steps=TEACHER_STEPS, lr=3e-3, seed=0)
    return teacher


@torch.no_grad()
def _soft_labels(teacher: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = teacher.eval()(images)
    return logits


def _hide(labels: Tensor) -> Tensor:
    """The labels, all but the first 200 taken away."""
    hidden = labels.clone()
    hidden[LABELLED:] = UNLABELLED
    return hidden


def _rows(figures: dict[str, list[float]], lab: _Lab, teacher: nn.Module, student: nn.Module) -> list[dict[str, Any]]:
    steps = {"teacher": TEACHER_STEPS, "alone": STUDENT_STEPS, "distilled": STUDENT_STEPS, "fine-tuned": TUNING_STEPS}
    titles = {
        "teacher": "teacher",
        "alone": "student alone",
        "distilled": "distilled",
        "fine-tuned": "+ fine-tuned",
        "kept": "kept",
    }
    rows = []
    for name, title in titles.items():
        model = teacher if name == "teacher" else student
        seconds = lab.seconds.get(name)
        closed = None
        if name not in ("teacher", "alone"):
            closed = gap_closed(figures["teacher"], figures["alone"], figures[name])
        rows.append(
            {
                "model": title,
                # The teacher is one model: its figure has no interval over seeds.
                "accuracy": f"{figures[name][0]:.3f}" if name == "teacher" else str(interval(figures[name])),
                "gap_closed": closed,
                "parameters": parameters(model),
                "size_mb": size_mb(model),
                "steps": steps.get(name),
                "seconds": None if seconds is None else sum(seconds) / len(seconds),
            }
        )
    return rows


def _verdict(figures: dict[str, list[float]], choices: Sequence[str]) -> list[str]:
    """What the table says, in words: only what the intervals bear out."""
    lines = [
        _compare("Distillation", "the student alone", figures["distilled"], figures["alone"]),
        _compare("Fine-tuning on the hard labels", "distillation", figures["fine-tuned"], figures["distilled"]),
        f"Kept by validation: distilled {choices.count('distilled')}, fine-tuned {choices.count('fine-tuned')} times.",
    ]
    if gap_closed(figures["teacher"], figures["alone"], figures["kept"]) is None:
        lines.append("The teacher is not clearly better than the student alone: there is no gap to close.")
    return lines


def _compare(what: str, than: str, these: Sequence[float], those: Sequence[float]) -> str:
    difference = interval([a - b for a, b in zip(these, those, strict=True)])
    if difference.half is None:
        return f"{what} changed accuracy by {difference.mean:+.3f} against {than} (one seed: no interval)."
    spread = f"{difference.mean:+.3f} ± {difference.half:.3f}, paired over seeds"
    if abs(difference.mean) <= difference.half:
        return f"{what} made no clear difference to {than} ({spread})."
    return f"{what} {'helped' if difference.mean > 0 else 'hurt'} against {than} ({spread})."


def _show(outcome: Outcome, console: Console, seeds: int) -> None:
    title = f"{seeds} seed{'s' if seeds > 1 else ''}, accuracy ± 95 % t-interval; weights chosen by validation"
    console.print()
    console.print(render(outcome.rows, COLUMNS, title=title, emphasis="kept"))
    for line in outcome.verdict:
        console.print(line, highlight=False)
