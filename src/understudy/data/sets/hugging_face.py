"""Data sets of the Hugging Face library `datasets`, from this machine's disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from understudy.data.hugging_face import HuggingFace
from understudy.data.hugging_face import hugging_face as read
from understudy.data.parts import Parts
from understudy.data.saved import saved_rows
from understudy.data.shares import check_classes, groups_of, held_out, shares_of

__all__ = ["hugging_face"]

VALID = ("validation", "valid", "val", "dev")
"""What the part to choose weights on is called in a folder of several parts, the first of them that is there."""


def hugging_face(
    *,
    train: Path,
    inputs: str | Sequence[str] | Mapping[str, str],
    label: str,
    valid: Path | float | None = None,
    test: Path | float | None = None,
    unlabelled: Path | None = None,
    size: int | tuple[int, int] | None = None,
    channels: Literal[1, 3, 4] = 3,
    seed: int = 0,
) -> Parts:
    """A data set of the library `datasets` on this machine: a folder that `save_to_disk` made, or a file.

    Files end in ``.parquet``, ``.json``, ``.jsonl`` or ``.csv``. Of a folder with several parts those called "train",
    "validation" (or "valid", "val", "dev") and "test" are taken. Nothing is fetched.

    Args:
        train: the training folder or file.
        inputs: which columns models are called with: one name; several, such as ``[input_ids, attention_mask]``, which
            keep their names; or a mapping from the model's names to columns.
        label: the label's column.
        valid: a folder or file; or the share of train's labelled rows to hold out, of every class alike. By default the
            folder's own part, or else a fifth.
        test: a folder, file or share, as for valid; by default the folder's own part, or else none.
        unlabelled: a folder or file of more rows, whose labels are not looked at.
        size: of pictures: the side of a square, or (rows, columns). By default they keep theirs.
        channels: of pictures: 1 for grey, 3 for colour, 4 with opacity.
        seed: of which rows are held out.

    Raises: InputError for what is not there, or neither a number nor a picture; CorruptError for a damaged file;
        MissingExtra without `datasets`.
    """
    path, notes = Path(train), list[str]()
    where = f"hugging_face {path}"
    given = {"valid": valid, "test": test}
    shares = shares_of(where, path, {**given, "unlabelled": unlabelled})

    def made(rows: Any, name: str, answer: str | None = label) -> HuggingFace:
        split = name if isinstance(rows, Mapping) else None
        return read(rows, inputs=inputs, label=answer, split=split, size=size, channels=channels)

    rows = saved_rows(path)
    whole = made(rows, "train")
    sets = {
        part: made(saved_rows(Path(str(v))), part) for part, v in given.items() if v is not None and part not in shares
    }
    for part, names in (("valid", VALID), ("test", ("test",))):
        own = next((n for n in names if isinstance(rows, Mapping) and n in rows), None)
        if given[part] is None and own is not None:
            sets[part] = made(rows, own)
            notes.append(f"{where}: {part} is its part {own!r}.")
    if "valid" not in sets and valid is None:
        shares["valid"] = 0.2
    samples = held_out(where, groups_of(whole.labels()), shares, seed, notes) if shares else {}
    sets |= {"train": whole, **{part: _some(whole, ids) for part, ids in samples.items()}}
    more = None if unlabelled is None else made(saved_rows(Path(unlabelled)), "train", None)
    check_classes(where, {part: found.labels() for part, found in sets.items()}, None, more is not None)
    return Parts(sets["train"], sets["valid"], sets.get("test"), whole.classes, more, tuple(notes))


def _some(data: HuggingFace, samples: list[int]) -> HuggingFace:
    return HuggingFace(data.rows.select(samples), data.fields, data.size, data.channels)
