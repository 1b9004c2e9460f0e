from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from understudy.errors import ShapeError
from understudy.losses import mse

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "response_and_hint.json").read_text())["values"]


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5), (2, 7, 3), (1, 1)])
def test_mse_equals_torch_over_all_axes_but_the_first(shape):
    mine, theirs = (features(*shape).requires_grad_() for _ in range(2))
    teacher = features(*shape, seed=1)
    value = mse(mine, teacher)
    expected = F.mse_loss(theirs, teacher, reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    value.mean().backward()
    F.mse_loss(theirs, teacher).backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-15)


def test_mse_gives_the_number_of_the_published_code():
    k = torch.arange(4 * 3 * 4 * 4, dtype=torch.float64).reshape(4, 3, 4, 4)
    value = mse(torch.sin(0.31 * k + 0.2), torch.cos(0.17 * k)).mean()
    assert float(value) == pytest.approx(GOLDEN["mse, mean over all elements"]["value"], rel=1e-10)


def test_mse_of_single_numbers_is_the_square_of_each():
    assert mse(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 5.0])).tolist() == [4.0, 0.0]


def test_mse_in_half_precision_does_not_overflow():
    student = torch.full((2, 3), 1e4, dtype=torch.float16)
    assert mse(student, torch.zeros_like(student)).tolist() == [1e8, 1e8]
    assert (student - 0).square().isinf().all()  # what float16 itself would give


def test_mse_of_unequal_shapes_says_what_makes_them_equal():
    with pytest.raises(ShapeError) as error:
        mse(features(2, 3, 4, 4), features(2, 6, 4, 4))
    assert str(error.value) == (
        "mse: shapes [2, 3, 4, 4] (student) and [2, 6, 4, 4] (teacher) differ in axis 1. mse needs equal shapes. "
        "Add `project=Conv1x1()` to the term (3 -> 6 channels)."
    )


def test_mse_does_not_broadcast():
    with pytest.raises(ShapeError, match="axis 1"):
        mse(features(2, 1), features(2, 5))
    with pytest.raises(ShapeError, match="number of axes"):
        mse(features(2), features(2, 2))
