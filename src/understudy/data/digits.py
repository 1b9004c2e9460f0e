"""The handwritten digits that scikit-learn ships: 1,797 real images of 8 by 8 pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from understudy.errors import MissingExtra

__all__ = ["Digits", "digits"]


@dataclass(frozen=True)
class Digits:
    """Images ``[N, 1, 8, 8]`` in [0, 1] and labels ``[N]``, in three parts that share no image."""

    train: tuple[Tensor, Tensor]
    valid: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits(*, train: int = 1000, valid: int = 397, seed: int = 0) -> Digits:
    """The digits, shuffled by ``seed``; what train and valid leave is for the test (400).

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
    Raises: MissingExtra without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("The handwritten digits", "demo") from error
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(raw.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    ends = (train, train + valid, len(labels))
    parts = [(images[a:b], labels[a:b]) for a, b in zip((0, *ends), ends, strict=False)]
    return Digits(*parts)
