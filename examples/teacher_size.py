"""Does a better teacher make a better student?

Teachers of four sizes learn 1,000 digits with their labels. Each teaches the same small student, which sees the same images, 200
of them with a label. A teacher is trained for every seed, so that the intervals include its luck; a seed's students start from the
same weights and see the images in the same order. All have the same optimizer and the same number of steps, and keep the weights that
were best on the validation images. The share of the soft labels, alpha, is chosen for each size by validation, on two other seeds.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy.data.digits import digits
from understudy.measure import accuracy, holm, interval, paired, parameters
from understudy.report import Column, render
from understudy.zoo import CNN

LABELLED, TEMPERATURE, ALPHAS = 200, 2.0, (0.5, 0.9, 1.0)
STUDENT = 8
APART = 1_000  # from the seeds of the comparison to those of tuning
DATA = digits()
COLUMNS = (
    Column("teacher", "teacher,\nparameters"),
    Column("teacher_accuracy", "its accuracy"),
    Column("alpha", "alpha"),
    Column("student_accuracy", "student's\naccuracy"),
    Column("gain", "against the\nstudent alone"),
    Column("p", "p"),
)


def fit(method: us.Method, data: object, steps: int, seed: int) -> nn.Module:
    optimizer = us.Optim("AdamW", lr=3e-3, schedule=us.cosine(1, 0), warmup=0.05)
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=16, device="cpu")
    us.train(method, data, settings, validate=lambda model: {"accuracy": accuracy(model, *DATA.valid)})
    return method.student.eval()


def taught_by(size: int, steps: int, seed: int) -> tuple[nn.Module, Tensor]:
    """A teacher, and what it says of the images."""
    torch.manual_seed(seed)
    teacher = fit(us.methods.alone(CNN(size)), DATA.train, steps, seed)
    with torch.no_grad():
        return teacher, teacher(DATA.train[0])


def start(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CNN(STUDENT)


def distilled(soft: Tensor, alpha: float, steps: int, seed: int) -> nn.Module:
    images, labels = DATA.train
    few = labels.clone()
    few[LABELLED:] = -100
    method = us.methods.kd(start(seed), "batch.soft", temperature=TEMPERATURE, alpha=alpha)
    return fit(method, {"input": images, "label": few, "soft": soft}, steps, seed)


def tuned(size: int, steps: int, seeds: Sequence[int]) -> float:
    """The alpha whose students are best on the validation images."""
    soft = {seed: taught_by(size, steps, seed)[1] for seed in seeds}
    found = {
        alpha: sum(accuracy(distilled(soft[seed], alpha, steps, seed), *DATA.valid) for seed in seeds)
        for alpha in ALPHAS
    }
    return max(found, key=lambda alpha: found[alpha])


def ranks(values: Sequence[float]) -> Tensor:
    """From 1 for the least; equal values share the mean of their ranks."""
    of = torch.tensor(values, dtype=torch.float64)
    return (of[:, None] > of).sum(1) + ((of[:, None] == of).sum(1) + 1) / 2


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """The rank correlation; nan where all values of one are equal."""
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


def exceptions(names: Sequence[str], teachers: Sequence[list[float]], students: Sequence[list[float]]) -> list[str]:
    """The pairs of teachers of which the better one has a student that is no better."""
    order = sorted(range(len(names)), key=lambda i: interval(teachers[i]).mean)
    pairs = list(combinations(order, 2))
    tests = [paired(students[better], students[worse]) for worse, better in pairs]
    adjusted = holm([test.p_value for test in tests])
    told = []
    for (worse, better), test, p in zip(pairs, tests, adjusted, strict=True):
        if test.difference.mean < 1e-9:  # what rounding leaves of nothing
            word = "clearly" if p is not None and p < 0.05 else "no clear difference"
            half = "" if test.difference.half is None else f" ± {test.difference.half:.3f}"
            told.append(f"{names[better]} against {names[worse]}: {test.difference.mean:+.3f}{half}, {word}")
    return told


def words(names: Sequence[str], teachers: Sequence[list[float]], students: Sequence[list[float]]) -> list[str]:
    """What the table says of better teachers."""
    of_means = spearman([interval(t).mean for t in teachers], [interval(s).mean for s in students])
    by_seed = [spearman(t, s) for t, s in zip(zip(*teachers, strict=True), zip(*students, strict=True), strict=True)]
    defined = [rho for rho in by_seed if rho == rho]  # nan is not equal to itself
    told = [
        f"Rank correlation (Spearman) of the {len(names)} means, teacher's and student's: {of_means:+.2f}. A perfect order "
        "of four comes about by chance once in 24."
    ]
    if defined:
        told.append(f"Seed by seed: {', '.join(f'{rho:+.2f}' for rho in by_seed)}; mean {interval(defined)}.")
    found = exceptions(names, teachers, students)
    told.append(
        "Exceptions, a better teacher whose student is no better: " + ("; ".join(found) if found else "none") + "."
    )
    return told


def main(
    sizes: Sequence[int] = (4, 8, 16, 32), seeds: Sequence[int] = range(5), steps: int = 640, tuning: int = 2
) -> list[dict[str, Any]]:
    images, labels = DATA.train
    hard = (images[:LABELLED], labels[:LABELLED])
    alone = [accuracy(fit(us.methods.alone(start(seed)), hard, steps, seed), *DATA.test) for seed in seeds]
    rows: list[dict[str, Any]] = [{"teacher": "none", "student_accuracy": str(interval(alone))}]
    names, teachers, students = [], [], []
    for size in sizes:
        alpha = tuned(size, steps, range(APART, APART + tuning))
        pairs = [
            (teacher, distilled(soft, alpha, steps, s)) for s in seeds for teacher, soft in [taught_by(size, steps, s)]
        ]
        known, learnt = ([accuracy(pair[i], *DATA.test) for pair in pairs] for i in (0, 1))
        test = paired(learnt, alone)
        half = "" if test.difference.half is None else f" ± {test.difference.half:.3f}"
        names.append(f"CNN({size})")
        teachers.append(known)
        students.append(learnt)
        rows.append(
            {
                "teacher": f"CNN({size}) {parameters(CNN(size)):,}",
                "teacher_accuracy": str(interval(known)),
                "alpha": alpha,
                "student_accuracy": str(interval(learnt)),
                "gain": f"{test.difference.mean:+.3f}{half}",
                "p": None if test.p_value is None else f"{test.p_value:.2g}",
            }
        )
    screen = Console(width=90, highlight=False)
    screen.print(
        f"Student: CNN({STUDENT}), {parameters(CNN(STUDENT)):,} parameters; {LABELLED} labels of {len(labels):,}."
    )
    screen.print(render(rows, COLUMNS, title=f"{steps} steps, {len(seeds)} seeds, ± 95 % t-interval"))
    screen.print(*words(names, teachers, students), sep="\n")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
