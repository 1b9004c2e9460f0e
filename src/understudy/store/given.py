"""The rows of a shard that are given piece by piece: encoded at once, judged as soon as there are enough of them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError, raise_all
from understudy.store.encoding import FLOATS, Field, encode, sample_bytes
from understudy.store.fidelity import Errors, errors, gather
from understudy.store.manifest import Manifest, label

__all__ = ["Given"]

ENOUGH = 256  # rows by which an encoding is judged, so that a wrong one is refused before hours have gone into a shard


class Given:
    """What has been given of a shard so far.

    Attributes:
        errors: of what was encoded.
    """

    def __init__(self, folder: Path, manifest: Manifest, shard: int, tolerance: float) -> None:
        self.folder, self.manifest, self.shard, self.tolerance = folder, manifest, shard, tolerance
        self.draw, self.ids = manifest.place(shard)
        self.errors: Errors = {name: {} for name in manifest.fields}
        self._parts: dict[str, list[Tensor]] = {}
        self._rows = 0

    def add(self, piece: Mapping[str, Tensor]) -> None:
        """Take the next rows; see :meth:`Store.write` for what is raised."""
        sizes = {len(self._encoded(name, field, piece)) for name, field in self.manifest.fields.items()}
        if len(sizes) > 1:
            raise ShapeError(f"{self.folder}: fields with different numbers of rows: {sorted(sizes)}.")
        self._rows += sizes.pop()
        if self._rows >= min(ENOUGH, len(self.ids)):
            self._judge(piece)

    def whole(self) -> dict[str, Tensor]:
        """The tensors of the shard, named field/part."""
        if self._rows != len(self.ids):
            raise ShapeError(
                f"{self.folder}: shard {self.shard} has {len(self.ids):,} rows, and {self._rows:,} were given."
            )
        return {name: torch.cat(pieces) for name, pieces in self._parts.items()}

    def _encoded(self, name: str, field: Field, piece: Mapping[str, Tensor]) -> Tensor:
        if name not in piece:
            given = ", ".join(map(label, piece)) or "nothing"
            raise InputError(f"{self.folder}: {label(name)} was not given; given: {given}.")
        try:
            made = encode(piece[name], field, self._row)
        except InputError as error:
            raise type(error)(f"{self.folder}: {label(name)}: {error}") from error
        for word, tensor in made.items():
            self._parts.setdefault(f"{name}/{word}", []).append(tensor)
        gather(self.errors[name], errors(piece[name], made, field))
        return piece[name]

    def _row(self, place: int) -> str:
        return f"sample {self.ids.start + self._rows + place} in draw {self.draw}"

    def _judge(self, piece: Mapping[str, Tensor]) -> None:
        problems = []
        for name, by in self.errors.items():
            which, error = max(by.items(), key=lambda item: item[1].figure)
            if error.figure > self.tolerance:
                problems.append(self._told(name, which, error.figure, piece[name]))
        raise_all(InputError, problems)

    def _told(self, name: str, which: str, figure: float, values: Tensor) -> str:
        field = self.manifest.fields[name]
        kind = f"the student's gradient at {which}" if field.temperatures else "the values"
        return (
            f"{self.folder}: {field.encoding} of {label(name)} is off by {figure:.2%} of {kind}; at most {self.tolerance:.2%} "
            f"is allowed. {_instead(field, values, self.tolerance)}"
        )


def _instead(field: Field, values: Tensor, tolerance: float) -> str:
    """The smallest encoding that would do for these rows."""
    fitting = []
    for encoding in ("uint8", *FLOATS):
        other = Field(field.shape, encoding, field.temperatures)
        with contextlib.suppress(InputError):
            figure = max(error.figure for error in errors(values, encode(values, other), other).values())
            if figure <= tolerance:
                fitting.append((sample_bytes(other), figure, encoding))
    if not fitting:
        return "Give a larger tolerance."
    size, figure, encoding = min(fitting)
    return (
        f"{encoding} is off by {figure:.2%} and takes {size:,} bytes a sample instead of {sample_bytes(field):,}. "
        "Take that, or give a larger tolerance."
    )
