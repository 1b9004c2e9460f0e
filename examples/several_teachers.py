"""Several teachers, of which each knows a part, into one small student that knows the whole. On the handwritten digits.

First: one teacher has learnt the digits 0 to 4 and another 5 to 9. The student sees 1,000 images, 100 of them with a label.
Second: three teachers have learnt all digits, but each of them under one corruption: noise, blur, or a covered half. The student
sees the same 1,000 images, each under one of the three at random, 100 of them with a label; it is tested under all three.

A seed's students start from the same weights and see the images in the same order. Temperatures and weights are the methods' own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import understudy as us
from understudy.data.digits import digits
from understudy.measure import accuracy, interval, parameters
from understudy.report import Column, render
from understudy.teachers import Ensemble
from understudy.zoo import CNN

HALVES = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
LABELLED = 100
COLUMNS = (Column("model", "model"), Column("accuracy", "test accuracy"))

Split = tuple[Tensor, Tensor]


def fit(method: us.Method, train: Split, valid: Split, steps: int, seed: int, lr: float) -> nn.Module:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05)
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=32, device="cpu")
    us.train(method, train, settings, validate=lambda model: {"accuracy": accuracy(model, *valid)})
    return method.student.eval()


def teacher(train: Split, valid: Split, steps: int, seed: int, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return fit(us.methods.alone(CNN(32, classes=classes)), train, valid, steps, seed, lr=0.003)


def only(data: Split, classes: Sequence[int]) -> Split:
    """Images of these classes, numbered from 0."""
    at = torch.isin(data[1], torch.tensor(classes))
    return data[0][at], torch.searchsorted(torch.tensor(classes), data[1][at])


class Partly(nn.Module):
    """A teacher of some classes, as one of all: what it does not know it never says."""

    def __init__(self, model: nn.Module, classes: Sequence[int]) -> None:
        super().__init__()
        self.model, self.classes = model, list(classes)

    def forward(self, x: Tensor) -> Tensor:
        return x.new_full((len(x), 10), -1e9).index_copy(1, torch.tensor(self.classes), self.model(x))


def noisy(x: Tensor) -> Tensor:
    return x + 0.4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(7))


def blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1), 3, 1, 1)


def covered(x: Tensor) -> Tensor:
    return x * (torch.arange(8) < 4).float()


CORRUPTIONS: tuple[Callable[[Tensor], Tensor], ...] = (noisy, blurred, covered)


def mixed(data: Split) -> Split:
    """Each image under one of the corruptions."""
    which = torch.randint(3, (len(data[0]),), generator=torch.Generator().manual_seed(8))
    every = torch.stack([corrupt(data[0]) for corrupt in CORRUPTIONS])
    return every[which, torch.arange(len(which))], data[1]


def everyone(data: Split) -> Split:
    """Each image under every corruption."""
    return torch.cat([corrupt(data[0]) for corrupt in CORRUPTIONS]), data[1].repeat(3)


def table(
    title: str, teachers: Mapping[str, nn.Module], students: Mapping[str, Callable[[nn.Module], us.Method]],
    train: Split, valid: Split, test: Split, seeds: Sequence[int], steps: int,
) -> dict[str, list[float]]:  # fmt: skip
    """The test accuracy of each."""
    few = train[1].clone()
    few[LABELLED:] = -100
    found: dict[str, list[float]] = {name: [accuracy(model.eval(), *test)] for name, model in teachers.items()}
    for seed in seeds:
        torch.manual_seed(seed)
        start = CNN(8)
        for name, method in students.items():
            model = fit(method(copy.deepcopy(start)), (train[0], few), valid, steps, seed, lr=0.01)
            found.setdefault(f"student, {name}", []).append(accuracy(model, *test))
    rows = [
        {"model": name, "accuracy": str(interval(values)) if len(values) > 1 else f"{values[0]:.3f}"}
        for name, values in found.items()
    ]
    Console(width=80, highlight=False).print(render(rows, COLUMNS, title=title))
    return found


def halves(seeds: Sequence[int], steps: int) -> dict[str, list[float]]:
    data = digits()
    known = [teacher(only(data.train, own), only(data.valid, own), steps, i, classes=5) for i, own in enumerate(HALVES)]
    both = Ensemble(*known, classes=HALVES)
    return table(
        "Two teachers of five classes each",
        {
            **{f"teacher of {own[0]} to {own[-1]}": Partly(model, own) for own, model in zip(HALVES, known, strict=True)},
            "both, by the surer of them": both,
        },
        {
            "100 labels alone": us.methods.alone,
            "specialists": lambda student: us.methods.specialists(student, both),
            "kd from both as one": lambda student: us.methods.kd(student, both),
        },
        data.train, data.valid, data.test, seeds, steps,
    )  # fmt: skip


def corruptions(seeds: Sequence[int], steps: int) -> dict[str, list[float]]:
    data = digits()
    known = [
        teacher((corrupt(data.train[0]), data.train[1]), (corrupt(data.valid[0]), data.valid[1]), steps, i)
        for i, corrupt in enumerate(CORRUPTIONS)
    ]
    test, valid = everyone(data.test), everyone(data.valid)
    best = max(known, key=lambda model: accuracy(model, *valid))
    weightings: dict[str, Callable[[nn.Module], us.Method]] = {
        weighting: lambda student, weighting=weighting: us.methods.multi_teacher(student, known, weighting=weighting)
        for weighting in ("average", "entropy", "confidence", "gradient")
    }
    return table(
        "Three teachers of one corruption each",
        {
            **{f"teacher of {corrupt.__name__} digits": model for corrupt, model in zip(CORRUPTIONS, known, strict=True)},
            "all three, their mean": Ensemble(*known),
        },
        {
            "100 labels alone": us.methods.alone,
            "kd from the best teacher": lambda student: us.methods.kd(student, best),
            **weightings,
        },
        mixed(data.train), valid, test, seeds, steps,
    )  # fmt: skip


def main(seeds: Sequence[int] = range(5), steps: int = 640) -> dict[str, dict[str, list[float]]]:
    print(f"{LABELLED} labels of 1,000; {steps} steps; {len(seeds)} seeds, ± 95 % t-interval.")
    print(f"Teachers: CNN(32), {parameters(CNN(32)):,} parameters; students: CNN(8), {parameters(CNN(8)):,}.\n")
    return {"halves": halves(seeds, steps), "corruptions": corruptions(seeds, steps)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
