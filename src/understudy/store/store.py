"""Outputs of a teacher on the disk: made once, shard by shard, and read by sample id and draw.

::

    store.json                what made them, samples, draws, fields; see Manifest
    shards/00000.safetensors  rows of one draw, ids in order; see shard

Each file is published whole, and shards know nothing of each other. So any number of processes fill one store, and one that was killed
is gone on with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from understudy.errors import CorruptError, InputError, MachineError, raise_all
from understudy.store.comparison import Outputs, compare
from understudy.store.encoding import Field, sample_bytes
from understudy.store.fidelity import TOLERANCE, Errors, figures, gather
from understudy.store.given import Given
from understudy.store.manifest import MANIFEST, Manifest, shard_rows
from understudy.store.reader import Reader, asked
from understudy.store.shard import FOLDER, Shard, check_digests, look, path_of, publish
from understudy.writing import make_folder

__all__ = ["Store"]

DEBRIS_SECONDS = 3600  # what is half written and has not been touched for so long belongs to nobody

TEMPORARY = ".*." + "[0-9a-f]" * 32

Done = Callable[[int, int], None]
"""Told how many rows are done, and of how many."""


class Store:
    """Outputs of a teacher on the disk. :meth:`create` one or :meth:`open` it.

    Attributes:
        folder: where it is.
        manifest: what it is of.
        tolerance: the largest error with which a shard is written; see :func:`~understudy.store.fidelity.errors`.
    """

    def __init__(self, folder: Path, manifest: Manifest, tolerance: float = TOLERANCE) -> None:
        self.folder, self.manifest, self.tolerance = Path(folder), manifest, tolerance

    @classmethod
    def create(
        cls,
        folder: Path | str,
        facts: Mapping[str, str],
        samples: int,
        draws: int,
        fields: Mapping[str, Field],
        *,
        tolerance: float = TOLERANCE,
        rows: int | None = None,
    ) -> Store:
        """Begin a store, or go on with the one that is there if it is of the same.

        A store that is there is given more draws if it has fewer; it may hold more fields than are wanted.

        Args:
            folder: where it is to be.
            facts: what makes the outputs, by name.
            samples: how many there are; ids are 0 to samples - 1.
            draws: augmented draws of each sample.
            fields: by address after the model's name; "" is the last output.
            tolerance: the largest error of an encoding.
            rows: of a shard; by default a draw has some shards of at most 256 MB.

        Raises: InputError that names each fact, field and size that is not as it was, with both values.
        """
        folder = Path(folder)
        _check(facts, samples, draws, fields, rows)
        size = sum(map(sample_bytes, fields.values()))
        wanted = Manifest(dict(facts), samples, draws, rows or shard_rows(samples, size), dict(fields))
        make_folder(folder / FOLDER)
        _sweep(folder)
        held = _held(folder)
        if held is None:
            wanted.write(folder)
            held = Manifest.read(folder)  # of another process, if it came later
        _compare(folder, held, wanted)
        if held.draws < draws:
            # Of two processes that do this at once the one with fewer draws may come last: the shards of the other then
            # lie there uncounted, and count again as soon as anyone asks for so many draws.
            held = dataclasses.replace(held, draws=draws)
            held.write(folder)
        return cls(folder, held, tolerance)

    @classmethod
    def open(cls, folder: Path | str, facts: Mapping[str, str] | None = None) -> Store:
        """A store that is there.

        Raises: InputError if there is none, or if facts are given and differ; CorruptError if ``store.json`` is damaged.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise InputError(f"{folder}: is no store: it has no {MANIFEST}.")
        try:
            held = Manifest.read(folder)
        except CorruptError as error:
            raise CorruptError(f"{error} Delete it to have the store made anew.") from error
        if facts is not None:
            _compare(folder, held, dataclasses.replace(held, facts=dict(facts)))
        return cls(folder, held)

    # -- filling -------------------------------------------------------------------------------------------------------

    def missing(self, *, check: bool = True, rank: int = 0, ranks: int = 1) -> list[int]:
        """The shards that are to be made: those that are not there, and those that are damaged, which a warning names.

        Shards are dealt out to ranks by their numbers, and not by their places among those that are missing, which change while
        others write. So no rank needs to hear of another.

        Args:
            check: read all bytes (about a second a gigabyte), not only headers and sizes.
            rank: which of the processes that fill the store is asking.
            ranks: how many of them there are.
        """
        mine = range(rank, self.manifest.shards, ranks)
        damaged = self._damaged(mine, check)
        for complaint in damaged.values():
            warnings.warn(f"{complaint} It is to be made anew.", stacklevel=2)
        return [shard for shard in mine if shard in damaged or not path_of(self.folder, shard).exists()]

    def damaged(self, *, check: bool = True) -> dict[int, str]:
        """Of each shard that is damaged what is wrong."""
        return self._damaged(range(self.manifest.shards), check)

    def _damaged(self, shards: Iterable[int], check: bool) -> dict[int, str]:
        found = {}
        for shard in shards:
            try:
                self._look(shard, check=check)
            except CorruptError as error:
                found[shard] = str(error)
        return found

    def place(self, shard: int) -> tuple[int, Tensor]:
        """The draw and the sample ids of a shard's rows."""
        draw, ids = self.manifest.place(shard)
        return draw, torch.arange(ids.start, ids.stop)

    def write(self, shard: int, rows: Mapping[str, Tensor] | Iterable[Mapping[str, Tensor]]) -> dict[str, Any]:
        """Write a shard whole or not at all.

        Args:
            shard: which.
            rows: each field's rows, ids in order; or such pieces of them, one after the other.

        Returns: the errors of its encodings, by field.
        Raises: InputError for an output that is not finite or that the encoding cannot hold, with the sample, and for an
            encoding whose error is above the tolerance, with its error and what would do instead; ShapeError.
        """
        given = Given(self.folder, self.manifest, shard, self.tolerance)
        for piece in [rows] if isinstance(rows, Mapping) else rows:
            given.add(piece)
        publish(self.folder, self.manifest, shard, given.whole(), given.errors)
        return figures(given.errors)

    def fill(
        self, outputs: Outputs, *, batch: int = 256, rank: int = 0, ranks: int = 1, progress: Done | None = None
    ) -> int:
        """Make the shards that are :meth:`missing`, and tell how many rows that were.

        Args:
            outputs: asked for the rows of a shard in batches, ids in order.
            batch: samples that are asked for at once.
            rank: which of the processes this is.
            ranks: how many of them fill the store.
            progress: told after each batch how many of this rank's rows are done, and of how many.

        Raises: MachineError before anything is made if the disk has no room for what is missing; what :meth:`write` raises.
        """
        todo = self.missing(rank=rank, ranks=ranks)
        self._check_room(len(todo) * ranks)
        total, done, made = self._rows(todo), 0, 0

        def told(rows: int) -> None:
            nonlocal done
            done += rows
            if progress is not None:
                progress(done, total)

        for shard in todo:
            draw, ids = self.place(shard)
            if self._is_made(shard):  # by a process that does the same
                told(len(ids))
            else:
                self.write(shard, _pieces(outputs, draw, ids.split(batch), told))
                made += len(ids)
        return made

    def _is_made(self, shard: int) -> bool:
        try:
            return self._look(shard, check=True) is not None
        except CorruptError:
            return False

    def _check_room(self, shards: int) -> None:
        need = shards * self.manifest.rows * self.manifest.row_bytes
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise MachineError(
                f"{self.folder}: the disk is full: {need:,} bytes are needed, {free:,} are free. Free some space, choose "
                "another place, or take fewer draws or a smaller encoding."
            )

    # -- reading -------------------------------------------------------------------------------------------------------

    def reader(
        self, fields: Sequence[str] | None = None, *, temperature: float | None = None, check: bool = False
    ) -> Reader:
        """What reads rows.

        Args:
            fields: what is read; all by default.
            temperature: at which fields kept as ``topk:K`` are read; needed if they were kept at several.
            check: read all bytes first (about a second a gigabyte), so that damage is found before any row is used.

        Raises: InputError if rows are missing, with their number; CorruptError that names each damaged shard.
        """
        return Reader(self.folder, self.manifest, self._whole(check), asked(self.manifest, fields, temperature))

    def spot(self, outputs: Outputs, *, rows: int, tolerance: float) -> None:
        """Make a few rows anew and compare, without reading all bytes; for the arguments and errors see :meth:`verify`."""
        reader = Reader(self.folder, self.manifest, self._whole(check=False), dict.fromkeys(self.manifest.fields))
        compare(reader, outputs, rows, rows, self._recorded(), tolerance)

    def verify(self, outputs: Outputs | None = None, *, rows: int = 256, batch: int = 256) -> dict[str, Any]:
        """Read all bytes; and, if it is said what gives the outputs, make some rows anew and compare.

        Args:
            outputs: as for :meth:`fill`.
            rows: how many are made anew, spread over samples and draws.
            batch: samples that are asked for at once.

        Returns: ``shards``, ``rows`` that were compared, and ``errors`` of these rows by field.
        Raises: CorruptError that names each damaged shard; InputError if rows are missing, or if those made anew are
            further off than the encoding was when it was written plus the tolerance, with the row that is furthest.
        """
        shards = self._whole(check=True)
        told: dict[str, Any] = {"shards": len(shards), "rows": 0, "errors": {}}
        if outputs is not None:
            reader = Reader(self.folder, self.manifest, shards, dict.fromkeys(self.manifest.fields))
            found = compare(reader, outputs, rows, batch, self._recorded(), self.tolerance)
            told |= {"rows": min(rows, self.manifest.rows_in_all), "errors": figures(found)}
        return told

    # -- what it is ----------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """What it is of, how far it is, and what it costs, as plain data; from headers and sizes, in no time."""
        manifest = self.manifest
        absent, damaged = self._absent(), self.damaged(check=False)
        lost = {*absent, *damaged}
        told = figures(self._recorded())
        return {
            "folder": str(self.folder),
            "facts": dict(manifest.facts),
            "samples": manifest.samples,
            "draws": manifest.draws,
            "fields": {
                name: {**field.plain(), "sample_bytes": sample_bytes(field), "errors": told[name]}
                for name, field in manifest.fields.items()
            },
            "sample_bytes": manifest.row_bytes,
            "total_bytes": manifest.row_bytes * manifest.rows_in_all,
            "disk_bytes": sum(f.stat().st_size for f in (self.folder / FOLDER).glob("*.safetensors")),
            "shards": manifest.shards,
            "shard_rows": manifest.rows,
            "shards_done": manifest.shards - len(lost),
            "rows_missing": self._rows(lost),
            "damaged": list(damaged.values()),
        }

    def _recorded(self) -> Errors:
        """The errors of all that is there."""
        found: Errors = {name: {} for name in self.manifest.fields}
        for shard in range(self.manifest.shards):
            with contextlib.suppress(CorruptError):
                for name, by in (held.errors if (held := self._look(shard)) else {}).items():
                    gather(found[name], by)
        return found

    def _whole(self, check: bool) -> dict[int, Shard]:
        """Every shard's header."""
        raise_all(
            CorruptError,
            [f"{c} Build the store again: that makes it anew." for c in self.damaged(check=check).values()],
        )
        if absent := self._absent():
            raise InputError(
                f"{self.folder}: is not complete: {self._rows(absent):,} of {self.manifest.rows_in_all:,} rows are "
                f"missing ({len(absent)} of {self.manifest.shards} shards). Build it to the end first."
            )
        return {shard: held for shard in range(self.manifest.shards) if (held := self._look(shard)) is not None}

    def _absent(self) -> list[int]:
        return [shard for shard in range(self.manifest.shards) if not path_of(self.folder, shard).exists()]

    def _rows(self, shards: Iterable[int]) -> int:
        return sum(len(self.manifest.place(shard)[1]) for shard in shards)

    def _look(self, shard: int, check: bool = False) -> Shard | None:
        held = look(self.folder, self.manifest, shard)
        if held is not None and check:
            check_digests(held)
        return held


