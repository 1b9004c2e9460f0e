"""Which samples are held out from training, where there is one file for all."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.data.order import seed_of
from understudy.errors import InputError, raise_all
from understudy.losses.response import UNLABELLED

__all__ = ["check_classes", "groups_of", "held_out", "shares_of"]

PARTS = ("test", "valid")
"""What may be held out; the test first, so that its samples do not depend on how many are for validation."""


def shares_of(where: str, train: Path, given: Mapping[str, Any], needed: Sequence[str] = ()) -> dict[str, float]:
    """The numbers among what was given for each part; the others are paths, or None where that is not needed.

    Raises: InputError for a number that is no share, for shares that leave nothing, or for a path that is given twice.
    """
    shares = {part: value for part, value in given.items() if isinstance(value, int | float)}
    problems = [
        f"{where}: {part}={value!r} is not allowed; give a file of its own, or the share of train that is held out, above 0 and below 1."
        for part, value in shares.items()
        if isinstance(value, bool) or not 0 < value < 1
    ]
    problems += [
        f"{where}: {part} is None; give a file, or a share of train." for part in needed if given[part] is None
    ]
    if not problems and sum(shares.values()) >= 1:
        told = " and ".join(f"{part}={value}" for part, value in shares.items())
        problems.append(f"{where}: {told} leave nothing to train on. Together they must be below 1.")
    paths = {"train": train, **{part: Path(v) for part, v in given.items() if part not in shares and v is not None}}
    problems += [
        f"{where}: {one} and {other} are both {paths[one]}. What is measured must not be learnt from: give each its own."
        for one, other in itertools.combinations(paths, 2)
        if paths[one].resolve() == paths[other].resolve()
    ]
    raise_all(InputError, problems)
    return shares


def groups_of(labels: Tensor) -> list[int | None]:
    """What every part should have its share of: the class of each sample, or one group of all; None without a label."""
    if _are_classes(labels):
        return [None if label == UNLABELLED else int(label) for label in labels.tolist()]
    known = ~(labels.isnan() | labels.eq(UNLABELLED)).reshape(len(labels), -1).all(1)
    return [0 if there else None for there in known.tolist()]


def _are_classes(labels: Tensor) -> bool:
    return labels.ndim == 1 and not labels.is_floating_point() and labels.dtype != torch.bool


def held_out(
    where: str, groups: Sequence[int | None], shares: Mapping[str, float], seed: int, notes: list[str]
) -> dict[str, list[int]]:
    """The samples of each part, "train" and those of the shares, in ascending order.

    Groups are represented alike in every part, and each keeps a sample to train on. Samples without a label are trained on.

    Raises: InputError where a share comes to no sample, or to more than there are.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, "held out"))
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    by_group = dict[int, list[int]]()
    for sample in shuffled:
        if (group := groups[sample]) is not None:
            by_group.setdefault(group, []).append(sample)
    known = sum(map(len, by_group.values()))
    pool = [sample for group in sorted(by_group) for sample in by_group[group][1:]]
    parts = dict[str, list[int]]()
    for part in PARTS:
        if part not in shares:
            continue
        told = f"{where}: {part}={shares[part]} of {known} labelled samples"
        count = round(shares[part] * known)
        if not count:
            raise InputError(f"{told} is none. Give a larger share, or a file of its own.")
        if count > len(pool):
            raise InputError(
                f"{told} is {count}, and only {len(pool)} are left where each class keeps one to train on. Give a smaller share, or more data."
            )
        # Evenly spaced in an order of groups: each is taken from as often as it is large, give or take one.
        start = torch.rand((), generator=generator).item()
        places = {int((i + start) * len(pool) / count) for i in range(count)}
        parts[part] = sorted(pool[place] for place in places)
        pool = [sample for place, sample in enumerate(pool) if place not in places]
        notes.append(f"{where}: {part} is {count} of {known} labelled samples, drawn with seed {seed}.")
    out = set(itertools.chain.from_iterable(parts.values()))
    return {"train": [sample for sample in range(len(groups)) if sample not in out], **parts}


def check_classes(where: str, labels: Mapping[str, Tensor], classes: Sequence[str] | None, unlabelled: bool) -> None:
    """Refuse a class of which there is nothing to learn from: one that is named, or found in another part, or 0.

    Where some samples have no label it may be among them, and a teacher that knows it can teach it.

    Raises: InputError for such a class, or for a label that is beyond the names.
    """
    if not all(map(_are_classes, labels.values())):
        return
    groups = {part: groups_of(found) for part, found in labels.items()}
    seen = {part: {group for group in found if group is not None} for part, found in groups.items()}
    allowed = (
        "whole numbers from 0" if classes is None else f"0 to {len(classes) - 1}, as classes has {len(classes)} names"
    )
    problems = [
        f"{where}: {part} has a label {number}; allowed are {allowed}, and {UNLABELLED} for none."
        for part, found in seen.items()
        for number in sorted(found)
        if number < 0 or (classes is not None and number >= len(classes))
    ]
    needed = {0}.union(*seen.values()) if classes is None else set(range(len(classes)))
    if needed == {0} and any(seen.values()) and not problems:
        only = "0" if classes is None else repr(classes[0])
        problems.append(
            f"{where}: every label is {only}. There must be two classes or more: look at the label's column."
        )
    lacking = sorted(needed - seen["train"])
    if lacking and not problems and not unlabelled and None not in groups["train"]:
        told = ", ".join(repr(classes[number]) if classes is not None else str(number) for number in lacking[:5])
        problems.append(
            f"{where}: train has no sample of class {told}{', ...' * (len(lacking) > 5)}. Add some, or leave the class out everywhere."
        )
    raise_all(InputError, problems)
