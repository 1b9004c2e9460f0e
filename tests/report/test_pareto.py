"""The page of a comparison: what is in the file, and what a reader sees of it in Chromium."""

import base64
import copy
import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, browser
from markup import Element, parse

from understudy.errors import InputError, MissingExtra
from understudy.report.pareto import pareto_page

pytest.importorskip("plotly")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
seen = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)")

EVIL = "<script>evil()</script><img src=x onerror=evil()>"


def row(name: str, family: str, accuracy: float | None, size: int, latency: float, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "family": family, "accuracy": accuracy, "size_bytes": size, "latency_ms_p50": latency,
        "parameters": size // 4, "seeds": 3, "command": f"understudy compare digits --ways {name}", **more,
    }  # fmt: skip


ROWS = [
    row("teacher", "teacher", 0.98, 200_000, 0.06, precision="fp32"),
    row("alone", "alone", 0.91, 20_000, 0.02, accuracy_ci95=0.012),
    row("distilled", "distillation", 0.95, 20_000, 0.02, accuracy_ci95=0.01),
    row("small", "combination", 0.94, 6_000, 0.03, accuracy_ci95=0.008, precision="int8", chain=["narrower(ratio=0.5)"]),
    row("thin", "pruning", 0.93, 50_000, 0.04, recovered=True),
    row("failed", "pruning", 0.2, 40_000, 0.05),
    row("undrawn", "low-rank", None, 30_000, 0.05),
]  # fmt: skip
FACTS = {"machine": "two cores", "energy": "an estimate: 4 W a core x CPU seconds"}
TABLE = {
    "title": "Ways",
    "about": "At equal size.",
    "columns": [{"key": "way", "title": "way"}, {"key": "figure", "title": "accuracy", "form": "{:.2f}"}],
    "rows": [{"way": "pruning", "figure": 0.93}],
}


def made(rows: list[dict[str, Any]] = ROWS, **more: Any) -> str:
    given = {"metric": "accuracy", "title": "Digits", "facts": FACTS, "tables": [TABLE], "chosen": "small", **more}
    return pareto_page(rows, **given)


@pytest.fixture(scope="module")
def html() -> str:
    return made()


def scripts(html: str) -> list[Element]:
    return list(parse(html)[0].all("script"))


def told(html: str) -> dict[str, Any]:
    return json.loads("".join(scripts(html)[0].pieces()))


def models(html: str) -> dict[str, dict[str, Any]]:
    return {model["name"]: model for model in told(html)["models"]}


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_loads_nothing(html: str) -> None:
    root, problems = parse(html)
    assert problems == []
    assert [e.tag for e in root.all() if e.tag in ("link", "iframe", "object", "embed", "img")] == []
    assert [s.attributes for s in root.all("script")] == [{"type": "application/json", "id": "told"}, {}, {}]


def test_the_policy_allows_the_two_scripts_and_no_network(html: str) -> None:
    root = parse(html)[0]
    policy = next(m.attributes["content"] for m in root.all("meta") if m.attributes.get("http-equiv"))
    bodies = ["".join(script.pieces()) for script in root.all("script")][1:]
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(b.encode()).digest()).decode()}'" for b in bodies]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"].split() == digests


def test_the_same_rows_give_the_same_page(html: str) -> None:
    assert made(copy.deepcopy(ROWS)) == html


def test_what_is_drawn_is_in_the_units_of_the_axes(html: str) -> None:
    small, undrawn = models(html)["small"], models(html)["undrawn"]
    assert small["x"] == {
        "size_bytes": pytest.approx(0.006), "latency_ms_p50": 0.03, "parameters": 1500.0, "energy_mj": None,
    }  # fmt: skip
    assert (small["y"], small["half"], small["chosen"]) == (0.94, 0.008, True)
    assert ["accuracy", "0.940 ± 0.008"] in small["hover"]
    assert (undrawn["y"], undrawn["half"]) == (None, None)
    assert [axis["name"] for axis in told(html)["axes"]] == ["File size", "Latency", "Parameters"]


@pytest.mark.parametrize("value", [math.nan, math.inf, 0, -1, True, "small"])
def test_what_has_no_place_on_an_axis_is_not_drawn(value: Any) -> None:
    rows = [*ROWS, row("odd", "alone", 0.9, 5, value)]
    assert models(made(rows))["odd"]["x"]["latency_ms_p50"] is None
    json.loads("".join(scripts(made(rows))[0].pieces()), parse_constant=lambda name: pytest.fail(name))


