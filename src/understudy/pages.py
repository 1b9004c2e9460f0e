"""A job's page: from the job's outcome to plain data, and from there, at once or years later, to HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.environment import environment
from understudy.errors import CorruptError, InputError
from understudy.evaluate import STAGES, Evidence
from understudy.examples import outputs
from understudy.likeness import likenesses
from understudy.measure import calibration
from understudy.tasks import Task
from understudy.writing import make_folder, read_json, strict, write_text

__all__ = ["PAGE", "Outcome", "contents", "page_of", "write_page"]

PAGE = "page.json"

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
SOFT, DIFFERENT = 6, 12  # samples that are shown


@dataclass(frozen=True)
class Outcome:
    """What a job has found out.

    Attributes:
        task: what the labels mean.
        rows: the table: a row for each stage, means over seeds, units in the keys; ``*_ci95`` is half the width of the
            95 % t-interval, None for a single model.
        verdict: what the table says, in words.
        accepted: whether every condition is met; None if there was none.
        reasons: a sentence for each condition.
        path: the run's folder; None if nothing was written.
        measured_on: "test", or "valid" where there was no test data.
        seed: of the kept student that is handed on.
        classes: their names; None if they were not given.
        recipe: what was asked for, in words.
        choices: what the job chose by itself, by what it is about; each has ``told``, the reason.
        evidence: the models and the data behind the table.
        runs: where the trainings are, if not in the run's folder.
        attempts: what was tried before, where that was chosen by validation: a row for each.
    """

    task: Task
    rows: list[dict[str, Any]]
    verdict: list[str]
    accepted: bool | None
    reasons: list[str]
    path: Path | None
    measured_on: str
    seed: int
    classes: Sequence[str] | None = field(repr=False)
    recipe: Mapping[str, str] = field(repr=False)
    choices: Mapping[str, Mapping[str, Any]] = field(repr=False)
    evidence: Evidence = field(repr=False)
    runs: Path | None = field(default=None, repr=False, kw_only=True)
    attempts: Sequence[Mapping[str, Any]] = field(default=(), repr=False, kw_only=True)


def page_of(folder: str | Path) -> dict[str, Any]:
    """What the page of a finished job shows, as the job left it in its folder.

    Raises: InputError if the folder holds no finished job; CorruptError if the file is damaged.
    """
    file = Path(folder) / PAGE
    if not file.is_file():
        raise InputError(
            f"{folder}: holds no finished job: there is no {PAGE} in it. Name the folder of one, or let the job end."
        )
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("rows"), list):
        raise CorruptError(f"{file}: is damaged: it is not what a job writes.")
    return found


def write_page(path: str | Path, shown: Mapping[str, Any]) -> Path:
    """Write a page: one HTML file that needs no network. Needs ``understudy[report]``.

    Args:
        path: ends in ``.html``; its folder is made.
        shown: what :func:`contents` or :func:`page_of` gives.
    """
    from understudy.report.page import page

    path = Path(path)
    if path.suffix not in (".html", ".htm") or path.is_dir():
        raise InputError(f"report: {path} is not the name of a page; give one that ends in .html.")
    make_folder(path.parent)
    write_text(path, page(shown))
    return path


def contents(outcome: Outcome) -> dict[str, Any]:
    """Every section that this job has data for, as strict JSON can hold it."""
    shown = {
        "title": f"Distillation: {outcome.task.name}",
        "verdict": [
            *_accepted(outcome),
            *outcome.verdict,
            *outcome.reasons,
            f"All figures were measured on the {outcome.measured_on} data.",
        ],
        "columns": _columns(outcome),
        "rows": [_row(strict(row)) for row in outcome.rows],
        "curves": _curves(outcome),
        "layers": _layers(outcome),
        "recipe": dict(outcome.recipe),
        "choices": {name: _choice(made) for name, made in outcome.choices.items()} | _attempts(outcome),
        "environment": environment(torch.device("cpu")),
    }
    told: dict[str, Any] = strict(shown | (_classified(outcome) if outcome.task.name == "classification" else {}))
    return told


def _attempts(outcome: Outcome) -> dict[str, str]:
    """Each in a line."""
    return {f"attempt {row['attempt']}": f"{row['changed']}: {row['told']}" for row in outcome.attempts}


def _choice(made: Mapping[str, Any]) -> str:
    """What was chosen, and why; a teacher's way of running and a precision have a name."""
    return f"{made.get('way', made.get('name'))}: {made['told']}"


