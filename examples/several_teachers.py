"""Several teachers, of which each knows a part, into one small student that knows the whole. On the handwritten digits.

First: one teacher has learnt the digits 0 to 4 and another 5 to 9. The student sees 1,000 images, 100 of them with a label.
Second: three teachers have learnt all digits, but each of them under one corruption: noise, blur, or a covered half. The student
sees the same 1,000 images, each under one of the three at random, 100 of them with a label; it is tested under all three. Most of
its ways do not know which corruption an image has; the last one does, and asks its teacher alone.

A seed's students start from the same weights and take the same number of steps; the one without a teacher in the 100 labelled images.
Temperatures and weights are the methods' own. The best single teacher is the best one by validation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

import understudy as us
from understudy.data.digits import digits
from understudy.measure import accuracy, interval, paired, parameters
from understudy.report import Column, render
from understudy.teachers import Ensemble
from understudy.zoo import CNN

HALVES = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
LABELLED = 100
COLUMNS = (
    Column("model", "model"),
    Column("part", "of its\nown part", "{:.3f}"),
    Column("accuracy", "accuracy\nof all"),
    Column("teacher", "against the best\nsingle teacher"),
    Column("alone", "against\n100 labels alone"),
)
ALONE = "100 labels alone"

Split = tuple[Tensor, Tensor]


def fit(method: us.Method, train: object, valid: Split, steps: int, seed: int, lr: float) -> nn.Module:
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
    return x + 0.4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(len(x)))


def blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.avg_pool2d(x, 3, 1, 1), 3, 1, 1)


def covered(x: Tensor) -> Tensor:
    return x * (torch.arange(8) < 4).float()


CORRUPTIONS: tuple[Callable[[Tensor], Tensor], ...] = (noisy, blurred, covered)


def mixed(data: Split) -> dict[str, Tensor]:
    """Each image under one of the corruptions, and under which."""
    which = torch.randint(3, (len(data[0]),), generator=torch.Generator().manual_seed(8))
    every = torch.stack([corrupt(data[0]) for corrupt in CORRUPTIONS])
    under = {corrupt.__name__: which == i for i, corrupt in enumerate(CORRUPTIONS)}
    return {"input": every[which, torch.arange(len(which))], "label": data[1], **under}


def everyone(data: Split) -> Split:
    """Each image under every corruption."""
    return torch.cat([corrupt(data[0]) for corrupt in CORRUPTIONS]), data[1].repeat(3)


def each_its_own(student: nn.Module, teachers: Ensemble) -> us.Method:
    """Hard labels, and of each teacher the soft ones of the images that are corrupted as its own were."""
    soft = partial(us.losses.kl, temperature=4.0)
    share = 1 / len(teachers)
    return us.Distillation(
        us.Term(us.losses.cross_entropy, "student", "batch.label"),
        *(
            us.Term(soft, "student", f"teacher.{i}", weight=share, mask=f"batch.{corrupt.__name__}")
            for i, corrupt in enumerate(CORRUPTIONS)
        ),
        student=student,
        teacher=teachers,
    )


def table(
    title: str, teachers: Mapping[str, tuple[nn.Module, Split]], joint: Mapping[str, nn.Module],
    students: Mapping[str, Callable[[nn.Module], us.Method]],
    train: dict[str, Tensor], valid: Split, test: Split, seeds: Sequence[int], steps: int,
) -> dict[str, list[float]]:  # fmt: skip
    """The test accuracy of each; a teacher's own part of the test is beside it."""
    few = {**train, "label": train["label"].clone()}
    few["label"][LABELLED:] = -100
    hard = {"input": train["input"][:LABELLED], "label": train["label"][:LABELLED]}
    best = max((model for model, _ in teachers.values()), key=lambda model: accuracy(model.eval(), *valid))
    top = accuracy(best, *test)
    models = {**{name: model for name, (model, _) in teachers.items()}, **joint}
    found: dict[str, list[float]] = {name: [accuracy(model.eval(), *test)] for name, model in models.items()}
    taught: dict[str, list[float]] = {}
    for seed in seeds:
        torch.manual_seed(seed)
        start = CNN(8)
        for name, method in {ALONE: us.methods.alone, **students}.items():
            data = hard if name == ALONE else few
            model = fit(method(copy.deepcopy(start)), data, valid, steps, seed, lr=0.01)
            taught.setdefault(name, []).append(accuracy(model, *test))
    rows: list[dict[str, Any]] = [{"model": name, "accuracy": f"{values[0]:.3f}"} for name, values in found.items()]
    for row, (model, own) in zip(rows, teachers.values(), strict=False):
        row["part"] = accuracy(model, *own)
    for name, values in taught.items():
        row = {"model": name, "accuracy": str(interval(values)), "teacher": against(values, [top] * len(values))}
        rows.append(row if name == ALONE else {**row, "alone": against(values, taught[ALONE])})
    Console(width=90, highlight=False).print(render(rows, COLUMNS, title=title))
    return {**found, **taught}


