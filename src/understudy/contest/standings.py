"""What a contest's rows come to: ratios, costs, the row that wins, and what all of it says in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from understudy.accept import Condition

__all__ = [
    "BASE",
    "IDEAS",
    "against",
    "costs",
    "four",
    "judged",
    "mark_pareto",
    "nearest",
    "ratios",
    "tenth",
    "usual",
    "winner",
]

Row = dict[str, Any]

BASE = "teacher-eager"
"""The row of the teacher as PyTorch runs it in float32, which is what there was before anything was done."""

TEACHERS = {"fp32": "teacher", "int8": "teacher-int8"}

IDEAS = {
    "pruning": "channels that matter least are taken out",
    "quantization": "numbers of 8 bits in place of 32",
    "low-rank": "a layer becomes the product of two thin ones",
    "distillation": "a small model learns what the teacher says",
}

SPEAKS_FOR = {
    "pruning": ("channels-recovered", "channels", "magnitude-recovered", "magnitude"),
    "quantization": ("teacher-int8",),
    "low-rank": ("low-rank-recovered", "low-rank"),
    "distillation": ("distilled",),
}
"""The rows that stand for a family in the short table; the first that is there."""

FASTER = 1.05
"""What is faster by less may be so by chance, and then nothing is saved that could pay."""

EQUAL = 0.1
"""Sizes that differ by no more than this share count as equal."""


def ratios(rows: Sequence[Row]) -> None:
    """Add to each row how many times smaller and faster it is than the teacher, twice.

    ``times_smaller``, ``times_faster``: than the teacher in the same runtime and precision, which is what the way itself gave.
    ``times_smaller_overall``, ``times_faster_overall``: than the teacher in eager fp32, which is what the user gets. None where
    there is nothing to hold against.

    >>> slow = {"name": BASE, "runtime": "torch", "precision": "fp32", "size_bytes": 80, "latency_ms_p50": 4.0}
    >>> whole = {"name": "teacher", "runtime": "onnxruntime", "precision": "fp32", "size_bytes": 100, "latency_ms_p50": 1.0}
    >>> small = {**whole, "name": "distilled", "size_bytes": 10, "latency_ms_p50": 0.5}
    >>> ratios([slow, whole, small])
    >>> [small[key] for key in ("times_smaller", "times_faster", "times_smaller_overall", "times_faster_overall")]
    [10.0, 2.0, 8.0, 8.0]
    """
    by_name = {row["name"]: row for row in rows}
    base = by_name.get(BASE)
    for row in rows:
        alike = base if row["runtime"] == "torch" else by_name.get(TEACHERS[row["precision"]])
        row["times_smaller"], row["times_faster"] = against(alike, row)
        row["times_smaller_overall"], row["times_faster_overall"] = against(base, row)


def against(other: Mapping[str, Any] | None, row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """How many times smaller and faster a row is than another."""
    if other is None:
        return None, None
    return other["size_bytes"] / row["size_bytes"], other["latency_ms_p50"] / row["latency_ms_p50"]


def costs(rows: Sequence[Row], price: float | None) -> None:
    """Add ``cost_per_million``, of a million inferences at a price for an hour of the machine that was measured; and
    ``pays_after``, the inferences after which what was trained has paid for itself against the teacher in the same runtime.

    Both follow from the throughput of one thread with a batch of 1. The price falls out of ``pays_after``: training and
    inference are on the same machine. It is None for what is not faster than the teacher.

    >>> teacher = {"name": "teacher", "throughput_per_s": 1_000.0, "training_seconds": 0.0}
    >>> small = {"name": "distilled", "throughput_per_s": 10_000.0, "training_seconds": 90.0}
    >>> costs([teacher, small], 3.6)
    >>> round(small["cost_per_million"], 6), round(teacher["cost_per_million"], 6), small["pays_after"]
    (0.1, 1.0, 100000)
    """
    teacher = next((1 / row["throughput_per_s"] for row in rows if row["name"] == "teacher"), None)
    for row in rows:
        seconds = 1 / row["throughput_per_s"]
        row["cost_per_million"] = None if price is None else 1e6 * seconds / 3600 * price
        saved = teacher is not None and teacher > FASTER * seconds
        row["pays_after"] = round(row["training_seconds"] / (teacher - seconds)) if saved and teacher else None


def mark_pareto(rows: Sequence[Row], metric: str, sign: float) -> None:
    """Add ``pareto``: whether no other row is as good in the task's figure, size and latency, and better in one of them.

    Args:
        sign: 1 where a larger figure is better, -1 where a smaller one is.
    """
    places = [(sign * row[metric], -row["size_bytes"], -row["latency_ms_p50"]) for row in rows]
    for row, own in zip(rows, places, strict=True):
        row["pareto"] = not any(
            other != own and all(b >= a for a, b in zip(own, other, strict=True)) for other in places
        )


# -- which row wins --------------------------------------------------------------------------------------------------------


def judged(
    conditions: Sequence[Condition], row: Mapping[str, Any], teacher: Mapping[str, Any], alone: Mapping[str, Any]
) -> list[tuple[bool, str]]:
    """For each condition, and the budget if there is one, whether a row meets it by figures on the validation data; and why."""
    told = [c.check(_figure(row, c.name), _figure(teacher, c.name), _figure(alone, c.name)) for c in conditions]
    if row.get("within_budget") is False:
        told.append((False, "the budget is not kept"))
    return told


def _figure(row: Mapping[str, Any], name: str) -> float | None:
    value: float | None = row.get("valid", {}).get(name, row.get(name))
    return value


def winner(rows: Sequence[Row]) -> Row | None:
    """The smallest file of the rows that miss nothing; of equal ones the fastest. None if every row misses something."""
    fit = [row for row in rows if not row["missed"]]
    return min(fit, key=lambda row: (row["size_bytes"], row["latency_ms_p50"]), default=None)


def nearest(rows: Sequence[Row], metric: str, sign: float) -> Row:
    """Where none wins: the row that misses the fewest conditions, and then has the best figure."""
    return min(rows, key=lambda row: (row["missed"], -sign * row["valid"][metric]))


# -- the usual words ---------------------------------------------------------------------------------------------------------


def four(rows: Sequence[Row], metric: str) -> list[Row]:
    """Pruning, quantization, low rank and distillation, a row each: idea, measured speed and size, and the figure at the
    distilled student's number of parameters.

    Faster and smaller are against the teacher in float32 in the same runtime, the quantized one too: what it gives is its
    precision. ``at_equal_size`` is None where the parameters differ by more than a tenth.
    """
    by_name = {row["name"]: row for row in rows}
    base, student = by_name.get("teacher"), by_name.get("distilled")
    found = []
    for family, names in SPEAKS_FOR.items():
        row = next((by_name[name] for name in names if name in by_name), None)
        told: Row = {"way": family, "idea": IDEAS[family], "row": None if row is None else row["name"]}
        if row is not None:
            smaller, faster = against(base, row)
            equal = student is not None and abs(row["parameters"] / student["parameters"] - 1) <= EQUAL
            told |= {"times_faster": faster, "times_smaller": smaller, metric: row[metric]}
            told |= {"parameters": row["parameters"], "at_equal_size": row[metric] if equal else None}
        found.append(told)
    return found


def usual(table: Sequence[Row]) -> list[str]:
    """Whether pruning and low rank are medium, quantization fast and distillation very fast, as it is usually told; nothing
    where too few of the four were measured.

    >>> usual([{"way": "pruning", "times_faster": 2.0}, {"way": "quantization", "times_faster": 3.0},
    ...        {"way": "distillation", "times_faster": 9.0}])
    ['Usually told: pruning and low rank medium, quantization fast, distillation very fast. By what was measured this holds: pruning 2.0x, quantization 3.0x, distillation 9.0x.']
    """
    speeds = {row["way"]: row["times_faster"] for row in table if row.get("times_faster") is not None}
    told = "Usually told: pruning and low rank medium, quantization fast, distillation very fast."
    measured = ", ".join(f"{name} {speed:.1f}x" for name, speed in speeds.items())
    if not {"quantization", "distillation"} <= speeds.keys() or len(speeds) < 3:
        return []
    medium = max(speed for name, speed in speeds.items() if name in ("pruning", "low-rank"))
    holds = medium < speeds["quantization"] < speeds["distillation"]
    return [f"{told} By what was measured this {'holds' if holds else 'does not hold'}: {measured}."]


def tenth(rows: Sequence[Row], metric: str) -> list[str]:
    """The point of a ladder at which the parameters are a tenth."""
    by_name = {row["name"]: row for row in rows}
    small = by_name.get("1/10-distilled")
    if small is None:
        return []
    alone = f"alone {by_name['1/10-alone'][metric]:.3f}, " if "1/10-alone" in by_name else ""
    return [
        f"At a tenth of the parameters ({small['parameters']:,}): {alone}distilled {small[metric]:.3f}, teacher {by_name[BASE][metric]:.3f}; "
        f"in the same runtime {small['times_smaller']:.1f} times smaller and {small['times_faster']:.1f} times faster."
    ]