def _accepted(outcome: Outcome) -> list[str]:
    return [] if outcome.accepted is None else ["Accepted." if outcome.accepted else "Not accepted."]


def _columns(outcome: Outcome) -> list[dict[str, Any]]:
    figures = [{"key": k, "title": k, "form": "{:.3f}", "better": better} for k, better in outcome.task.figures.items()]
    metric = outcome.task.metric
    return [
        {"key": "model", "title": "model", "form": "{}", "better": None},
        *figures,
        {"key": "gap_closed", "title": "gap closed", "form": "{:.0%}", "better": "max", "above": 0},
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
            home = outcome.runs or outcome.path
            log = None if home is None else home / stage / f"seed-{trial.seed}" / "metrics.jsonl"
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
    taught, kept = made["teacher"], made["kept"].argmax(-1)
    classes = [str(c) for c in (outcome.classes or range(taught.shape[-1]))]
    first = list(range(min(SOFT, len(labels))))
    apart = (kept != taught.argmax(-1)).nonzero().flatten()[:DIFFERENT].tolist()
    return {
        "soft_labels": {
            "temperatures": list(TEMPERATURES),
            "classes": classes,
            "samples": [
                # A class that is ruled out has a logit of -inf, which no JSON holds.
                {**shown, "label": _named(labels[i], classes), "logits": taught[i].nan_to_num().tolist()}
                for i, shown in zip(first, _shown(evidence, first), strict=True)
            ],
        },
        "calibration": {
            STAGES[s]: asdict(calibration(out[known].softmax(-1), labels[known])) for s, out in made.items()
        },
        "confusion": {
            STAGES[s]: {"classes": classes, "matrix": _confusion(out[known].argmax(-1), labels[known], len(classes))}
            for s, out in made.items()
        },
        "differences": [
            {
                **shown,
                "label": _named(labels[i], classes),
                "teacher": classes[int(taught[i].argmax())],
                "student": classes[int(kept[i])],
            }
            for i, shown in zip(apart, _shown(evidence, apart), strict=True)
        ],
    }


def _layers(outcome: Outcome) -> list[dict[str, Any]]:
    """How like the layers are that the method compares, with each sample as it is shown elsewhere."""
    told = likenesses(outcome.evidence)
    labels = outcome.evidence.data.labels
    classes = None if labels is None or labels.ndim > 1 or labels.is_floating_point() else labels
    for view in told:
        ids = [sample["sample"] for sample in view.get("samples", ())]
        for sample, shown in zip(view.get("samples", ()), _shown(outcome.evidence, ids), strict=True):
            label = None if classes is None else _class(classes[sample["sample"]], outcome.classes)
            sample |= {**shown, "label": label}
        if "of" in view:
            view["labels"] = None if classes is None else [_class(classes[i], outcome.classes) for i in view["of"]]
    return told


def _class(label: Tensor, classes: Sequence[str] | None) -> str | None:
    return _named(label, [str(c) for c in classes]) if classes else str(int(label)) if int(label) >= 0 else None


def _shown(evidence: Evidence, ids: Sequence[int]) -> list[dict[str, Any]]:
    """These samples as a page shows them: their pictures, if they look like images, or else their numbers."""
    inputs = evidence.data.only(torch.tensor(ids)).inputs() if ids else None
    if inputs is None or not _are_pictures(inputs):
        return [{"image": None, "text": f"sample {i}"} for i in ids]
    return [{"image": _picture(each), "text": None} for each in inputs]


def _are_pictures(inputs: Tensor) -> bool:
    """``[N, 1 or 3, H, W]`` or ``[N, H, W]``, and more than a few pixels."""
    image = (inputs.ndim == 4 and inputs.shape[1] in (1, 3)) or inputs.ndim == 3
    return image and inputs.is_floating_point() and min(inputs.shape[-2:]) > 3


def _picture(pixels: Tensor) -> Any:
    """In whole numbers from 0, the darkest, to 255: as exactly as it is shown."""
    low, high = pixels.min(), pixels.max()
    pixels = ((pixels - low) / (high - low).clamp(min=1e-9) * 255).round().int()
    return (pixels[0] if pixels.ndim == 3 and len(pixels) == 1 else pixels).tolist()


def _named(label: Tensor, classes: Sequence[str]) -> str | None:
    return classes[int(label)] if 0 <= int(label) < len(classes) else None


def _confusion(predicted: Tensor, label: Tensor, classes: int) -> list[list[int]]:
    matrix: list[list[int]] = (
        torch.bincount(label * classes + predicted, minlength=classes**2).view(classes, classes).tolist()
    )
    return matrix
