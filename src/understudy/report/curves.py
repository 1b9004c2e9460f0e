"""Learning curves: from the records of ``metrics.jsonl`` to a card of plots for each stage."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from understudy.report import plots
from understudy.report.words import left_out

__all__ = ["FIGURES", "POINTS", "SEEDS", "STAGES", "curves"]

STAGES, SEEDS, POINTS, FIGURES = 24, 20, 2000, 3

_Points = dict[str, list[tuple[float, float]]]
_Limits = dict[str, tuple[float, float]]


def curves(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """A card for each stage, its seeds overlaid, for the template; None without any point."""
    stages: dict[str, list[tuple[_Points, _Points]]] = {}
    for run in runs:
        terms, valid = _series(run["records"])
        if terms or valid:
            stages.setdefault(str(run["stage"]), []).append((terms, valid))
    if not stages:
        return None
    shown = dict(list(stages.items())[:STAGES])
    limits = _limits([valid for seeds in shown.values() for _, valid in seeds])
    return {
        "cards": [_card(f"curves-{i}", stage, seeds, limits) for i, (stage, seeds) in enumerate(shown.items())],
        "note": left_out(len(shown), len(stages), "stages"),
        "seeds": any(len(seeds) > 1 for seeds in shown.values()),
    }


def _series(records: Iterable[Mapping[str, Any]]) -> tuple[_Points, _Points]:
    """The points of each term's curve and of each validated figure; null, which stands for no finite number, is a gap."""
    terms: _Points = {}
    valid: _Points = {}
    for record in records:
        for found, into in ((record.get("terms") or record.get("loss"), terms), (record.get("valid"), valid)):
            for name, value in (found or {}).items():
                if value is None or isinstance(value, (int, float)):
                    into.setdefault(str(name), []).append((record["step"], math.nan if value is None else value))
    return terms, valid


def _limits(valids: Iterable[_Points]) -> _Limits:
    """The range of each validated figure over all stages, so that stages can be compared by eye."""
    values: dict[str, list[float]] = {}
    for valid in valids:
        for name, points in valid.items():
            values.setdefault(name, []).extend(y for _, y in points if math.isfinite(y))
    margin = {name: (max(v) - min(v)) * 0.05 for name, v in values.items() if v}
    return {name: (min(values[name]) - m, max(values[name]) + m) for name, m in margin.items() if m > 0}


def _card(plot: str, stage: str, seeds: Sequence[tuple[_Points, _Points]], limits: _Limits) -> dict[str, Any]:
    losses, valids = [terms for terms, _ in seeds[:SEEDS]], [valid for _, valid in seeds[:SEEDS]]
    terms = list(dict.fromkeys(term for points in losses for term in points))
    figures = list(dict.fromkeys(figure for points in valids for figure in points))
    drawn = terms[: plots.SERIES]
    panels = []
    if terms:
        lines = [_line(points[term], i) for i, term in enumerate(drawn) for points in losses if term in points]
        panels.append((plots.Panel("loss by term", lines), _ends(losses[0], drawn)))
    for figure in figures[:FIGURES]:
        lines = [_line(points[figure]) for points in valids if figure in points]
        panels.append((plots.Panel(f"validated {figure}", lines, limits.get(figure)), _ends(valids[0], [figure])))
    notes = [
        left_out(len(losses), len(seeds), "seeds"),
        left_out(len(drawn), len(terms), "terms"),
        left_out(min(len(figures), FIGURES), len(figures), "validated figures"),
        _thinned(max(len(points) for found in [*losses, *valids] for points in found.values())),
    ]
    return {
        "stage": stage,
        "plots": [
            plots.curve(panel, name=f"{plot}-{i}", title=f"{stage}: {panel.title}", description=ends)
            for i, (panel, ends) in enumerate(panels)
        ],
        "terms": drawn,
        "seeds": len(losses),
        "notes": notes,
    }


def _line(points: Sequence[tuple[float, float]], series: int | None = None) -> plots.Line:
    """The curve, thinned out where it has too many points, so that no peak is lost."""
    if len(points) > POINTS:
        kept: list[int] = []
        for stretch in np.array_split(np.arange(len(points)), POINTS // 2):
            ordered = sorted(stretch.tolist(), key=lambda i: points[i][1])
            kept += sorted({ordered[0], ordered[-1]})
        points = [points[i] for i in kept]
    return plots.Line([x for x, _ in points], [y for _, y in points], series)


def _thinned(longest: int) -> str:
    if longest <= POINTS:
        return ""
    return f"Of {longest:,} points a curve, the least and the greatest of each of {POINTS // 2:,} stretches are drawn."


def _ends(points: _Points, names: Iterable[str]) -> str:
    """A plot in words, for those who do not see it."""
    return "; ".join(f"{n} from {points[n][0][1]:.3g} to {points[n][-1][1]:.3g}" for n in names if n in points)
