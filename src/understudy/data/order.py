"""Order and randomness as pure functions of (seed, epoch, step, rank, sample).

Nothing here has state, so that a run which is resumed needs none of it saved.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = ["permutation", "preserved", "seed_all", "seed_of"]


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
    """Set the generators of torch (all devices), numpy and Python."""
    seed = seed_of(*parts)
    torch.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    random.seed(seed)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Put the generators of torch (CPU and current device), numpy and Python back on leaving."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
