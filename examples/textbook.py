"""Does distillation help where every image has its label?

Students of four sizes learn the same 1,000 digits in three ways, each in the same number of optimizer steps: on the hard
labels alone; on hard and soft labels together; on soft ones first, then on hard ones. A seed's three students start from the
same weights and see the images in the same order, so that they can be compared in pairs.

Learning rate and alpha are those that were best on the validation images for two other seeds, the former for the students alone.
"""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy.data.digits import digits
from understudy.measure import accuracy, gap_closed, interval, paired, parameters
from understudy.report import Column, render
from understudy.zoo import CNN

WAYS = ("hard", "hard + soft", "soft → hard")
DATA = digits()
COLUMNS = (
    Column("student", "model,\nparameters"),
    Column("labels", "labels"),
    Column("accuracy", "test accuracy"),
    Column("change", "against hard\nlabels alone"),
    Column("p", "p", "{:.3f}"),
    Column("gap_closed", "gap\nclosed", "{:.0%}"),
)


def fit(method: us.Method, data: object, steps: int, seed: int, lr: float = 0.03) -> nn.Module:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05)
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=32, device="cpu")
    us.train(method, data, settings, validate=lambda model: {"accuracy": accuracy(model, *DATA.valid)})
    return method.student


def three_ways(size: int, soft: Tensor, steps: int, seed: int) -> list[float]:
    """The test accuracy of each way's student."""
    torch.manual_seed(seed)
    alone = CNN(size)
    both, first = copy.deepcopy(alone), copy.deepcopy(alone)
    data = {"input": DATA.train[0], "label": DATA.train[1], "soft": soft}
    kd = partial(us.methods.kd, teacher="batch.soft", temperature=4)
    tuning = max(1, steps // 10)
    fit(us.methods.alone(alone), data, steps, seed)
    fit(kd(both, alpha=0.5), data, steps, seed)
    fit(kd(first, alpha=1), data, steps - tuning, seed)
    fit(us.methods.alone(first), data, tuning, seed, lr=0.003)
    return [accuracy(student, *DATA.test) for student in (alone, both, first)]


def main(sizes: Sequence[int] = (2, 3, 4, 8), seeds: Sequence[int] = range(5), steps: int = 640) -> list[dict]:
    torch.manual_seed(0)
    teacher = fit(us.methods.alone(CNN(32)), DATA.train, steps, 0, lr=0.003).eval()
    with torch.no_grad():
        soft = teacher(DATA.train[0])
    top = accuracy(teacher, *DATA.test)
    rows = [{"student": f"teacher {parameters(teacher):,}", "labels": WAYS[0], "accuracy": f"{top:.3f}"}]
    words = []
    for size in sizes:
        figures = list(zip(*(three_ways(size, soft, steps, seed) for seed in seeds), strict=True))
        for way, found in zip(WAYS, figures, strict=True):
            name = f"CNN({size}) {parameters(CNN(size)):,}"
            rows.append({"student": name, "labels": way, "accuracy": str(interval(found))})
            if way != WAYS[0]:
                test, closed = paired(found, figures[0]), gap_closed([top] * len(found), figures[0], found)
                spread = "" if test.difference.half is None else f" ± {test.difference.half:.3f}"
                rows[-1] |= {"change": f"{test.difference.mean:+.3f}{spread}", "p": test.p_value, "gap_closed": closed}
                said = {True: "helped", False: "hurt", None: "made no clear difference"}[test.better]
                said = "cannot be judged by one seed" if len(seeds) == 1 else said
                words.append(f"CNN({size}), {way}: distillation {said}.")
    screen = Console(width=80, highlight=False)
    title = f"1,000 labelled digits, {steps} steps, {len(seeds)} seeds, ± 95 % t-interval"
    screen.print(render(rows, COLUMNS, title=title))
    words.append(f"Of tests where nothing differs, one in twenty has p below 0.05; these are {len(words)}.")
    screen.print(*words, sep="\n")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)  # a second one gains a tenth here, and on a busy machine it costs more
    main()
