"""The time of one training step of distillation, against training the student alone.

    python benchmarks/step.py                        both pairs, some ten minutes on one core
    python benchmarks/step.py --pairs resnet         one of them
    python benchmarks/step.py --device cuda

Two published pairs of networks for 32x32 images, batch 64, SGD with momentum, hard labels and soft ones at T = 4. Pictures and
weights are random: time is measured here, and not accuracy. All take their batches from the same tensors in memory, so that
nothing of what is measured is loading. One thread; the contenders take turns, and a figure is the median over all steps of process
CPU time (on a GPU: of wall time), divided by that of the student alone, trained by a loop written by hand in float32.

torchdistill is measured if it can be imported (``pip install torchdistill``, with a torchvision that goes with the torch at
hand): its own step, forward_process and post_forward_process, which is given its batches as all others are.
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from cifar import CLASSES, PAIRS
from torch import Tensor, nn
from torch.nn import functional as F

import understudy as us
from understudy.callbacks import Callback
from understudy.examples import Examples, outputs
from understudy.inference import Inference
from understudy.teachers import Stored

BATCH, SAMPLES, STEPS, T, ALPHA = 64, 512, 4, 4.0, 0.9
GOALS = {"ours, live": 1.25, "ours, live, bf16 student": 0.50, "ours, stored": 1.05, "ours, stored, bf16 student": 0.36}

Round = Callable[[], list[float]]


@dataclass(frozen=True)
class Scene:
    """What all of a pair's contenders have in common."""

    teacher: nn.Module
    student: nn.Module
    images: Tensor
    labels: Tensor
    device: str

    @classmethod
    def of(cls, teacher: nn.Module, student: nn.Module, device: str) -> Scene:
        images, labels = torch.randn(SAMPLES, 3, 32, 32), torch.randint(CLASSES, (SAMPLES,))
        return cls(teacher.to(device), student.to(device), images, labels, device)

    def new(self) -> nn.Module:
        return copy.deepcopy(self.student)


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def batches(scene: Scene) -> Iterator[tuple[Tensor, Tensor]]:
    at = 0
    while True:
        ids = torch.arange(at, at + BATCH) % SAMPLES
        yield scene.images[ids].to(scene.device), scene.labels[ids].to(scene.device)
        at += BATCH


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def by_hand(scene: Scene, loss: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Round:
    """A loop as everybody writes it."""
    student, feed = scene.new().train(), batches(scene)
    optimizer = sgd(student)

    def steps() -> list[float]:
        seconds = []
        for _ in range(STEPS):
            began = clock(scene.device)
            x, y = next(feed)
            optimizer.zero_grad()
            loss(student, x, y).backward()
            optimizer.step()
            seconds.append(clock(scene.device) - began)
        return seconds

    return steps


def alone(scene: Scene) -> Round:
    return by_hand(scene, lambda student, x, y: F.cross_entropy(student(x), y))


def kd_by_hand(teacher: nn.Module) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    def loss(student: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            soft = teacher(x)
        logits = student(x)
        divergence = F.kl_div(F.log_softmax(logits / T, 1), F.softmax(soft / T, 1), reduction="batchmean")
        return ALPHA * T * T * divergence + (1 - ALPHA) * F.cross_entropy(logits, y)

    return loss


class Ticks(Callback):
    """When each step ended."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[float] = []

    def stepped(self, progress: us.Progress) -> None:
        self.times.append(clock(self.device))


def ours(scene: Scene, teacher: Any, **settings: Any) -> Round:
    """``understudy.train``: everything from one step's end to the next one's."""
    method = us.methods.kd(scene.new(), teacher, temperature=T, alpha=ALPHA)
    optimizer = us.Optim("SGD", lr=0.05, momentum=0.9, weight_decay=5e-4)
    data = (scene.images, scene.labels)

    def steps() -> list[float]:
        ticks = Ticks(scene.device)
        chosen = us.Settings(steps=STEPS + 1, batch_size=BATCH, optimizer=optimizer, device=scene.device, **settings)
        us.train(method, data, chosen, callbacks=[ticks])
        return [b - a for a, b in zip(ticks.times, ticks.times[1:], strict=False)]

    return steps


def stored(scene: Scene) -> Stored:
    data = Examples.read((scene.images, scene.labels), "train")
    return Stored(outputs(scene.teacher, data).half())


def torchdistill(scene: Scene) -> Round | None:
    """Its own box, of which the loading of data is left out."""
    try:
        shim = torch.library.Library("torchvision", "DEF")  # where torchvision's own code is for another build of torch
        for name in ("nms", "qnms"):
            shim.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass
    logging.disable(logging.INFO)
    try:
        from torchdistill.core.distillation import DistillationBox
    except (ImportError, RuntimeError) as error:
        print(f"torchdistill is not measured: {type(error).__name__}: {str(error).splitlines()[0]}")
        return None
    box = DistillationBox(
        copy.deepcopy(scene.teacher),
        scene.new(),
        {},
        {
            "num_epochs": 1,
            "teacher": {"requires_grad": False, "forward_proc": "forward_batch_only", "sequential": []},
            "student": {"requires_grad": True, "forward_proc": "forward_batch_only", "sequential": []},
            "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
            "criterion": {
                "key": "WeightedSumLoss",
                "kwargs": {
                    "sub_terms": {
                        "kd": {
                            "criterion": {
                                "key": "KDLoss",
                                "kwargs": {
                                    "student_module_path": ".", "student_module_io": "output",
                                    "teacher_module_path": ".", "teacher_module_io": "output",
                                    "temperature": T, "alpha": 1 - ALPHA, "reduction": "batchmean",
                                },
                            },
                            "weight": 1.0,
                        }
                    }
                },
            },
        },
        torch.device(scene.device), None, False, 1,
    )  # fmt: skip
    box.teacher_model.eval()
    box.student_model.train()
    feed = batches(scene)

    def steps() -> list[float]:
        seconds = []
        for _ in range(STEPS):
            began = clock(scene.device)
            x, y = next(feed)
            box.post_forward_process(loss=box.forward_process(x, y, {}))
            seconds.append(clock(scene.device) - began)
        return seconds

    return steps


def contest(scene: Scene, rounds: int) -> dict[str, float]:
    """Seconds of a step, of each contender."""
    table = stored(scene)
    fast = {"precision": "bf16", "channels_last": True}
    live = Inference(scene.teacher, "compiled-bf16")
    contenders: dict[str, Round | None] = {
        "student alone, by hand": alone(scene),
        "kd, by hand": by_hand(scene, kd_by_hand(scene.teacher)),
        "torchdistill": torchdistill(scene),
        "ours, live, as the teacher is": ours(scene, scene.teacher),
        "ours, live": ours(scene, live),
        "ours, live, bf16 student": ours(scene, live, **fast),
        "ours, stored": ours(scene, table),
        "ours, stored, bf16 student": ours(scene, table, **fast),
    }
    able = {name: steps for name, steps in contenders.items() if steps is not None}
    for steps in able.values():  # warm up, and compile
        steps()
    seconds: dict[str, list[float]] = {name: [] for name in able}
    for _ in range(rounds):
        for name, steps in able.items():
            seconds[name] += steps()
    return {name: statistics.median(s) for name, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", default="", help="only those whose names have this in them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    for pair, (teacher, student) in PAIRS.items():
        if told.pairs not in pair:
            continue
        torch.manual_seed(0)
        scene = Scene.of(teacher().eval(), student(), told.device)
        found = contest(scene, told.rounds)
        base, peer = found["student alone, by hand"], found.get("torchdistill")
        print(f"\n{pair}, batch {BATCH}, {told.threads} thread(s), {told.device}")
        print(f"{'':32}{'ms a step':>10}{'ratio':>8}{'goal':>8}{'torchdistill is':>20}")
        for name, s in found.items():
            goal = f"{GOALS[name]:.2f}" if name in GOALS and told.device == "cpu" else ""
            slower = f"{peer / s:.1f} times as slow" if peer and name.startswith("ours") else ""
            print(f"{name:32}{1e3 * s:10.1f}{s / base:8.2f}{goal:>8}{slower:>20}")


if __name__ == "__main__":
    main()
