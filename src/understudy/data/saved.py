"""What the Hugging Face library `datasets` reads from this machine's disk."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from understudy.errors import CorruptError, InputError, MissingExtra, choices

__all__ = ["saved_rows"]

FORMATS = {".parquet": "parquet", ".json": "json", ".jsonl": "json", ".csv": "csv"}


def saved_rows(path: Path) -> Any:
    """A ``datasets.Dataset`` or its parts by name.

    Raises: InputError for what is not there or of another kind; CorruptError for a damaged file; MissingExtra.
    """
    where = f"hugging_face {path}"
    if not path.exists():
        near = sorted(p.name for p in path.parent.glob("*")) if path.parent.is_dir() else []
        raise InputError(
            f"{where}: there is no such folder or file, and nothing is fetched. {choices(path.name, near) if near else ''}".rstrip()
        )
    if path.is_file() and path.suffix.lower() not in FORMATS:
        raise InputError(f"{where}: files of this kind are not read; allowed: {', '.join(FORMATS)}.")
    try:
        library: Any = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtra(where, "datasets") from error
    if path.is_dir() and not any((path / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise InputError(f"{where}: was not made by save_to_disk. Give a file: {', '.join(FORMATS)}.")
    try:
        if path.is_dir():
            return library.load_from_disk(str(path))
        return library.load_dataset(FORMATS[path.suffix.lower()], data_files=[str(path)], split="train")
    except Exception as error:  # of whichever library reads the format
        raise CorruptError(f"{where}: cannot be read: {type(error).__name__}: {error.__cause__ or error}.") from error
