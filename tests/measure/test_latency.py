from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from understudy.errors import InputError
from understudy.measure.latency import latency, time


class Clock:
    """Time that passes only where a test says so, in milliseconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr(time, "perf_counter_ns", lambda: self.now)

    def calls(self, durations: Iterator[float]) -> None:
        self.now += int(next(durations) * 1e6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_percentiles_are_those_of_every_timed_call_in_milliseconds(clock: Clock) -> None:
    durations = [*range(1, 200), 5000]  # the slowest call is kept
    order = iter([1e6] * 20 + list(np.random.default_rng(0).permutation(durations)))
    found = latency(lambda: clock.calls(order))
    assert found["latency_ms_p50"] == pytest.approx(100.5)
    assert found["latency_ms_p99"] == pytest.approx(float(np.percentile(durations, 99)))
    assert next(order, None) is None


def test_a_tail_of_slow_calls_is_seen(clock: Clock) -> None:
    order = iter([1.0] * 95 + [90.0] * 5)
    found = latency(lambda: clock.calls(order), runs=100, warmup=0)
    assert (found["latency_ms_p50"], found["latency_ms_p99"]) == (1, 90)


def test_a_deadline_is_missed_by_those_that_take_longer_of_a_thousand(clock: Clock) -> None:
    order = iter([1.0] * 700 + [5.0] * 100 + [6.0] * 200)
    found = latency(lambda: clock.calls(order), runs=3, warmup=0, deadline_ms=5.0)
    assert found["missed_share"] == 0.2
    assert next(order, None) is None
    assert "missed_share" not in latency(lambda: None, runs=3)
    with pytest.raises(InputError, match=r"deadline_ms is 0\.0; allowed"):
        latency(lambda: pytest.fail("ran"), runs=1, deadline_ms=0.0)


def test_the_calls_before_are_made_and_not_timed(clock: Clock) -> None:
    order = iter([1e6, 1e6, 3.0, 3.0, 3.0])
    assert latency(lambda: clock.calls(order), runs=3, warmup=2)["latency_ms_p99"] == 3
    order = iter([1e6, 1e6, 3.0, 3.0, 3.0])
    assert latency(lambda: clock.calls(order), runs=5, warmup=0)["latency_ms_p99"] > 1e5  # type: ignore[operator]


@pytest.mark.parametrize("fails", [False, True])
def test_threads_garbage_and_gradients_are_still_while_measuring_and_then_as_before(fails: bool) -> None:
    torch.set_num_threads(2)
    seen = set()

    def run() -> None:
        seen.add((torch.get_num_threads(), gc.isenabled(), torch.is_grad_enabled()))
        if fails:
            raise ZeroDivisionError

    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                latency(run, threads=1)
        else:
            assert latency(run, threads=1, runs=3)["threads"] == 1
        assert seen == {(1, False, False)}
        assert (torch.get_num_threads(), gc.isenabled(), torch.is_grad_enabled()) == (2, True, True)
    finally:
        torch.set_num_threads(1)


def test_garbage_that_was_not_collected_before_is_not_collected_afterwards() -> None:
    gc.disable()
    try:
        latency(lambda: None, runs=1)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_gpu_is_waited_for_before_the_clock_is_read(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    pending: list[float] = []

    def synchronize() -> None:
        clock.calls(itertools.repeat(sum(pending)))
        pending.clear()

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert latency(lambda: pending.append(7.0), runs=4, warmup=3)["latency_ms_p50"] == 7
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert latency(lambda: pending.append(7.0), runs=4)["latency_ms_p50"] == 0  # the control


def test_the_load_is_noted_where_the_system_tells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.234, 9.0, 9.0), raising=False)
    assert latency(lambda: None, runs=1)["load_average"] == 1.23
    monkeypatch.delattr(os, "getloadavg")
    assert latency(lambda: None, runs=1)["load_average"] is None


def test_numbers_that_are_too_small_are_all_told_before_the_first_call() -> None:
    with pytest.raises(InputError) as caught:
        latency(lambda: pytest.fail("ran"), threads=0, runs=0, warmup=-1)
    assert str(caught.value).splitlines() == [
        "latency: threads is 0; at least 1 is needed.",
        "latency: runs is 0; at least 1 is needed.",
        "latency: warmup is -1; at least 0 is needed.",
    ]
