import random
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from understudy.data import order
from understudy.data.order import permutation, preserved, remembered, seed_all, seed_of


def draws() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_a_seed_is_the_same_in_every_process() -> None:
    code = "from understudy.data.order import *; print(seed_of(3, 'step', 7), permutation(9, 3, 2).tolist())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert told == f"{seed_of(3, 'step', 7)} {permutation(9, 3, 2).tolist()}\n"


def test_seeds_are_known_numbers() -> None:
    """They may never change: a run of an older version would not resume to the same bits."""
    assert (seed_of(0, "step", 0), seed_of(1, "order", 2)) == (2070556943451723277, 5818230779810566775)


def test_every_part_of_a_seed_counts() -> None:
    seeds = [seed_of(s, k, e, i) for s in range(8) for k in ("a", "b") for e in range(8) for i in range(8)]
    assert len(set(seeds)) == len(seeds)
    assert seed_of(1, 23) != seed_of(12, 3)
    assert all(0 <= s < 2**63 for s in seeds)


def test_an_epoch_sees_each_sample_once_and_epochs_and_seeds_differ() -> None:
    orders = [permutation(97, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert all(o.sort().values.equal(torch.arange(97)) for o in orders)
    assert len({tuple(o.tolist()) for o in orders}) == 9


def test_the_order_depends_on_nothing_but_its_arguments() -> None:
    before = permutation(50, 1, 4).clone()
    permutation.cache_clear()
    torch.manual_seed(99)
    for epoch in range(5):
        permutation(50, 1, epoch)
    assert permutation(50, 1, 4).equal(before)


def test_the_order_takes_nothing_from_the_global_generator() -> None:
    state = torch.get_rng_state()
    permutation.cache_clear()
    permutation(50, 1, 4)
    assert torch.get_rng_state().equal(state)


def test_seeding_sets_all_three_generators() -> None:
    seed_all(1, "a")
    first = draws()
    seed_all(1, "b")
    second = draws()
    seed_all(1, "a")
    assert draws() == first
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_the_generators_are_put_back_also_after_an_error() -> None:
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    expected = draws()
    torch.manual_seed(0), np.random.seed(0), random.seed(0)
    with pytest.raises(ZeroDivisionError), preserved():
        seed_all(5, draws(), 1 / 0)
    assert draws() == expected


@pytest.mark.parametrize("forgotten", ["torch.set_rng_state", "np.random.set_state", "random.setstate"])
def test_each_generator_would_be_missed(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_back: Callable[[], None] = remembered()
    expected = draws()
    put_back()
    assert draws() == expected
    put_back()
    put_back = remembered()
    draws()
    with monkeypatch.context() as patch:
        owner = {"torch": torch, "np": np.random, "random": order.random}[forgotten.split(".")[0]]
        patch.setattr(owner, forgotten.split(".")[-1], lambda state: None)
        put_back()
    assert draws() != expected
