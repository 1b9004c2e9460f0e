from __future__ import annotations

import pytest
import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.measure import fresh_discriminator


def drawn(seed: int, shift: float = 0.0, rows: int = 300) -> Tensor:
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed)) + shift


def test_what_is_of_one_distribution_is_told_apart_by_chance_and_what_is_not_nearly_always():
    assert abs(fresh_discriminator(drawn(0), drawn(1), 2).mean - 0.5) < 0.06
    assert fresh_discriminator(drawn(0), drawn(1, shift=2.0), 1).mean > 0.93


def test_a_difference_that_no_line_separates_is_seen():
    assert fresh_discriminator(3 * drawn(0), drawn(1), 2).mean > 0.85


def test_equal_outputs_are_told_apart_by_nobody():
    same = drawn(0)
    assert fresh_discriminator(same, same, 2).values == (0.5, 0.5)
    assert fresh_discriminator(torch.zeros(8, 2), torch.zeros(8, 2), 1).mean == 0.5


def test_it_is_judged_on_samples_that_it_has_not_trained_on():
    few = fresh_discriminator(drawn(0, rows=20), drawn(1, rows=20), 5, steps=100)
    assert few.mean < 0.75, "by heart it would be 1"


def test_the_accuracy_is_that_of_the_seed_and_no_random_number_is_used_up():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    with torch.no_grad():
        one = fresh_discriminator(drawn(0), drawn(1, shift=0.5), [4], steps=20)
    assert torch.equal(torch.get_rng_state(), state)
    assert one == fresh_discriminator(drawn(0), drawn(1, shift=0.5), [4], steps=20)
    assert one != fresh_discriminator(drawn(0), drawn(1, shift=0.5), [5], steps=20)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ShapeError, match="one shape"):
        fresh_discriminator(drawn(0), drawn(1)[:, :2])
    for wrong in (
        lambda: fresh_discriminator(drawn(0)[:3], drawn(1)[:3]),
        lambda: fresh_discriminator(drawn(0), drawn(1), []),
    ):
        with pytest.raises(InputError, match="4 samples and 1 seed"):
            wrong()
    with pytest.raises(InputError, match="NaN or infinite"):
        fresh_discriminator(drawn(0) / 0, drawn(1))
