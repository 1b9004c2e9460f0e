"""``spread.py FOLDER WHAT``: checkpoints of tensors that are spread over ranks, written, read, spoilt, and broken off."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from understudy import checkpoint, parallel, shards
from understudy.checkpoint import Checkpoints, freeze, thaw
from understudy.errors import UnderstudyError

torch.set_num_threads(1)
folder, what = Path(sys.argv[1]), sys.argv[2]
parallel.start(torch.device("cpu"))
parallel.LAST_WORDS_S = 0.5
rank = parallel.rank()

AXES = {"even": 0, "uneven": 0, "one row": 0, "columns": 1, "short": 0}


def truth(step: int) -> dict[str, Tensor]:
    """What the tensors are in whole after so many steps."""
    numbers = torch.arange(30.0) + step
    return {
        "even": numbers[:12].reshape(4, 3),
        "uneven": numbers[:10].reshape(5, 2).double(),
        "one row": numbers[:3].reshape(1, 3),
        "columns": numbers[:10].reshape(2, 5),
        "short": numbers[:7].bfloat16(),
        "copied": numbers[:4],
        "plain": numbers[:5],
    }


def placed(values: dict[str, Tensor], mesh: DeviceMesh) -> dict[str, Tensor]:
    """The same over a mesh, in the last direction of it."""
    rest = [Replicate()] * (mesh.ndim - 1)
    spread = {n: distribute_tensor(values[n], mesh, [*rest, Shard(axis)]) for n, axis in AXES.items()}
    copied = distribute_tensor(values["copied"], mesh, [*rest, Replicate()])
    return {**spread, "copied": copied, "plain": values["plain"], "tied": spread["even"]}


def equal(tree: dict[str, object], mine: dict[str, Tensor]) -> bool:
    """Whether what was read is, as this rank needs it, what this rank has: to the last bit."""
    for name, tensor in mine.items():
        read = tree[name].like(tensor) if isinstance(tree[name], shards.Spread) else tree[name]
        ours, theirs = (t.to_local() if isinstance(t, DTensor) else t for t in (tensor, read))
        if ours.dtype != theirs.dtype or not torch.equal(ours, theirs):
            return False
    return True


def loaded(checkpoints: Checkpoints) -> tuple[dict[str, object], list[str]]:
    """What a load gives, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.load()
    assert found is not None
    return thaw(*found), [str(w.message) for w in caught]


def write(mesh: DeviceMesh, *steps: int) -> Checkpoints:
    """A checkpoint for each step, without gathering anything."""
    checkpoints = Checkpoints(folder / "checkpoints", keep=5)
    for step in steps:
        checkpoints.save(step, *freeze({"step": step, **placed(truth(step), mesh)}))
    parallel.meet(torch.device("cpu"))
    return checkpoints


def flip(path: Path) -> None:
    """One bit, in the last tensor."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def two() -> None:
    """Two ranks write, read, and find damage."""
    mesh = init_device_mesh("cpu", (2,))
    gather, DTensor.full_tensor = DTensor.full_tensor, None
    checkpoints = write(mesh, 10, 20)
    opened: list[str] = []
    open_ = shards.safe_open
    shards.safe_open = lambda path, **options: (opened.append(path.name), open_(path, **options))[1]
    tree, told = loaded(checkpoints)
    assert (tree["step"], told) == (20, [])
    assert equal(tree, placed(truth(20), mesh))
    assert not equal(tree, placed(truth(10), mesh)), "control"
    assert set(opened) == {f"rank-{rank:05d}.safetensors"}, opened
    shards.safe_open, DTensor.full_tensor = open_, gather

    summed = DTensor.from_local(torch.ones(2) + rank, mesh, [Partial()])
    assert shards.settled(summed).tolist() == [3, 3], "what is in no plain parts is gathered"

    parallel.meet(torch.device("cpu"))
    if rank == 0:
        shutil.copytree(folder / "checkpoints", folder / "whole")
        flip(folder / "checkpoints" / "step-00000020" / "rank-00001.safetensors")
    parallel.meet(torch.device("cpu"))
    tree, told = loaded(checkpoints)
    assert tree["step"] == 10, "on both ranks, although one alone has looked at the file"
    assert len(told) == 1
    assert "step-00000020/rank-00001.safetensors: is damaged in 1 of 4 tensors: " in told[0], told
    assert equal(tree, placed(truth(10), mesh))
    checked, gathered = checkpoint._checked, parallel.gather_text
    checkpoint._checked = lambda path, expected: memoryview(path.read_bytes())
    tree, told = loaded(checkpoints)
    assert (tree["step"], told) == (20, [])
    assert equal(tree, placed(truth(20), mesh)) == (rank == 0), "control: without digests"
    checkpoint._checked, parallel.gather_text = checked, lambda text, device: [text, text]
    tree, _ = loaded(checkpoints)
    assert tree["step"] == (20, 10)[rank], "control: without a word to each other"
    parallel.gather_text = gathered


def four() -> None:
    """Four ranks, two of which have the same parts, read what two wrote, and write it anew."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts"))
    tree, told = loaded(Checkpoints(folder / "whole"))
    assert (tree["step"], told) == (20, [])
    assert equal(tree, placed(truth(20), mesh))
    line = init_device_mesh("cpu", (4,))
    assert equal(tree, placed(truth(20), line)), "parts of parts"
    assert not equal(tree, placed(truth(10), line)), "control"
    write(mesh, 30)


def broken() -> None:
    """A second checkpoint that is not finished, each round in another way; see WAYS."""
    global folder
    way = next(way for way in WAYS if not (folder / way).exists())
    parallel.meet(torch.device("cpu"))
    folder = folder / way
    mesh = init_device_mesh("cpu", (2,))
    write(mesh, 10)
    save, gathered, told = checkpoint.safetensors.torch.save_file, parallel.gather_text, []

    def saving(tensors: dict[str, Tensor], path: Path) -> None:
        if way == "full":
            raise OSError(errno.ENOSPC, "No space left on device")
        if rank == 1 and way in ("killed", "unwaited"):
            os.kill(os.getpid(), signal.SIGKILL)
        save(tensors, path)

    def alone(text: str, device: torch.device) -> list[str]:
        """The control: rank 0 does not wait for the others to have written."""
        told.append(text)
        return gathered(text, device) if len(told) == 1 else [text]

    checkpoint.safetensors.torch.save_file = saving
    parallel.gather_text = alone if way == "unwaited" else gathered
    try:
        with parallel.first_to_fail():
            write(mesh, 20)
    except UnderstudyError as error:
        print(f"understudy: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


WAYS = ("killed", "unwaited", "full")

{"two": two, "four": four, "broken": broken}[what]()
