"""What is exported stands there whole or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.errors import MachineError

__all__ = ["publish_files", "publish_folder", "staged"]


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, gone at the end together with every folder that was made for it in vain.

    Raises: MachineError in place of an OSError.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        folder.mkdir(parents=True)
        yield folder
    except OSError as error:
        raise MachineError(f"{target}: cannot be written: {error}. What was there before is intact.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # it holds what was published
                parent.rmdir()


def publish_files(folder: Path, beside: Path) -> None:
    """Move the files of a staged folder to where the target is, the target itself last."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == beside.name)
    for file in files:
        _sync(file)
    for file in files:
        file.replace(beside.with_name(file.name))
    _sync(beside.parent)


def publish_folder(folder: Path, target: Path) -> None:
    """Put a staged folder in the target's place; if that fails, what was there before is put back."""
    for path in [*folder.iterdir(), folder]:
        _sync(path)
    if not target.exists():
        folder.rename(target)
    else:
        old = folder.with_name(f"{folder.name}.old")
        target.rename(old)
        try:
            folder.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
