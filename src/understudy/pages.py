"""What a job's page shows: from a job's outcome to plain data for :func:`understudy.report.page.page`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from understudy.environment import environment
from understudy.evaluate import STAGES, Evidence
from understudy.examples import outputs
from understudy.measure import calibration
from understudy.tasks import Task

__all__ = ["Outcome", "contents"]

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
SOFT, DIFFERENT = 6, 12  # samples that are shown


class Outcome(Protocol):
    """What a page is made of; :class:`~understudy.outcome.Distilled` is one."""

    @property
    def task(self) -> Task: ...  # noqa: D102
    @property
    def rows(self) -> list[dict[str, Any]]: ...  # noqa: D102
    @property
    def verdict(self) -> list[str]: ...  # noqa: D102
    @property
    def reasons(self) -> list[str]: ...  # noqa: D102
    @property
    def accepted(self) -> bool | None: ...  # noqa: D102
    @property
    def path(self) -> Path | None: ...  # noqa: D102
    @property
    def measured_on(self) -> str: ...  # noqa: D102
    @property
    def classes(self) -> Sequence[str] | None: ...  # noqa: D102
    @property
    def recipe(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def evidence(self) -> Evidence: ...  # noqa: D102


def contents(outcome: Outcome) -> dict[str, Any]:
    """Every section that this job has data for."""
    run = {
        "title": f"Distillation: {outcome.task.name}",
        "verdict": [
            *_accepted(outcome),
            *outcome.verdict,
            *outcome.reasons,
            f"All figures were measured on the {outcome.measured_on} data.",
        ],
        "columns": _columns(outcome),
        "rows": [_row(row) for row in outcome.rows],
        "curves": _curves(outcome),
        "recipe": dict(outcome.recipe),
        "environment": environment(torch.device("cpu")),
    }
    return run | (_classified(outcome) if outcome.task.name == "classification" else {})


def _accepted(outcome: Outcome) -> list[str]:
    return [] if outcome.accepted is None else ["Accepted." if outcome.accepted else "Not accepted."]


def _columns(outcome: Outcome) -> list[dict[str, Any]]:
    figures = [{"key": k, "title": k, "form": "{:.3f}", "better": better} for k, better in outcome.task.figures.items()]
    metric = outcome.task.metric
    return [
        {"key": "model", "title": "model", "form": "{}", "better": None},
        *figures,
        {"key": "gap_closed", "title": "gap closed", "form": "{:.0%}", "better": "max"},
        {"key": "agreement", "title": "agreement with the teacher", "form": "{:.3f}", "better": "max"},
        {"key": "divergence", "title": "divergence from the teacher", "form": "{:.3f}", "better": "min"},
        {"key": "parameters", "title": "parameters", "form": "{:,}", "better": "min"},
        {"key": "size_mb", "title": "MB", "form": "{:.3f}", "better": "min"},
        {"key": "latency_ms_p50", "title": "latency p50, ms", "form": "{:.2f}", "better": "min"},
        {"key": "latency_ms_p99", "title": "latency p99, ms", "form": "{:.2f}", "better": "min"},
        {"key": "peak_memory_mb", "title": "peak memory, MB", "form": "{:.0f}", "better": "min"},
        {"key": "steps", "title": "steps", "form": "{:,}", "better": None},
        {"key": "seconds", "title": "training, s a seed", "form": "{:.1f}", "better": None},
        {"key": f"valid_{metric}_best", "title": f"valid {metric}, best", "form": "{:.3f}", "better": None},
        {"key": f"valid_{metric}_last", "title": f"valid {metric}, last", "form": "{:.3f}", "better": None},
    ]


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures with an interval as mean and half of it."""
    told = {}
    for key, value in row.items():
        if key.endswith("_ci95"):
            continue
        half = row.get(f"{key}_ci95")
        told[key] = value if half is None or value is None else {"mean": value, "half": half}
    return told


def _curves(outcome: Outcome) -> list[dict[str, Any]]:
    curves = []
    for trial in outcome.evidence.trials:
        for stage, result in trial.results.items():
            log = None if outcome.path is None else outcome.path / stage / f"seed-{trial.seed}" / "metrics.jsonl"
            kept = log is not None and log.exists()
            records = [json.loads(line) for line in log.read_text().splitlines()] if log and kept else result.history
            curves.append({"stage": STAGES[stage], "seed": trial.seed, "records": records})
    return curves


def _classified(outcome: Outcome) -> dict[str, Any]:
    """What needs classes: soft labels, calibration, confusion, and where student and teacher differ."""
    evidence = outcome.evidence
    labels = evidence.data.labels
    assert labels is not None  # checked before training
    known = outcome.task.labelled(labels)
    made = {
        stage: outputs(evidence.model(stage), evidence.data, give=evidence.give)
        for stage in ("teacher", "alone", "kept")
        if stage in evidence.stages
    }
    taught = made["teacher"]
    classes = [str(c) for c in (outcome.classes or range(taught.shape[-1]))]
    pictures = _pictures(evidence)
    return {
        "soft_labels": {
            "temperatures": list(TEMPERATURES),
            "classes": classes,
            "samples": [
                {**_shown(pictures, i), "label": _named(labels[i], classes), "logits": taught[i].tolist()}
                for i in range(min(SOFT, len(labels)))
            ],
        },
        "calibration": {
            STAGES[s]: asdict(calibration(out[known].softmax(-1), labels[known])) for s, out in made.items()
        },
        "confusion": {
            STAGES[s]: {"classes": classes, "matrix": _confusion(out[known].argmax(-1), labels[known], len(classes))}
            for s, out in made.items()
        },
        "differences": _differences(made["kept"].argmax(-1), taught.argmax(-1), labels, classes, pictures),
    }


def _pictures(evidence: Evidence) -> Tensor | None:
    """The inputs, if they look like images: ``[N, 1 or 3, H, W]`` or ``[N, H, W]``."""
    inputs = evidence.data.inputs()
    if inputs is None or not inputs.is_floating_point():
        return None
    image = (inputs.ndim == 4 and inputs.shape[1] in (1, 3)) or inputs.ndim == 3
    return inputs if image and min(inputs.shape[-2:]) > 3 else None


def _shown(pictures: Tensor | None, at: int) -> dict[str, Any]:
    if pictures is None:
        return {"image": None, "text": f"sample {at}"}
    picture = pictures[at]
    low, high = picture.min(), picture.max()
    picture = (picture - low) / (high - low).clamp(min=1e-9)
    return {"image": (picture[0] if picture.ndim == 3 and len(picture) == 1 else picture).tolist(), "text": None}


def _named(label: Tensor, classes: Sequence[str]) -> str | None:
    return classes[int(label)] if 0 <= int(label) < len(classes) else None


def _confusion(predicted: Tensor, label: Tensor, classes: int) -> list[list[int]]:
    matrix: list[list[int]] = (
        torch.bincount(label * classes + predicted, minlength=classes**2).view(classes, classes).tolist()
    )
    return matrix


def _differences(
    student: Tensor, teacher: Tensor, labels: Tensor, classes: Sequence[str], pictures: Tensor | None
) -> list[dict[str, Any]]:
    at = (student != teacher).nonzero().flatten()[:DIFFERENT].tolist()
    return [
        {
            **_shown(pictures, i),
            "label": _named(labels[i], classes),
            "teacher": classes[int(teacher[i])],
            "student": classes[int(student[i])],
        }
        for i in at
    ]
