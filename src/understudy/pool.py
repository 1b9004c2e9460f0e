"""Samples without a label beside those that have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from understudy.batch import Batch, ModelInputs
from understudy.data.labels import absent
from understudy.data.order import seed_of
from understudy.errors import InputError, choices, raise_all
from understudy.source import Source, _Columns, sized, source_of

__all__ = ["with_unlabelled"]


def with_unlabelled(labelled: Any, unlabelled: Any) -> Source:
    """One source of both: first the samples with a label, then those without.

    Each may be whatever :func:`~understudy.train` takes and has a length: tensors, arrays, Datasets, DataLoaders with
    collate functions of their own. Batches look like those of ``labelled``. A label that is not there is -100 where
    labels are whole numbers, else NaN.

    Args:
        labelled: (input, label, ...), or a mapping with ``label`` or ``labels``.
        unlabelled: the same without the label; a label that it has is not looked at, nor are fields that ``labelled`` lacks.

    Returns: data for ``train`` and ``distill``, with the batch size of ``labelled`` if that is a DataLoader.
    Raises: InputError if the one has no label, or if fields, shapes or dtypes of the two do not go together.

    >>> pooled = with_unlabelled((torch.ones(2, 3), torch.tensor([7, 8])), torch.zeros(2, 3))
    >>> [batch["label"].tolist() for batch in pooled.in_order()]
    [[7, 8, -100, -100]]
    """
    parts = (
        sized(labelled, "with_unlabelled: labelled", lack="has no ids"),
        sized(unlabelled, "with_unlabelled: unlabelled", lack="has no ids"),
    )
    if isinstance(parts[0].dataset, _Columns) and isinstance(parts[1].dataset, _Columns):
        raws = [part.dataset.batch(torch.arange(part.samples)) for part in parts]
        return source_of(_join(raws, raws[0], torch.arange(sum(p.samples for p in parts))))  # type: ignore[return-value]
    example = parts[0].fetch([(0, 0)], 0)
    own = any(part._own is not None and part.may_vary for part in parts)
    pool = _PoolOfViews(parts, example) if own else _Pool(parts, example)
    collate = default_collate if own else pool.collate
    source = Source(len(pool), pool, collate, parts[0].batch_size)
    source.fetch([(0, 0), (0, parts[0].samples)], 0)  # so that what does not go together is told now
    return source


@dataclass(frozen=True, eq=False)
class _Pool(Dataset[Any]):
    """Samples of two sources, each with the number of its source; ``example`` is a batch of the first."""

    parts: tuple[Source, Source]
    example: Any

    def __len__(self) -> int:
        return self.parts[0].samples + self.parts[1].samples

    def __getitem__(self, sample: int) -> tuple[int, Any]:
        first = self.parts[0].samples
        return (0, self.parts[0].dataset[sample]) if sample < first else (1, self.parts[1].dataset[sample - first])

    def collate(self, drawn: Sequence[tuple[int, Any]]) -> Any:
        """A batch of both: each source makes its own part of it, and the samples are put into their order again."""
        places = [[i for i, (part, _) in enumerate(drawn) if part == which] for which in (0, 1)]
        raws = [
            part.collate([drawn[i][1] for i in mine]) if mine else None
            for part, mine in zip(self.parts, places, strict=True)
        ]
        return _join(raws, self.example, torch.tensor(places[0] + places[1]).argsort())


class _PoolOfViews(_Pool):
    """The same where a source makes its own batches, whose views go by draw and seed."""

    random = True

    def batch(self, ids: Tensor, draw: int, seed: int) -> Any:
        """A batch of both, each source's samples under the ids that they have there."""
        first = self.parts[0].samples
        where = [(ids < first).nonzero().flatten(), (ids >= first).nonzero().flatten()]
        own, seeds = (ids[where[0]], ids[where[1]] - first), (seed, seed_of(seed, "unlabelled"))
        raws = [
            part.rows(mine, draw, of_its_own) if len(mine) else None
            for part, mine, of_its_own in zip(self.parts, own, seeds, strict=True)
        ]
        return _join(raws, self.example, torch.cat(where).argsort())


def _join(raws: Sequence[Any], example: Any, order: Tensor) -> Any:
    """One batch of a labelled and an unlabelled one, either of which may be None, in the form of the example."""
    pattern = Batch.of(example).fields
    name = next((n for n in ("label", "labels") if isinstance(pattern.get(n), Tensor)), None)
    if name is None:
        raise InputError(
            f"with_unlabelled: labelled: has no field 'label', but {list(pattern)}. Give (input, label), or a mapping with 'label'."
        )
    nothing = absent(pattern[name][:1])
    parts = [dict(Batch.of(raw).fields) for raw in raws if raw is not None]
    if raws[0] is not None:
        parts[0][name] = parts[0][name].to(nothing.dtype)
    if raws[1] is not None:
        lacking = [n for n in pattern if n != name and n not in parts[-1]]
        have = [n for n in parts[-1] if n not in ("label", "labels")]
        raise_all(InputError, [f"with_unlabelled: unlabelled: has no field {n!r}. {choices(n, have)}" for n in lacking])
        parts[-1][name] = nothing.expand(
            Batch({n: parts[-1][n] for n in pattern if n != name}, None).rows, *nothing.shape[1:]
        )
    return _like(example, {n: _rows(n, [part[n] for part in parts], order) for n in pattern})


def _rows(name: str, parts: list[Any], order: Tensor) -> Any:
    """The rows of both parts, in this order, of a field and all that is in it."""
    first = parts[0]
    if all(isinstance(part, Tensor) for part in parts):
        if len({(part.shape[1:], part.dtype) for part in parts}) > 1:
            one, other = (f"{list(part.shape[1:])} of {part.dtype}" for part in parts)
            raise InputError(
                f"with_unlabelled: {name!r} of a labelled sample is {one}, and of an unlabelled one {other}. Give both one shape and dtype."
            )
        return torch.cat(parts)[order]
    if all(isinstance(part, Mapping) and part.keys() == first.keys() for part in parts):
        return {key: _rows(f"{name}.{key}", [part[key] for part in parts], order) for key in first}
    if all(isinstance(part, tuple | list) for part in parts):
        if all(isinstance(text, str) for part in parts for text in part):
            texts = [text for part in parts for text in part]
            return [texts[i] for i in order]
        if len({len(part) for part in parts}) == 1:
            return tuple(_rows(f"{name}.{i}", list(inner), order) for i, inner in enumerate(zip(*parts, strict=True)))
    kinds = " and ".join(sorted({type(part).__name__ for part in parts}))
    raise InputError(
        f"with_unlabelled: {name!r} is a {kinds}, which cannot be joined; allowed: tensors, texts, and tuples and mappings of them."
    )


def _like(example: Any, fields: Mapping[str, Any]) -> Any:
    if isinstance(example, ModelInputs):
        args = ["input" if i == 0 else str(i) for i in range(len(example.args))]
        named = [{n: fields[n] for n in part} for part in (example.kwargs, example.fields)]
        return ModelInputs(tuple(fields[n] for n in args), *named)
    return dict(fields) if isinstance(example, Mapping) else tuple(fields.values())
