from __future__ import annotations

import pytest
import torch
from torch import nn

from understudy.errors import InputError
from understudy.measure.flops import COUNTED, flops


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a @ b


def test_two_for_each_multiply_add_of_a_matrix_product_and_a_convolution() -> None:
    assert flops(nn.Linear(5, 7), torch.zeros(9, 5)) == {
        "flops": 2 * 5 * 7, "macs": 5 * 7, "flops_counted": COUNTED, "flops_left_out": [],
    }  # fmt: skip
    convolution = nn.Conv2d(3, 4, 3, padding=1)
    assert flops(convolution, torch.zeros(2, 3, 8, 8))["macs"] == 8 * 8 * 4 * 3 * 3 * 3
    grouped = nn.Conv2d(4, 4, 3, groups=4)
    assert flops(grouped, torch.zeros(2, 4, 8, 8))["macs"] == 6 * 6 * 4 * 3 * 3


def test_nothing_else_is_counted() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Softmax(-1)).train()
    assert flops(model, torch.zeros(1, 4))["macs"] == 16  # and BatchNorm takes the one sample, for it is in eval mode
    assert all(module.training for module in model.modules())


def test_layers_of_which_nothing_was_counted_are_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x[:, :, None] * self.weight).sum(1)

    model = nn.Sequential(nn.Linear(4, 4), Odd())
    assert flops(model, torch.zeros(1, 4))["flops_left_out"] == ["Odd"]
    assert flops(nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4))["flops_left_out"] == []
    words = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2))
    assert flops(words, torch.zeros(1, 3, dtype=torch.long))["flops_left_out"] == []


def test_several_inputs_go_by_name_and_what_does_not_run_is_told() -> None:
    assert flops(Two(), {"b": torch.zeros(6, 3, 2), "a": torch.zeros(6, 4, 3)})["macs"] == 4 * 3 * 2
    with pytest.raises(InputError, match="flops: Linear does not run on the first sample"):
        flops(nn.Linear(4, 4), torch.zeros(1, 5))
