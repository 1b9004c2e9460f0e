"""What the figures of a job say in words, where they are bad."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from understudy import evaluate
from understudy.evaluate import Evidence, Trial, verdict
from understudy.tasks import Classification, Regression, Task

LABELS = torch.tensor([0, 0, 0, 1, 2, 3, 4, 5, 6, 7])  # of whom always 0 says is right in 0.3
VALUES = torch.linspace(0, 1, 10)


def said(
    kept: Sequence[float], alone: Sequence[float] | None, teacher: float = 0.9, task: Task | None = None
) -> list[str]:
    """The verdict on students whose metric this is, a value for each seed."""
    task = task or Classification()
    result = SimpleNamespace(best={"valid": {task.metric: 0.5}, "step": 1}, steps=10)
    trials = [Trial(seed, results={"distilled": cast("Any", result)}) for seed in range(len(kept))]
    for trial in trials:
        trial.students = dict.fromkeys(("distilled", "kept"), torch.nn.Identity())
    data = SimpleNamespace(labels=LABELS if isinstance(task, Classification) else VALUES, name="test")
    evidence = Evidence(task, cast("Any", data), None, trials, {}, cast("Any", None))
    told = {"teacher": [teacher] * len(kept), "distilled": kept, "kept": kept}
    told |= {} if alone is None else {"alone": alone}
    return verdict(evidence, {stage: {task.metric: list(values)} for stage, values in told.items()})


def warned(*given: Any, **more: Any) -> str:
    return "\n".join(line for line in said(*given, **more) if line.startswith("Warning: "))


def test_a_student_that_names_always_the_same_class_is_told_first() -> None:
    told = said([0.3, 0.31, 0.29], [0.8, 0.82, 0.78])
    assert told[0].startswith(
        "Warning: the student (accuracy 0.300) is hardly better than the best constant answer (0.300)"
    )
    assert "understudy compare RECIPE --methods all --tune" in told[0]
    assert "Distillation hurt" in told[1]


def test_where_the_student_alone_is_no_better_no_weight_is_blamed() -> None:
    assert "So is the student alone." in warned([0.3, 0.31, 0.29], [0.3, 0.3, 0.32])
    assert "tune" not in warned([0.3, 0.31, 0.29], [0.3, 0.3, 0.32])
    assert "alone" not in warned([0.3, 0.31, 0.29], None)


def test_a_student_that_has_lost_much_is_told_how_much() -> None:
    assert "has lost 40% of what it learns alone" in warned([0.6, 0.61, 0.59], [0.8, 0.8, 0.8])


@pytest.mark.parametrize(
    ("kept", "alone"),
    [
        ([0.78, 0.77, 0.79], [0.8, 0.8, 0.8]),  # a little worse, and clearly: the verdict's own sentence says it
        ([0.9, 0.3, 0.45], [0.8, 0.8, 0.8]),  # much worse in the mean, and maybe by chance
        ([0.85, 0.86, 0.84], [0.8, 0.8, 0.8]),
    ],
)
def test_what_is_not_much_worse_is_no_warning(kept: list[float], alone: list[float]) -> None:
    assert warned(kept, alone) == ""


def test_of_one_seed_it_counts_too() -> None:
    assert "has lost 40%" in warned([0.6], [0.8])


def test_where_less_is_better_it_is_the_other_way_round() -> None:
    task = Regression("rmse")
    chance = task.chance(VALUES)
    assert "hardly better" in warned([chance, chance], [0.1, 0.1], teacher=0.01, task=task)
    assert warned([0.1, 0.1], [0.1, 0.1], teacher=0.01, task=task) == ""


def test_control_without_the_threshold_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "NOTHING", -1e9)
    monkeypatch.setattr(evaluate, "MUCH", -1e9)
    assert warned([0.3, 0.31, 0.29], [0.8, 0.82, 0.78]) == ""
    assert warned([0.6, 0.61, 0.59], [0.8, 0.8, 0.8]) == ""