def _pieces(
    outputs: Outputs, draw: int, ids: Iterable[Tensor], told: Callable[[int], None]
) -> Iterator[Mapping[str, Tensor]]:
    for some in ids:
        yield outputs(some, draw)
        told(len(some))  # when the next piece is asked for, and this one is encoded


def _check(facts: Mapping[str, str], samples: int, draws: int, fields: Mapping[str, Field], rows: int | None) -> None:
    problems = [
        f"store: {name} {value!r}: allowed: 1 or more."
        for name, value in (("samples", samples), ("draws", draws), ("rows", 1 if rows is None else rows))
        if value < 1
    ]
    problems += [
        f"store: fact {name!r} is {value!r}; give it as text."
        for name, value in facts.items()
        if not isinstance(value, str)
    ]
    if not fields:
        problems.append("store: no fields: name at least one output.")
    raise_all(InputError, problems)


def _held(folder: Path) -> Manifest | None:
    """The manifest that is there; None if there is none, or a damaged one, which a warning names."""
    if not (folder / MANIFEST).exists():
        return None
    try:
        return Manifest.read(folder)
    except CorruptError as error:
        # What is in the shards is not lost: each tells by its own header whether it is of what is wanted now.
        warnings.warn(f"{error} It is written anew.", stacklevel=4)
        return None


def _compare(folder: Path, held: Manifest, wanted: Manifest) -> None:
    apart = held.against(wanted)
    if apart:
        told = "\n".join(f"  {line}" for line in apart)
        raise InputError(
            f"{folder}: holds outputs of something else:\n{told}\n  Take another folder for the store, or delete this one."
        )


def _sweep(folder: Path) -> None:
    """Delete what killed processes left half written, and spare what living ones write."""
    for debris in (*folder.glob(TEMPORARY), *(folder / FOLDER).glob(TEMPORARY)):
        with contextlib.suppress(OSError):
            if time.time() - debris.stat().st_mtime > DEBRIS_SECONDS:
                debris.unlink()