def against(values: Sequence[float], others: Sequence[float]) -> str:
    """The difference, seed by seed; * where it is clear."""
    test = paired(values, others)
    half = "" if test.difference.half is None else f" ± {test.difference.half:.3f}"
    return f"{test.difference.mean:+.3f}{half}{' ' if test.better is None else '*'}"


def halves(seeds: Sequence[int], steps: int) -> dict[str, list[float]]:
    data = digits()
    known = [teacher(only(data.train, own), only(data.valid, own), steps, i, classes=5) for i, own in enumerate(HALVES)]
    both = Ensemble(*known, classes=HALVES)
    images, labels = data.test
    parts = [(images[at], labels[at]) for own in HALVES for at in [torch.isin(labels, torch.tensor(own))]]
    return table(
        "Two teachers of five classes each",
        {
            f"teacher of {own[0]} to {own[-1]}": (Partly(model, own), part)
            for own, model, part in zip(HALVES, known, parts, strict=True)
        },
        {"both, the surer one": both},
        {
            "specialists": lambda student: us.methods.specialists(student, both),
            "kd from both as one": lambda student: us.methods.kd(student, both),
        },
        {"input": data.train[0], "label": data.train[1]}, data.valid, data.test, seeds, steps,
    )  # fmt: skip


def corruptions(seeds: Sequence[int], steps: int) -> dict[str, list[float]]:
    data = digits()
    known = [
        teacher((corrupt(data.train[0]), data.train[1]), (corrupt(data.valid[0]), data.valid[1]), steps, i)
        for i, corrupt in enumerate(CORRUPTIONS)
    ]
    test, valid, together = everyone(data.test), everyone(data.valid), Ensemble(*known)
    best = max(known, key=lambda model: accuracy(model, *valid))
    weightings: dict[str, Callable[[nn.Module], us.Method]] = {
        f"{weighting} weights": partial(us.methods.multi_teacher, teacher=together, weighting=weighting)
        for weighting in ("average", "entropy", "confidence", "gradient")
    }
    return table(
        "Three teachers of one corruption each",
        {
            f"teacher of {corrupt.__name__}": (model, (corrupt(data.test[0]), data.test[1]))
            for corrupt, model in zip(CORRUPTIONS, known, strict=True)
        },
        {"all, their mean": together},
        {
            "kd from the best": lambda student: us.methods.kd(student, best),
            **weightings,
            "each its own images": lambda student: each_its_own(student, together),
        },
        mixed(data.train), valid, test, seeds, steps,
    )  # fmt: skip


def main(seeds: Sequence[int] = range(5), steps: int = 640) -> dict[str, dict[str, list[float]]]:
    print(
        f"{LABELLED} labels of 1,000; {steps} steps; {len(seeds)} seeds, ± 95 % t-interval. * marks p below 0.05, paired."
    )
    print(f"Teachers: CNN(32), {parameters(CNN(32)):,} parameters; students: CNN(8), {parameters(CNN(8)):,}.\n")
    return {"halves": halves(seeds, steps), "corruptions": corruptions(seeds, steps)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
