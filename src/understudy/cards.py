"""The card of an exported student: from a job's results, and from what the export says of itself, to a README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from understudy.evaluate import STAGES
from understudy.examples import Examples
from understudy.export import TARGETS
from understudy.export.targets import FACTS
from understudy.report.card import CARD, card
from understudy.tasks import Task
from understudy.writing import read_json, write_text

__all__ = ["card_of", "story", "write_card"]

MODULE = "times are those of the models in PyTorch on one thread, one sample at a time; peak memory is that of a fresh process that runs each model through ONNX Runtime"


def story(
    results: Mapping[str, Any], recipe: Mapping[str, str], environment: Mapping[str, str], stage: str = STAGES["kept"]
) -> dict[str, Any]:
    """What a finished job tells of the student that it hands on.

    Args:
        results: as :meth:`understudy.outcome.Distilled.results` has them, or a part of that.
        recipe: what was asked for, in words.
        environment: where it ran, in words.
        stage: the table's name of the student.
    """
    rows = {row.get("model"): row for row in results.get("rows") or ()}
    seeds = len(results.get("seeds") or ())
    teacher, alone = rows.get(STAGES["teacher"]), rows.get(STAGES["alone"])
    row = {**_row(rows.get(stage, {})), "seeds": seeds or None}
    told: dict[str, Any] = {
        "row": row,
        "teacher": None if teacher is None else {"name": "teacher", **_row(teacher)},
        "others": [] if alone is None else [{"name": "student alone", **_row(alone), "seeds": seeds or None}],
        "recipe": dict(recipe),
        "measured": {"how": MODULE, **environment},
        "lineage": _lineage(teacher or {}, row, recipe),
    }
    return {key: value for key, value in told.items() if value}


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    """As a comparison's rows are: there a latency is that of the file, here it is that of the module."""
    left_out = ("model", "size_mb", "latency_ms_p50", "latency_ms_p99", "latency_ms_p90")
    told = {key: value for key, value in row.items() if key not in left_out}
    return told | {"eager_latency_ms_p50": row.get("latency_ms_p50")}


def _lineage(teacher: Mapping[str, Any], row: Mapping[str, Any], recipe: Mapping[str, str]) -> list[str]:
    sizes = [of.get("parameters") for of in (teacher, row)]
    own, theirs = ("" if size is None else f", {size:,.0f} parameters" for size in reversed(sizes))
    smaller = f", compressed: {recipe['compressed']}" if recipe.get("compressed") else ""
    how = f", by the method {recipe['method']}" if recipe.get("method") else ""
    return [f"a teacher{theirs}", f"a student{own}{smaller}", f"the student learnt from the teacher{how}"]


def card_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says of where its data is from, and how it is run again."""
    name = (recipe.get("data") or {}).get("name")
    again = "understudy run recipe.yaml --out again    # with the recipe.yaml of the run's folder"
    return {"command": again} | ({"data": {"name": str(name)}} if name else {})


def write_card(folder: Path, told: Mapping[str, Any], data: Examples, task: Task, figures: Mapping[str, Any]) -> None:
    """Write the card into an exported folder.

    Args:
        folder: as :func:`understudy.export.write_folder` wrote it.
        told: what is known beside, by the keys of :func:`understudy.report.card.card`; it goes before what is read here.
        data: what the file was scored on.
        figures: what the export has returned.
    """
    facts = read_json(folder / FACTS)
    target, metric = facts["target"], task.metric
    measured = {
        "size_bytes": round(figures["size_mb"] * 1e6),
        f"file_{metric}": figures.get(metric),
        "precision": "int8" if TARGETS[target].calibrated else None,
        "runtime": facts["runtime"],
    }
    exported = f"exported: {target}, {TARGETS[target].about}"
    base = {
        "name": folder.parent.name if folder.name.startswith("deploy") and folder.parent.name else folder.name,
        "task": task.name,
        "classes": facts["classes"],
        "metric": metric,
        **{key: facts[key] for key in ("target", "runtime", "file", "checked")},
        "raw": "raw" in facts,
        **told,
        "data": {"split": data.name, "samples": data.samples, **(told.get("data") or {})},
        "row": {**measured, **(told.get("row") or {})},
        "lineage": [*(told.get("lineage") or ()), exported],
    }
    write_text(folder / CARD, card(base))
