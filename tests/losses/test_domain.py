from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from understudy.errors import InputError, ShapeError
from understudy.losses import DomainCritic, coral, mmd
from understudy.losses.domain import grad_reverse
from understudy.progress import Progress


def drawn(rows: int, seed: int, shift: float = 0.0, width: int = 4) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


# -- mmd and coral -----------------------------------------------------------------------------------------------------


def test_mmd_is_high_between_two_distributions_and_low_within_one():
    apart, within = mmd(drawn(200, 0), drawn(100, 1, shift=1.0)), mmd(drawn(200, 0), drawn(100, 1))
    assert apart > 5 * within > 0


def test_mmd_sees_a_difference_of_shape_that_coral_and_means_do_not():
    signs = drawn(400, 0).sign()
    normal = drawn(400, 1)
    assert mmd(signs, normal) > 3 * mmd(drawn(400, 2), normal)
    assert coral(signs, normal) < 3 * coral(drawn(400, 2), normal) + 1e-2


def test_mmd_does_not_depend_on_the_unit_of_the_features_and_coral_does():
    s, o = drawn(20, 0), drawn(10, 1, shift=1.0)
    torch.testing.assert_close(mmd(1e6 * s, 1e6 * o), mmd(s, o))
    torch.testing.assert_close(coral(2 * s, 2 * o), 16 * coral(s, o))


def in_fixed_units(s: Tensor, o: Tensor, unit: float) -> Tensor:
    def near(a: Tensor, b: Tensor) -> Tensor:
        square = (a[:, None] - b).square().sum(-1)
        return sum((-square / (w * unit)).exp().mean() for w in (0.25, 0.5, 1.0, 2.0, 4.0))

    return near(s, s) + near(o, o) - 2 * near(s, o)


def test_mmds_gradient_is_that_of_kernels_whose_width_is_a_constant():
    s, o = drawn(6, 0).requires_grad_(), drawn(4, 1, shift=1.0)
    both = torch.cat([s, o]).detach()
    unit = float((both[:, None] - both).square().sum() / 90)
    (got,) = torch.autograd.grad(mmd(s, o), s)
    (expected,) = torch.autograd.grad(in_fixed_units(s, o, unit), s)
    (other,) = torch.autograd.grad(in_fixed_units(s, o, 2 * unit), s)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, other)


@pytest.mark.parametrize("loss", [mmd, coral])
def test_what_goes_down_the_gradient_comes_to_be_of_the_other_distribution(loss: Callable[..., Tensor]):
    s, o = drawn(60, 0) * 3, drawn(60, 1)
    moved = s.clone().requires_grad_()
    optimizer = torch.optim.Adam([moved], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(moved, o).backward()
        optimizer.step()
    assert loss(moved, o) < 0.05 * loss(s, o)


def test_bandwidths_and_shapes_that_are_none_are_refused():
    with pytest.raises(InputError, match="bandwidths"):
        mmd(drawn(3, 0), drawn(3, 1), bandwidths=(1.0, 0.0))
    with pytest.raises(ShapeError, match="coral"):
        coral(drawn(3, 0), drawn(3, 1, width=5))


# -- the critic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_a_reversed_gradient_has_the_other_sign_and_the_strength(strength):
    x = drawn(3, 0).requires_grad_()
    assert torch.equal(grad_reverse(x, strength), x)
    (plain,) = torch.autograd.grad(x.square().sum(), x)
    (back,) = torch.autograd.grad(grad_reverse(x, strength).square().sum(), x)
    torch.testing.assert_close(back, -strength * plain)


def game(reverse: bool, steps: int = 400) -> tuple[float, float]:
    """What a critic and a linear map of the features come to: the critic's loss, and the distance of the two means."""
    torch.manual_seed(0)
    features = nn.Linear(4, 4)
    critic = DomainCritic(features=4, hidden=16, gamma=None)
    if not reverse:
        critic.strength.fill_(0.0)
    here, there = drawn(200, 0).float(), drawn(200, 1, shift=1.0).float()
    players = [torch.optim.SGD(features.parameters(), lr=0.1), torch.optim.SGD(critic.parameters(), lr=0.1)]
    for _ in range(steps):
        for player in players:
            player.zero_grad()
        critic(features(here), features(there)).mean().backward()
        for player in players:
            player.step()
    with torch.no_grad():
        gap = (features(here).mean(0) - features(there).mean(0)).norm()
        return float(critic(features(here), features(there)).mean()), float(gap)


def test_a_critic_learns_to_tell_two_domains_and_cannot_once_the_features_learn_against_it():
    alone, against = game(reverse=False), game(reverse=True)
    assert alone[0] < 0.8 < 1.2 < against[0]
    assert against[1] < 0.3 * alone[1]


def test_the_reversed_gradient_grows_from_0_to_1_as_in_the_paper():
    critic = DomainCritic(features=2)
    x = torch.ones(1, 2, requires_grad=True)
    (back,) = torch.autograd.grad(critic(x, torch.zeros(1, 2)).sum(), x)
    assert critic.strength == 0
    assert back.eq(0).all()
    grown = []
    for step in range(10):
        critic.after(Progress(step, 10))
        grown.append(float(critic.strength))
    assert grown == pytest.approx([2 / (1 + math.exp(-10 * p / 10)) - 1 for p in range(1, 11)], rel=1e-6)
    constant = DomainCritic(features=2, gamma=None)
    constant.after(Progress(0, 10))
    assert constant.strength == 1


def test_options_that_are_none_are_refused():
    with pytest.raises(InputError, match="gamma"):
        DomainCritic(gamma=0.0)
    with pytest.raises(ShapeError, match="DomainCritic"):
        DomainCritic(features=4)(drawn(3, 0).float(), drawn(2, 1).float())
