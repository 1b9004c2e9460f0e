"""What is exported stands there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.writing import disk, sync, temporary

__all__ = ["publish_files", "publish_folder", "staged"]


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder beside the target, gone at the end together with every folder that was made for it in vain.

    Raises: MachineError in place of an OSError.
    """
    missing = [parent for parent in target.parents if not parent.exists()]
    folder = temporary(target)
    try:
        with disk(target):
            folder.mkdir(parents=True)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in missing:
            with suppress(OSError):  # it holds what was published
                parent.rmdir()


def publish_files(folder: Path, beside: Path) -> None:
    """Move the files of a staged folder to where the target is, the target itself last."""
    files = sorted(folder.iterdir(), key=lambda file: file.name == beside.name)
    for file in files:
        sync(file)
    for file in files:
        file.replace(beside.with_name(file.name))
    sync(beside.parent)


def publish_folder(folder: Path, target: Path) -> None:
    """Put a staged folder in the target's place; if that fails, what was there before is put back."""
    for path in [*folder.iterdir(), folder]:
        sync(path)
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
    sync(target.parent)
