"""The folder of one run: its lock, and the log of its metrics."""

from __future__ import annotations

import json
import os
import socket
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from understudy.errors import CorruptError, InputError, MachineError
from understudy.writing import disk, strict

__all__ = ["Journal", "Lock"]

_held: weakref.WeakSet[Lock] = weakref.WeakSet()


def _let_go() -> None:
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    # A worker that loads data outlives a killed run by seconds; with the lock in its hands nobody could resume till then.
    os.register_at_fork(after_in_child=_let_go)


class Lock:
    """One process at a time writes a run's folder. The system releases the lock if the process dies.

    Where there is no folder, there is nothing to lock.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / "lock"
        self._file: TextIO | None = None

    def take(self) -> None:
        """Take it, or raise InputError that names the process which has it."""
        if self.path is None:
            return
        try:
            import fcntl
        except ImportError:  # Windows: no advisory locks of this kind; the folder is not guarded there
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+")
        except OSError as error:
            raise MachineError(f"{self.path.parent}: cannot be used as a run's folder: {error}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise InputError(
                f"{self.path.parent}: is in use by {holder}. Choose another folder, or wait for that run to end."
            ) from error
        self._file = file
        _held.add(self)
        with disk(self.path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()

    def release(self) -> None:
        """Let it go; the file stays, since deleting it would let two processes lock two files of one name."""
        file, self._file = self._file, None
        _held.discard(self)
        if file is not None:
            with suppress(OSError):  # a full disk, of which take() told already
                file.close()


class Journal:
    """Metrics as JSON lines. A resumed run cuts off what was written after its checkpoint, so no line comes twice.

    Lines hold nothing that differs between two runs of the same recipe: no time of day, no durations.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: TextIO | None = None

    def open(self, at: int) -> None:
        """Go on after the first ``at`` bytes; raise CorruptError if the file is shorter."""
        if self.path is None:
            return
        if at:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size < at:
                raise CorruptError(
                    f"{self.path}: has {size:,} bytes, but the checkpoint was made after {at:,}: it was cut short."
                )
        with disk(self.path):
            if at:
                os.truncate(self.path, at)
            self._file = self.path.open("a" if at else "w")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        if self.path is not None and self._file is not None:
            with disk(self.path):
                self._file.write(json.dumps(strict(record), allow_nan=False) + "\n")

    def sync(self) -> int:
        """Force all lines to the disk; returns the file's length in bytes."""
        if self.path is None or self._file is None:
            return 0
        with disk(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if self.path is not None and file is not None:
            with disk(self.path):
                file.close()
