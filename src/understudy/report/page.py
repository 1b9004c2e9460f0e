"""The account of a run as one HTML file: no network, light and dark, from a phone's width to a printed sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from understudy.errors import InputError, choices, raise_all
from understudy.report import plots
from understudy.report.cells import cells
from understudy.report.curves import curves
from understudy.report.html import rendered
from understudy.report.layers import layers
from understudy.report.picture import data_uri, is_small
from understudy.report.words import cut, fit, left_out

__all__ = ["page"]

# What a page can hold and still be read; whatever is left out is said beside what is shown.
SAMPLES, TEMPERATURES, BARS = 12, 6, 10
MODELS, CLASSES, DIFFERENCES = 12, 30, 24
LETTERS, VALUE = 400, 4000

_KEYS = (
    "title", "verdict", "columns", "rows", "curves", "soft_labels", "calibration", "confusion", "differences", "layers", "recipe",
    "choices", "environment",
)  # fmt: skip


def page(run: Mapping[str, Any]) -> str:
    """The page, from plain data. A section whose data is missing, None or empty is left out.

    Args:
        run: a mapping with any of

            - ``title``, and ``verdict``: a list of sentences, the most important first;
            - ``columns``: ``{"key", "title", "form", "better": "max" | "min" | None}``, where the best one stands out, if it is
              more than ``"above"``, should that be there; and ``rows``: ``{key: value}``, where
              a value is a number, a text, ``{"mean", "half"}``, or None;
            - ``curves``: ``{"stage", "seed", "records"}`` with the records of ``metrics.jsonl``;
            - ``soft_labels``: ``{"temperatures", "classes", "samples": [{"image", "text", "label", "logits"}]}``;
            - ``calibration``: ``{model: {"bins": [{"confidence", "accuracy", "count"}], "error"}}``;
            - ``confusion``: ``{model: {"classes", "matrix"}}``, true classes down, predicted ones across;
            - ``differences``: ``[{"image" or "text", "label", "teacher", "student"}]``;
            - ``layers``: ``{"student", "teacher", "term", "kind": "heat" | "samples", "measured", "figures": {model: {"mean", "half"}}}``
              with ``"samples": [{"image", "words", "label", "maps": {model: {"values", "likeness"}}}]`` or with ``"labels"`` and
              ``"matrices": {model: {"values", "likeness", "within", "between"}}``; or with ``"failed"``, a text;
            - ``recipe``, ``choices`` and ``environment``: ``{name: text}``.

    Raises: InputError for data of another form; MissingExtra without jinja2 or matplotlib.
    """
    raise_all(InputError, [f"page: has no part {key!r}. {choices(key, _KEYS)}" for key in run if key not in _KEYS])
    return rendered(
        "page.html.j2",
        title=str(run.get("title") or "Distillation"),
        verdict=[str(line) for line in run.get("verdict") or ()],
        table=cells(run.get("columns") or (), run.get("rows") or ()),
        curves=curves(run.get("curves") or ()),
        soft=_soft_labels(run.get("soft_labels") or {}),
        calibration=_calibration(run.get("calibration") or {}),
        confusion=_confusion(run.get("confusion") or {}),
        differences=_differences(run.get("differences") or ()),
        layers=layers(run.get("layers") or ()),
        recipe=_definitions(run.get("recipe") or {}),
        choices=_definitions(run.get("choices") or {}),
        environment=_definitions(run.get("environment") or {}),
    )


# -- soft labels -------------------------------------------------------------------------------------------------------


def _soft_labels(soft: Mapping[str, Any]) -> dict[str, Any] | None:
    samples = soft.get("samples") or ()
    temperatures = list(soft.get("temperatures") or ())
    if not samples or not temperatures:
        return None
    wrong = [t for t in temperatures if not t > 0]
    if wrong:
        raise InputError(f"soft_labels.temperatures: {wrong} are not above 0.")
    shown = temperatures[:TEMPERATURES]
    cards = [_soft_sample(i, sample, shown, soft.get("classes") or ()) for i, sample in enumerate(samples[:SAMPLES])]
    notes = [
        left_out(len(cards), len(samples), "samples"),
        left_out(len(shown), len(temperatures), "temperatures"),
        max((card["note"] for card in cards), key=len),
    ]
    return {"cards": cards, "notes": notes}


def _soft_sample(
    at: int, sample: Mapping[str, Any], temperatures: Sequence[float], classes: Sequence[Any]
) -> dict[str, Any]:
    logits = np.asarray(sample["logits"], dtype=np.float64)
    if logits.ndim != 1 or not logits.size:
        raise InputError(
            f"soft_labels.samples[{at}].logits: have shape {list(logits.shape)}; allowed: one number a class."
        )
    names = [str(classes[i]) if i < len(classes) else str(i) for i in range(len(logits))]
    label = None if sample.get("label") is None else str(sample["label"])
    kept = _likeliest(logits, names.index(label) if label in names else None)
    shown = [names[i] for i in kept] + [f"{len(names) - len(kept):,} others"] * (len(kept) < len(names))
    marked = shown.index(label) if label in shown else None
    charts = []
    for t, temperature in enumerate(temperatures):
        probabilities = _softmax(logits / temperature)
        values = probabilities[kept].tolist()
        values += [max(0.0, 1 - sum(values))] * (len(shown) - len(kept))
        title = f"Probabilities at temperature {temperature:g}"
        charts.append(
            {
                "temperature": f"{temperature:g}",
                "kind": "sharper" if temperature < 1 else "softer" if temperature > 1 else "unchanged",
                "entropy": f"{_entropy(probabilities):.2f}",
                "svg": plots.bars(values, shown, marked=marked, name=f"soft-{at}-{t}", title=title),
            }
        )
    note = f"Of {len(names):,} classes, the likeliest are shown by name." if len(kept) < len(names) else ""
    return {**_what(sample, f"soft_labels.samples[{at}]"), "label": label, "charts": charts, "note": note}


def _likeliest(logits: np.ndarray[Any, Any], label: int | None) -> list[int]:
    """Classes that are shown by name, which are the same at every temperature: all of a few, or the likeliest and the label."""
    if len(logits) <= BARS:
        return list(range(len(logits)))
    order: list[int] = np.argsort(-logits, kind="stable").tolist()
    most = BARS - 1
    return sorted(order[:most] if label is None or label in order[:most] else [*order[: most - 1], label])


def _softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum())


def _entropy(probabilities: np.ndarray[Any, Any]) -> float:
    some = probabilities[probabilities != 0]
    return abs(float(-(some * np.log(some)).sum()))


def _what(sample: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sample itself: its picture, or its text."""
    image, text = sample.get("image"), sample.get("text")
    return {
        "image": None if image is None else data_uri(image, f"{where}.image"),
        "small": image is not None and is_small(image),
        "text": None if text is None else cut(str(text), LETTERS),
    }


