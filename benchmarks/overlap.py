"""What it would save to reduce gradients while the backward still runs: a student on several processes, four ways.

    torchrun --nproc-per-node 2 benchmarks/overlap.py                    some minutes on two cores
    torchrun --nproc-per-node 8 benchmarks/overlap.py --device cuda

- **none**: no reduction. Wrong, and the floor: what no overlap can go below.
- **flat**: as understudy does it: one all-reduce for each dtype after the backward.
- **buckets**: by hand, from hooks: each bucket of gradients is sent as soon as it is whole, in the same order on all ranks.
- **fully_shard**: torch's own: over a mesh of (ranks, 1), in which nothing is sharded and each block is reduced as its backward
  ends. With understudy: the student is given to the method in this form.

Each way has a student of its own, from the same weights. The ways take turns; a figure is of
wall time, of the slowest rank: the median over all rounds, and the least, which is what is left where other work disturbs. Last is
by how much each way's gradients are off from the flat reduction's.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from cifar import CLASSES, Net, resnet_x4
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

import understudy as us
from understudy import parallel

Step = Callable[[], None]
WAYS = ("none", "flat", "buckets", "fully_shard")


class Buckets:
    """Parameters from last to first, as their gradients come, in portions of some size."""

    def __init__(self, parameters: Sequence[nn.Parameter], size: int) -> None:
        self.buckets: list[list[nn.Parameter]] = [[]]
        for p in reversed(parameters):
            if sum(q.numel() for q in self.buckets[-1]) * 4 > size:
                self.buckets.append([])
            self.buckets[-1].append(p)
        self.at = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        self.begin()
        for p in parameters:
            p.register_post_accumulate_grad_hook(self.came)

    def begin(self) -> None:
        self.missing = [len(bucket) for bucket in self.buckets]
        self.sent: list[tuple[Tensor, dist.Work | None]] = []

    def came(self, parameter: Tensor) -> None:
        self.missing[self.at[parameter]] -= 1  # type: ignore[index]
        while len(self.sent) < len(self.buckets) and not self.missing[len(self.sent)]:
            self.send()

    def send(self) -> None:
        bucket = self.buckets[len(self.sent)]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
        self.sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def end(self) -> None:
        while len(self.sent) < len(self.buckets):
            self.send()
        for bucket, (flat, work) in zip(self.buckets, self.sent, strict=True):
            if work is not None:
                work.wait()
            for p, mean in zip(bucket, (flat / parallel.ranks()).split([p.numel() for p in bucket]), strict=True):
                p.grad = mean.view_as(p)
        self.begin()


def student_of(way: str, made: Net, device: torch.device) -> tuple[nn.Module, Step]:
    """A way's own student, and what it does after a backward."""
    student = copy.deepcopy(made).to(device)
    parameters = list(student.parameters())
    if way == "fully_shard":
        mesh = init_device_mesh(device.type, (parallel.ranks(), 1), mesh_dim_names=("copies", "parts"))
        for block in (student.layer1, student.layer2, student.layer3, student):
            fully_shard(block, mesh=mesh)
        return student, lambda: None
    if way == "buckets":
        return student, Buckets(parameters, 1 << 20).end
    return student, (lambda: parallel.average_gradients(parameters)) if way == "flat" else (lambda: None)


def one_step(student: nn.Module, reduce: Step, batch: Sequence[Tensor]) -> None:
    """Forward, backward, and the gradients' mean over ranks."""
    images, label, teacher = batch
    for p in student.parameters():
        p.grad = None
    logits = student(images)
    soft = F.kl_div(F.log_softmax(logits / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean") * 16
    (0.1 * F.cross_entropy(logits, label) + 0.9 * soft).backward()
    reduce()


def seconds_of(step: Step, device: torch.device) -> float:
    """Of the slowest rank."""
    parallel.meet(device)
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    took = torch.tensor([time.perf_counter() - began], dtype=torch.float64, device=device)
    dist.all_reduce(took, dist.ReduceOp.MAX)
    return float(took)


def gradients(student: nn.Module) -> list[Tensor]:
    found = [p.grad for p in student.parameters() if p.grad is not None]
    return [(g.full_tensor() if isinstance(g, DTensor) else g).clone() for g in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=64, help="of a step, over all ranks")
    parser.add_argument("--device", default="cpu")
    told = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(told.device)
    parallel.start(device)
    torch.manual_seed(0)
    made = resnet_x4(8)
    scenes = {way: student_of(way, made, device) for way in WAYS}
    torch.manual_seed(1 + parallel.rank())
    mine = told.batch // parallel.ranks()
    images, label = torch.randn(mine, 3, 32, 32, device=device), torch.randint(CLASSES, (mine,), device=device)
    batch = (images, label, 4 * torch.randn(mine, CLASSES, device=device))
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(told.rounds + 1):
        for way in (*WAYS[turn % 4 :], *WAYS[: turn % 4]):
            student, reduce = scenes[way]
            took = seconds_of(lambda: one_step(student, reduce, batch), device)  # noqa: B023
            seconds[way] += [took] if turn else []  # the first is for warming up
        if not turn:
            grads = {way: gradients(student) for way, (student, _) in scenes.items()}
            off = {
                way: max(float((a - b).abs().max()) for a, b in zip(mine, grads["flat"], strict=True))
                for way, mine in grads.items()
            }
    if parallel.rank():
        return
    size = 4 * sum(p.numel() for p in made.parameters())
    print(
        f"resnet8x4, {parallel.ranks()} ranks, batch {told.batch} in all, {device.type}; gradient {size / 1e6:.1f} MB\n"
    )
    print(f"{'':16}{'median, ms':>12}{'to flat':>9}{'least, ms':>12}{'to flat':>9}{'off from flat by':>18}")
    figures = {way: (statistics.median(found), min(found)) for way, found in seconds.items()}
    for way, found in figures.items():
        told_of = "".join(f"{1e3 * x:12.1f}{x / flat:9.3f}" for x, flat in zip(found, figures["flat"], strict=True))
        print(f"{way:16}{told_of}{off[way]:18.1e}")
    print(f"\nunderstudy {us.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
