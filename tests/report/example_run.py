"""A run with every part that a page can show, as plain data."""

import math
from typing import Any

EVIL = "<script>evil()</script>\"><img src=x onerror='evil()'>&amp;{{ 7 * 7 }}</title></svg>--><b>"
CLASSES = ["cat", "desk", "chair"]


def records(seed: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 0, "epoch": 0, "valid": {"accuracy": 0.3}}]
    for step in range(10, 60, 10):
        loss = math.exp(-step / 20) + 0.01 * seed
        lines.append(
            {"step": step, "epoch": 0, "loss": {"student": loss}, "terms": {"kl(a, b)": loss, "mse(c, d)": 2 * loss}}
        )
        lines.append({"step": step, "epoch": 0, "valid": {"accuracy": 1 - loss / 2}})
    return lines


RUN: dict[str, Any] = {
    "title": "Cats and furniture",
    "verdict": ["Distillation helped.", "Accepted."],
    "columns": [
        {"key": "model", "title": "model", "form": "{}", "better": None},
        {"key": "accuracy", "title": "test accuracy", "form": "{:.3f}", "better": "max"},
        {"key": "parameters", "title": "parameters", "form": "{:,}", "better": "min"},
        {"key": "gap", "title": "gap closed", "form": "{:.0%}", "better": "max"},
    ],
    "rows": [
        {"model": "teacher", "accuracy": 0.98, "parameters": 1000, "gap": None},
        {"model": "alone", "accuracy": {"mean": 0.91, "half": 0.012}, "parameters": 90, "gap": None},
        {"model": "distilled", "accuracy": "0.950 ± 0.010", "parameters": 90, "gap": 0.57},
        {"model": "exported", "accuracy": 0.949, "parameters": None, "gap": 0.5},
    ],
    "curves": [
        {"stage": "alone", "seed": 0, "records": records(0)},
        {"stage": "distilled", "seed": 0, "records": records(0)},
        {"stage": "distilled", "seed": 1, "records": records(1)},
    ],
    "soft_labels": {
        "temperatures": [0.5, 1, 4],
        "classes": CLASSES,
        "samples": [
            {"image": [[0.0, 0.5], [0.75, 1.0]], "text": None, "label": "cat", "logits": [4.0, 1.6, 0.2]},
            {"image": None, "text": "A soft thing to sit on.", "label": None, "logits": [1.0, 0.0, 2.0]},
        ],
    },
    "calibration": {
        "teacher": {
            "bins": [
                {"confidence": 0.4, "accuracy": 0.5, "count": 4},
                {"confidence": None, "accuracy": None, "count": 0},
                {"confidence": 0.9, "accuracy": 0.8, "count": 16},
            ],
            "error": 0.1,
        }
    },
    "confusion": {"distilled": {"classes": CLASSES, "matrix": [[10, 0, 0], [0, 8, 2], [1, 0, 9]]}},
    "differences": [
        {"image": [[[0.1, 0.2]], [[0.3, 0.4]], [[0.5, 0.6]]], "label": "cat", "teacher": "cat", "student": "chair"},
        {"text": "It has four legs.", "label": None, "teacher": "desk", "student": "chair"},
    ],
    "layers": [
        {
            "kind": "heat",
            "term": "attention_map(student.layer1, teacher.layer2)",
            "student": "layer1",
            "teacher": "layer2",
            "measured": 1024,
            "figures": {"student alone": {"mean": 0.61, "half": 0.05}, "distilled": {"mean": 0.93, "half": None}},
            "samples": [
                {
                    "sample": 3,
                    "image": [[0.0, 0.5], [0.75, 1.0]],
                    "text": None,
                    "label": "cat",
                    "words": None,
                    "maps": {
                        "teacher": {"values": [[0.1, 0.2], [0.3, 0.9]], "likeness": None},
                        "student alone": {"values": [[0.9, 0.2], [0.3, 0.1]], "likeness": 0.36},
                        "distilled": {"values": [[0.2]], "likeness": 0.98},
                    },
                }
            ],
        },
        {
            "kind": "heat",
            "term": "attention_relation(q, k)",
            "student": "q, k",
            "teacher": "q, k",
            "measured": 20,
            "figures": {"distilled": {"mean": 0.5, "half": 0.1}},
            "samples": [
                {
                    "sample": i,
                    "image": None,
                    "text": "sample 0",
                    "label": None,
                    "words": words,
                    "maps": {
                        "teacher": {"values": [0.1, 0.2, 1.0, 0.0], "likeness": None},
                        "distilled": {"values": [0.4, 0.55, 0.7, 0.8], "likeness": 0.36},
                    },
                }
                for i, words in enumerate([["It", "has", "four", "legs"], None])
            ],
        },
        {
            "kind": "samples",
            "term": "similarity(a, b)",
            "student": "a",
            "teacher": "b",
            "measured": 30,
            "figures": {"distilled": {"mean": 0.5, "half": 0.1}},
            "labels": ["cat", "cat", "desk"],
            "matrices": {
                "teacher": {
                    "values": [[1, 0.5, -0.2], [0.5, 1, 0.1], [-0.2, 0.1, 1]],
                    "likeness": None,
                    "within": 0.5,
                    "between": -0.05,
                },
                "distilled": {"values": [[1, 0.4, 0.2], [0.4, 1, 0.1], [0.2, 0.1, 1]], "likeness": 0.9},
            },
        },
        {"kind": "heat", "term": "mse(a, b)", "student": "a", "teacher": "b", "failed": "TapError: it did not run"},
    ],
    "recipe": {"method": "kd(temperature=2)", "seeds": "0, 1"},
    "environment": {"torch": "2.13.0"},
}


def poisoned(value: Any, place: str = "") -> Any:
    """The same data with something vicious behind every text that is shown."""
    if isinstance(value, str):
        return value if place in ("key", "form", "better", "kind") else value + EVIL
    if isinstance(value, dict):
        named = place in (
            "calibration",
            "confusion",
            "recipe",
            "environment",
            "terms",
            "valid",
            "loss",
            "figures",
            "maps",
            "matrices",
        )
        return {k + EVIL if named else k: poisoned(v, k) for k, v in value.items()}
    return [poisoned(v) for v in value] if isinstance(value, list) else value
