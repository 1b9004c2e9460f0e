"""The page as a reader sees it: in Chromium, on a screen and on a phone, in light and in dark."""

import copy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import Browser, browser
from example_run import RUN, poisoned

from understudy.report.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)

# The least contrast between any text and what is behind it; shapes of one letter and the faint zeros of a matrix aside.
CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (...colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const light = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(light);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
    return layers;
  };
  let least = [99, ""];
  for (const element of document.querySelectorAll("body *:not(script, style)")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || element.closest(".hidden, .s0, title, desc")) continue;
    const style = getComputedStyle(element), back = behind(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [paint(...back, colour), paint(...back)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < least[0]) least = [ratio, element.tagName + " " + element.className + " " + element.textContent];
  }
  return least;
})()"""
# Drawn text that sticks out of its card.
CUT_OFF = """[...document.querySelectorAll(".plot text")].filter((text) => {
  const inner = text.getBoundingClientRect(), outer = text.closest(".card").getBoundingClientRect();
  return inner.width === 0 || inner.left < outer.left || inner.right > outer.right || inner.top < outer.top || inner.bottom > outer.bottom;
}).map((text) => text.textContent)"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
COLUMN = "[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[{}].firstChild.textContent)"
SORTED = "[...document.querySelectorAll('.sortable thead th')].map((head) => head.getAttribute('aria-sort'))"


def full_run() -> dict[str, Any]:
    run = copy.deepcopy(RUN)
    for parameters in (900, 9, 10_000):  # as text, 10,000 comes before 9
        run["rows"].append({"model": f"of {parameters}", "parameters": parameters, "accuracy": 0.5, "gap": None})
    classes = [f"class {i}" for i in range(20)]
    matrix = [[(i * j) % 17 for j in range(20)] for i in range(20)]
    run["confusion"]["of many"] = {"classes": classes, "matrix": matrix}
    run["confusion"]["shades"] = {
        "classes": classes[:11],
        "matrix": [[i * i, *[0] * 9, 100 - i * i] for i in range(11)],
    }
    run["recipe"]["path"] = "/a/very/long/path" * 20
    return run


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def full() -> str:
    return page(full_run())


@pytest.fixture
def show(tab: Browser, full: str, tmp_path: Path) -> Callable[..., Browser]:
    def open_page(html: str = full, **how: Any) -> Browser:
        file = tmp_path / "page.html"
        file.write_text(html)
        tab.open(file, **how)
        return tab

    return open_page


Show = Callable[..., Browser]


def loaded(tab: Browser) -> list[str]:
    return [url for url in tab.requests if not url.startswith(("file:", "data:"))]


