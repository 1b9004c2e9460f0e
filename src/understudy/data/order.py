"""Order and randomness as pure functions of (seed, epoch, step, rank, sample).

Nothing here has state, so that a run which is resumed needs none of it saved.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["permutation", "preserved", "remembered", "seed_all", "seed_of"]


def seed_of(*parts: int | str) -> int:
    """A seed in [0, 2^63) that any part changes: the same on every machine and in every process.

    >>> seed_of(0, "step", 7) == seed_of(0, "step", 7) != seed_of(0, "step", 8)
    True
    """
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@functools.lru_cache(maxsize=2)  # one for the loop and one for workers that are an epoch ahead
def permutation(samples: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch sees the samples: int64 ``[samples]``."""
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(samples, generator=generator)


def seed_all(*parts: int | str) -> None:
    """Set the generators of torch (the CPU's, and those of GPUs in use), numpy and Python."""
    seed = seed_of(*parts)
    # Not torch.manual_seed: for a GPU that is not in use it queues a call with its stack trace, every time, for ever.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


def remembered() -> Callable[[], None]:
    """A function that puts the generators of torch (CPU and current device), numpy and Python back to where they are now."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() and torch.cuda.is_initialized() else None

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)

    return put_back


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Put the generators of torch (CPU and current device), numpy and Python back on leaving."""
    put_back = remembered()
    try:
        yield
    finally:
        put_back()
