"""Whether a student that learns with the rounding in it loses less than one that is rounded afterwards.

A teacher of 56,554 parameters and a student of 3,778 that has learned from it, for each seed. From there every row goes on for as
many steps, with the same images in the same order: in float, and rounded afterwards; or with the rounding in each forward, from
the teacher's soft labels and hard ones, or from hard labels alone. Activations are rounded to 8 bits in all rows, weights to 8 or 4.
Scored is what runs: the finished model, of integers. Differences are paired by seed. The first table is for a student whose 1,000 images
all have labels; the second for one with labels for 200 of them, where soft labels say what no label does.

    python examples/quantization.py            ten seeds: a quarter of an hour on one core
    python examples/quantization.py 5          five seeds
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence

import torch
from rich.console import Console
from torch import nn

import understudy as us
from understudy import compress
from understudy.data import Augment, Parts, Pictures
from understudy.data.digits import digits
from understudy.measure import accuracy, interval, paired, size_mb
from understudy.report import Column, render
from understudy.zoo import CNN

COLUMNS = (
    Column("way", "way"),
    Column("bytes", "bytes"),
    Column("accuracy", "test accuracy"),
    Column("difference", "to rounded afterwards"),
    Column("p", "p"),
)
FLOAT, AFTER, SOFT, HARD = "float32", "rounded afterwards", "rounded in training", "the same, hard labels"
MORE = 0.5
"""Of the steps that the student has learned, so many are added."""


def trained(method: us.Method, data: Parts, steps: int, seed: int, lr: float) -> nn.Module:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05)
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=max(1, steps // 20), device="cpu")  # fmt: skip
    views = Pictures(data.train, augment=Augment(shift=1))
    us.train(method, views, settings, validate=lambda model: {"accuracy": accuracy(model, *data.valid)})
    return method.student.eval()


def main(
    seeds: Sequence[int] = range(10), steps: int = 640, labelled: int | None = None
) -> dict[tuple[int, str], list[float]]:
    every, data = digits(), digits(labelled=labelled)
    example = data.train[0][:256]
    more = int(steps * MORE)
    found: dict[tuple[int, str], list[float]] = {}
    sizes: dict[tuple[int, str], int] = {}
    teachers: list[float] = []

    def score(bits: int, way: str, model: nn.Module) -> None:
        found.setdefault((bits, way), []).append(accuracy(model, *data.test))
        sizes[bits, way] = round(size_mb(model) * 1e6)

    for seed in seeds:
        torch.manual_seed(seed)
        teacher = trained(us.methods.alone(CNN(32)), every, steps, seed, 0.01)
        teachers.append(accuracy(teacher, *data.test))
        start = trained(us.methods.kd(CNN(8), teacher, temperature=4, alpha=0.9), data, steps, seed, 0.01)
        longer = us.methods.kd(copy.deepcopy(start), teacher, temperature=4, alpha=0.9)
        full = trained(longer, data, more, seed, 0.003)
        score(32, FLOAT, full)
        for bits in (8, 4):
            # Not trained any further, what qat makes is what rounding afterwards makes: at 8 bits, int8_static.
            score(bits, AFTER, compress.finished(compress.qat(full, example, bits=bits)))
            for way in (SOFT, HARD):
                student = compress.qat(start, example, bits=bits, freeze=round(0.9 * more))
                kd = us.methods.kd(student, teacher, temperature=4, alpha=0.9)
                method = kd if way == SOFT else us.methods.alone(student)
                score(bits, way, compress.finished(trained(method, data, more, seed, 0.003)))
    print(f"teacher {interval(teachers)}; {steps} steps and {more} more, {len(seeds)} seeds, ± 95 % t-interval")
    rows = []
    for (bits, way), values in found.items():
        other = found[bits, AFTER] if bits < 32 else values
        told = paired(values, other) if other is not values else None
        rows.append(
            {
                "way": way if bits == 32 else f"{bits} bits, {way}",
                "bytes": f"{sizes[bits, way]:,}",
                "accuracy": str(interval(values)),
                "difference": "-" if told is None else str(told.difference),
                "p": "-" if told is None else f"{told.p_value:.3f}",
            }
        )
    Console(width=110, highlight=False).print(
        render(rows, COLUMNS, title=f"Integers afterwards, and in training: {labelled or 1000:,} labels")
    )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for labels in (None, 200):
        main(range(int(sys.argv[1]) if len(sys.argv) > 1 else 10), labelled=labels)
