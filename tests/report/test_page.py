import base64
import hashlib
import importlib
import math
import os
import re
import subprocess
import sys
from importlib import resources
from typing import Any

import jinja2
import pytest
from example_run import poisoned
from markup import Element, fetched, parse, tree

from understudy.errors import InputError, MissingExtra
from understudy.report.page import page

module = importlib.import_module("understudy.report.page")  # the package may export a function of that name
NOTHING = "\u2013none"  # a dash to see, a word to hear
SECTIONS = {
    "table": ("columns", "rows"),
    "curves": ("curves",),
    "soft-labels": ("soft_labels",),
    "calibration": ("calibration",),
    "confusion": ("confusion",),
    "differences": ("differences",),
    "layers": ("layers",),
    "recipe": ("recipe",),
    "environment": ("environment",),
}


def sections(root: Element) -> list[str]:
    return [section.attributes["id"] for section in root.all("section")]


def intruders(html: str) -> list[str]:
    root, problems = parse(html)
    scripts = [element.text[:20] for element in root.all("script")][1:]
    handlers = [key for element in root.all() for key in element.attributes if key.startswith("on")]
    bold = [element.text for element in root.all("b")]
    return problems + scripts + handlers + bold + (["49"] if "&amp;49" in html else [])


# -- the file ----------------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed(html: str) -> None:
    assert html.startswith("<!DOCTYPE html>")
    assert parse(html)[1] == []


@pytest.mark.parametrize(
    "broken",
    [
        lambda html: html.replace("</table>", "", 1),
        lambda html: html.replace("</main>", "</div></main>", 1),
        lambda html: re.sub(r'id="recipe"', 'id="table"', html),
        lambda html: html.replace('href="#recipe"', 'href="#recepi"'),
        lambda html: re.sub(r'clip-path="url\(#', 'clip-path="url(#x', html, count=1),
    ],
)
def test_the_check_of_the_form_sees_what_is_broken(html: str, broken: Any) -> None:
    assert broken(html) != html
    assert parse(broken(html))[1]


def test_the_page_loads_nothing_from_elsewhere(html: str) -> None:
    assert fetched(html) == []


@pytest.mark.parametrize(
    "added",
    [
        "<img src='https://example.org/x.png'>", "<link rel=stylesheet href=x.css>", "<script src=x.js></script>",
        "<style>@import 'x.css';</style>", "<p style='background: url(x.png)'></p>", "<script>fetch('//example.org')</script>",
    ],
)  # fmt: skip
def test_the_check_of_the_network_sees_what_is_loaded(html: str, added: str) -> None:
    assert fetched(html.replace("</main>", added + "</main>"))


def test_the_policy_forbids_the_network_and_allows_our_script_alone(html: str) -> None:
    root = tree(html)
    policy = next(m.attributes["content"] for m in root.all("meta") if m.attributes.get("http-equiv"))
    script = "".join(root.one("script").pieces())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert rules["script-src"] == f"'sha256-{digest}'"


def test_the_same_run_gives_the_same_page(run: dict[str, Any], html: str) -> None:
    assert page(run) == html


def test_another_process_gives_the_same_page(html: str) -> None:
    source = "import hashlib; from example_run import RUN; from understudy.report.page import page; print(hashlib.sha256(page(RUN).encode()).hexdigest())"
    there = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", source], env=there, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(html.encode()).hexdigest()


def test_the_template_is_part_of_the_package() -> None:
    assert resources.files("understudy.report").joinpath("templates/page.html.j2").is_file()


def test_nothing_in_the_data_becomes_markup(run: dict[str, Any]) -> None:
    evil = page(poisoned(run))
    assert intruders(evil) == []
    shown = tree(evil).one("body").text
    assert shown.count("<script>evil()</script>") > 25  # everywhere it is read as text
    assert "{{ 7 * 7 }}" in shown


