"""What a store is of: ``store.json``, which is written before anything else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.errors import CorruptError, InputError, choices
from understudy.store.encoding import Field, sample_bytes
from understudy.writing import write_text

__all__ = ["MANIFEST", "Manifest", "label", "shard_rows"]

FORMAT = 1
MANIFEST = "store.json"
SHARD_BYTES = 256 * 2**20
"""What a shard takes at most: a batch drawn at random touches every shard of its draw, so that they should be few."""
SHARDS, FEWEST = 4, 1024
"""Shards of a draw and rows of a shard where the data are small: enough to share out, and to lose little in a kill."""


def label(name: str) -> str:
    """A field's name as a message has it.

    >>> label(""), label("layer3")
    ('the output', "'layer3'")
    """
    return repr(name) if name else "the output"


def shard_rows(samples: int, row_bytes: int) -> int:
    """Rows of a shard, if nothing else is said.

    >>> shard_rows(50_000, 2_000), shard_rows(1_281_167, 2_000), shard_rows(3_000, 20)
    (12500, 134217, 1024)
    """
    return max(1, min(SHARD_BYTES // max(1, row_bytes), max(FEWEST, -(-samples // SHARDS))))


@dataclass(frozen=True)
class Manifest:
    """What a store is of.

    Attributes:
        facts: what made the outputs, by name: the teacher's weights, the data, what prepares them.
        samples: how many there are.
        draws: augmented draws of each; these only ever become more.
        rows: of a shard. A shard belongs to one draw; a draw's last may be smaller.
        fields: the outputs, by address after the model's name; "" is the last output.
    """

    facts: Mapping[str, str]
    samples: int
    draws: int
    rows: int
    fields: Mapping[str, Field] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A digest of all but the number of draws; every shard bears it."""
        told = {k: v for k, v in self._plain().items() if k != "draws"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def shards_a_draw(self) -> int:
        """Shards of one draw."""
        return -(-self.samples // self.rows)

    @property
    def shards(self) -> int:
        """Shards in all."""
        return self.draws * self.shards_a_draw

    @property
    def rows_in_all(self) -> int:
        """Rows of all draws."""
        return self.draws * self.samples

    @property
    def row_bytes(self) -> int:
        """What a row takes on the disk."""
        return sum(map(sample_bytes, self.fields.values()))

    def place(self, shard: int) -> tuple[int, range]:
        """The draw and the sample ids of a shard."""
        if not 0 <= shard < self.shards:
            raise InputError(f"store: shard {shard}: there are {self.shards}, from 0.")
        draw, at = divmod(shard, self.shards_a_draw)
        return draw, range(at * self.rows, min(self.samples, (at + 1) * self.rows))

    def _plain(self) -> dict[str, Any]:
        fields = {name: f.plain() for name, f in sorted(self.fields.items())}
        facts = dict(sorted(self.facts.items()))
        return {
            "format": FORMAT, "facts": facts, "samples": self.samples, "draws": self.draws, "rows": self.rows,
            "fields": fields,
        }  # fmt: skip

    def _text(self) -> str:
        told = self._plain()
        digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
        return json.dumps({**told, "sha256": digest}, indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """Write it whole or not at all."""
        write_text(folder / MANIFEST, self._text())

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """What :meth:`write` wrote; CorruptError if it is missing or damaged in any byte."""
        path = folder / MANIFEST
        try:
            text = path.read_bytes().decode()
            told = json.loads(text)
            if told["format"] != FORMAT:
                raise CorruptError(
                    f"{path}: has format {told['format']!r}; this version reads {FORMAT}. Use the version that wrote it."
                )
            fields = {name: Field(**f) for name, f in told["fields"].items()}
            found = cls(told["facts"], told["samples"], told["draws"], told["rows"], fields)
            whole = found._text() == text
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptError(f"{path}: is damaged or missing: {error}") from error
        if not whole:
            raise CorruptError(f"{path}: is damaged: its digest does not match.")
        return found

    def against(self, wanted: Manifest) -> list[str]:
        """Where this store is not of what is wanted, each with both values; it may hold more draws, fields and temperatures."""
        found = [
            f"{name} was {self.facts.get(name)!r} and is now {wanted.facts.get(name)!r}"
            for name in dict.fromkeys([*self.facts, *wanted.facts])
            if self.facts.get(name) != wanted.facts.get(name)
        ]
        if self.samples != wanted.samples:
            found.append(f"samples was {self.samples:,} and is now {wanted.samples:,}")
        for name, ours in wanted.fields.items():
            held = self.fields.get(name)
            if held is None:
                found.append(f"field {label(name)} is not in it. {choices(name, map(label, self.fields))}")
            else:
                found += [f"{what} of {label(name)} was {a} and is now {b}" for what, a, b in _apart(held, ours)]
        return found


def _apart(held: Field, wanted: Field) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = []
    if held.shape != wanted.shape:
        found.append(("shape", list(held.shape), list(wanted.shape)))
    if held.encoding != wanted.encoding:
        found.append(("encoding", held.encoding, wanted.encoding))
    if bool(held.temperatures) != bool(wanted.temperatures) or not {*wanted.temperatures} <= {*held.temperatures}:
        found.append(("temperatures", list(held.temperatures), list(wanted.temperatures)))
    return found
