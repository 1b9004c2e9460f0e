import functools
import re
from typing import Any

import matplotlib
import pytest
from markup import tree

from understudy.report import plots
from understudy.report.plots import Line, Panel, bars, curve, reliability


def every_plot() -> list[str]:
    lines = [Line([0, 10, 20], [3.0, 2.0, 1.0], i) for i in range(plots.SERIES)]
    return [
        curve(Panel("loss by term", lines), name="one", title="Learning"),
        curve(Panel("validated accuracy", [Line([0, 10], [0.1, 0.2])], (0, 1)), name="two", title="Learning"),
        curve(Panel("wide", [Line([0, 10], [1e-3, 1e3])]), name="three", title="Learning"),
        bars([0.9, 0.08, 0.02], ["cat", "desk", "chair"], marked=0, name="four", title="Soft"),
        reliability([(0.4, 0.5, 4), (0.9, 0.8, 16)], name="five", title="Calibration"),
        curve(Panel("one point", [Line([5], [1.0], 0)]), name="six", title="Learning"),
    ]


@functools.cache
def plain() -> tuple[str, ...]:
    return tuple(every_plot())


def colours(svg: str) -> list[str]:
    return re.findall(
        r"#[0-9a-fA-F]{3,8}\b|rgba?\([^)]*\)|\b(?:black|white|red)\b",
        re.sub(r"#(?:one|two|three|four|five|six)-\w+", "", svg),
    )


def test_every_colour_is_the_pages() -> None:
    for svg in plain():
        assert colours(svg) == []
        assert "var(--" in svg


def test_the_check_of_colours_sees_one_of_the_plots_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_VARIABLE", {k: v for k, v in plots._VARIABLE.items() if v != "var(--muted)"})
    assert all(colours(svg) for svg in (every_plot()[0], every_plot()[4]))


def test_text_stays_text_in_the_pages_font() -> None:
    for svg in plain():
        assert list(tree(svg).all("text"))
        assert "font-family" not in svg
        assert "DejaVu" not in svg
        assert "font-size" in svg


def test_a_plot_is_named_for_those_who_do_not_see_it() -> None:
    for svg in plain():
        root = tree(svg).one("svg", role="img")
        titles = {e.attributes["id"]: e.text for e in root.all() if e.tag in ("title", "desc")}
        assert titles
        assert root.attributes["aria-labelledby"].split() == list(titles)
        assert all(titles.values())


def test_ids_are_the_plots_own() -> None:
    for svg in plain():
        name = tree(svg).one("svg").attributes["id"]
        assert {i.split("-")[0] for i in re.findall(r'id="([^"]+)"', svg)} == {name}
    assert tree("".join(plain()))  # no id twice, none missing


def test_without_its_name_in_the_ids_plots_would_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    original = plots._inner
    monkeypatch.setattr(plots, "_inner", lambda key, value, name: original(key, value, "same"))
    first, second = (reliability([(0.4, 0.5, 4)], name=name, title="x") for name in ("one", "two"))
    with pytest.raises(AssertionError, match="is there twice"):
        tree(first + second)


def test_nothing_in_a_plot_reaches_out_of_it() -> None:
    for svg in plain():
        assert not re.search(r"<style|<metadata|xmlns|http|<!|<\?", svg)


def test_a_plot_is_drawn_alike_each_time() -> None:
    assert tuple(every_plot()) == plain()


def test_the_users_own_style_is_neither_used_nor_changed() -> None:
    alike = plain()
    own: Any = {"axes.facecolor": "red", "svg.fonttype": "path", "font.size": 30, "axes.grid.axis": "y"}
    with matplotlib.rc_context(own):
        before = dict(matplotlib.rcParams)
        assert tuple(every_plot()) == alike
        assert dict(matplotlib.rcParams) == before


def test_the_users_own_style_would_show_if_it_were_used(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = plain()
    monkeypatch.setattr(matplotlib, "rcdefaults", lambda: None)
    with matplotlib.rc_context({"axes.titleweight": "bold"}):
        assert tuple(every_plot()) != alike


def path_of(svg: str, colour: str) -> list[str]:
    return [
        e.attributes["d"]
        for e in tree(svg).all("path")
        if f"stroke: var(--{colour})" in e.attributes.get("style", "") and "clip-path" in e.attributes
    ]


def test_a_gap_in_the_values_is_a_gap_in_the_line() -> None:
    whole = curve(Panel("x", [Line([0, 1, 2, 3, 4], [1.0, 2.0, 2.5, 2.0, 1.0], 0)]), name="a", title="a")
    gap = curve(Panel("x", [Line([0, 1, 2, 3, 4], [1.0, 2.0, float("nan"), 2.0, 1.0], 0)]), name="a", title="a")
    assert [d.count("M") for d in path_of(whole, "series-0")] == [1]
    assert [d.count("M") for d in path_of(gap, "series-0")] == [2]


def test_a_single_point_is_seen() -> None:
    svg = curve(Panel("x", [Line([5], [1.0], 0)]), name="a", title="a")
    (dot,) = (e for e in tree(svg).all("use") if "series-0" in e.attributes.get("style", ""))
    assert dot.attributes["href"].startswith("#a-")
    assert "5" in [t.text for t in tree(svg).all("text")]


def test_values_of_very_different_size_get_a_log_scale_and_it_is_said() -> None:
    def titles(*values: float, limits: tuple[float, float] | None = None) -> list[str]:
        panel = Panel("loss", [Line(list(range(len(values))), values, 0)], limits)
        return [t.text for t in tree(curve(panel, name="a", title="a")).all("text")]

    assert "loss (log scale)" in titles(1e-3, 1.0)
    assert "loss" in titles(0.5, 1.0)
    assert "loss" in titles(-1e-3, 1.0)
    assert "loss" in titles(1e-3, 1.0, limits=(0, 1))


def test_only_nans_are_drawn_as_nothing() -> None:
    assert tree(curve(Panel("x", [Line([0, 1], [float("nan")] * 2, 0)]), name="a", title="a"))
    assert tree(bars([float("nan")], ["a"], marked=None, name="a", title="a"))


def test_bars_are_as_long_as_their_probabilities() -> None:
    svg = bars([0.5, 0.25, 0.004], ["a", "b", "c"], marked=None, name="a", title="a")
    widths = []
    for e in tree(svg).all("path"):
        if "fill: var(--faint)" in e.attributes.get("style", ""):
            xs = [float(x) for x, _ in re.findall(r"[ML] ([\d.]+) ([\d.]+)", e.attributes["d"])]
            widths.append(max(xs) - min(xs))
    assert widths[0] == pytest.approx(2 * widths[1], rel=0.01)
    assert [t.text for t in tree(svg).all("text")] == ["a", "b", "c", "0.50", "0.25", "<0.01"]
