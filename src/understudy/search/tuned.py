"""The page of a tuning: what each trial came to, which values mattered, and the table. One HTML file, without scripts."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["PAGE", "page"]

PAGE = "tune.html"

WIDTH, HEIGHT, EDGE = (
    440,
    180,
    60,
)  # of the drawing, and what its numbers take at its left; a phone shows it at its own size

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --muted: #6a6a70; --line: #d8d8dc; --accent: #0a62c4; --paper: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee; --muted: #a0a0a8; --line: #3a3a40; --accent: #6cb2ff; --paper: #161618; } }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: var(--muted); font-size: 12px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr.best td { font-weight: 600; } .pruned, .failed { color: var(--muted); }
.bar { display: inline-block; height: .7rem; background: var(--accent); min-width: 1px; }
"""


def page(told: Mapping[str, Any], title: str) -> str:
    """The page.

    Args:
        told: what :meth:`understudy.search.tune.Tuned.results` gives.
        title: of it.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(_sentence(told))}</p>"]
    for name, more in told["objectives"].items():
        values = [row[name] if row["state"] == "done" else None for row in told["rows"]]
        parts += [f"<h2>History: {html.escape(name)} on valid</h2>", _history(values, more, name)]
    for name, shares in told["importance"].items():
        parts += [f"<h2>Importance for {html.escape(name)}</h2>", _importance(shares)]
    parts += ["<h2>Trials</h2>", _table(told)]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _sentence(told: Mapping[str, Any]) -> str:
    which = "The best trial is" if len(told["best"]) == 1 else "The Pareto front is"
    once = (
        f"It was measured once on the {told['measured_on']} data"
        if told["measured_on"] == "test"
        else "There is no test data"
    )
    figures = "; ".join(
        f"trial {row['trial']}: " + ", ".join(f"{n} {row[n]:.4g}" for n in told["objectives"] if row[n] is not None)
        for row in told["measured"]
    )
    return f"{which} {', '.join(map(str, told['best']))} of {len(told['rows'])}, chosen on the validation data. {once}: {figures}."


def _history(values: Sequence[float | None], more: bool, name: str) -> str:
    """A dot a trial, and a line along the best so far."""
    known = [(i, v) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    if not known:
        return "<p>No trial came to its end.</p>"
    low, high = min(v for _, v in known), max(v for _, v in known)
    span, last = (high - low) or 1.0, max(len(values) - 1, 1)

    def at(i: int, v: float) -> tuple[float, float]:
        x = EDGE + 8 + (WIDTH - EDGE - 20) * i / last
        return round(x, 1), round(HEIGHT - 32 - (HEIGHT - 46) * (v - low) / span, 1)

    dots = "".join(
        f'<circle cx="{at(i, v)[0]}" cy="{at(i, v)[1]}" r="4" fill="var(--accent)"><title>trial {i}: {v:.4g}</title></circle>'
        for i, v in known
    )
    best, line = known[0][1], []
    for i, v in known:
        before, best = best, max(best, v) if more else min(best, v)
        line += [at(i, before), at(i, best)]
    path = " ".join(f"{x},{y}" for x, y in line)
    marks = (
        f'<text x="0" y="{at(0, high)[1] + 4}">{high:.4g}</text><text x="0" y="{at(0, low)[1] + 4}">{low:.4g}</text>'
    )
    foot = f'<text x="{EDGE + 5}" y="{HEIGHT - 4}">trial 0</text><text x="{WIDTH - 8}" y="{HEIGHT - 4}" text-anchor="end">{last}</text>'
    foot += f'<path d="M{EDGE} {HEIGHT - 20}H{WIDTH}" stroke="var(--line)"/>'
    drawn = f'<polyline points="{path}" fill="none" stroke="var(--muted)" stroke-width="1.5"/>'
    label = html.escape(f"{name} of each trial, and the best so far", quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 6}" role="img" aria-label="{label}">{drawn}{dots}{marks}{foot}</svg>'


def _importance(shares: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(key)}</td><td>{share:.2f}</td><td><span class="bar" style="width:{12 * share:.2f}rem"></span></td></tr>'
        for key, share in sorted(shares.items(), key=lambda pair: -pair[1])
    )
    return f'<div class="wide"><table>{rows}</table></div>'


def _table(told: Mapping[str, Any]) -> str:
    keys = list(dict.fromkeys(key for row in told["rows"] for key in row["values"]))
    names = ["trial", *keys, *told["objectives"], "state", "seconds"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = []
    for row in told["rows"]:
        cells = [row["trial"], *(row["values"].get(k) for k in keys), *(row[n] for n in told["objectives"])]
        cells += [row["state"], row["seconds"]]
        kind = "best" if row["trial"] in told["best"] else row["state"]
        rows.append(f'<tr class="{kind}">' + "".join(f"<td>{html.escape(_cell(c))}</td>" for c in cells) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