def test_the_check_of_escaping_sees_a_page_without_it(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = lambda **options: ORIGINAL(**{**options, "autoescape": False})  # noqa: E731
    ORIGINAL = jinja2.Environment
    monkeypatch.setattr(jinja2, "Environment", trusting)
    found = intruders(page(poisoned({"title": run["title"], "recipe": run["recipe"]})))
    assert "onerror" in found


def test_signs_that_no_file_can_hold_are_replaced() -> None:
    html = page(
        {
            "title": "half \ud83d",
            "recipe": {"a\x00b": "\udc00"},
            "calibration": {"c\x07\ud800": {"bins": [], "error": 0.0}},
        }
    )
    html.encode()
    assert parse(html)[1] == []


def test_names_with_dollars_and_signs_of_other_scripts_are_shown_as_they_are(run: dict[str, Any]) -> None:
    names = ["$5 to $6", "猫 🐈", r"a_{1}\frac"]
    run["soft_labels"]["classes"] = names
    drawn = [text.text for text in tree(page({"soft_labels": run["soft_labels"]})).all("text")]
    assert {*names} <= {*drawn}


# -- the sections ------------------------------------------------------------------------------------------------------


def test_the_sections_come_in_their_order_with_a_line_in_plain_words(html: str) -> None:
    root = tree(html)
    assert sections(root) == list(SECTIONS)
    for section in root.all("section"):
        assert len(list(section.all("h2"))) == 1
        assert len(next(section.all("p")).text) > 20
    assert [link.attributes["href"] for link in root.one("nav").all("a")] == [f"#{name}" for name in SECTIONS]


@pytest.mark.parametrize("section", SECTIONS)
def test_a_part_gives_its_own_section_and_no_other(section: str, run: dict[str, Any]) -> None:
    assert sections(tree(page({key: run[key] for key in SECTIONS[section]}))) == [section]


@pytest.mark.parametrize("empty", [None, {}, []])
def test_a_part_without_data_leaves_no_trace(empty: Any, run: dict[str, Any]) -> None:
    root = tree(page(dict.fromkeys(run, empty)))
    assert sections(root) == []
    assert list(root.all("h2")) == list(root.all("nav")) == []


def test_the_verdict_stands_first(html: str) -> None:
    header = tree(html).one("header")
    assert header.one("h1").text == "Cats and furniture"
    assert header.one("p").text == "Distillation helped."
    assert [line.text for line in header.one("div").all("li")] == ["Accepted."]


def test_a_part_that_is_not_known_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"no part 'soft_label'\. Did you mean 'soft_labels'"):
        page({"soft_label": None})


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=re.escape("pip install 'understudy[report]'")):
        page(run)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_says_what_it_is_sorted_by(html: str) -> None:
    table = tree(html).one("table", **{"class": "sortable"})
    rows = [[cell for cell in row.all() if cell.tag in ("td", "th")] for row in table.one("tbody").all("tr")]
    assert [[cell.text for cell in row] for row in rows] == [
        ["teacher", "0.980 (best)", "1,000", NOTHING],
        ["alone", "0.910 ± 0.012", "90 (best)", NOTHING],
        ["distilled", "0.950 ± 0.010", "90 (best)", "57% (best)"],
        ["exported", "0.949", NOTHING, "50%"],
    ]
    assert [row[1].attributes["data-key"] for row in rows] == ["0.98", "0.91", "0.95", "0.949"]
    assert [row[3].attributes.get("data-key") for row in rows] == [None, None, "0.57", "0.5"]
    assert [row[0].attributes["scope"] for row in rows] == ["row"] * 4
    assert [head.attributes.get("title") for head in table.one("thead").all("th")] == [
        None, "more is better", "less is better", "more is better",
    ]  # fmt: skip


# -- soft labels -------------------------------------------------------------------------------------------------------


def soft(logits: list[float], **others: Any) -> dict[str, Any]:
    sample = {"logits": logits, "label": others.pop("label", None)}
    return {"temperatures": [1], "classes": [], **others, "samples": [sample]}


