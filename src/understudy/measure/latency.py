"""How long a model takes for one call."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from understudy.errors import InputError, raise_all
from understudy.measure.budget import DEADLINE_RUNS, missed_share

__all__ = ["latency"]


def latency(
    run: Callable[[], object],
    *,
    threads: int = 1,
    runs: int = 200,
    warmup: int = 20,
    deadline_ms: float | None = None,
) -> dict[str, float | int | None]:
    """Median and 99th percentile of the time of a call, over all calls: slow ones are the tail that a user meets.

    What belongs in ``run`` is one inference as the user makes it, as a rule of a batch of one, with the model in eval
    mode. It runs without gradients. On a GPU each call is waited for. Python collects no garbage meanwhile.

    Args:
        run: makes one call. A session of onnxruntime has threads of its own; see :func:`understudy.export.session`.
        threads: of torch, while measuring; their number is put back.
        runs: calls that are timed.
        warmup: calls before them, not timed: the first ones allocate and compile.
        deadline_ms: adds ``missed_share``, of the calls that took longer; there are then at least 1,000 of them.

    Returns: ``latency_ms_p50`` and ``latency_ms_p99``, in milliseconds, with linear interpolation; ``threads``;
        ``load_average``, that of the last minute when measuring began, None where the system has none. Above the number
        of idle cores, the figures say more about the other processes than about the model.
    Raises: InputError for a number that is too small.

    >>> sorted(latency(lambda: torch.ones(3).sum(), runs=3, warmup=0))
    ['latency_ms_p50', 'latency_ms_p99', 'load_average', 'threads']
    """
    least = {"threads": (threads, 1), "runs": (runs, 1), "warmup": (warmup, 0)}
    problems = [f"latency: {name} is {n!r}; at least {low} is needed." for name, (n, low) in least.items() if n < low]
    if deadline_ms is not None and not deadline_ms > 0:
        problems.append(f"latency: deadline_ms is {deadline_ms!r}; allowed: a number of milliseconds above 0.")
    raise_all(InputError, problems)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    runs = runs if deadline_ms is None else max(runs, DEADLINE_RUNS)
    with _still(threads), torch.no_grad():
        for _ in range(warmup):
            run()
        wait = torch.cuda.synchronize if torch.cuda.is_initialized() else _nothing
        times = [_time(run, wait) for _ in range(runs)]
    p50, p99 = np.percentile(times, [50, 99]) / 1e6
    missed = {} if deadline_ms is None else {"missed_share": missed_share([t / 1e6 for t in times], deadline_ms)}
    return {
        **missed,
        "latency_ms_p50": float(p50),
        "latency_ms_p99": float(p99),
        "threads": threads,
        "load_average": None if load is None else round(load, 2),
    }


def _time(run: Callable[[], object], wait: Callable[[], None]) -> int:
    wait()
    start = time.perf_counter_ns()
    run()
    wait()
    return time.perf_counter_ns() - start


def _nothing() -> None:
    pass


@contextmanager
def _still(threads: int) -> Iterator[None]:
    before, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(threads)
    gc.disable()
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if collecting:
            gc.enable()
