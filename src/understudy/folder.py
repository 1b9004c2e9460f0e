"""The folder of one run: its lock, and the log of its metrics."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from understudy.errors import CorruptError, InputError, MachineError

__all__ = ["Journal", "Lock"]


class Lock:
    """One process at a time writes a run's folder. The system releases the lock if the process dies."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._file: TextIO | None = None

    def take(self) -> None:
        """Take it, or raise InputError that names the process which has it."""
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
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let it go; the file stays, since deleting it would let two processes lock two files of one name."""
        if self._file is not None:
            self._file.close()
            self._file = None


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
            os.truncate(self.path, at)
        self._file = self.path.open("a" if at else "w")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line."""
        if self._file is not None:
            try:
                self._file.write(json.dumps(_strict(record), allow_nan=False) + "\n")
            except OSError as error:
                raise MachineError(f"{self.path}: cannot be written: {error}") from error

    def sync(self) -> int:
        """Force all lines to the disk; returns the file's length in bytes."""
        if self._file is None:
            return 0
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise MachineError(f"{self.path}: cannot be written: {error}") from error
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _strict(value: Any) -> Any:
    """JSON has no NaN and no infinity: null in their place."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _strict(v) for k, v in value.items()}
    return [_strict(v) for v in value] if isinstance(value, (list, tuple)) else value
