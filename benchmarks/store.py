"""What a store of a teacher's logits costs: bytes, time to write, time to read 256 rows by chance, and the error of the encoding.

    python benchmarks/store.py                              50,000 samples of 1,000 classes, about five minutes
    python benchmarks/store.py --rows 5000 --classes 100    smaller

Beside the store: one array in a .npy file that is mapped (what a store can be at best: no digests, no facts, nothing can be gone on
with), the slices of a safetensors file one row at a time, and zarr if it is installed. Read means: float32 rows on the CPU, in the
order of the ids. One thread, the page cache warm, process CPU time, which other work on the machine disturbs least; the formats take
turns and the figure is the median over the rounds, by which the promise is judged; beside it for reading the fastest round, which shows
what the machine can do when other work leaves its memory alone. Writing ends on the disk, and for the store holds the judging of the encoding at
both temperatures and the digests.

The logits are those of an imagined good classifier: normal with deviation 2, and 6 more for one class. Error is that of the gradient of
KL at a temperature for a student that knows nothing, relative.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from understudy.store import Field, Store

BATCH = 256
MOST_MS = 0.3
MOST_ERROR = 0.01
Read = Callable[[Tensor], Tensor]


@dataclass
class Contender:
    """A format: how it is written to a folder, how that is then read, and what was measured.

    ``promised``: the store's own encodings that must be fast and near enough.
    """

    name: str
    write: Callable[[Path], None]
    open: Callable[[Path], Read]
    promised: bool = False
    batches: int = 20
    writing: list[float] = field(default_factory=list)
    reading: list[float] = field(default_factory=list)


def seconds(step: Callable[[], object]) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


# -- formats -----------------------------------------------------------------------------------------------------------


def npy(logits: Tensor, dtype: torch.dtype) -> Contender:
    def write(folder: Path) -> None:
        with (folder / "a.npy").open("wb") as file:
            np.save(file, logits.to(dtype).numpy())
            os.fsync(file.fileno())

    def opened(folder: Path) -> Read:
        mapped = np.load(folder / "a.npy", mmap_mode="r")
        return lambda ids: torch.from_numpy(mapped[ids.numpy()]).float()

    return Contender(f"npy, mapped, {str(dtype)[6:]}", write, opened)


def store(logits: Tensor, encoding: str, rows: int | None = None, promised: bool = False) -> Contender:
    fields = {"": Field((logits.shape[1],), encoding, (1.0, 4.0))}

    def write(folder: Path) -> None:
        made = Store.create(folder, {"teacher": "imagined"}, len(logits), 1, fields, tolerance=10, rows=rows)
        made.fill(lambda ids, draw: {"": logits[int(ids[0]) : int(ids[-1]) + 1]})

    def opened(folder: Path) -> Read:
        reader = Store.open(folder).reader(temperature=4)
        return lambda ids: reader.rows(ids)[""]

    return Contender(f"store, {encoding}{', one shard' if rows else ''}", write, opened, promised)


def slices(logits: Tensor) -> Contender:
    def write(folder: Path) -> None:
        save_file({"a": logits.half()}, folder / "a.safetensors")

    def opened(folder: Path) -> Read:
        held = safe_open(folder / "a.safetensors", "pt").__enter__().get_slice("a")  # type: ignore[no-untyped-call]
        return lambda ids: torch.stack([held[i] for i in ids.tolist()]).float()

    return Contender("safetensors, slices, float16", write, opened, batches=3)


def chunks(logits: Tensor) -> Contender:
    import zarr

    def write(folder: Path) -> None:
        made = zarr.create_array(
            folder / "a.zarr", shape=tuple(logits.shape), dtype="float16", chunks=(BATCH, logits.shape[1])
        )
        made[:] = logits.half().numpy()

    def opened(folder: Path) -> Read:
        held = zarr.open_array(folder / "a.zarr", mode="r")
        return lambda ids: torch.from_numpy(np.asarray(held.oindex[ids.numpy()])).float()

    return Contender(f"zarr {zarr.__version__}, chunks of {BATCH} rows, float16", write, opened, batches=1)


def contenders(logits: Tensor) -> list[Contender]:
    found = [
        npy(logits, torch.float16), npy(logits, torch.float32),
        store(logits, "fp32"), store(logits, "fp16", promised=True), store(logits, "fp16", rows=len(logits)),
        store(logits, "uint8", promised=True), store(logits, f"topk:{max(1, logits.shape[1] // 20)}"), slices(logits),
    ]  # fmt: skip
    try:
        found.append(chunks(logits))
    except ImportError:
        print("zarr is not installed (pip install zarr) and left out")
    return found


# -- measuring ---------------------------------------------------------------------------------------------------------


def errors(read: Read, logits: Tensor) -> tuple[float, float]:
    """Of the gradient at temperatures 1 and 4, over a thousand rows that are read."""
    ids = torch.arange(0, len(logits), max(1, len(logits) // 1000))
    found = []
    for t in (1.0, 4.0):
        p, got = (torch.softmax(x.double() / t, 1) for x in (logits[ids], read(ids)))
        found.append(float((got - p).norm() / (p - 1 / p.shape[1]).norm()))
    return found[0], found[1]


def measured(found: list[Contender], logits: Tensor, folder: Path, rounds: int, writes: int) -> list[Read]:
    places = [folder / str(i) for i in range(len(found))]
    for _ in range(writes):
        for contender, place in zip(found, places, strict=True):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            contender.writing.append(seconds(lambda c=contender, p=place: c.write(p)))  # type: ignore[misc]
    reads = [c.open(p) for c, p in zip(found, places, strict=True)]
    every = torch.arange(len(logits))
    for read, contender in zip(reads, found, strict=True):
        for ids in every[: len(logits) if contender.batches > 3 else BATCH].split(BATCH):
            read(ids)  # so that all of it is in the page cache
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        for contender, read in zip(found, reads, strict=True):
            batches = [torch.randint(0, len(logits), (BATCH,), generator=generator) for _ in range(contender.batches)]
            took = seconds(lambda r=read, b=batches: [r(ids) for ids in b])  # type: ignore[misc]
            contender.reading.append(took / contender.batches)
    return reads


def machine() -> str:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next(
        (line.split(":")[1].strip() for line in flags.splitlines() if "model name" in line), platform.machine()
    )
    extras = [name for word, name in (("avx512f", "AVX-512"), ("amx_tile", "AMX")) if word in flags]
    load = os.getloadavg()[0]
    busy = f"; load average {load:.1f}: loaded by other work" if load > 1 else "; otherwise idle"
    return f"{os.cpu_count()} cores, {model}{' with ' + ' and '.join(extras) if extras else ''}{busy}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="samples")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=31, help="of reading")
    parser.add_argument("--writes", type=int, default=3, help="rounds of writing")
    parser.add_argument("--folder", type=Path, help="where the files are written; a temporary one by default")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; PyTorch {torch.__version__}, one thread")
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(given.rows, given.classes, generator=generator).mul_(2)
    logits[torch.arange(given.rows), torch.randint(0, given.classes, (given.rows,), generator=generator)] += 6
    found = contenders(logits)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        reads = measured(found, logits, Path(folder), given.rounds, given.writes)
        print(f"{given.rows:,} samples x {given.classes:,} classes; medians of {given.writes} rounds of writing and {given.rounds} of reading\n")  # fmt: skip
        print(f"{'':44}{'bytes a':>9}{'write':>9}{'thousand':>10}{f'{BATCH} rows,':>10}{'fastest':>9}{'thousand':>10}{'against':>9}{'error of gradient':>20}")  # fmt: skip
        print(f"{'format':44}{'sample':>9}{'CPU s':>9}{'rows/s':>10}{'CPU ms':>10}{'round':>9}{'rows/s':>10}{'first':>9}{'T=1':>10}{'T=4':>10}")  # fmt: skip
        kept = True
        for place, (contender, read) in enumerate(zip(found, reads, strict=True)):
            wrote, ms = statistics.median(contender.writing), statistics.median(contender.reading) * 1e3
            ratio = statistics.median(a / b for a, b in zip(contender.reading, found[0].reading, strict=True))
            best = min(contender.reading) * 1e3
            at_1, at_4 = errors(read, logits)
            fine = not contender.promised or (ms <= MOST_MS and max(at_1, at_4) <= MOST_ERROR)
            kept &= fine
            print(
                f"{contender.name:44}{size(Path(folder) / str(place)) / given.rows:9.0f}{wrote:9.2f}{given.rows / wrote / 1e3:10.0f}"
                f"{ms:10.3f}{best:9.3f}{BATCH / ms:10.0f}{ratio:8.1f}x{at_1:10.1e}{at_4:10.1e}{'' if fine else '  NOT KEPT'}",
                flush=True,
            )
    print(f"\nPromised of fp16 and uint8: {BATCH} rows in at most {MOST_MS} ms, error at most {MOST_ERROR:.0%}: {'kept' if kept else 'NOT KEPT'}.")  # fmt: skip
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