# -- calibration, confusion, differences -------------------------------------------------------------------------------


def _calibration(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    if not models:
        return None
    cards = []
    for i, (name, found) in enumerate(list(models.items())[:MODELS]):
        bins = [(float(b["confidence"]), float(b["accuracy"]), int(b["count"])) for b in found["bins"] if b["count"]]
        svg = plots.reliability(bins, name=f"calibration-{i}", title=f"Calibration of {name}")
        cards.append({"model": name, "svg": svg, "error": f"{found['error']:.3f}", "count": sum(b[2] for b in bins)})
    return {"cards": cards, "note": left_out(len(cards), len(models), "models")}


def _confusion(models: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    if not models:
        return None
    cards = [_matrix(name, found) for name, found in list(models.items())[:MODELS]]
    return {"cards": cards, "note": left_out(len(cards), len(models), "models")}


def _matrix(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    matrix = np.asarray(found["matrix"], dtype=np.int64)
    classes = [str(c) for c in found["classes"]]
    if matrix.shape != (len(classes), len(classes)):
        raise InputError(
            f"confusion[{name!r}]: the matrix has shape {list(matrix.shape)}, but there are {len(classes)} classes; one row and one column each."
        )
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    kept, note = list(range(len(classes))), ""
    if len(classes) > CLASSES:
        kept = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:CLASSES]).tolist()
        inside, total = int(matrix[np.ix_(kept, kept)].sum()), int(matrix.sum())
        note = f"{CLASSES} of {len(classes):,} classes, those with the most mistakes; {inside:,} of {total:,} samples are here."
    worst = [divmod(int(at), len(classes)) for at in np.argsort(-wrong, axis=None, kind="stable")[:3]]
    return {
        "model": name,
        "classes": [classes[i] for i in kept],
        "upright": max((len(classes[i]) for i in kept), default=0) > 4,
        "rows": [{"title": classes[i], "cells": _row(matrix[i], i, kept)} for i in kept],
        "right": f"{int(np.trace(matrix)):,} of {int(matrix.sum()):,} right",
        "worst": [
            f"{fit(classes[i], 30)} taken for {fit(classes[j], 30)} ({wrong[i, j]:,})" for i, j in worst if wrong[i, j]
        ],
        "note": note,
    }


def _row(counts: np.ndarray[Any, Any], own: int, kept: Iterable[int]) -> list[dict[str, Any]]:
    total = max(int(counts.sum()), 1)
    return [{"count": int(counts[j]), "step": _step(int(counts[j]) / total), "right": j == own} for j in kept]


def _step(share: float) -> int:
    """One of ten shades. The root lifts the few mistakes out of the background."""
    return math.ceil(10 * math.sqrt(share))


def _differences(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not samples:
        return None
    cards = []
    for i, sample in enumerate(samples[:DIFFERENCES]):
        label = sample.get("label")
        said = [
            {"who": who, "what": _said(sample[who]), "right": _right(sample[who], label)}
            for who in ("teacher", "student")
        ]
        cards.append(
            {**_what(sample, f"differences[{i}]"), "label": None if label is None else _said(label), "said": said}
        )
    return {"cards": cards, "note": left_out(len(cards), len(samples), "samples")}


def _said(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _right(value: Any, label: Any) -> bool | None:
    """Whether an answer is the label; a measured value is never right or wrong, only near or far."""
    return None if label is None or isinstance(value, float) else str(value) == str(label)


# -- small things ------------------------------------------------------------------------------------------------------


def _definitions(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), cut(str(value), VALUE)) for name, value in facts.items()]
