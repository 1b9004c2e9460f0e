"""Problems: collected, each with its place, told at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipe.kit import SMALL, document
from understudy.errors import CorruptError, InputError, MachineError, MissingExtra, ShapeError, UnderstudyError
from understudy.recipe.problems import LONG, MOST, Problems


@pytest.fixture
def empty(tmp_path: Path) -> Problems:
    return Problems(document(tmp_path, SMALL + "terms: [{loss: kl, at: [student, teacher]}]\n"))


def raising(error: BaseException) -> Callable[[], Any]:
    def make() -> None:
        raise error

    return make


def told(problems: Problems) -> list[str]:
    with pytest.raises(UnderstudyError) as caught:
        problems.tell()
    return [line.partition("r.yaml:")[2] for line in str(caught.value).split("\n")]


def test_without_a_problem_nothing_is_raised(empty: Problems) -> None:
    empty.tell()
    assert empty.attempt(("data",), lambda: 3) == 3
    empty.tell()


def test_problems_come_in_the_order_of_lines_each_once(empty: Problems) -> None:
    for where in (("epochs",), ("data",), ("student",), ("data",)):
        empty.add(where, "wrong.")
    assert told(empty) == ["2: wrong.", "3: wrong.", "6: wrong."]


def test_too_many_are_counted(empty: Problems) -> None:
    for i in range(MOST + 5):
        empty.add(("data",), f"wrong {i}.")
    with pytest.raises(InputError) as caught:
        empty.tell()
    lines = str(caught.value).split("\n")
    assert len(lines) == MOST + 1
    assert lines[-1] == "... and 5 more."


def test_a_problem_that_quotes_much_is_cut(empty: Problems) -> None:
    empty.add(("data",), f"begin {'x' * 10_000} end")
    (line,) = told(empty)
    assert line.startswith("2: begin ")
    assert line.endswith(" end")
    assert len(line) < LONG + 50


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InputError("a"), InputError, 2), (ShapeError("a"), InputError, 2), (CorruptError("a"), CorruptError, 3), (MachineError("a"), MachineError, 4),
        (MissingExtra("a", "b"), MachineError, 4), (MemoryError(), MachineError, 4),
    ],
)  # fmt: skip
def test_alone_a_problem_keeps_its_exit_code(
    empty: Problems, error: Exception, kind: type[UnderstudyError], code: int
) -> None:
    empty.attempt(("data",), raising(error))
    with pytest.raises(kind) as caught:
        empty.tell()
    assert caught.value.exit_code == code


def test_with_others_it_is_the_users_input(empty: Problems) -> None:
    empty.attempt(("data",), raising(MachineError("disk")))
    empty.attempt(("student",), raising(InputError("size")))
    with pytest.raises(InputError) as caught:
        empty.tell()
    assert caught.value.exit_code == 2


def test_each_line_of_an_error_is_a_problem(empty: Problems) -> None:
    empty.attempt(("data",), raising(InputError("one.\ntwo.")))
    assert told(empty) == ["2: one.", "2: two."]


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("student: cannot take a sample", 3), ("teacher: cannot be called", 4), ("teacher_epochs: to be trained", 4), ("train: is empty", 2),
        ("valid: has no label", 2), ("test: has no label", 2), ("accept: none", 1), ("terms[0] kl: nothing", 14), ("Optim('x'): no", 9),
        ("settings: device='x'", 10), ("something else", 5),
    ],
)  # fmt: skip
def test_an_error_of_the_whole_is_told_at_the_key_that_it_names(empty: Problems, line: str, place: int) -> None:
    empty.attempt((), raising(InputError(line)))
    assert told(empty) == [f"{place}: {line}"]


def test_the_part_that_an_error_names_is_taken_as_closely_as_can_be(tmp_path: Path) -> None:
    problems = Problems(document(tmp_path, "data: digits\nteacher:\n  model: x\n  epochs: 3\n  data:\n    name: y\n"))
    problems.attempt((), raising(InputError("teacher_epochs: no.\nteacher: no.\nteacher_data: no.")))
    assert told(problems) == ["2: teacher: no.", "4: teacher_epochs: no.", "5: teacher_data: no."]


def test_an_option_whose_value_is_quoted_is_where_the_error_is_told(tmp_path: Path) -> None:
    text = "data:\n  name: csv\n  train: here.csv\n  label: there\n"
    for quoted, line in (("here.csv: no.", 3), ("column 'there'", 4), ("here.csv: column 'there'", 1), ("csv: no.", 1)):
        problems = Problems(document(tmp_path, text))
        problems.attempt(("data",), raising(InputError(quoted)))
        assert told(problems) == [f"{line}: {quoted}"]


def test_python_words_become_a_recipes(empty: Problems) -> None:
    empty.attempt(("student",), raising(InputError("Add `project=Conv1x1()` to it.")))
    assert told(empty) == ["3: Add `project: Conv1x1` to it."]


def test_an_error_of_a_library_is_a_problem(empty: Problems) -> None:
    empty.attempt(("student",), lambda: torch.zeros(2) @ torch.zeros(3))
    (line,) = told(empty)
    assert line.startswith("3: student: fails: RuntimeError: ")


def test_an_allocation_that_fails_is_the_machines(empty: Problems) -> None:
    empty.attempt(("student",), lambda: torch.empty(10**17))
    with pytest.raises(MachineError, match="needs more memory than this machine has"):
        empty.tell()


def test_an_error_in_a_line_of_ours_is_a_bug_and_is_not_hidden(empty: Problems) -> None:
    from understudy.zoo.limits import check_parameters

    with pytest.raises(TypeError):
        empty.attempt(("student",), lambda: check_parameters("x", "y"))  # type: ignore[arg-type]


def test_a_bug_in_the_code_of_others_would_not_be_raised(empty: Problems, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.recipe.problems._HOME", Path(torch.__file__).parent)
    empty.attempt(("student",), raising(ValueError("of this file")))
    assert told(empty) == ["3: student: fails: ValueError: of this file"]