def test_the_page_is_shown_without_a_complaint(show: Show) -> None:
    tab = show()
    assert tab.js("document.querySelector('h1').innerText") == "Cats and furniture"
    boxes = tab.js(
        "[...document.querySelectorAll('.plot, img, table')].map((e) => e.getBoundingClientRect()).map((b) => b.width * b.height)"
    )
    assert len(boxes) > 15
    assert min(boxes) > 1000
    assert tab.js("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert tab.complaints == []
    assert loaded(tab) == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda html: html.replace(
            "<script>", "<script>undefined.x;", 1
        ),  # the policy's digest is of another script now
        lambda html: html.replace("</main>", "<script>1</script></main>"),
        lambda html: html.replace("</main>", "<img src='https://example.org/x.png' alt=''></main>"),
        lambda html: html.replace(";base64,iVBOR", ";base64,xVBOR"),
    ],
)
def test_the_check_of_complaints_sees_a_broken_page(show: Show, full: str, broken: Callable[[str], str]) -> None:
    tab = show(broken(full))
    whole = tab.js("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert tab.complaints or not whole


def test_nothing_in_the_data_is_run(show: Show) -> None:
    tab = show(page(poisoned(RUN)))
    assert tab.js("typeof evil") == "undefined"
    assert tab.complaints == []
    assert tab.js(TOO_WIDE) == 0


def press(tab: Browser, column: int) -> None:
    tab.js(f"document.querySelectorAll('.sortable thead button')[{column}].click()")


def test_a_heading_sorts_up_then_down_then_as_given(show: Show) -> None:
    tab = show()
    given = tab.js(COLUMN.format(2))
    assert given == ["1,000", "90", "90", "\u2013", "900", "9", "10,000"]
    press(tab, 2)
    assert tab.js(COLUMN.format(2)) == ["9", "90", "90", "900", "1,000", "10,000", "\u2013"]
    assert tab.js(SORTED) == ["none", "none", "ascending", "none"]
    press(tab, 2)
    assert tab.js(COLUMN.format(2)) == ["10,000", "1,000", "900", "90", "90", "9", "\u2013"]
    assert tab.js(SORTED) == ["none", "none", "descending", "none"]
    press(tab, 2)
    assert tab.js(COLUMN.format(2)) == given
    assert tab.js(SORTED) == ["none"] * 4


def test_another_heading_starts_anew(show: Show) -> None:
    tab = show()
    press(tab, 2)
    press(tab, 1)
    assert tab.js(SORTED) == ["none", "ascending", "none", "none"]
    assert tab.js(COLUMN.format(1))[-3:] == ["0.949", "0.950 ± 0.010", "0.980"]
    press(tab, 0)
    names = tab.js(COLUMN.format(0))
    assert names == sorted(names, key=lambda name: (name.split()[0], int(name.split()[-1]) if " " in name else 0))


def test_the_table_is_sorted_from_the_keyboard(show: Show) -> None:
    tab = show()
    tab.js("document.querySelector('.scroll').focus()")
    for _ in range(3):
        tab.press("Tab")
    assert tab.js("document.activeElement.innerText.trim()") == "parameters"
    assert tab.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.press("Enter", "\r")
    assert tab.js(COLUMN.format(2))[0] == "9"
    tab.press("Enter", "\r")
    assert tab.js(COLUMN.format(2))[0] == "10,000"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_never_scrolls_sideways(show: Show, width: int) -> None:
    tab = show(width=width)
    assert tab.js("innerWidth") == width
    assert tab.js(TOO_WIDE) == 0
    assert tab.js(CUT_OFF) == []


def test_what_is_wide_scrolls_inside_its_box_on_a_phone(show: Show) -> None:
    tab = show(width=390)
    assert tab.js(
        "[...document.querySelectorAll('.scroll, .wide .matrix')].every((box) => box.scrollWidth > box.clientWidth)"
    )


@pytest.mark.parametrize(
    "rule", [".scroll, .matrix { overflow: visible !important }", ".facts dd { overflow-wrap: normal !important; white-space: nowrap !important }"]
)  # fmt: skip
def test_the_check_of_the_width_sees_what_sticks_out(show: Show, full: str, rule: str) -> None:
    assert show(full.replace("</style>", rule + "</style>", 1), width=390).js(TOO_WIDE) > 0


def test_the_check_of_drawn_text_sees_what_sticks_out(show: Show, full: str) -> None:
    larger = full.replace("</style>", ".plot { transform: scale(1.5) }</style>", 1)
    assert show(larger, width=390).js(CUT_OFF)


def test_dark_has_colours_of_its_own_in_text_and_plots(show: Show) -> None:
    parts = {
        "body": "backgroundColor",
        "h1": "color",
        ".card": "backgroundColor",
        ".plot text": "fill",
        ".soft .plot path[style*=accent]": "fill",
    }
    found = {}
    for scheme in ("light", "dark"):
        tab = show(scheme=scheme)
        found[scheme] = [
            tab.js(f"getComputedStyle(document.querySelector('{part}')).{key}") for part, key in parts.items()
        ]
    assert all(light != dark for light, dark in zip(found["light"], found["dark"], strict=True))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(show: Show, scheme: str) -> None:
    least, where = show(scheme=scheme).js(CONTRAST)
    assert least >= 4.5, where


def test_the_check_of_contrast_sees_faint_text(show: Show, full: str) -> None:
    least, where = show(full.replace("--muted: #5f656e", "--muted: #b0b0b0")).js(CONTRAST)
    assert least < 4.5, where


def test_a_printed_page_is_light_and_as_wide_as_the_sheet(show: Show) -> None:
    tab = show(width=700, scheme="dark")
    tab("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        assert tab.js("getComputedStyle(document.querySelector('h1')).color") == "rgb(31, 35, 40)"
        assert tab.js("getComputedStyle(document.querySelector('nav')).display") == "none"
        assert tab.js("document.querySelector('.scroll').scrollWidth <= 700")
    finally:
        tab("Emulation.setEmulatedMedia", media="")


def test_without_scripts_the_table_is_still_a_table(show: Show, tab: Browser) -> None:
    tab("Emulation.setScriptExecutionDisabled", value=True)
    try:
        show()
        assert tab.js("document.querySelectorAll('.sortable button').length") == 0
        assert tab.js("document.querySelector('.sortable thead th').innerText") == "model"
        assert tab.js(COLUMN.format(0))[0] == "teacher"
    finally:
        tab("Emulation.setScriptExecutionDisabled", value=False)
