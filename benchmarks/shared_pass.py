"""``understudy compare`` with one pass of the teacher for all methods and seeds, and with the teacher in every step.

    python benchmarks/shared_pass.py                 five minutes on one core
    python benchmarks/shared_pass.py --seeds 3 --epochs 8

resnet32x4 teaches resnet8x4 on images of noise, whose labels are the teacher's own answers: what is measured is time. Both
comparisons run the teacher as it is, in float32. One thread; seconds are process CPU time: of the trainings that distil and of the
pass, and of the whole comparison, with the student alone, a rehearsal of each method, validation and the measurement at the end.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cifar import CLASSES, Net, resnet_x4
from rich.console import Console
from torch import nn

import understudy as us
from understudy import trained
from understudy.answers import Answers
from understudy.data.parts import Parts
from understudy.ranking.compare import compare
from understudy.recipe.text import read

RECIPE = """\
task: classification
data: {{name: noise, samples: {samples}}}
student: {{name: resnet8x4}}
teacher: {{model: {{name: resnet32x4}}, run: fp32, store: {store}}}
method: kd
epochs: {epochs}
seeds: {seeds}
batch_size: 64
optimizer: {{name: SGD, lr: 1e-2}}
precision: fp32
device: cpu
threads: 1
"""


class Counted(nn.Module):
    """A teacher that counts the images that it is shown."""

    seen = 0

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Counted.seen += len(x)
        logits: torch.Tensor = self.net(x)
        return logits


def taught() -> Counted:
    """A net with weights drawn at random, whose answers differ between images."""
    torch.manual_seed(0)
    net = resnet_x4(32).eval()
    with torch.no_grad():
        net.fc.bias -= net(torch.randn(64, 3, 32, 32)).mean(0)
    return Counted(net)


TEACHER = taught()


@us.register("model")
def resnet32x4() -> nn.Module:
    return copy.deepcopy(TEACHER)


@us.register("model")
def resnet8x4() -> nn.Module:
    return resnet_x4(8)


@us.register("data")
def noise(samples: int = 256) -> Parts:
    torch.manual_seed(1)
    parts = []
    for count in (samples, 64):
        images = torch.randn(count, 3, 32, 32)
        with torch.no_grad():
            parts.append((images, TEACHER.eval()(images).argmax(1)))
    return Parts(*parts, classes=tuple(map(str, range(CLASSES))))


class Spent:
    """CPU seconds, and images that the teacher was shown, while something runs."""

    def __init__(self) -> None:
        self.seconds, self.seen = 0.0, 0

    def around(self, call: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def called(*args: Any, **more: Any) -> Any:
            if not when(*args):
                return call(*args, **more)
            began, before = time.process_time(), Counted.seen
            try:
                return call(*args, **more)
            finally:
                self.seconds += time.process_time() - began
                self.seen += Counted.seen - before

        return called


def compared(told: argparse.Namespace, store: str) -> tuple[Spent, Spent]:
    """What distilling took, with the pass; and the whole comparison."""
    whole, part = Spent(), Spent()
    stage, table = trained.train_stage, Answers.in_memory
    trained.train_stage = part.around(stage, lambda material, name, *_: name == "distilled")
    Answers.in_memory = part.around(table)  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            recipe = Path(folder) / "noise.yaml"
            recipe.write_text(
                RECIPE.format(samples=told.samples, epochs=told.epochs, seeds=told.seeds, store=store), encoding="utf-8"
            )
            whole.around(compare)(read(recipe), recipe.with_name("out"), names=told.methods.split(","), console=Console(quiet=True))  # fmt: skip
    finally:
        trained.train_stage, Answers.in_memory = stage, table  # type: ignore[method-assign]
    return part, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="kd,fitnets,rkd")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=128)
    told = parser.parse_args()
    torch.set_num_threads(1)
    methods, steps = told.methods.count(",") + 1, told.epochs * -(-told.samples // 64)
    print(f"resnet32x4 -> resnet8x4, {methods} methods x {told.seeds} seeds, {steps} steps of 64 images, 1 thread")
    shared, live = compared(told, "auto"), compared(told, "null")
    print(f"{'':32}{'teacher in each step':>22}{'one pass for all':>18}{'ratio':>8}")
    for name, a, b in (
        ("distilling, CPU seconds", live[0].seconds, shared[0].seconds),
        ("  images shown to the teacher", live[0].seen, shared[0].seen),
        ("the whole, CPU seconds", live[1].seconds, shared[1].seconds),
        ("  images shown to the teacher", live[1].seen, shared[1].seen),
    ):
        print(f"{name:32}{a:22,.0f}{b:18,.0f}{b / a:8.2f}")
    print(f"\nunderstudy {us.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
