"""The handwritten digits that scikit-learn ships: 1,797 real images of 8 by 8 pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from understudy.data.augment import Augment, viewed
from understudy.data.parts import Parts
from understudy.errors import InputError, MissingExtra, raise_all
from understudy.losses.response import UNLABELLED

__all__ = ["digits"]


def digits(
    *,
    train: int = 1000,
    valid: int = 397,
    labelled: int | None = None,
    seed: int = 0,
    augment: Augment | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Parts:
    """Handwritten digits from scikit-learn: images ``[N, 1, 8, 8]`` in [0, 1] and their classes 0 to 9.

    Args:
        train: images to train on.
        valid: images to choose weights on; those that train and valid leave are for the test: 400.
        labelled: training images that keep their label, the first ones; by default all.
        seed: of the order in which images are dealt out.
        augment: what is random in the views of a training picture: crop and shift (pixels), fill ("zero" or "reflect") and
            flip, as in ``{shift: 1}``; by default nothing.
        mean: subtracted from every picture's channels; by default nothing is.
        std: by which every picture's channels are divided.

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI repository.
    Raises: InputError for numbers that leave a part empty; MissingExtra without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("The handwritten digits", "demo") from error
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(raw.target)
    _check(len(labels), train, valid, labelled)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    if labelled is not None:
        labels[labelled:train] = UNLABELLED
    ends = (train, train + valid, len(labels))
    learn, choose, test = ((images[a:b], labels[a:b]) for a, b in zip((0, *ends), ends, strict=False))
    return viewed(Parts(learn, choose, test), augment, mean, std)


def _check(images: int, train: int, valid: int, labelled: int | None) -> None:
    parts = {"train": train, "valid": valid}
    problems = [f"digits: {name}={n} is not allowed; give 1 or more." for name, n in parts.items() if n < 1]
    if train + valid >= images:
        problems.append(
            f"digits: train={train} and valid={valid} leave nothing to test on. There are {images:,} images in all."
        )
    if labelled is not None and not 0 <= labelled <= train:
        problems.append(f"digits: labelled={labelled} is not allowed; it is a part of train: 0 to {train}.")
    raise_all(InputError, problems)
