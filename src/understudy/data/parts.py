"""A data set, divided as a whole job needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Parts"]


@dataclass(frozen=True, eq=False)
class Parts:
    """Data for :func:`understudy.distill`, in parts that share no sample.

    Attributes:
        train: what students learn from, where labels may be missing: a tuple or mapping of tensors, or a Dataset.
        valid: labelled; weights are chosen on it.
        test: labelled, for the end; None where there is none.
        classes: a label's name; None where labels are values, or where their names are their numbers.
        unlabelled: more inputs without a label, to go beside ``train``: see :func:`understudy.pool.with_unlabelled`.
        raw: how a file as it comes becomes an input, as plain data, for a student that is handed on; None where that is not
            known.
        notes: what was filled in, left out or held out, and where.
    """

    train: Any
    valid: Any
    test: Any = None
    classes: tuple[str, ...] | None = None
    unlabelled: Any = None
    notes: tuple[str, ...] = ()
    raw: Mapping[str, Any] | None = None
