"""What is exported stands there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from understudy.writing import disk, sync, temporary

__all__ = ["files_in", "publish_files", "publish_folder", "staged"]


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


def files_in(folder: Path) -> list[Path]:
    """Also those of folders in it."""
    return [path for path in _all(folder) if path.is_file()]


def _all(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"), reverse=True)


def publish_files(folder: Path, beside: Path) -> None:
    """Move the files of a staged folder to where the target is, the target itself last."""
    for path in _all(folder):
        sync(path)
    for file in sorted(folder.iterdir(), key=lambda file: file.name == beside.name):
        to = beside.with_name(file.name)
        if file.is_dir() and to.is_dir():
            publish_folder(file, to)  # a package of files that looks like one
        else:
            file.replace(to)
    sync(beside.parent)


def publish_folder(folder: Path, target: Path) -> None:
    """Put a staged folder in the target's place; if that fails, what was there before is put back."""
    for path in [*_all(folder), folder]:
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
