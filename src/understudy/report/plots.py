"""Plots as inline SVG that take their colours and their font from the page around them."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from understudy.errors import MissingExtra
from understudy.report.words import fit, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["SERIES", "Line", "Panel", "bars", "curve", "reliability"]

SERIES = 6
"""Lines of one panel that can be told apart, by colour and by dashes."""

_DASHES = ("solid", (0, (4, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.6, 1.2, 1.6)), (0, (2.5, 2.5)), (0, (8, 2)))
_NAMES = ("ink", "muted", "line", "accent", "faint", *(f"series-{i}" for i in range(SERIES)))
# matplotlib knows no CSS: each variable has a colour that nobody would choose, and is put back in the finished drawing.
_SENTINEL = {name: f"#0b1{i:x}0d" for i, name in enumerate(_NAMES)}
_VARIABLE = {colour: f"var(--{name})" for name, colour in _SENTINEL.items()}
_FONT = 11
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "understudy",
    "text.parse_math": False,  # a class may be called "$5 to $10"
    "font.size": _FONT,
    "axes.titlesize": _FONT,
    "axes.titlelocation": "left",
    "axes.titlecolor": _SENTINEL["ink"],
    "text.color": _SENTINEL["ink"],
    "axes.labelcolor": _SENTINEL["muted"],
    "axes.edgecolor": _SENTINEL["line"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _SENTINEL["line"],
    "grid.linewidth": 0.6,
    "xtick.color": _SENTINEL["line"],
    "ytick.color": _SENTINEL["line"],
    "xtick.labelcolor": _SENTINEL["muted"],
    "ytick.labelcolor": _SENTINEL["muted"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


@dataclass(frozen=True)
class Line:
    """One curve: where it is drawn, and which series' colour and dashes it has; without a series it is plain."""

    x: Sequence[float]
    y: Sequence[float]
    series: int | None = None


@dataclass(frozen=True)
class Panel:
    """Curves over the same axes; ``limits`` of the value where panels are to be compared."""

    title: str
    lines: Sequence[Line]
    limits: tuple[float, float] | None = None


def curve(panel: Panel, *, name: str, title: str, description: str = "") -> str:
    """Lines over the optimizer's steps."""
    with _figure(250, 156) as figure:
        axes = figure.subplots()
        _panel(axes, panel)
        axes.set_xlabel("step", loc="right")
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        return _svg(figure, name, title, description)


def _panel(axes: Axes, panel: Panel) -> None:
    several = len(panel.lines) > len({line.series for line in panel.lines})
    for line in panel.lines:
        axes.plot(
            line.x,
            line.y,
            color=_SENTINEL["ink" if line.series is None else f"series-{line.series}"],
            linestyle="solid" if line.series is None else _DASHES[line.series],
            linewidth=1.3,
            alpha=0.7 if several else 1.0,
            marker="o" if len(line.x) == 1 else None,
            markersize=3.5,
        )
    values = [y for line in panel.lines for y in line.y if math.isfinite(y)]
    title = fit(panel.title, 36)
    if panel.limits is not None:
        axes.set_ylim(*panel.limits)
    elif values and min(values) > 0 and max(values) > 100 * min(values):
        axes.set_yscale("log")
        title += " (log scale)"
    axes.set_title(title)
    if len(steps := {x for line in panel.lines for x in line.x}) == 1:
        axes.set_xticks(list(steps))
    else:
        axes.locator_params(axis="x", nbins=4, integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: _short(value))
    axes.yaxis.set_minor_formatter(lambda value, _: "")
    if axes.get_yscale() == "linear":
        axes.locator_params(axis="y", nbins=4)
    axes.grid(visible=False, axis="x")


def bars(values: Sequence[float], labels: Sequence[str], *, marked: int | None, name: str, title: str) -> str:
    """Probabilities side by side, from 0 to 1, with their names to the left; the ``marked`` one in the accent colour."""
    with _figure(160, 10 + 15 * len(values)) as figure:
        axes = figure.subplots()
        places = range(len(values))
        kinds = ["accent" if i == marked else "faint" for i in places]
        axes.barh(places, values, height=0.66, color=[_SENTINEL[kind] for kind in kinds])
        for place, value in zip(places, values, strict=True):
            if math.isfinite(value):
                size, colour = _FONT - 1.5, _SENTINEL["ink" if value >= 0.005 else "muted"]
                axes.text(value + 0.025, place, _share(value), va="center_baseline", fontsize=size, color=colour)
        axes.set_yticks(places, [fit(label) for label in labels], color=_SENTINEL["ink"])
        axes.set_xticks([])
        axes.set_xlim(0, 1.24)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        description = ", ".join(f"{a} {_share(v)}" for a, v in zip(labels, values, strict=True))
        return _svg(figure, name, title, description)


