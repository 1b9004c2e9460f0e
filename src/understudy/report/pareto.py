"""Every model of a comparison against what it costs: one HTML file with a plot to press on and a table to sort.

pareto_page(rows, *, metric, title, facts=None, tables=(), verdict=(), chosen=None, better="max") -> str
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.errors import InputError, MissingExtra, choices, raise_all
from understudy.report.cells import ROWS, cells
from understudy.report.html import rendered

__all__ = ["pareto_page"]

AXES = (
    ("size_bytes", "File size", "size of the file, MB", 1e-6, "~g"),
    ("latency_ms_p50", "Latency", "latency p50, ms", 1.0, "~g"),
    ("parameters", "Parameters", "parameters", 1.0, "~s"),
    ("energy_mj", "Energy", "energy of a sample, mJ", 1.0, "~g"),
)
"""What a model may cost: the rows' key, the switch's word, the axis' title, the factor to its unit, and how numbers are written."""

_COLUMNS = (
    ("gap_closed", "gap closed", "{:.0%}", "max"),
    ("size_mb", "file, MB", "{:.4g}", "min"),
    ("latency_ms_p50", "latency p50, ms", "{:.3g}", "min"),
    ("times_smaller_overall", "times smaller, overall", "{:.3g}", "max"),
    ("times_faster_overall", "times faster, overall", "{:.3g}", "max"),
    ("times_smaller", "times smaller, same runtime", "{:.3g}", "max"),
    ("times_faster", "times faster, same runtime", "{:.3g}", "max"),
    ("parameters", "parameters", "{:,}", "min"),
    ("flops", "FLOPs of a sample", "{:,}", "min"),
    ("latency_ms_p99", "latency p99, ms", "{:.3g}", "min"),
    ("throughput_per_s", "samples a second", "{:,.0f}", "max"),
    ("peak_memory_mb", "peak memory, MB", "{:.0f}", "min"),
    ("energy_mj", "energy of a sample, mJ", "{:.3g}", "min"),
    ("energy_how", "energy is", "{}", None),
    ("size_compressed_mb", "compressed, MB", "{:.4g}", "min"),
    ("eager_latency_ms_p50", "in PyTorch p50, ms", "{:.3g}", "min"),
    ("within_budget", "within the budget", "{}", None),
    ("cost_per_million", "cost of a million", "{:.3g}", "min"),
    ("pays_after", "pays after, inferences", "{:,.0f}", "min"),
    ("precision", "precision", "{}", None),
    ("runtime", "runtime", "{}", None),
    ("steps", "steps", "{}", None),
    ("seeds", "seeds", "{}", None),
    ("pareto", "on the front of the comparison", "{}", None),
)
_HOVER = ("size_mb", "latency_ms_p50", "parameters", "energy_mj")
_PICKED = (
    "gap_closed", *_HOVER, "peak_memory_mb", "times_smaller_overall", "times_faster_overall", "times_smaller", "times_faster",
    "precision", "runtime", "seeds",
)  # fmt: skip

_LOOKS = {
    "teacher": ("--ink", "star"),
    "alone": ("--muted", "circle"),
    "distillation": ("--series-0", "circle"),
    "pruning": ("--series-1", "square"),
    "quantization": ("--series-2", "diamond"),
    "low-rank": ("--series-3", "triangle-up"),
    "combination": ("--series-5", "cross"),
    "ladder": ("--series-4", "triangle-down"),
}
_OTHERS = tuple((f"--series-{n}", "hexagon") for n in range(6))
_PATHS = {
    "circle": "M6,0A6,6 0 1 1 -6,0A6,6 0 1 1 6,0Z",
    "square": "M-5.5,-5.5H5.5V5.5H-5.5Z",
    "diamond": "M0,-7.5L7.5,0L0,7.5L-7.5,0Z",
    "triangle-up": "M0,-6.5L7.2,6H-7.2Z",
    "triangle-down": "M0,6.5L7.2,-6H-7.2Z",
    "cross": "M-2.4,-7H2.4V-2.4H7V2.4H2.4V7H-2.4V2.4H-7V-2.4H-2.4Z",
    "star": "M0,-8L2.1,-2.5L7.6,-2.5L3.1,1L4.7,6.5L0,3.2L-4.7,6.5L-3.1,1L-7.6,-2.5L-2.1,-2.5Z",
    "hexagon": "M7,0L3.5,6H-3.5L-7,0L-3.5,-6H3.5Z",
}


