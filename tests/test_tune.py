"""Tune: the best values of a recipe by validation, gone on with after a stop, within a budget."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recipe.kit import SMALL, document, weights
from understudy import job
from understudy.errors import InputError, Interrupted, MissingExtra
from understudy.progress import Progress
from understudy.recipe.examine import examine
from understudy.recipe.text import read
from understudy.recipe.tries import Budget
from understudy.search.pruning import Pruned, Watching
from understudy.search.ranges import NAME, Range, change_of, defaults, read_range
from understudy.search.tune import Tuned, objectives_of, tune
from understudy.search.tuned import page
from understudy.tasks import TASKS

pytest.importorskip("optuna")

ONE = SMALL.replace("channels: 2}", "channels: 4}").replace("1e-2", "5e-2").replace("fine_tune: true", "")
TEXT = f"{ONE}fine_tune: false\n"
OVER = ("temperature=1:20:log", "optimizer.lr=1e-3:1e-1:log")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the fresh process in which a model's memory is measured."""
    monkeypatch.setattr("understudy.evaluate._memory", lambda *_: None)


def tuned(folder: Path, *, out: str = "out", over: tuple[str, ...] = OVER, **more: Any) -> tuple[Tuned, str]:
    """What a tuning came to, and what it said."""
    screen = Console(record=True, width=400, file=io.StringIO())
    told = {"trials": 3, **more}
    made = tune(document(folder, TEXT), folder / out, over=[*map(read_range, over)], console=screen, **told)
    return made, screen.export_text()


