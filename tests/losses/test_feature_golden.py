"""Numbers that the original code of losses of inner layers gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from understudy import losses

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "feature.json").read_text())["values"]
Loss = Callable[[Tensor, Tensor], Tensor]
OURS: dict[str, Loss] = {
    "attention_map, mean over the batch": lambda s, t: losses.attention_map(s, t).mean(),
    "attention_map, form paper, mean over the batch": lambda s, t: losses.attention_map(s, t, form="paper").mean(),
    "ab, margin 1, mean over the batch": lambda s, t: losses.ab(s, t).mean(),
    "ft, mean over the batch": lambda s, t: losses.ft(s, t).mean(),
    "ft, form activity, mean over the batch": lambda s, t: losses.ft(s, t, form="activity").mean(),
    "pkd": losses.pkd,
    "masked_l2, sum over the batch": lambda s, t: losses.masked_l2(s, t).sum(),
    "mse, mean over the batch": lambda s, t: losses.mse(s, t).mean(),
}


def activity(x: Tensor, power: int = 2, norm: int = 2) -> Tensor:
    return F.normalize(x.abs().pow(power).mean(1).flatten(1), p=norm)


def standard(x: Tensor, unbiased: bool) -> Tensor:
    mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True, unbiased=unbiased)
    return (x - mean) / (deviation + 1e-6)


BROKEN: dict[str, Loss] = {
    "attention_map, mean over the batch": lambda s, t: (activity(s, norm=1) - activity(t, norm=1)).square().mean(),
    "attention_map, form paper, mean over the batch": lambda s, t: (activity(s) - activity(t)).square().sum(1).mean(),
    "ab, margin 1, mean over the batch": lambda s, t: losses.ab(s, t).mean() * 3 / 1000,
    "ft, mean over the batch": lambda s, t: (s / s.norm() - t / t.norm()).abs().mean(),
    "ft, form activity, mean over the batch": lambda s, t: losses.ft(s, t).mean(),
    "pkd": lambda s, t: (standard(s, unbiased=False) - standard(t, unbiased=False)).square().mean() / 2,
    "masked_l2, sum over the batch": lambda s, t: (s - t).square().sum(),
    "mse, mean over the batch": lambda s, t: losses.mse(s, t).mean() / 2,
}


def maps() -> tuple[Tensor, Tensor]:
    k = torch.arange(4 * 3 * 4 * 4, dtype=torch.float64).reshape(4, 3, 4, 4)
    return torch.sin(0.31 * k + 0.2), torch.cos(0.17 * k)


def test_every_number_has_a_loss_and_a_broken_one():
    assert set(GOLDEN) == set(OURS) == set(BROKEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_it_gives_the_number_of_the_published_code(name):
    assert float(OURS[name](*maps())) == pytest.approx(GOLDEN[name]["value"], rel=1e-9)


@pytest.mark.parametrize("name", GOLDEN)
def test_control_a_broken_one_does_not(name):
    assert float(BROKEN[name](*maps())) != pytest.approx(GOLDEN[name]["value"], rel=1e-4)