def pareto_page(
    rows: Sequence[Mapping[str, Any]],
    *,
    metric: str,
    title: str,
    facts: Mapping[str, str] | None = None,
    tables: Sequence[Mapping[str, Any]] = (),
    verdict: Sequence[str] = (),
    chosen: str | None = None,
    better: str = "max",
) -> str:
    """The page, from plain data: about 5 MB, because the library that draws the plot is in it.

    Args:
        rows: as ``results.json`` of a comparison has them; each needs ``name``, and whatever else is missing or None is a
            dash. ``family`` gives the colour, ``command`` is shown where the row is picked, ``chain`` is a list of texts.
        metric: the rows' key of the figure that is compared; ``<metric>_ci95`` is half its interval, ``file_<metric>`` its
            value scored from the file.
        title: of the page.
        facts: what to know of the figures: machine, protocol, what is an estimate; ``{name: text}``.
        tables: further ones, ``{"title", "about", "columns", "rows"}``; columns and rows as those of
            :func:`understudy.report.page.page`, ``about`` may be left out.
        verdict: sentences, the most important first.
        chosen: name of the row that is handed on.
        better: "max" or "min": which way the metric is better.

    Raises: InputError for data of another form; MissingExtra without jinja2 or plotly.
    """
    _check(rows, metric, chosen, better)
    try:
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtra("The page of a comparison", "report") from error
    rows = [_derived(row, metric) for row in rows[:ROWS]]
    columns = _columns(rows, metric, better)
    families = _families(rows)
    axes = [_axis(*axis) for axis in AXES if any(_positive(row.get(axis[0])) for row in rows)]
    models = [_model(i, row, metric, columns, chosen) for i, row in enumerate(rows)]
    return rendered(
        "pareto.html.j2",
        title=title,
        verdict=list(verdict),
        metric=metric,
        better=better,
        bars=any(model["half"] for model in models),
        axes=axes,
        families=families,
        remarks=_remarks(rows, models),
        table=cells(columns, rows),
        attributes=_attributes(rows, families, chosen),
        tables=[
            {**t, "about": t.get("about"), "table": made} for t in tables if (made := cells(t["columns"], t["rows"]))
        ],
        facts=[(str(name), str(text)) for name, text in (facts or {}).items()],
        told={"metric": metric, "better": better, "axes": axes, "families": families, "models": models},
        plotly=Markup(get_plotlyjs()),  # a library's own text
    )


