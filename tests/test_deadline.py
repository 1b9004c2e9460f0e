"""A deadline, and the share of inferences that miss it, as a condition on the student."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import understudy as us
from understudy import evaluate
from understudy.errors import InputError
from understudy.outcome import Distilled

INPUTS = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
DATA = (INPUTS, (INPUTS[:, 0] > 0).long())


def run(**options: Any) -> Distilled:
    few = {"epochs": 1, "seeds": 1, "fine_tune": False, "progress": False, "device": "cpu"}
    teacher = nn.Linear(2, 2)
    with torch.no_grad():
        teacher.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        teacher.bias.zero_()
    return us.distill(lambda: nn.Linear(2, 2), teacher, DATA, DATA, **{**few, **options})


@pytest.fixture(autouse=True)
def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes longer to measure than all else here."""
    monkeypatch.setattr(evaluate, "_memory", lambda model, one: None)


@pytest.mark.parametrize(("deadline", "share", "accepted"), [(1e6, 0.0, True), (1e-6, 1.0, False)])
def test_a_student_is_accepted_if_few_enough_inferences_miss_the_deadline(
    deadline: float, share: float, accepted: bool
) -> None:
    made = run(deadline_ms=deadline, accept={"missed_share": "<= 0.01"})
    assert made.rows[-1]["missed_share"] == share
    assert made.accepted is accepted


def test_without_a_deadline_there_is_no_such_figure_and_no_condition_on_it() -> None:
    assert all("missed_share" not in row for row in run().rows)
    with pytest.raises(InputError, match=r"accept: missed_share <= 0\.01 needs to know the deadline; give deadline_ms"):
        run(accept={"missed_share": "<= 0.01"})


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan"), float("inf"), "5"])
def test_a_deadline_is_a_time(deadline: Any) -> None:
    with pytest.raises(
        InputError, match=re.escape(f"deadline_ms={deadline!r} must be a number of milliseconds above 0")
    ):
        run(deadline_ms=deadline)
