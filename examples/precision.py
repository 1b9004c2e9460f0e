"""Whether a student loses anything when it is trained in bfloat16, and its teacher asked so.

The textbook case: all images have labels, a teacher of 56,554 parameters was trained on them in float32, and a student of 3,778 learns
from hard and soft labels, the same views of the same images in the same order in every row. What differs is only how the arithmetic
is done. Differences are paired. On a processor without bfloat16 the accuracies are the same, and nothing is faster.

    python examples/precision.py              the handwritten digits, ten seeds: two minutes on one core
    python examples/precision.py mnist.npz    MNIST (x_train, y_train, x_test, y_test), five seeds: twenty minutes
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence

import numpy as np
import torch
from rich.console import Console

import understudy as us
from understudy.data import Augment, Parts, Pictures
from understudy.data.digits import digits
from understudy.inference import Inference
from understudy.measure import accuracy, interval, paired
from understudy.report import Column, render
from understudy.zoo import CNN

COLUMNS = (
    Column("student", "student"),
    Column("teacher", "teacher"),
    Column("accuracy", "test accuracy"),
    Column("difference", "to the first row"),
    Column("p", "p"),
)
ROWS = (("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16"))
OPTIMIZER = us.Optim("AdamW", lr=0.01, schedule=us.cosine(1, 0), warmup=0.05)


def trained(method: us.Method, data: Pictures, valid: tuple[torch.Tensor, torch.Tensor], steps: int, seed: int, precision: str) -> torch.nn.Module:  # fmt: skip
    settings = us.Settings(
        steps=steps, batch_size=64, optimizer=OPTIMIZER, seed=seed, precision=precision, channels_last=precision != "fp32",
        validate_every=steps // 20, device="cpu",
    )  # fmt: skip
    us.train(method, data, settings, validate=lambda model: {"accuracy": accuracy(model, *valid)})
    return method.student.eval()


def mnist(path: str, valid: int = 5000) -> Parts:
    """MNIST in its official order; the last images of the training part are for choosing weights."""
    with np.load(path) as file:
        held = dict(file)
    parts = [
        (torch.tensor(held[f"x_{part}"]).unsqueeze(1).float() / 255, torch.tensor(held[f"y_{part}"]).long())
        for part in ("train", "test")
    ]
    (x, y), test = parts
    return Parts((x[:-valid], y[:-valid]), (x[-valid:], y[-valid:]), test)


def main(
    data: Parts | None = None, seeds: Sequence[int] = range(10), steps: int = 640
) -> dict[tuple[str, str], list[float]]:
    data = data or digits()
    train = Pictures(data.train, augment=Augment(shift=1))
    torch.manual_seed(0)
    teacher = trained(us.methods.alone(CNN(32)), train, data.valid, steps, 0, "fp32")
    found: dict[tuple[str, str], list[float]] = {row: [] for row in ROWS}
    for seed in seeds:
        torch.manual_seed(seed)
        start = CNN(8)
        for precision, way in ROWS:
            method = us.methods.kd(copy.deepcopy(start), Inference(teacher, way), temperature=4, alpha=0.9)
            model = trained(method, train, data.valid, steps, seed, precision)
            found[precision, way].append(accuracy(model, *data.test))
    print(f"teacher {accuracy(teacher, *data.test):.3f}; {steps} steps, {len(seeds)} seeds, ± 95 % t-interval")
    rows = []
    for (precision, way), values in found.items():
        told = None if (precision, way) == ROWS[0] else paired(values, found[ROWS[0]])
        rows.append(
            {
                "student": precision,
                "teacher": way,
                "accuracy": str(interval(values)),
                "difference": "-" if told is None else str(told.difference),
                "p": "-" if told is None else f"{told.p_value:.2f}",
            }
        )
    Console(width=80, highlight=False).print(render(rows, COLUMNS, title="In which precision"))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        main(mnist(sys.argv[1]), range(5), 1600)
    else:
        main()