def test_energy_is_called_an_estimate_where_it_is_one() -> None:
    heads = lambda rows: [th.text for th in parse(made(rows))[0].all("th", scope="col")]  # noqa: E731
    all_of = [{**r, "energy_mj": 1.0, "energy_how": "estimated"} for r in ROWS]
    assert "energy of a sample, mJ (estimated)" in heads(all_of)
    assert "energy is" in heads([{**all_of[0], "energy_how": "measured"}, *all_of[1:]])
    assert "energy of a sample, mJ" in heads([{**r, "energy_how": "measured"} for r in all_of])


def test_the_page_says_what_is_not_drawn_and_what_was_measured_how(html: str) -> None:
    text = parse(html)[0].one("main").text
    assert "Not drawn, for lack of a figure: undrawn." in text
    assert "an estimate: 4 W a core x CPU seconds" in text
    assert "At equal size." in text


def test_nothing_in_the_data_becomes_markup() -> None:
    poison = {"command": EVIL, "chain": [EVIL], "precision": EVIL, "runtime": EVIL, "family": EVIL}
    rows = [{**ROWS[0], **poison, "name": EVIL}, *ROWS[1:]]
    evil = made(rows, title=EVIL, facts={EVIL: EVIL}, verdict=[EVIL], chosen=EVIL)
    root, problems = parse(evil)
    assert problems == []
    assert len(scripts(evil)) == 3
    assert list(root.all("img")) == []
    assert root.one("h1").text == EVIL
    assert models(evil)[EVIL]["command"] == EVIL
    assert "<script>evil" not in evil.replace("&lt;", "")