def shown(soft_labels: dict[str, Any]) -> Element:
    return tree(page({"soft_labels": soft_labels}))


def entropies(logits: list[float], temperatures: list[float]) -> list[float]:
    root = shown(soft(logits, temperatures=temperatures))
    return [float(re.search(r"([\d.]+) nats", caption.text)[1]) for caption in root.all("figcaption")]  # type: ignore[index]


def test_entropy_is_in_nats_and_rises_with_the_temperature() -> None:
    found = entropies([2.0, 1.0, 0.0], [0.5, 1, 2, 4])
    assert found == sorted(found)
    p = [math.exp(x) / sum(math.exp(y) for y in (2.0, 1.0, 0.0)) for x in (2.0, 1.0, 0.0)]
    assert found[1] == pytest.approx(-sum(q * math.log(q) for q in p), abs=0.005)


def test_the_ends_of_the_temperature_are_the_hard_label_and_no_knowledge() -> None:
    assert entropies([2.0, 1.0, 0.0], [0.001, 1e6]) == [0.0, pytest.approx(math.log(3), abs=0.005)]


def test_a_class_that_the_teacher_excludes_is_no_difficulty() -> None:
    root = shown(soft([0.0, 0.0, -math.inf]))
    assert "0.69 nats" in root.text
    assert [t.text for t in root.all("text")] == ["0", "1", "2", "0.50", "0.50", "0.00"]


def test_of_many_classes_the_likeliest_the_label_and_the_sum_of_the_others_are_shown() -> None:
    logits = [0.0] * 100
    for likely in range(20, 32):
        logits[likely] = 10.0 + likely
    root = shown(soft(logits, classes=[f"class {i}" for i in range(100)], label="class 7"))
    names = [t.text for t in root.all("text")]
    assert names[:10] == ["class 7", *(f"class {i}" for i in range(24, 32)), "91 others"]
    values = [0.0 if v == "<0.01" else float(v) for v in names[10:]]
    assert sum(values) == pytest.approx(1, abs=0.05)
    assert "Of 100 classes" in root.text


def test_the_labelled_class_alone_has_the_accent(run: dict[str, Any]) -> None:
    root = shown({**run["soft_labels"], "samples": run["soft_labels"]["samples"][:1]})
    for plot in root.all("svg", **{"class": "plot"}):
        fills = [
            found
            for e in plot.all("path")
            for found in re.findall(r"fill: (var\(--\w+\))", e.attributes.get("style", ""))
        ]
        assert fills == ["var(--accent)", "var(--faint)", "var(--faint)"]