def reliability(bins: Sequence[tuple[float, float, int]], *, name: str, title: str) -> str:
    """Accuracy over confidence, with the diagonal on which a calibrated model lies; below, where the samples are.

    Args:
        bins: confidence, accuracy and the number of samples of each bin that has any.
    """
    with _figure(250, 290) as figure:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 1], [0, 1], color=_SENTINEL["muted"], linewidth=0.9, linestyle=(0, (3, 3)))
        confidence, accuracy, count = ([entry[i] for entry in bins] for i in range(3))
        total = sum(count) or 1
        axes.vlines(confidence, confidence, accuracy, color=_SENTINEL["accent"], linewidth=1.1, alpha=0.55)
        sizes = [14 + 150 * n / total for n in count]
        axes.scatter(confidence, accuracy, s=sizes, color=_SENTINEL["accent"], alpha=0.9, linewidths=0, clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
        below.bar(confidence, [n / total for n in count], width=0.03, color=_SENTINEL["accent"])
        below.set(ylim=(0, 1), xlabel="confidence", ylabel="samples")
        below.set_yticks([0, 1], ["0", "all"])
        for each in (axes, below):
            each.xaxis.set_major_formatter(lambda value, _: _short(value))
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        figure.align_ylabels()
        description = "; ".join(f"{n} samples at confidence {c:.2f}: accuracy {a:.2f}" for c, a, n in bins)
        return _svg(figure, name, title, description)


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """An empty figure of so many points, under our style alone: the user's own settings are neither used nor changed."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("The page", "report") from error
    with matplotlib.rc_context(), warnings.catch_warnings():
        # Text stays text: whether matplotlib's font has a sign does not matter, the reader's browser draws it.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(width / 72, height / 72), layout="constrained")


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    """The drawing for use inside HTML: no namespaces, no styles that reach out of it, no id that another plot has."""
    file = io.BytesIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    root = ET.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if _bare(child.tag) in ("metadata", "style") or (_bare(child.tag) == "defs" and _only_style(child)):
                parent.remove(child)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", ET.tostring(root, encoding="unicode")))
    for element in root.iter():
        element.tag = _bare(element.tag)
        element.attrib = {_bare(k): _inner(_bare(k), v, name) for k, v in element.attrib.items() if _kept(k, v, used)}
        element.tail = None
        if element.tag not in ("text", "tspan"):
            element.text = None
    root.attrib = {"viewBox": root.attrib["viewBox"], "class": "plot", "role": "img", "id": name}
    root.attrib["aria-labelledby"] = f"{name}-title" + (f" {name}-desc" if description else "")
    for place, (kind, text) in enumerate([("title", title), ("desc", description)]):
        if text:
            element = ET.Element(kind, {"id": f"{name}-{kind}"})
            element.text = printable(text)
            root.insert(place, element)
    return ET.tostring(root, encoding="unicode")


def _bare(name: str) -> str:
    return name.rsplit("}", 1)[-1]


def _only_style(defs: ET.Element) -> bool:
    return all(_bare(child.tag) == "style" for child in defs)


def _kept(key: str, value: str, used: set[str]) -> bool:
    # matplotlib turns every level text by nothing, or by minus nothing.
    return (key != "id" or value in used) and not (key == "transform" and value.startswith(("rotate(-0 ", "rotate(0 ")))


def _inner(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    if key == "style":
        value = re.sub(r"font-family:[^;]*;?|\bfont: (?=[\d.]+px)", "", value)
        return re.sub("#[0-9a-f]{6}", lambda found: _VARIABLE.get(found[0], found[0]), value).strip()
    value = value.replace("url(#", f"url(#{name}-")
    return re.sub(r"(\d\.\d{2})\d+", r"\1", " ".join(value.split()))


def _share(value: float) -> str:
    return "<0.01" if 0 < value < 0.005 else f"{value:.2f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
