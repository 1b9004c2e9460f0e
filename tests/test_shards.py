"""Checkpoints of which each rank writes its own parts. What runs on the ranks is in ``parallel_scripts/spread.py``."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from test_parallel import forked, well
from understudy.checkpoint import Checkpoints, read, thaw
from understudy.errors import CorruptError
from understudy.shards import Part, Spread

WAYS = ("killed", "unwaited", "full")


def truth(step: int) -> dict[str, Tensor]:
    numbers = torch.arange(30.0) + step
    whole = {
        "even": numbers[:12].reshape(4, 3),
        "uneven": numbers[:10].reshape(5, 2).double(),
        "one row": numbers[:3].reshape(1, 3),
        "columns": numbers[:10].reshape(2, 5),
        "short": numbers[:7].bfloat16(),
        "copied": numbers[:4],
        "plain": numbers[:5],
    }
    return {**whole, "tied": whole["even"]}


def is_of(step: int, tree: dict[str, Tensor]) -> bool:
    expected = truth(step)
    assert set(tree) == {"step", *expected}
    same = all(tree[n].dtype == v.dtype and torch.equal(tree[n], v) for n, v in expected.items())
    return same and tree["step"] == step


def test_each_rank_writes_and_reads_its_own_parts_and_one_process_reads_all(tmp_path: Path) -> None:
    well(forked("spread.py", tmp_path, "two", logs=tmp_path / "logs2"))
    folder = tmp_path / "whole" / "step-00000020"
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json", "rank-00000.safetensors", "rank-00001.safetensors", "state.json", "state.safetensors",
    ]  # fmt: skip
    first, second, whole = (load_file(folder / f"{n}.safetensors") for n in ("rank-00000", "rank-00001", "state"))
    shapes = [{n: list(v.shape) for n, v in part.items()} for part in (first, second, whole)]
    assert shapes == [
        {"even": [2, 3], "uneven": [3, 2], "one row": [1, 3], "columns": [2, 3], "short": [4]},
        {"even": [2, 3], "uneven": [2, 2], "columns": [2, 2], "short": [3]},
        {"copied": [4], "plain": [5]},
    ]
    tree = thaw(*read(folder))
    assert is_of(20, tree)
    assert not is_of(10, tree), "control"


@pytest.mark.long
def test_four_ranks_of_which_two_have_the_same_parts_read_what_two_wrote_and_write_each_part_once(
    tmp_path: Path,
) -> None:
    well(forked("spread.py", tmp_path, "two", logs=tmp_path / "logs2"))
    well(forked("spread.py", tmp_path, "four", ranks=4, logs=tmp_path / "logs4"))
    written = tmp_path / "checkpoints" / "step-00000030"
    assert len(list(written.glob("rank-*"))) == 2, "the two others have the same parts"
    assert is_of(30, thaw(*read(written)))


def newest(folder: Path) -> dict[str, Tensor]:
    """What a load gives, in whole; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Checkpoints(folder).load()
    assert found is not None
    return {n: v.whole() if isinstance(v, Spread) else v for n, v in thaw(*found).items()}


def test_a_save_that_a_rank_does_not_finish_leaves_the_checkpoint_before_and_one_rank_says_why(tmp_path: Path) -> None:
    runs = dict(
        zip(WAYS, forked("spread.py", tmp_path, "broken", rounds=len(WAYS), logs=tmp_path / "logs"), strict=True)
    )
    assert {way: run.codes for way, run in runs.items()} == {
        "killed": [4, -9], "unwaited": [4, -9], "full": [4, 4],
    }  # fmt: skip
    said = {way: "".join(run.errors) for way, run in runs.items()}
    assert [len(re.findall(r"^understudy: |^Traceback", text, re.MULTILINE)) for text in said.values()] == [1] * 3
    assert "another process of this run has died" in said["killed"]
    assert "step-00000020: cannot be written: the disk is full: " in said["full"], "on both, and one says it"
    for way in ("killed", "full"):
        assert is_of(10, newest(tmp_path / way / "checkpoints")), way
    checkpoints = Checkpoints(tmp_path / "killed" / "checkpoints")
    checkpoints.save(30, {"map": []}, {})
    assert [p.name for p in checkpoints.folder.iterdir() if p.name.startswith(".")] == [], "what was begun is swept"
    with pytest.raises(CorruptError, match=r"6 elements of even are in no file"):  # the control
        newest(tmp_path / "unwaited" / "checkpoints")


def halves(folder: Path) -> tuple[Tensor, list[Part]]:
    """A tensor in two files that are cut across its second axis."""
    tensor = torch.arange(24.0).reshape(4, 6)
    for name, part in (("a", tensor[:, :4]), ("b", tensor[:, 4:])):
        save_file({"w": part.contiguous()}, folder / name)
    return tensor, [Part(folder / "a", (0, 0), (4, 4)), Part(folder / "b", (0, 4), (4, 2))]


def test_any_part_of_a_tensor_is_read_from_the_files_that_have_it(tmp_path: Path) -> None:
    tensor, parts = halves(tmp_path)
    spread = Spread("w", torch.float32, tensor.shape, tuple(parts))
    assert torch.equal(spread.whole(), tensor)
    for rows in ((0, 4), (1, 2), (2, 0)):
        for columns in ((0, 6), (3, 2), (4, 2), (5, 0)):
            read = spread.read((rows[0], columns[0]), (rows[1], columns[1]))
            assert torch.equal(read, tensor[rows[0] : sum(rows), columns[0] : sum(columns)])
    (tmp_path / "b").unlink()
    assert torch.equal(spread.read((0, 1), (4, 3)), tensor[:, 1:4]), "the other file is not asked for"


def test_a_part_that_is_in_no_file_is_told(tmp_path: Path) -> None:
    tensor, parts = halves(tmp_path)
    spread = Spread("w", torch.float32, tensor.shape, tuple(parts[:1]))
    with pytest.raises(CorruptError, match=re.escape(f"{tmp_path}: 8 elements of w are in no file")):
        spread.whole()