def test_more_samples_than_fit_are_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", 2)
    monkeypatch.setattr(module, "TEMPERATURES", 1)
    samples = [{"logits": [0.0, 1.0], "text": f"sample {i}"} for i in range(5)]
    root = shown({"temperatures": [1, 2, 3], "samples": samples})
    assert [quote.text for quote in root.all("blockquote")] == ["sample 0", "sample 1"]
    assert "The first 2 of 5 samples are shown." in root.text
    assert "The first 1 of 3 temperatures are shown." in root.text


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"soft_labels": soft([[1.0]])}, r"samples\[0\].logits: have shape \[1, 1\]"),  # type: ignore[list-item]
        ({"soft_labels": soft([1.0], temperatures=[1, 0])}, r"temperatures: \[0\] are not above 0"),
        ({"soft_labels": {"temperatures": [1], "samples": [{"logits": [1.0], "image": [1, 2]}]}}, r"samples\[0\].image: has shape \[2\]"),
        ({"differences": [{"image": [[1], [1, 2]], "teacher": 1, "student": 2}]}, r"differences\[0\].image: is not a picture"),
        ({"confusion": {"alone": {"classes": ["a"], "matrix": [[1, 2]]}}}, r"confusion\['alone'\].*\[1, 2\].*1 classes"),
    ],
)  # fmt: skip
def test_data_of_another_form_is_refused_by_its_place(part: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        page(part)


# -- calibration, confusion, differences -------------------------------------------------------------------------------


def test_calibration_gives_the_error_and_a_dot_for_each_bin_that_has_samples(html: str) -> None:
    card = tree(html).one("section", id="calibration")
    assert "ECE 0.100, 20 samples" in card.text
    description = card.one("desc").text
    assert description == "4 samples at confidence 0.40: accuracy 0.50; 16 samples at confidence 0.90: accuracy 0.80"


def confusion(classes: list[str], matrix: list[list[int]]) -> Element:
    return tree(page({"confusion": {"student": {"classes": classes, "matrix": matrix}}}))


def test_confusion_counts_are_where_they_belong(html: str) -> None:
    card = tree(html).one("section", id="confusion")
    rows = [[cell.text for cell in row.all() if cell.tag in ("td", "th")] for row in card.one("tbody").all("tr")]
    assert rows == [["cat", "10", "0", "0"], ["desk", "0", "8", "2"], ["chair", "1", "0", "9"]]
    assert "27 of 30 right" in card.text
    assert "Most often: desk taken for chair (2), chair taken for cat (1)." in card.text


def test_a_cell_is_shaded_by_its_share_of_the_row() -> None:
    root = confusion(["a", "b"], [[99, 1], [300, 100]])
    steps = [cell.attributes["class"].split()[0] for cell in root.all("td")]
    assert steps == ["s10", "s1", "s9", "s5"]


def test_a_row_without_samples_is_no_difficulty() -> None:
    assert [cell.text for cell in confusion(["a", "b"], [[0, 0], [0, 3]]).all("td")] == ["0", "0", "0", "3"]


def test_of_many_classes_those_with_the_most_mistakes_are_shown() -> None:
    matrix = [[5 if i == j else 0 for j in range(40)] for i in range(40)]
    matrix[39][0] = 7
    for i in range(5, 33):
        matrix[i][i + 1] = 1
    root = confusion([f"class {i}" for i in range(40)], matrix)
    heads = [head.text for head in root.one("tbody").all("th")]
    assert heads == ["class 0", *(f"class {i}" for i in range(5, 33)), "class 39"]
    inside = 30 * 5 + 7 + 27
    assert (
        f"30 of 40 classes, those with the most mistakes; {inside} of {40 * 5 + 7 + 28} samples are here." in root.text
    )
    assert "class 39 taken for class 0 (7)" in root.text


def test_a_difference_says_who_was_right_where_there_is_a_label(html: str) -> None:
    first, second = tree(html).one("section", id="differences").all("article")
    assert first.one("dl").text == "labelcatteachercat ✓ (right)studentchair ✗ (wrong)"
    assert second.one("dl").text == "teacherdeskstudentchair"
    assert second.one("blockquote").text == "It has four legs."


def test_a_measured_value_is_neither_right_nor_wrong() -> None:
    root = tree(page({"differences": [{"text": "x", "label": 0.5, "teacher": 0.51234567, "student": 0.3}]}))
    assert [said.text for said in root.all("dd")] == ["0.5", "0.5123", "0.3"]


def test_more_than_fits_is_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DIFFERENCES", 2)
    monkeypatch.setattr(module, "MODELS", 1)
    monkeypatch.setattr(module, "VALUE", 10)
    matrix = {"classes": ["a"], "matrix": [[1]]}
    root = tree(
        page(
            {
                "differences": [{"text": f"sample {i}", "teacher": 1, "student": 2} for i in range(3)],
                "confusion": {"first": matrix, "second": matrix},
                "calibration": {"first": {"bins": [], "error": 0.0}, "second": {"bins": [], "error": 0.0}},
                "recipe": {"long": "x" * 25},
            }
        )
    )
    assert "The first 2 of 3 samples are shown." in root.text
    assert [h.text for h in root.all("h3")] == ["first", "first"]
    assert root.text.count("The first 1 of 2 models are shown.") == 2
    assert "x" * 10 + " … (15 more characters)" in root.text
