from __future__ import annotations

import dataclasses
import math

import pytest

from understudy.errors import InputError
from understudy.progress import START, Progress, constant, cosine, described, linear, steps_at, warmed_up


def at(step: int, steps: int = 100) -> Progress:
    return Progress(step=step, steps=steps)


def test_progress_starts_at_nothing_and_ends_below_one():
    assert START.fraction == 0
    assert at(0).fraction == 0
    assert at(99).fraction == 0.99


def test_progress_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        START.step = 1


def test_constant_does_not_change():
    assert {constant(0.3)(at(i)) for i in range(100)} == {0.3}


def test_linear_goes_in_equal_steps():
    values = [linear(2, 1)(at(i, 4)) for i in range(4)]
    assert values == [2, 1.75, 1.5, 1.25]


def test_cosine_is_half_a_wave():
    curve = cosine(1, 0)
    assert curve(at(0)) == 1
    assert curve(at(50)) == pytest.approx(0.5)
    assert curve(at(25)) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    values = [curve(at(i)) for i in range(100)]
    assert values == sorted(values, reverse=True)
    assert 0 < values[-1] < 1e-3
    assert cosine(0.2, 3)(at(50)) == pytest.approx(1.6)


def test_steps_at_multiplies_from_each_milestone_on():
    curve = steps_at((0.5, 0.75), factor=0.1)
    assert [round(curve(at(i)), 12) for i in (0, 49, 50, 74, 75, 99)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


@pytest.mark.parametrize("milestones", [(0,), (0.5, 1), (-0.1,), (150,)])
def test_steps_at_refuses_milestones_that_are_no_fraction(milestones):
    with pytest.raises(InputError, match="are not fractions of the run; allowed: above 0 and below 1"):
        steps_at(milestones)


@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warm_up_is_a_straight_line_that_wastes_no_step(warmup):
    curve = warmed_up(constant(2), warmup)
    assert [curve(at(i)) for i in range(10)] == pytest.approx([2 * (i + 1) / 10 for i in range(10)])
    assert {curve(at(i)) for i in range(10, 100)} == {2}


def test_warm_up_multiplies_the_curve():
    assert warmed_up(linear(1, 0), 4)(at(1)) == pytest.approx(0.99 * 0.5)


@pytest.mark.parametrize("warmup", [0, 1, 0.001])
def test_no_warm_up_leaves_the_curve_as_it_is(warmup):
    assert [warmed_up(linear(1, 0), warmup)(at(i)) for i in range(100)] == [linear(1, 0)(at(i)) for i in range(100)]


def test_warm_up_below_zero_is_refused():
    with pytest.raises(InputError, match="warmup -1: allowed: 0"):
        warmed_up(constant(1), -1)


def test_curves_that_differ_anywhere_are_described_differently():
    """What a resumed run is compared by: a curve is known by its values alone."""
    curves = [constant(1), linear(1, 0), linear(1, 0.001), cosine(1, 0), steps_at((0.5,)), steps_at((0.51,))]
    curves.append(warmed_up(constant(1), 0.002))
    assert len({described(c) for c in curves}) == len(curves)
    assert described(linear(1, 0)) == described(lambda progress: 1 - progress.fraction)
