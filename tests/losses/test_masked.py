"""Masked generation: what is hidden, and how often."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses import MGD, ViTKD


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mask", "shape"), [("channels", (50, 40, 1, 1)), ("positions", (50, 1, 8, 8))])
def test_mgd_hides_the_ratio_of_whole_channels_or_positions_anew_each_time(mask, shape):
    torch.manual_seed(0)
    mgd = MGD(student=40, teacher=40, mask=mask, ratio=0.3)
    maps = torch.ones(50, 40, 8, 8)
    shown = mgd.drawn(maps)
    assert shown.shape == shape
    assert 1 - float(shown.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert not torch.equal(shown, mgd.drawn(maps))
    assert not torch.equal(shown[0], shown[1])


def test_mgd_does_not_see_what_is_hidden():
    mgd = MGD(student=3, teacher=5, ratio=0.5)
    with torch.no_grad():
        for weight in mgd.align.parameters():
            weight.fill_(1.0)
    mgd.drawn = lambda maps: torch.zeros(1, 1, 1, 1)
    teacher = randn(2, 5, 4, 4)
    assert torch.equal(mgd(randn(2, 3, 4, 4), teacher), mgd(randn(2, 3, 4, 4, seed=1), teacher))
    mgd.drawn = lambda maps: torch.ones(1, 1, 1, 1)
    assert not torch.equal(mgd(randn(2, 3, 4, 4), teacher), mgd(randn(2, 3, 4, 4, seed=1), teacher))


def test_mgd_is_the_squared_distance_from_what_is_generated():
    mgd = MGD(student=3, teacher=3, ratio=0.0)
    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    assert not list(mgd.align.parameters())
    expected = (mgd.generate(student) - teacher).square().sum((1, 2, 3))
    torch.testing.assert_close(mgd(student, teacher), expected)


@pytest.mark.parametrize("options", [{"mask": "tokens"}, {"ratio": 1.0}, {"ratio": -0.1}])
def test_mgd_refuses_what_is_no_option(options):
    with pytest.raises(InputError, match="MGD: mask="):
        MGD(**options)


def test_vitkd_hides_as_many_tokens_of_each_sample_anew_each_time():
    torch.manual_seed(0)
    vitkd = ViTKD(student=4, teacher=4, ratio=0.25)
    hidden = vitkd.drawn(torch.zeros(20, 16, 4))
    assert hidden.sum(1).tolist() == [4] * 20
    assert not torch.equal(hidden, vitkd.drawn(torch.zeros(20, 16, 4)))
    assert len({tuple(row) for row in hidden.tolist()}) > 5


def test_vitkd_counts_hidden_tokens_only_and_leaves_those_in_front_out():
    vitkd = ViTKD(student=2, teacher=3)
    hide = torch.tensor([True, False, False, False]).expand(2, 4)
    vitkd.drawn = lambda tokens: hide
    student, teacher = randn(2, 5, 2), randn(2, 6, 3, seed=1)
    value = vitkd(student, teacher)

    tokens = vitkd.align(student[:, 1:]).clone()
    tokens[:, 0] = vitkd.hidden
    made = vitkd.generate(tokens.transpose(1, 2).reshape(2, 3, 2, 2)).flatten(2).transpose(1, 2)
    expected = (made[:, 0] - teacher[:, 2]).square().sum(1) / 0.5
    torch.testing.assert_close(value, expected)

    changed = student.clone()
    changed[:, :2] += 10  # the class's token and the hidden one
    torch.testing.assert_close(vitkd(changed, teacher), value)
    changed[:, 2] += 10
    assert not torch.allclose(vitkd(changed, teacher), value)


def test_vitkd_refuses_other_grids_and_ratios():
    with pytest.raises(ShapeError, match=r"ViTKD: shapes \[2, 5, 3\].*\[2, 10, 3\].*as many tokens of the image"):
        ViTKD(student=3, teacher=3)(randn(2, 5, 3), randn(2, 10, 3))
    with pytest.raises(ShapeError, match=r"ViTKD: needs tokens"):
        ViTKD(student=3, teacher=3)(randn(2, 3), randn(2, 3))
    with pytest.raises(InputError, match="ViTKD: ratio=0"):
        ViTKD(ratio=0)
