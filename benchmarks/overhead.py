"""What the loop itself costs: ``understudy.train`` against a loop written by hand that makes the same choices.

    python benchmarks/overhead.py                    two minutes on one core
    python benchmarks/overhead.py --rounds 21

The student learns from labels and from the same teacher's logits, in the same precision, with the same optimizer and the same
batches from memory. Ours also checks every loss and gradient for being finite, counts what each term counts, keeps what a failed
step would need, and writes its log; the loop by hand does none of it. The student of the table's first line takes some
milliseconds a step, where any Python at all is seen; that of the last is the smallest of those on which distillation is published.

One thread; the two take turns; a figure is the median over all steps of process CPU time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from cifar import CLASSES, resnet_x4
from step import Scene, by_hand, kd_by_hand, ours
from torch import nn

import understudy as us
from understudy.zoo import CNN

GOAL = 1.02

SIZES: dict[str, Callable[[], nn.Module]] = {
    "CNN(16), 3x32x32": lambda: CNN(16, inputs=3, classes=CLASSES),
    "resnet8x4, 3x32x32": lambda: resnet_x4(8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    told = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':24}{'by hand, ms':>12}{'ours, ms':>12}{'ratio':>8}{'goal':>8}")
    for name, make in SIZES.items():
        torch.manual_seed(0)
        scene = Scene.of(make().eval(), make(), "cpu")
        rounds = {"hand": by_hand(scene, kd_by_hand(scene.teacher)), "ours": ours(scene, scene.teacher)}
        seconds: dict[str, list[float]] = {which: [] for which in rounds}
        for turn in range(told.rounds + 1):
            for which, steps in rounds.items():
                found = steps()
                seconds[which] += found if turn else []  # the first is for warming up
        hand, mine = (statistics.median(seconds[which]) for which in ("hand", "ours"))
        print(f"{name:24}{1e3 * hand:12.2f}{1e3 * mine:12.2f}{mine / hand:8.3f}{GOAL:8.2f}")
    print(f"\nunderstudy {us.__version__}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
