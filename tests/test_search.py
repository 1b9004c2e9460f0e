"""Decide: until the student is accepted, or until the budget is used up."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recipe.kit import SMALL, document, problems, weights
from understudy import job
from understudy.errors import InputError, Interrupted
from understudy.recipe.finished import Finished
from understudy.recipe.running import Ran
from understudy.recipe.text import read
from understudy.recipe.tries import Tries, brief, read_budget
from understudy.search.search import run

ONE = SMALL.replace("seeds: 2", "seeds: 1").replace("channels: 2}", "channels: 4}").replace("1e-2", "5e-2")
NEVER = "accept={accuracy: '>= 2 * teacher'}"
FEW = "search={budget: 9, temperature: [8], alpha: [1.0], lr: []}"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the fresh process in which a model's memory is measured."""
    monkeypatch.setattr("understudy.evaluate._memory", lambda *_: None)


def searched(folder: Path, *settings: str, resume: bool = False, out: str = "out") -> tuple[Ran, str]:
    """What a search came to, and what it said."""
    screen = Console(record=True, width=400, file=io.StringIO())
    made = run(document(folder, ONE, *settings), folder / out, resume=resume, console=screen)
    return made, screen.export_text()


def table(made: Ran) -> list[dict[str, Any]]:
    """The attempts without their seconds."""
    rows = json.loads((made.folder / "results.json").read_text())["attempts"]
    for row in rows:
        del row["seconds"]
        row["figures"].pop("seconds", None)
    return list(rows)


def test_it_goes_on_until_accepted_and_hands_on_the_best(tmp_path: Path) -> None:
    made, told = searched(tmp_path, NEVER, FEW)
    rows = table(made)
    assert [row["values"] for row in rows][:2] == [{}, {"method.temperature": 8}]
    best = max(rows, key=lambda row: row["figures"]["accuracy"])  # type: ignore[no-any-return]
    assert f"the best of {len(rows)} attempts is attempt {best['attempt']}" in told
    assert rows[2]["values"] == {**rows[1]["values"], "method.alpha": 1.0} or best["attempt"] != 1
    assert made.result.accepted is False
    assert "everything was tried" in told
    assert "Missing: accuracy" in told
    between = sorted(row["figures"]["accuracy"] for row in rows)
    threshold = (between[-1] + between[0]) / 2
    first = rows[0]["figures"]["accuracy"]
    if first < threshold:  # now with a condition that one of them meets
        made, told = searched(tmp_path, f"accept={{accuracy: '>= {threshold}'}}", FEW, out="other")
        assert "accepted on the validation data" in told
        assert len(table(made)) <= len(rows)


def test_the_test_data_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    quality = job.quality
    monkeypatch.setattr(job, "quality", lambda evidence: seen.append(evidence.data.name) or quality(evidence))
    made, _ = searched(tmp_path, NEVER, FEW)
    assert seen == ["valid"] * len(table(made)) + ["test"]
    # Control: a run without a search has the test data, and nothing else.
    seen.clear()
    run(document(tmp_path, ONE), tmp_path / "plain", console=Console(quiet=True))
    assert seen == ["test"]


def test_a_search_that_was_stopped_goes_on_to_the_same_table_and_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = searched(tmp_path, NEVER, FEW, out="whole")
    train, calls = job.train, list[str]()

    def stopping(method: Any, data: Any, settings: Any, **more: Any) -> Any:
        calls.append("")
        if len(calls) == 4:
            more["callbacks"] = [*more["callbacks"], _Stop()]
        return train(method, data, settings, **more)

    monkeypatch.setattr(job, "train", stopping)
    with pytest.raises(Interrupted):
        searched(tmp_path, NEVER, FEW)
    monkeypatch.setattr(job, "train", train)
    broken_off = [json.loads(file.read_text()) for file in (tmp_path / "out/attempts").glob("*.json")]
    assert all(record["seconds"] > 0 for record in broken_off)
    again, _ = searched(tmp_path, NEVER, FEW, resume=True)
    assert table(again) == table(whole)
    mine, theirs = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []
    # By the folder's own recipe it is the same search too.
    given = read(tmp_path / "out/recipe.yaml")
    last = run(given, tmp_path / "out", resume=True, console=Console(quiet=True))
    assert [row["attempt"] for row in table(last)] == [row["attempt"] for row in table(whole)]
    assert len(list((tmp_path / "out/attempts").glob("*.json"))) == len(table(whole))


class _Stop(job.Callback):
    def stepped(self, progress: Any) -> None:
        raise Interrupted("stopped here")


def test_no_time_at_all_keeps_the_recipe_as_it_is(tmp_path: Path) -> None:
    made, told = searched(tmp_path, NEVER, "search=0s")
    assert [row["values"] for row in table(made)] == [{}]
    assert "the budget of 0 s is used up" in told
    assert (tmp_path / "out/student.safetensors").exists()