def _check(rows: Sequence[Mapping[str, Any]], metric: str, chosen: str | None, better: str) -> None:
    names = [str(row.get("name")) for row in rows]
    problems = [
        f"rows: {name!r} is there twice; names have to differ."
        for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if any("name" not in row for row in rows):
        problems.append("rows: a row has no name.")
    if not any(_number(row.get(metric)) is not None for row in rows):
        problems.append(f"metric: no row has a number for {metric!r}.")
    if chosen is not None and chosen not in names:
        problems.append(f"chosen: no row is named {chosen!r}. {choices(chosen, names)}")
    if better not in ("max", "min"):
        problems.append(f"better: {better!r} is neither 'max' nor 'min'.")
    raise_all(InputError, [f"pareto_page: {problem}" for problem in problems])


def _number(value: Any) -> float | None:
    """What can be drawn."""
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if real else None


def _positive(value: Any) -> float | None:
    """What has a place on a logarithmic axis."""
    number = _number(value)
    return number if number is not None and number > 0 else None


def _derived(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """The row in the units of the table."""
    more: dict[str, Any] = {"family": str(row.get("family") or "other"), "name": str(row["name"])}
    for key in ("size", "size_compressed"):
        size = _number(row.get(f"{key}_bytes"))
        more[f"{key}_mb"] = None if size is None else size / 1e6
    steps = [str(step) for step in row.get("chain") or ()] + ["recovered"] * bool(row.get("recovered"))
    more["steps"] = " + ".join(steps) or None
    value, half = row.get(metric), _number(row.get(f"{metric}_ci95"))
    more["figure"] = value if half is None or value is None else {"mean": value, "half": half}
    return {**row, **more}


def _columns(rows: Sequence[Mapping[str, Any]], metric: str, better: str) -> list[dict[str, Any]]:
    hows = {row.get("energy_how") for row in rows if row.get("energy_mj") is not None}
    found = [
        ("name", "model", "{}", None), ("family", "family", "{}", None), ("figure", metric, "{:.3f}", better),
        (f"file_{metric}", f"{metric}, from the file", "{:.3f}", better), *_COLUMNS,
    ]  # fmt: skip
    columns = [{"key": key, "title": name, "form": form, "better": way} for key, name, form, way in found]
    if hows == {"estimated"}:
        columns = [c if c["key"] != "energy_mj" else {**c, "title": f"{c['title']} (estimated)"} for c in columns]
    return columns if len(hows) > 1 else [c for c in columns if c["key"] != "energy_how"]


def _axis(key: str, name: str, title: str, factor: float, form: str) -> dict[str, Any]:
    return {"key": key, "name": name, "title": title, "factor": factor, "format": form}


def _families(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Those that there are, with a colour and a sign each, known ones first."""
    there = dict.fromkeys(row["family"] for row in rows)
    names = [name for name in _LOOKS if name in there] + [name for name in there if name not in _LOOKS]
    looks = {**{name: _OTHERS[i % len(_OTHERS)] for i, name in enumerate(names)}, **_LOOKS}
    return [{"name": n, "colour": looks[n][0], "symbol": looks[n][1], "path": _PATHS[looks[n][1]]} for n in names]


def _model(
    index: int, row: Mapping[str, Any], metric: str, columns: Sequence[Mapping[str, Any]], chosen: str | None
) -> dict[str, Any]:
    """What the script needs to draw a row, to find it and to show it."""
    one = cells(columns, [row])
    assert one is not None  # a row has a name
    shown = [c for c in columns if row.get(c["key"]) is not None]
    text = {c["key"]: (c["title"], cell["text"]) for c, cell in zip(shown, one["rows"][0], strict=True)}
    costs = {key: (_positive(row.get(key)), factor) for key, _, _, factor, _ in AXES}
    words = (row["name"], row["family"], row["steps"], row.get("precision"), row.get("runtime"))
    return {
        "index": index,
        "name": row["name"],
        "family": row["family"],
        "chosen": row["name"] == chosen,
        "y": _number(row.get(metric)),
        "half": _number(row.get(f"{metric}_ci95")),
        "figure": text["figure"][1] if "figure" in text else None,
        "x": {key: None if cost is None else cost * factor for key, (cost, factor) in costs.items()},
        "hover": [text[key] for key in ("figure", *_HOVER) if key in text],
        "figures": [text[key] for key in ("figure", f"file_{metric}", *_PICKED) if key in text],
        "chain": row["steps"],
        "command": str(row["command"]) if row.get("command") else None,
        "words": " ".join(str(word) for word in words if word).lower(),
    }


def _attributes(
    rows: Sequence[Mapping[str, Any]], families: Sequence[Mapping[str, str]], chosen: str | None
) -> list[dict[str, str]]:
    """Of the table's rows: what ties them to the points."""
    colours = {family["name"]: family["colour"] for family in families}
    return [
        {"id": f"row-{i}", "data-row": str(i), "style": f"--own: var({colours[row['family']]})"}
        | ({"data-chosen": ""} if row["name"] == chosen else {})
        for i, row in enumerate(rows)
    ]


def _remarks(rows: Sequence[Mapping[str, Any]], models: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the plot does not show, or shows and is not measured."""
    undrawn = [model["name"] for model in models if model["y"] is None]
    told = [f"Not drawn, for lack of a figure: {', '.join(undrawn)}."] if undrawn else []
    if any(row.get("energy_how") == "estimated" for row in rows):
        told.append("Energy is an estimate, not a measurement, where the table says so.")
    return told
