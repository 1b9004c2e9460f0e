from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from understudy.errors import InputError
from understudy.measure.budget import BUDGETS, budget_of, missed_share, verdict

PAGE = (Path(__file__).parents[2] / "docs" / "bench.md").read_text()
FITS: dict[str, Any] = {"size_bytes": 1000, "memory_fits": True, "missed_share": 0.0}


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, ""),
        ({"size_bytes": 10**9}, "its files have 1,000,000,000 bytes, and "),
        ({"memory_fits": False}, "its memory is too much: "),
        ({"memory_fits": None}, "its memory cannot be told here: "),
        ({"missed_share": 0.02}, "2.0% of inferences miss "),
    ],
)
def test_a_model_is_within_a_budget_in_everything_or_not_at_all(name: str, wrong: dict[str, Any], told: str) -> None:
    within, why = verdict(BUDGETS[name], FITS | wrong)
    assert within is (not wrong)
    assert len(why) == len(wrong)
    assert told in "".join(why)


def test_weights_in_flash_memory_are_allowed_beside_the_memory() -> None:
    assert budget_of("microcontroller").limit(700_000) == 512_000 + 700_000
    assert budget_of("phone").limit(700_000) == 200_000_000


def test_budgets_go_by_their_names_and_shrink() -> None:
    assert [b.name for b in BUDGETS.values()] == list(BUDGETS) == ["phone", "edge", "microcontroller"]
    for one, smaller in zip(list(BUDGETS.values())[:-1], list(BUDGETS.values())[1:], strict=True):
        assert one.size_bytes > smaller.size_bytes
        assert one.memory_bytes > smaller.memory_bytes
    with pytest.raises(InputError, match=r"there is no 'fridge'. Allowed: phone, edge, microcontroller"):
        budget_of("fridge")


def test_the_share_that_misses() -> None:
    assert missed_share([1.0, 2.0, 2.1, 9.0], 2.0) == 0.5
    assert missed_share([2.0], 2.0) == 0
    for deadline in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="above 0"):
            missed_share([1.0], deadline)


def test_the_page_has_the_budgets_as_they_are() -> None:
    for budget in BUDGETS.values():
        memory = f"{budget.memory_bytes:,}{' and the file' if budget.in_flash else ''}"
        assert f"| {budget.name} | {budget.size_bytes:,} | {memory}" in PAGE
        assert f" | {budget.deadline_ms:g} ms | " in PAGE
