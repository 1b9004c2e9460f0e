from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from understudy.errors import InputError
from understudy.losses import activation, batch_norm_statistics, information_entropy, one_hot, total_variation

VALUES = json.loads((Path(__file__).parents[1] / "reference" / "generated.json").read_text())["values"]


def golden(name: str) -> object:
    return pytest.approx(VALUES[name]["value"], rel=1e-9)


def logits() -> Tensor:
    i, j = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(5.0, dtype=torch.float64)
    return 4 * torch.cos(0.5 * i - 0.9 * j + 0.2)


def features() -> Tensor:
    return torch.cos(0.55 * torch.arange(24.0, dtype=torch.float64)).reshape(4, 6)


def pictures() -> Tensor:
    return torch.sin(0.31 * torch.arange(192.0, dtype=torch.float64) + 0.2).reshape(4, 3, 4, 4)


def test_losses_of_dafl_are_those_of_its_code():
    assert one_hot(logits()).mean() == golden("one_hot, mean over the batch")
    assert information_entropy(logits()) == golden("information_entropy")
    assert activation(features()).mean() == golden("activation, mean over the batch")


def test_control_natural_logarithms_or_probabilities_for_logits_are_not_those_of_dafl():
    assert information_entropy(logits()) * math.log(10) != golden("information_entropy")
    assert one_hot(logits().softmax(1)).mean() != golden("one_hot, mean over the batch")
    assert activation(features().relu()).mean() != golden("activation, mean over the batch")


def test_losses_of_deep_inversion_are_those_of_its_code():
    x, zero, one = pictures(), torch.zeros(3).double(), torch.ones(3).double()
    assert total_variation(x).mean() == golden("total_variation, mean over the batch")
    assert batch_norm_statistics(x, zero, one) == golden("batch_norm_statistics, mean 0, variance 1")


def test_control_two_directions_or_an_unbiased_variance_are_not_those_of_deep_inversion():
    x, zero, one = pictures(), torch.zeros(3).double(), torch.ones(3).double()
    straight = (x[..., 1:] - x[..., :-1]).abs().mean() + (x[..., 1:, :] - x[..., :-1, :]).abs().mean()
    assert straight != golden("total_variation, mean over the batch")
    unbiased = (x.mean((0, 2, 3)) - zero).norm() + (x.var((0, 2, 3)) - one).norm()
    assert unbiased != golden("batch_norm_statistics, mean 0, variance 1")


def test_the_norm_of_a_single_pictures_differences_is_that_of_the_code():
    x = pictures()[:1]
    down = (x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1])
    across = (x[..., 1:, 1:] - x[..., :-1, :-1], x[..., 1:, :-1] - x[..., :-1, 1:])
    assert total_variation(x, power=2) == pytest.approx(sum(float(d.norm()) for d in (*down, *across)), rel=1e-12)
    with pytest.raises(InputError, match="it is 1 or 2"):
        total_variation(x, power=3)


def test_entropy_has_a_gradient_where_a_class_is_never_predicted():
    x = torch.tensor([[0.0, -1e4, 1e4], [0.0, -1e4, 1e4]], requires_grad=True)
    information_entropy(x).backward()
    assert x.grad.isfinite().all()
    y = torch.tensor([[0.0, -1e4, 1e4]], requires_grad=True)
    p = y.softmax(1).mean(0)
    (p * p.log10()).sum().backward()
    assert not y.grad.isfinite().all()
