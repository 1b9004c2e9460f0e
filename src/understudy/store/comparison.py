"""Whether what is stored is what would be made today: some rows made anew and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from understudy.errors import InputError, choices, raise_all
from understudy.store.encoding import Field
from understudy.store.fidelity import Errors, errors, gather
from understudy.store.manifest import Manifest, label
from understudy.store.reader import Reader

__all__ = ["Outputs", "compare"]

Outputs = Callable[[Tensor, int], Mapping[str, Tensor]]
"""Sample ids and a draw in, the fields' ``[N, *shape]`` out, in that order: the teacher, asked."""


def compare(reader: Reader, outputs: Outputs, rows: int, batch: int, recorded: Errors, tolerance: float) -> Errors:
    """The errors of some rows against what is made anew.

    Raises: InputError if one is above what it was when the rows were written, plus the tolerance.
    """
    fields = reader.manifest.fields
    found: Errors = {name: {} for name in fields}
    worst = dict.fromkeys(fields, (-1.0, ""))
    compared = 0
    for draw, ids in _spread(reader.manifest, rows, batch):
        fresh, kept = outputs(ids, draw), reader.encoded(ids, draw)
        compared += len(ids)
        if strange := [name for name in fresh if name not in fields]:
            raise InputError(
                f"{reader.folder}: {', '.join(map(label, strange))} is not in it, and cannot be compared. {choices('', map(label, fields))}"
            )
        for name, field in fields.items():
            if name not in fresh:  # of another method, which reads more of the teacher
                continue
            gather(found[name], errors(fresh[name], kept[name], field))
            worst[name] = max(worst[name], _furthest(fresh[name], kept[name], field, ids, draw))
    raise_all(
        InputError,
        [
            f"{reader.folder}: {label(name)} is not what is made now: {compared} rows are off by {error.figure:.2%} ({which}), and were "
            f"by {recorded[name][which].figure:.2%} when they were written; furthest is {worst[name][1]}. The teacher, the "
            "data, or what prepares them has changed, or is not the same every time."
            for name, by in found.items()
            for which, error in by.items()
            if not error.figure <= recorded[name][which].figure + tolerance
        ],
    )
    return found


def _spread(manifest: Manifest, rows: int, batch: int) -> Iterator[tuple[int, Tensor]]:
    """So many rows, evenly over all, as ids of each draw."""
    every = manifest.rows_in_all
    places = torch.linspace(0, every - 1, min(rows, every), dtype=torch.float64).round().long().unique()
    for draw in (places // manifest.samples).unique().tolist():
        for ids in (places[places // manifest.samples == draw] % manifest.samples).split(batch):
            yield draw, ids


def _furthest(fresh: Tensor, kept: Mapping[str, Tensor], field: Field, ids: Tensor, draw: int) -> tuple[float, str]:
    """The row with the largest error, and how it is called."""
    found = []
    for i, sample in enumerate(ids.tolist()):
        row = errors(fresh[i : i + 1], {word: tensor[i : i + 1] for word, tensor in kept.items()}, field)
        figure = max(error.figure for error in row.values())
        found.append((figure, f"sample {sample} in draw {draw}, by {figure:.2%}"))
    return max(found)
