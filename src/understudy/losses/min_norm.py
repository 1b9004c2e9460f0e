"""The point of least length within the convex hull of a few vectors."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["min_norm"]

ROUNDS = 32  # of pairs, for each vector; three vectors take about ten


@torch.no_grad()
def min_norm(gram: Tensor, cap: float = 1.0) -> Tensor:
    r"""Weights ``[K]``, >= 0 and adding up to 1, none above ``cap``, with which the sum of K vectors is shortest.

    .. math:: \min_a a^\top G a, \quad \sum_k a_k = 1,\ 0 \le a_k \le \mathrm{cap}

    In closed form for two. For more, weight is moved between the pair of vectors that gains most, again and again: each move is
    the closed form for that pair, and where none gains anything the weights are the best there are.

    Args:
        gram: G, the vectors' inner products ``[K, K]``; only their proportions matter.
        cap: at least 1 / K.

    >>> min_norm(torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
    tensor([0.7500, 0.2500])
    """
    count = gram.shape[0]
    share = gram.new_full((count,), 1 / count)
    if count == 1:
        return share
    rounds = 1 if count == 2 else ROUNDS * count
    checked = gram.device.type == "cpu" and not torch.compiler.is_compiling()  # a GPU would have to be waited for
    for _ in range(rounds):
        moved = _moved(gram, share, max(cap, 1 / count))
        if checked and torch.equal(moved, share):
            break
        share = moved
    return share


def _moved(gram: Tensor, share: Tensor, cap: float) -> Tensor:
    """The weights after the best move between two of them."""
    slope = gram @ share
    places = torch.arange(len(share), device=share.device)
    to = (places == slope.masked_fill(share >= cap, torch.inf).argmin()).to(share.dtype)
    source = (places == slope.masked_fill(share <= 0, -torch.inf).argmax()).to(share.dtype)
    way = to - source
    gain, bend = -(way * slope).sum(), way @ gram @ way
    most = torch.minimum(cap - (to * share).sum(), (source * share).sum())
    # Two equal vectors bend nothing, and gain nothing.
    step = torch.where(gain > 0, gain / bend.clamp(min=torch.finfo(gram.dtype).tiny), 0.0).minimum(most)
    return (share + step * way).clamp(0, cap)
