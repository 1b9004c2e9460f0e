import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from understudy import writing
from understudy.errors import CorruptError, MachineError
from understudy.writing import (
    disk,
    make_folder,
    read_json,
    save_tensors,
    strict,
    sweep,
    temporary,
    write_json,
    write_text,
)


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_what_json_has_no_word_for_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": math.nan, "y": (math.inf, 1.5, [-math.inf]), "z": {"s": "ü", "n": None}})
    told = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert told == {"x": None, "y": [None, 1.5, [None]], "z": {"s": "ü", "n": None}}


def test_without_it_the_file_would_not_be_json() -> None:
    with pytest.raises(AssertionError, match="NaN is not JSON"):
        json.loads(json.dumps({"x": math.nan}), parse_constant=refuse)


def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path: Path) -> None:
    value = {"f": [0.1 + 0.2, 1e-308, 5e300], "i": 2**70, "t": True}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value == strict(value)


@pytest.mark.parametrize("content", [b"", b'{"x": 1', b"\xff\xfe", b"[" * 100_000, None])
def test_a_damaged_or_missing_file_is_named(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(CorruptError, match=r"a\.json: is damaged") as caught:
        read_json(tmp_path / "a.json")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "new"),
        lambda path: write_json(path, ["new"]),
        lambda path: save_tensors(path, {"new": torch.ones(3)}),
    ],
    ids=["text", "json", "tensors"],
)
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(
    write: Any, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("earlier")

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(MachineError, match=r"file: cannot be written: the disk is full: \d+ bytes are needed"):
        write(path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "earlier"
    write(path)
    assert path.read_bytes() != b"earlier"


def test_a_file_gets_its_name_only_once_it_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = writing.sync, Path.replace
    monkeypatch.setattr(writing, "sync", lambda path: (done.append(f"sync {path.name[:5]}"), sync(path)))
    monkeypatch.setattr(Path, "replace", lambda self, to: (done.append("rename"), replace(self, to))[1])
    write_text(tmp_path / "a.txt", "x")
    assert done == ["sync .a.tx", "rename", f"sync {tmp_path.name[:5]}"]


def test_the_bytes_needed_are_told_only_of_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught, disk(tmp_path, 7):
        raise PermissionError(errno.EACCES, "Permission denied")
    assert "Permission denied" in str(caught.value)
    assert "full" not in str(caught.value)
    with pytest.raises(MachineError, match="No space left"), disk(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_killed_writer_left_is_swept_and_nothing_else_is(tmp_path: Path) -> None:
    temporary(tmp_path / "a.json").write_text("half")
    temporary(tmp_path / "step-1").mkdir()
    for name in (".gitignore", "a.json", ".a.json.bak"):
        (tmp_path / name).write_text("mine")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.json.bak", ".gitignore", "a.json"]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_machine(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be made"):
        make_folder(tmp_path / "file" / "b")