def table(made: Tuned) -> list[dict[str, Any]]:
    """The trials without their seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in made.rows]


def test_the_first_trial_has_the_recipes_own_values_and_the_best_is_the_best_by_validation(tmp_path: Path) -> None:
    made, told = tuned(tmp_path)
    assert made.rows[0]["values"] == {"method.temperature": 2, "optimizer.lr": 0.05}
    assert len({str(row["values"]) for row in made.rows}) == 3
    best = max((r for r in made.rows if r["state"] == "done"), key=lambda r: r["accuracy"])
    assert made.rows[made.best[0]]["accuracy"] == best["accuracy"]
    assert "trial 0: method.temperature 2, optimizer.lr 0.05: accuracy" in told
    assert json.loads((tmp_path / "out/results.json").read_text()) == made.results()
    # The best recipe is sound, with as many students as the recipe has.
    best_recipe = examine(read(tmp_path / "out/best.yaml"), progress=False).resolved.value
    assert best_recipe["seeds"] == 2
    assert best_recipe["optimizer"]["lr"] == made.rows[made.best[0]]["values"]["optimizer.lr"]
    shown = (tmp_path / "out/tune.html").read_text()
    assert "<svg" in shown
    assert "method.temperature" in shown
    assert "<script" not in shown
    assert "http" not in shown


def test_the_test_data_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    quality = job.quality
    monkeypatch.setattr(job, "quality", lambda evidence: seen.append(evidence.data.name) or quality(evidence))
    made, _ = tuned(tmp_path)
    assert seen == ["valid"] * 3 + ["test"]
    assert made.measured_on == "test"


def test_a_tuning_that_was_stopped_goes_on_to_the_same_table_and_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = tuned(tmp_path, out="whole")
    train, calls = job.train, list[str]()

    def stopping(*given: Any, **more: Any) -> Any:
        calls.append("")
        if len(calls) == 3:  # the teacher, trial 0, and in the middle of trial 1
            more["callbacks"] = [*more["callbacks"], _Stop()]
        return train(*given, **more)

    monkeypatch.setattr(job, "train", stopping)
    with pytest.raises(Interrupted):
        tuned(tmp_path)
    monkeypatch.setattr(job, "train", train)
    again, _ = tuned(tmp_path, resume=True)
    assert table(again) == table(whole)
    mine, theirs = weights(tmp_path / "out"), weights(tmp_path / "whole")
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not mine[name].equal(theirs[name])] == []
    more, _ = tuned(tmp_path, resume=True, trials=4, over=())  # of what it was before
    assert table(more)[:3] == table(whole)
    assert len(more.rows) == 4


class _Stop(job.Callback):
    def stepped(self, progress: Any) -> None:
        if progress.step == 2:
            raise Interrupted("stopped here")


def test_without_time_nothing_is_tried_and_what_there_was_is_kept(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--budget: the budget was used up after step 1 of \d+ of the teacher's"):
        tuned(tmp_path, budget=Budget(seconds=0.0))
    before, _ = tuned(tmp_path, resume=True, trials=2)
    after, told = tuned(tmp_path, resume=True, trials=9, budget=Budget(seconds=0.0))
    assert table(after) == table(before)
    assert after.best == before.best
    assert "the budget of 0 s is used up" in told


def test_a_trial_that_is_under_way_when_the_time_is_over_is_stopped_and_counts_as_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(tmp_path, trials=1)
    left = iter([50.0, 0.0, 0.0])  # before the trial, while it runs, and after it
    monkeypatch.setattr("understudy.search.tune._Tuning._left", property(lambda self: next(left)))
    monkeypatch.setattr("understudy.search.tune._Tuning._until", ())  # of the teacher, which is trained
    made, told = tuned(tmp_path, resume=True, trials=9, budget=Budget(seconds=50.0))
    assert [row["state"] for row in made.rows] == ["done", "pruned"]
    assert "trial 1: " in told
    assert "pruned: the budget was used up after step 1 of" in told
    assert made.best == [0]


def test_of_several_objectives_the_pareto_front_is_measured(tmp_path: Path) -> None:
    made, _ = tuned(tmp_path, over=("student.channels=2:4",), objectives=["accuracy", "parameters"], trials=4)
    done = [row for row in made.rows if row["state"] == "done"]
    assert len(done) == 4  # none is pruned

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        return a["accuracy"] >= b["accuracy"] and a["parameters"] <= b["parameters"] and a != b

    front = {
        r["trial"]
        for r in done
        if not any(beats(o, r) and (o["accuracy"], o["parameters"]) != (r["accuracy"], r["parameters"]) for o in done)
    }
    assert {*made.best} <= front
    assert [row["trial"] for row in made.measured] == list(made.best)
    assert all(row["parameters"] for row in made.measured)
    best = made.rows[made.best[0]]["accuracy"]
    assert best == max(row["accuracy"] for row in done)
    others = {file.name for file in (tmp_path / "out").glob("best-*.yaml")}
    assert others == {f"best-{number:02}.yaml" for number in made.best[1:]}


def test_another_method_has_its_own_options_and_no_others(tmp_path: Path) -> None:
    made, _ = tuned(tmp_path, over=("method.name=kd,dkd,logit_regression", "temperature=1:20:log"), trials=4)
    assert [row["state"] for row in made.rows if row["state"] == "failed"] == []
    assert all(
        "method.temperature" in row["values"] or row["values"]["method.name"] == "logit_regression" for row in made.rows
    )
    ranges = [read_range("method.name=kd,dkd"), read_range("alpha=0:1")]
    recipe = {"method": {"name": "kd", "temperature": 3, "alpha": 0.1}}
    (change,) = change_of(recipe, {NAME: "dkd"}, ranges)
    assert change.value == {"temperature": 3, "name": "dkd"}
    (change,) = change_of(recipe, {NAME: "kd", ("method", "alpha"): 0.7}, ranges)
    assert change.value == {"temperature": 3, "alpha": 0.7, "name": "kd"}


class _Trial:
    """What a trial of Optuna does here."""

    def __init__(self, median: float) -> None:
        self.median, self.reports = median, dict[int, float]()

    def report(self, value: float, at: int) -> None:
        assert at not in self.reported_twice()
        self.reports[at] = value

    def reported_twice(self) -> set[int]:
        return {*self.reports}

    def should_prune(self) -> bool:
        return max(self.reports.values()) < self.median


def watched(median: float, known: dict[int, float] | None = None) -> _Trial:
    trial = _Trial(median)
    watching = Watching(trial, TASKS["classification"], known or {})
    watching.started(Progress(0, 10, 0))
    for step, accuracy in ((0, 0.1), (5, 0.6), (10, 0.4)):
        watching.logged({"step": step, "valid": {"accuracy": accuracy}})
        watching.logged({"step": step, "loss": 1.0})
    return trial


def test_a_trial_reports_its_best_so_far_by_the_share_of_its_steps_and_is_pruned_behind_the_median() -> None:
    assert watched(0.0).reports == {0: 0.1, 50: 0.6, 100: 0.6}
    assert watched(0.0, {0: 0.7}).reports == {0: 0.7, 50: 0.7, 100: 0.7}  # as it was before a stop
    with pytest.raises(Pruned, match="behind the median"):
        watched(0.5)


def test_only_the_first_training_of_a_trial_is_watched() -> None:
    trial = _Trial(0.0)
    watching = Watching(trial, TASKS["classification"], {})
    for _ in range(2):
        watching.started(Progress(0, 10, 0))
        watching.logged({"step": 10, "valid": {"accuracy": 0.5}})
    assert trial.reports == {100: 0.5}


@pytest.mark.parametrize(
    ("text", "where", "low", "high"),
    [
        ("temperature=1:20:log", ("method", "temperature"), 1, 20),
        ("compress.0.ratio=0.1:0.9", ("compress", 0, "ratio"), 0.1, 0.9),
    ],
)
def test_a_range_is_read(text: str, where: tuple[Any, ...], low: float, high: float) -> None:
    made = read_range(text)
    assert (made.where, made.low, made.high, made.log) == (where, low, high, "log" in text)
    assert read_range(str(made)) == made


def test_numbers_without_a_point_are_whole_but_of_what_is_real() -> None:
    assert read_range("epochs=5:20").whole
    assert not read_range("epochs=5:20.0").whole
    assert not read_range("method.temperature=1:20").whole
    assert read_range("batch_size=32,64").names == (32, 64)


@pytest.mark.parametrize(
    "text",
    ["temperature", "=1:2", "a=", "a=1", "a=1:2:3", "a=2:1", "a=0:1:log", "a=x:y", "a=1:nan", "a=kd", "a.=1:2", "a=1,"],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"is not of the form key=low:high"):
        read_range(text)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        (("optimizer.rl=1:2",), "cannot be tried: optimizer: AdamW has no option 'rl'"),
        (("method.name=kd,dk",), "there is no method 'dk'"),
        (("temperature=1:2", "method.temperature=1:3"), "method.temperature is there twice"),
        (("epochs=0:3",), "epochs: must be a whole number, 1 to"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_any_training(tmp_path: Path, over: tuple[str, ...], told: str) -> None:
    with pytest.raises(InputError) as caught:
        tuned(tmp_path, over=over)
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_objectives_are_figures_of_the_task() -> None:
    assert objectives_of(TASKS["classification"], []) == {"accuracy": True}
    told = objectives_of(TASKS["classification"], ["accuracy", "latency_ms_p50", "loss_nats"])
    assert told == {"accuracy": True, "latency_ms_p50": False, "loss_nats": False}
    with pytest.raises(InputError, match=r"no figure 'latency_ms'. Did you mean"):
        objectives_of(TASKS["classification"], ["latency_ms"])


def test_by_default_it_is_what_the_recipe_has() -> None:
    recipe = {"method": {"name": "kd"}, "optimizer": {"name": "AdamW", "lr": 0.01}}
    assert [each.key for each in defaults(recipe)] == ["method.temperature", "method.alpha", "optimizer.lr"]
    with pytest.raises(InputError, match="Say what to try: --over"):
        defaults({"method": None, "optimizer": {"name": "Adafactor"}})
    assert Range(("a",), 1, 3).own({"a": 2}) == 2
    assert Range(("a",), 1, 3).own({"a": 4}) is None


def test_another_tuning_in_the_folder_is_refused(tmp_path: Path) -> None:
    tuned(tmp_path, trials=1)
    with pytest.raises(InputError, match="holds another run"):
        tuned(tmp_path, resume=True, over=("temperature=1:19:log",))


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"understudy\[tune\]"):
        tuned(tmp_path)


def test_a_page_says_what_was_pruned_and_hides_nothing() -> None:
    row = {"changed": "a 1", "told": "", "seconds": 1.0}
    told = {
        "objectives": {"accuracy": True},
        "rows": [
            {**row, "trial": 0, "values": {"a": "<b>"}, "accuracy": 0.5, "state": "done"},
            {**row, "trial": 1, "values": {"a": 2.0}, "accuracy": None, "state": "pruned"},
        ],
        "best": [0],
        "measured": [{"trial": 0, "changed": "a", "accuracy": 0.4}],
        "measured_on": "test",
        "importance": {"accuracy": {"a": 1.0}},
    }
    made = page(told, "T & U")
    assert "T &amp; U" in made
    assert "&lt;b&gt;" in made
    assert "<b>" not in made
    assert made.count("<circle") == 1
    assert 'class="pruned"' in made
    assert "trial 0: accuracy 0.4" in made