def test_a_number_of_attempts_is_kept_to(tmp_path: Path) -> None:
    made, told = searched(tmp_path, NEVER, "search=1")
    assert len(table(made)) == 2
    assert "the budget of 1 attempt is used up" in told


def test_a_larger_student_is_handed_on_with_its_recipe(tmp_path: Path) -> None:
    more = "search={budget: 1, order: [student], student: [{name: CNN, channels: 5}]}"
    made, told = searched(tmp_path, "accept={parameters: '>= 1200'}", more)
    assert "attempt 1: student channels: 5: " in told
    assert made.result.accepted is True
    opened = Finished.open(tmp_path / "out", read(tmp_path / "out/best.yaml"))
    assert opened.figures()["accuracy"] == pytest.approx(made.result.rows[-1]["accuracy"])
    page = json.loads((tmp_path / "out/page.json").read_text())
    assert page["choices"]["attempt 1"].startswith("student channels: 5: accuracy")
    assert page["curves"][0]["records"]


def test_without_a_search_it_is_said_what_is_missing_and_what_would_help(tmp_path: Path) -> None:
    _, told = searched(tmp_path, NEVER)
    assert "Missing: accuracy" in told
    assert "give the recipe `search: 10m`" in told
    _, told = searched(tmp_path, "accept={accuracy: '>= 0'}", out="met")
    assert "Missing" not in told
    assert "search: 10m" not in told


def test_what_the_method_has_no_option_for_is_told_and_passed_over(tmp_path: Path) -> None:
    _, told = searched(
        tmp_path, NEVER, "method=logit_regression", "search={budget: 1, order: [temperature, lr], lr: [2]}"
    )
    assert "search: temperature is passed over: the method logit_regression has no such option." in told
    assert "attempt 1: lr 0.1: " in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["search=10m"], "search: there is nothing to search for without accept"),
        ([NEVER, "search=soon"], "search.budget: 'soon' is no budget. Write a time, such as 90s, 10m or 1h30m"),
        ([NEVER, "search={budget: -1}"], "search.budget: must be a text, not empty or a whole number, 0 or above"),
        ([NEVER, "search={order: [alpha]}"], "search: needs 'budget'"),
        ([NEVER, "search={budget: 1, order: [student]}"], "search.order: student: nothing of it is given"),
        ([NEVER, "search={budget: 1, order: [alph]}"], "search.order: 'alph' cannot be tried. Did you mean 'alpha'?"),
        ([NEVER, "search={budget: 1, order: [alpha, alpha]}"], "search.order: alpha is there twice"),
        ([NEVER, "search={budget: 1, temperature: [], alpha: [], lr: []}"], "search: there is nothing to try"),
        ([NEVER, "search={budget: 1, order: [ratio], ratio: [0.5]}"], "search: ratio is passed over: no compression"),
    ],
)
def test_a_search_that_cannot_be_is_refused_with_its_line(tmp_path: Path, settings: list[str], told: str) -> None:
    assert any(told in line for line in problems(tmp_path, ONE, *settings))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("temperature: [-1]", "search.temperature: -1 cannot be tried: "),
        ("student: [{name: CNN, channels: 3, classes: 7}]", "search.student: {name: CNN, channels: 3"),
        ("data: [{name: digits, train: 200, valid: 90}]", "has other valid data than the recipe"),
    ],
)
def test_a_value_that_cannot_be_tried_is_refused_before_any_training(tmp_path: Path, values: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        searched(tmp_path, NEVER, f"search={{budget: 1, {values}}}")
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0s", 0), ("1.5 h", 5400)])
def test_a_time_is_read(given: str, seconds: float) -> None:
    assert read_budget(given).seconds == seconds


@pytest.mark.parametrize("given", ["", "m", "-1m", "10 min", "1e3s", None, True, 1.5, "1m30"])
def test_what_is_no_budget_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="is no budget"):
        read_budget(given)


def test_a_budget_says_when_it_is_used_up() -> None:
    assert [read_budget("10s").left(s, 99) for s in (9.9, 10)] == [True, False]
    assert [read_budget(2).left(1e9, n) for n in (1, 2)] == [True, False]
    assert (str(read_budget("90s")), str(read_budget("5s")), str(read_budget(1))) == ("1.5 min", "5 s", "1 attempt")


def test_kinds_are_tried_in_order_of_cost_each_but_the_value_that_it_has(tmp_path: Path) -> None:
    from recipe.kit import examined

    resolved = examined(tmp_path, ONE, NEVER, "search={budget: 1, student: [{name: CNN, channels: 9}]}").resolved
    tries = Tries(document(tmp_path, ONE), resolved)
    assert tries.kinds == ["temperature", "alpha", "lr", "student"]
    assert [c.value for c in tries.changes("temperature", resolved.plain())] == [1, 4, 8, 16]  # it has 2
    assert [c.value for c in tries.changes("lr", resolved.plain())] == [0.0166667, 0.15]
    assert brief([{"a": 1.0}]) == "[{a: 1}]"
