"""What each way of compression costs on the handwritten digits, by itself and with the teacher teaching what is left.

A teacher of 56,554 parameters is trained for each seed. Each way makes a smaller model of it; that is scored as it is, and again
after it has learned from the teacher as its student, from hard and soft labels. The last row is a student of 3,778 parameters that
starts from nothing and learns as long. Intervals are 95 % t-intervals over seeds.

    python examples/compression.py            five seeds: ten minutes on one core
    python examples/compression.py 10         ten seeds
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy import compress
from understudy.data import Augment, Parts, Pictures
from understudy.data.digits import digits
from understudy.measure import accuracy, interval
from understudy.report import Column, render
from understudy.zoo import CNN

COLUMNS = (
    Column("way", "what"),
    Column("parameters", "parameters that are not 0"),
    Column("alone", "accuracy as it is"),
    Column("recovered", "after distilling"),
)
ENDS = ["layer1", "head"]
"""Of one input channel and of ten outputs: as thin as can be already."""

WAYS: Mapping[str, Sequence[compress.Step]] = {
    "magnitude 80 %": [("magnitude", {"amount": 0.8})],
    "magnitude 95 %": [("magnitude", {"amount": 0.95})],
    "movement 95 %": [("movement", {"amount": 0.95})],
    "2:4": [("n_m", {})],
    "channels 50 %": [("channels", {"amount": 0.5})],
    "narrower to 1/15": [("narrower", {"ratio": 1 / 14.9, "round_to": 1})],
    "low rank, 1/4 of each layer": [("low_rank", {"ratio": 0.25})],
    "the same, first and last whole": [("low_rank", {"ratio": 0.25, "keep": ENDS})],
    "the same, whitened": [("low_rank", {"ratio": 0.25, "keep": ENDS, "whitened": True})],
    "low rank, 1/15 of the model": [("low_rank", {"budget": 3778})],
    "channels, low rank, magnitude": [("channels", {"amount": 0.5}), ("low_rank", {"ratio": 0.5, "keep": ENDS}), ("magnitude", {"amount": 0.5})],
}  # fmt: skip


def trained(method: us.Method, data: Parts, steps: int, seed: int, lr: float) -> nn.Module:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05)
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=steps // 20, device="cpu")  # fmt: skip
    views = Pictures(data.train, augment=Augment(shift=1))
    us.train(method, views, settings, validate=lambda model: {"accuracy": accuracy(model, *data.valid)})
    return method.student.eval()


def left(model: nn.Module) -> int:
    """Parameters that are not zero."""
    return sum(int((p != 0).sum()) for p in compress.finished(model).parameters())


def main(
    seeds: Sequence[int] = range(5), steps: int = 640, ways: Mapping[str, Sequence[compress.Step]] = WAYS
) -> dict[str, list[tuple[int, float, float]]]:
    data = digits()
    test: tuple[Tensor, Tensor] = data.test
    example = data.train[0][:256]
    teachers: list[float] = []
    found: dict[str, list[tuple[int, float, float]]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        teacher = trained(us.methods.alone(CNN(32)), data, steps, seed, 0.01)
        teachers.append(accuracy(teacher, *test))
        for way, row in ways.items():
            student = compress.chain(teacher, example, row).eval()
            alone = accuracy(student, *test)
            recovered = trained(us.methods.kd(student, teacher, temperature=4, alpha=0.9), data, steps, seed, 0.003)
            found.setdefault(way, []).append((left(recovered), alone, accuracy(compress.finished(recovered), *test)))
        torch.manual_seed(seed)
        small = CNN(8).eval()
        alone = accuracy(small, *test)
        small = trained(us.methods.kd(small, teacher, temperature=4, alpha=0.9), data, steps, seed, 0.01)
        found.setdefault("a small model from nothing", []).append((left(small), alone, accuracy(small, *test)))
    print(f"teacher {interval(teachers)}; {steps} steps, {len(seeds)} seeds, ± 95 % t-interval")
    rows: list[dict[str, Any]] = [
        {"way": way, "parameters": f"{sum(p for p, _, _ in of) // len(of):,}", "alone": str(interval([a for _, a, _ in of])), "recovered": str(interval([r for _, _, r in of]))}
        for way, of in found.items()
    ]  # fmt: skip
    Console(width=100, highlight=False).print(
        render(rows, COLUMNS, title="Compressed, and taught by what it was made from")
    )
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(range(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
