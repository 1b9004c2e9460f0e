import math
from typing import Any

import pytest

from understudy.report import cells as module
from understudy.report.cells import cells


def column(
    values: list[Any], form: str = "{}", better: str | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    table = cells([{"key": "x", "title": "x", "form": form, "better": better}], [{"x": value} for value in values])
    assert table is not None
    return table["heads"][0], [row[0] for row in table["rows"]]


def best(values: list[Any], better: str | None) -> list[Any]:
    _, found = column(values, better=better)
    return [value for value, cell in zip(values, found, strict=True) if cell["best"]]


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.98765, "{:.3f}", "0.988"),
        (1234, "{:,}", "1,234"),
        ({"mean": 0.9, "half": 0.01}, "{:.2f}", "0.90 ± 0.01"),
        ({"mean": 0.9, "half": None}, "{:.2f}", "0.90"),
        ("0.9 ± 0.1", "{:.3f}", "0.9 ± 0.1"),
        (True, "{}", "yes"),
        (None, "{}", None),
    ],
)
def test_a_value_is_written_in_its_form(value: Any, form: str, text: str | None) -> None:
    assert column([value, 1.0], form)[1][0]["text"] == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (9, 9.0), (0.5, 0.5), ("0.93 ± 0.01", 0.93), ("-1,234.5", -1234.5), ("\u22120.5 %", -0.5), ("1e-3", 0.001),
        ({"mean": 0.9, "half": 0.1}, 0.9),
    ],
)  # fmt: skip
def test_numbers_are_sorted_as_numbers(value: Any, number: float) -> None:
    head, (cell,) = column([value])
    assert head["numeric"]
    assert float(cell["key"]) == number


@pytest.mark.parametrize("value", ["3 layers", "CNN(8)", "2.13.0", "3x3", "", True])
def test_text_is_sorted_as_text(value: Any) -> None:
    head, found = column([value, 2])
    assert not head["numeric"]
    assert found[0]["key"] == found[0]["text"]


def test_a_value_that_is_missing_or_no_number_has_no_key_among_numbers() -> None:
    head, found = column([None, math.nan, 1.0])
    assert head["numeric"]
    assert [cell["key"] for cell in found] == [None, None, "1.0"]


def test_the_best_is_the_greatest_or_the_least() -> None:
    assert best([1, 3, 2], "max") == [3]
    assert best([1, 3, 2], "min") == [1]
    assert best(["0.9 ± 0.1", 0.95, None, math.nan, math.inf], "max") == [0.95]


def test_the_best_of_what_is_all_bad_does_not_stand_out() -> None:
    rows = [{"v": value} for value in (-0.83, None, -1.2)]
    column = {"key": "v", "title": "v", "form": "{:.0%}", "better": "max"}
    for above, marked in ((0, False), (-1, True), (None, True)):
        found = cells([{**column, "above": above}], rows)
        assert found is not None
        assert found["marked"] is marked


def test_equals_are_best_together() -> None:
    assert best([2, 1, 2], "max") == [2, 2]


@pytest.mark.parametrize(
    ("values", "better"), [([1, 3], None), ([2, 2], "max"), ([2, None], "min"), (["a", "b"], "max")]
)
def test_nothing_is_best_without_a_choice(values: list[Any], better: str | None) -> None:
    assert best(values, better) == []


def test_no_columns_or_no_rows_is_no_table() -> None:
    assert cells([], [{"x": 1}]) is None
    assert cells([{"key": "x", "title": "x"}], []) is None


def test_a_column_without_a_value_is_left_out() -> None:
    table = cells([{"key": key, "title": key} for key in "abc"], [{"a": 1, "b": None}, {"a": None, "b": 0}])
    assert table is not None
    assert [head["title"] for head in table["heads"]] == ["a", "b"]
    assert [[cell["text"] for cell in row] for row in table["rows"]] == [["1", None], [None, "0"]]


def test_rows_that_are_left_out_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS", 2)
    table = cells([{"key": "x", "title": "x"}], [{"x": 1}, {"x": 2}, {"x": 3}])
    assert table is not None
    assert len(table["rows"]) == 2
    assert table["note"] == "The first 2 of 3 rows are shown."
