"""Run by test_kills: children of one process, so that torch is imported once, that fill a store and are killed."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from understudy import writing
from understudy.store import Field, Store

torch.set_num_threads(1)
FIELDS = {"": Field((50,), "fp16", (1.0, 4.0)), "layer3": Field((8,), "uint8")}
SAMPLES, DRAWS, ROWS = 40, 2, 10


def outputs(ids: Tensor, draw: int) -> dict[str, Tensor]:
    rows = [torch.randn(58, generator=torch.Generator().manual_seed(int(i) + 1000 * draw)) for i in ids]
    both = torch.stack(rows)
    return {"": both[:, :50], "layer3": both[:, 50:]}


def begun(folder: Path) -> Store:
    return Store.create(folder, {"teacher": "x"}, SAMPLES, DRAWS, FIELDS, rows=ROWS)


def child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying_at(call: int) -> Callable[..., object]:
    """Wrap each call that changes the disk, so that the process dies before the one with this number."""
    count = [0]

    def counted(right: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*args: object, **kwargs: object) -> object:
            if count[0] == call:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return right(*args, **kwargs)

        return wrapped

    return counted


def patched(call: int, folder: Path) -> None:
    counted = dying_at(call)
    safetensors.torch.save_file = counted(safetensors.torch.save_file)
    writing.sync = counted(writing.sync)
    Path.replace = counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = counted(Path.unlink)  # type: ignore[method-assign]
    begun(folder).fill(outputs, batch=4)


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")}


def at_every_step(root: Path) -> None:
    """Die before each call in turn; then go on, in one folder that dies again and again, and in a new one for each."""
    right = root / "right"
    begun(right).fill(outputs, batch=4)
    good = content(right)
    steps = 0
    while True:
        folder = root / f"step{steps}"
        code = ended(child(lambda folder=folder, steps=steps: patched(steps, folder)))
        if code == 0:
            break
        assert code == -signal.SIGKILL, code
        assert ended(child(lambda folder=folder: begun(folder).fill(outputs, batch=4))) == 0
        assert content(folder) == good, steps
        steps += 1
    folder, deaths = root / "again", 0
    while ended(child(lambda: patched(4, folder))) != 0:  # one shard is whole before it dies
        deaths += 1
        assert deaths < 100
    assert content(folder) == good
    print(f"steps {steps} deaths {deaths}")


def at_any_moment(root: Path) -> None:
    """Killed from outside while it works, when so many shards are seen."""
    folder, seen = root / "store", []
    for shards in (1, 3, 6):

        def slow(ids: Tensor, draw: int) -> dict[str, Tensor]:
            time.sleep(0.01)
            return outputs(ids, draw)

        pid = child(lambda: begun(folder).fill(slow, batch=1))
        while len(list((folder / "shards").glob("0*"))) < shards:
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        assert ended(pid) == -signal.SIGKILL
        seen.append(8 - len(begun(folder).missing()))
    begun(folder).fill(outputs)
    begun(folder).verify(outputs)
    print("seen", *seen)


def together(root: Path) -> None:
    """Two ranks, then two that know nothing of each other; all begin at once."""
    for name, ranks in (("ranks", 2), ("strangers", 1)):
        folder, gate = root / name, root / f"{name}.go"

        def work(rank: int, folder: Path = folder, gate: Path = gate, ranks: int = ranks) -> None:
            while not gate.exists():
                time.sleep(0.001)
            begun(folder).fill(outputs, batch=3, rank=rank % ranks, ranks=ranks)

        pids = [child(lambda rank=rank, work=work: work(rank)) for rank in range(2)]
        gate.touch()
        assert [ended(pid) for pid in pids] == [0, 0]
        store = Store.open(folder)
        assert store.missing() == []
        found = store.verify(outputs, rows=1000)
        assert found["rows"] == SAMPLES * DRAWS
        assert [p.name for p in folder.rglob(".*")] == []
        print(name, "complete")


if __name__ == "__main__":
    {"step": at_every_step, "moment": at_any_moment, "together": together}[sys.argv[1]](Path(sys.argv[2]))
