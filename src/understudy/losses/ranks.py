"""What losses with a memory need of the other processes: all of them keep the same."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["of_all", "several"]


def several() -> bool:
    """Whether there are other processes."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def of_all(rows: Tensor) -> Tensor:
    """Every rank's rows, one rank after the other; they may have different numbers of them."""
    if not several():
        return rows
    lengths = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(lengths, torch.tensor([rows.shape[0]], device=rows.device))
    counts = [int(n) for n in lengths]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: rows.shape[0]] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