@pytest.mark.parametrize(
    ("rows", "how", "message"),
    [
        ([*ROWS, ROWS[0]], {}, "'teacher' is there twice"),
        ([{"accuracy": 1.0}], {"chosen": None}, "a row has no name"),
        (ROWS, {"metric": "acuracy"}, "no row has a number for 'acuracy'"),
        (ROWS, {"chosen": "smal"}, "no row is named 'smal'. Did you mean 'small'"),
        (ROWS, {"better": "up"}, "neither 'max' nor 'min'"),
    ],
)
def test_rows_that_cannot_be_shown_are_refused(rows: list[dict[str, Any]], how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made(rows, **how)


@pytest.mark.parametrize("package", ["jinja2", "plotly.offline"])
def test_a_missing_package_is_named_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'understudy[report]'")):
        made()


def test_a_single_row_with_nothing_but_a_figure_is_a_page() -> None:
    page = made([{"name": "one", "loss": 0.3}], metric="loss", better="min", chosen=None, facts=None, tables=())
    assert parse(page)[1] == []
    assert told(page)["axes"] == []


# -- in the browser ----------------------------------------------------------------------------------------------------

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
NAMES = "[...document.querySelectorAll('#models tbody tr:not([hidden]) .name')].map((name) => name.textContent)"
TRACES = "document.getElementById('chart').data"
DRAWN = f"{TRACES}.flatMap((trace) => trace.customdata ?? []).map((index) => told.models[index].name).sort()"
FRONT = f"{TRACES}[0].y"
COMMAND = "document.querySelector('#picked code')?.textContent"
# Where a model's mark is on the screen.
PLACE = """(() => {
  const chart = document.getElementById("chart"), index = told.models.findIndex((model) => model.name === NAME);
  chart.scrollIntoView({ block: "center" });
  const at = chart.data.findIndex((trace) => trace.customdata?.includes(index));
  const mark = chart.querySelectorAll(".scatterlayer .trace")[at].querySelectorAll(".points path")[chart.data[at].customdata.indexOf(index)];
  const box = mark.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


Show = Callable[..., Browser]


@pytest.fixture
def show(tab: Browser, html: str, tmp_path: Path) -> Show:
    def open_page(page: str = html, **how: Any) -> Browser:
        file = tmp_path / "compare.html"
        file.write_text(page)
        tab.open(file, **how)
        return tab

    return open_page


def mouse(tab: Browser, name: str, *, click: bool = True) -> None:
    x, y = tab.js(PLACE.replace("NAME", json.dumps(name)))
    kinds = ("mouseMoved", "mousePressed", "mouseReleased") if click else ("mouseMoved",)
    for kind in kinds:
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        tab("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)
    tab.js("new Promise((done) => setTimeout(done, 100))")


def typed(tab: Browser, text: str) -> None:
    tab.js("document.getElementById('search').focus()")
    tab("Input.insertText", text=text)


@seen
@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (390, "light"), (1280, "light"), (1280, "dark")])
def test_the_plot_is_drawn_without_a_complaint_at_every_width(show: Show, width: int, scheme: str) -> None:
    tab = show(width=width, scheme=scheme)
    assert tab.js("innerWidth") == width
    assert tab.js(TOO_WIDE) == 0
    assert tab.js(DRAWN) == ["alone", "distilled", "failed", "small", "teacher", "thin"]
    box = tab.js(
        "(({width, height}) => [width, height])(document.querySelector('#chart .main-svg').getBoundingClientRect())"
    )
    assert width * 0.7 < box[0] < width
    assert box[1] > 250
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


@seen
def test_the_check_of_complaints_sees_a_script_that_fails(show: Show, html: str) -> None:
    assert show(html.replace("filter();\nchart", "chart")).complaints  # the policy's digest is of another script
    assert show(html.replace('id="count"', 'id="cuont"')).complaints


@seen
def test_the_front_joins_what_nothing_smaller_beats(show: Show) -> None:
    tab = show()
    assert tab.js(FRONT) == [0.94, 0.95, 0.98]
    tab.js("document.querySelector('[name=axis][value=latency_ms_p50]').click()")
    assert tab.js(FRONT) == [0.95, 0.98]
    assert tab.js("document.querySelector('#chart .xtitle').textContent") == "latency p50, ms, log scale"


@pytest.mark.long
@seen
def test_where_less_is_better_the_front_falls(show: Show) -> None:
    tab = show(
        made(
            [row("a", "alone", 0.5, 10, 1), row("b", "alone", 0.6, 20, 2), row("c", "alone", 0.4, 30, 3)],
            better="min",
            chosen=None,
        )
    )
    assert tab.js(FRONT) == [0.5, 0.4]


@seen
def test_a_failure_is_outside_of_the_close_up_and_named(show: Show) -> None:
    tab = show()
    assert tab.js("document.getElementById('beyond').innerText") == "Outside the plot: failed (0.200)."
    assert tab.js("document.getElementById('chart').layout.yaxis.range")[0] > 0.85
    tab.js("document.querySelector('[name=range][value=all]').click()")
    assert tab.js("document.getElementById('chart')._fullLayout.yaxis.range")[0] < 0.2
    assert tab.js("document.getElementById('beyond').hidden")


@seen
def test_a_point_names_its_model_and_a_press_shows_its_command_and_its_row(show: Show) -> None:
    tab = show()
    assert tab.js(COMMAND) == "understudy compare digits --ways small"  # the chosen one, until another is picked
    mouse(tab, "thin", click=False)
    hover = tab.js("document.querySelector('#chart .hoverlayer').textContent")
    assert "thin" in hover
    assert "accuracy: 0.930" in hover
    mouse(tab, "thin")
    assert tab.js(COMMAND) == "understudy compare digits --ways thin"
    assert tab.js("[...document.querySelectorAll('tr.picked .name')].map((name) => name.textContent)") == ["thin"]
    assert tab.js("document.querySelector('#picked .note').textContent") == "recovered"
    inside = """(() => {
      const row = document.querySelector("tr.picked").getBoundingClientRect(), box = document.querySelector("#models .scroll").getBoundingClientRect();
      return row.top >= box.top && row.bottom <= box.bottom;
    })()"""
    assert tab.js(inside)


@pytest.mark.long
@seen
def test_the_row_that_is_picked_is_scrolled_to_within_the_table(show: Show) -> None:
    many = [row(f"m{i}", "ladder", 0.5 + i / 1000, 1000 * 2**i, 1.0 + i) for i in range(14)]
    tab = show(made([*many, *ROWS]))
    tab.js("document.querySelector('#models .scroll').scrollTop = 0; 0")
    mouse(tab, "thin")
    assert tab.js("document.querySelector('#models .scroll').scrollTop") > 100


@pytest.mark.long
@seen
def test_the_command_is_copied_or_else_marked(show: Show) -> None:
    tab = show()
    tab.js("navigator.clipboard.writeText = (text) => { window.taken = text; return Promise.resolve(); }; 0")
    tab.js("document.querySelector('.copy').click()")
    assert tab.js("Promise.resolve().then(() => window.taken)") == "understudy compare digits --ways small"
    tab.js("navigator.clipboard.writeText = () => Promise.reject(new Error()); document.querySelector('.copy').click()")
    assert tab.js("Promise.resolve().then(() => String(getSelection()))") == "understudy compare digits --ways small"


@seen
def test_the_filters_narrow_the_table_and_the_plot_and_can_be_cleared(show: Show) -> None:
    tab = show()
    everything = tab.js(NAMES)
    assert len(everything) == 7
    tab.js("document.querySelector('[data-family=pruning]').click()")
    assert tab.js(NAMES) == ["thin", "failed"]
    assert tab.js(DRAWN) == ["failed", "thin"]
    tab.js("document.querySelector('[data-family=combination]').click()")
    assert tab.js(NAMES) == ["small", "thin", "failed"]
    typed(tab, "INT8 narrower")
    assert tab.js(NAMES) == ["small"]
    assert tab.js("document.getElementById('count').textContent") == "1 of 7 models"
    typed(tab, "zzz")
    assert tab.js(NAMES) == tab.js(DRAWN) == []
    assert tab.js("document.getElementById('count').textContent") == "No model matches."
    tab.js("document.getElementById('clear').click()")
    assert tab.js(NAMES) == everything
    assert tab.complaints == []


@seen
def test_every_column_sorts_and_a_filter_stays(show: Show) -> None:
    tab = show()
    heads = tab.js("[...document.querySelectorAll('#models thead button')].map((head) => head.textContent)")
    assert len(heads) > 6
    press = "document.querySelectorAll('#models thead button')[{}].click()"
    tab.js(press.format(heads.index("accuracy")))
    assert tab.js(NAMES) == ["failed", "alone", "thin", "small", "distilled", "teacher", "undrawn"]
    tab.js(press.format(heads.index("file, MB")))
    assert tab.js(NAMES)[0] == "small"
    tab.js("document.querySelector('[data-family=pruning]').click()")
    tab.js(press.format(heads.index("file, MB")))
    assert tab.js(NAMES) == ["thin", "failed"]


@seen
def test_a_model_is_picked_and_an_axis_is_changed_from_the_keyboard(show: Show) -> None:
    tab = show()
    tab.js("document.querySelector('[name=axis]').focus()")
    tab("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", windowsVirtualKeyCode=39)
    assert tab.js("document.querySelector('#chart .xtitle').textContent") == "latency p50, ms, log scale"
    tab.js("document.querySelector('#models thead th:last-child button').focus()")
    tab.press("Tab")
    assert tab.js("document.activeElement.innerText.trim()") == "teacher"
    tab.press("Enter", "\r")
    assert tab.js(COMMAND) == "understudy compare digits --ways teacher"
    assert tab.js("document.activeElement.getAttribute('aria-pressed')") == "true"


@seen
def test_names_are_drawn_as_text(show: Show) -> None:
    rows = [{**ROWS[4], "name": EVIL, "family": EVIL, "command": EVIL, "chain": [EVIL]}, *ROWS[:4]]
    tab = show(made(rows))
    mouse(tab, EVIL, click=False)
    assert "<script>" in tab.js("document.querySelector('#chart .hoverlayer').textContent")
    mouse(tab, EVIL)
    assert tab.js(COMMAND) == EVIL
    assert tab.js("typeof evil") == "undefined"
    assert tab.js("document.querySelectorAll('main img, main script').length") == 0
    assert tab.complaints == []


@pytest.mark.long
@seen
def test_dark_and_paper_have_colours_of_their_own_in_the_plot(show: Show) -> None:
    colour = f"{TRACES}[1].marker.color"
    tab = show(scheme="light")
    light = tab.js(colour)
    tab("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    assert tab.js(colour) != light
    tab("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        tab.js("new Promise((done) => setTimeout(done, 100))")
        assert tab.js(colour) == light
        assert tab.js("getComputedStyle(document.querySelector('.finding')).display") == "none"
        assert tab.js("document.querySelector('#chart .main-svg').getBoundingClientRect().width") == 670
    finally:
        tab("Emulation.setEmulatedMedia", media="")


@seen
def test_without_a_script_there_is_a_table_and_a_word(show: Show, tab: Browser) -> None:
    tab("Emulation.setScriptExecutionDisabled", value=True)
    try:
        show()
        assert tab.js("document.querySelectorAll('#models tbody tr').length") == 7
        assert tab.js("getComputedStyle(document.querySelector('.finding')).display") == "none"
        assert "needs JavaScript" in tab.js("document.querySelector('main').innerText")
    finally:
        tab("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.long
@seen
def test_a_page_without_costs_has_a_table_and_no_complaint(show: Show) -> None:
    tab = show(
        made([{"name": "one", "loss": 0.3}, {"name": "two", "loss": 0.2}], metric="loss", better="min", chosen=None)
    )
    assert tab.complaints == []
    typed(tab, "two")
    assert tab.js(NAMES) == ["two"]
    tab.js("document.querySelector('.pick').click()")
    assert tab.js("document.querySelector('#picked h3').textContent") == "one"
