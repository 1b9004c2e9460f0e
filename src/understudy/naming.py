"""What a method's terms and models may be, and what they are called."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from understudy.batch import Batch
from understudy.errors import InputError, choices, raise_all
from understudy.progress import Progress
from understudy.reading import unwrap
from understudy.term import Term

__all__ = ["check_models", "mislaid_label", "unique", "warn_of_idle"]

LOGGED = ("step", "epoch", "loss", "terms", "weights", "gradient_norm", "lr", "skipped", "valid")
"""What a line of the metrics log holds under these names."""


def check_models(
    terms: Sequence[Term], train: Sequence[str], models: Mapping[str, Any], watch: Collection[str] = ()
) -> None:
    """Raise InputError that lists everything that is wrong with a method's terms and models."""
    problems = [
        f"model name {n!r} is taken: 'batch' and 'stop' have a meaning in addresses."
        for n in models
        if n in ("batch", "stop")
    ]
    problems += [f"train={n!r}: there is no such model. {choices(n, models)}" for n in train if n not in models]
    problems += [
        f"model {n!r} is a {type(m).__name__}; what trains must be an nn.Module."
        for n, m in models.items()
        if n in train and not isinstance(m, nn.Module)
    ]
    problems += [
        f"model {n!r} is a {type(m).__name__}, which cannot be called. Give an nn.Module or any callable."
        for n, m in models.items()
        if not callable(m)
    ]
    names = list(models)
    problems += [
        f"models {a!r} and {b!r} are the same object. To read a model without gradient say 'stop {a}'; for a second one copy.deepcopy it."
        for i, a in enumerate(names)
        for b in names[i + 1 :]
        if unwrap(models[a]) is unwrap(models[b])
    ]
    problems += [
        f"watch={name!r}: a line of the log has that already. Choose another name than {', '.join(LOGGED)}."
        for name in watch
        if name in LOGGED
    ]
    if not train:
        problems.append("train=(): at least one model must train.")
    if not terms:
        problems.append(
            "Distillation() has no term, so that there is nothing to minimise. Give at least one Term(loss, 'student', ...)."
        )
    problems += [
        f"terms[{i}] is a {type(t).__name__}; give a Term(loss, *addresses)."
        for i, t in enumerate(terms)
        if not isinstance(t, Term)
    ]
    raise_all(InputError, problems)


def mislaid_label(term: str, batch: Batch) -> list[str]:
    """A problem, if labels are missing but a field looks like them."""
    alike = [name for name in ("label", "labels", "target", "targets", "y") if batch.get(name) is not None]
    if not alike:
        return []
    return [
        f"term {term} finds no label in a batch with fields {', '.join(batch)}. Say 'batch.{alike[0]}', or rename the field."
    ]


def warn_of_idle(names: Sequence[str], terms: Sequence[Term], counts: Sequence[int], progress: Progress) -> None:
    """Warn of terms of some weight that counted no element in a whole epoch."""
    idle = [n for n, term, count in zip(names, terms, counts, strict=False) if not count and term.weight_at(progress)]
    if idle:
        told = "counted nothing in the first epoch: no label, or a mask that is false everywhere."
        warnings.warn(f"{', '.join(idle)} {told}", stacklevel=3)


def unique(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that were there before.

    >>> unique(["kl", "mse", "kl"])
    ['kl', 'mse', 'kl #2']
    """
    return [f"{name} #{names[:i].count(name) + 1}" if names[:i].count(name) else name for i, name in enumerate(names)]
