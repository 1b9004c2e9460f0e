"""Did any student beat its teacher?

Born-again generations, a student of three models, early exits, two students that teach each other: everybody here is a CNN(8) and has
the same digits, first with 200 labels and then with all 1,000. Nobody has more labels than its teacher, nor more steps. Then a
CNN(4) with 200 labels and a CNN(32) that has learnt from all 1,000: over an assistant of a size in between, and without one.

Every seed has models of its own, and student and teacher are compared seed by seed. All have the same optimizer and the same number
of steps, and keep the weights that were best on the validation images; but where one training makes both student and teacher (exits,
peers), both keep their last ones, for what is best for one of them need not be for the other. Temperatures and weights are the
methods' own.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy.chains import born_again, takd
from understudy.data.digits import digits
from understudy.measure import accuracy, holm, interval, paired
from understudy.methods.byot import exits_of
from understudy.report import Column, render
from understudy.teachers import Ensemble
from understudy.zoo import CNN

DATA = digits()
OPTIMIZER = us.Optim("AdamW", lr=3e-3, schedule=us.cosine(1, 0), warmup=0.05)
COLUMNS = (
    Column("who", "student / its teacher"),
    Column("labels", "labels"),
    Column("student_accuracy", "student's\naccuracy"),
    Column("teacher_accuracy", "teacher's\naccuracy", "{:.3f}"),
    Column("difference", "difference"),
    Column("p", "p"),
    Column("beat", "beat it?"),
)
BEAT = {True: "yes", False: "no, worse", None: "no, unclear"}

Split = tuple[Tensor, Tensor]
Pair = tuple[str, str, float, float]
"""Student and teacher, by name, and their test accuracies."""


def fit(method: us.Method, data: object, epochs: int, seed: int, *, choose: bool = True) -> nn.Module:
    steps = epochs * 16  # as many as 1,000 images take, whoever sees fewer
    settings = us.Settings(steps=steps, batch_size=64, optimizer=OPTIMIZER, seed=seed, validate_every=16, device="cpu")
    validate = (lambda model: {"accuracy": accuracy(model, *DATA.valid)}) if choose else None
    us.train(method, data, settings, validate=validate)
    return method.student.eval()


def cnn(size: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return CNN(size)


def few(labels: int) -> Split:
    """The training images, of which so many have their label."""
    kept = DATA.train[1].clone()
    kept[labels:] = -100
    return DATA.train[0], kept


def on_test(model: Any) -> float:
    return accuracy(model, *DATA.test)


def alike(labels: int, epochs: int, seed: int) -> Iterable[Pair]:
    """Students and teachers of the same size."""
    train = few(labels)
    job: dict[str, Any] = {"epochs": epochs, "seed": seed, "seeds": 1, "fine_tune": False, "progress": False}
    first, second = born_again(
        lambda: CNN(8), train, DATA.valid, generations=2, optimizer=OPTIMIZER, device="cpu", **job
    )
    yield "generation 1", "the first model", on_test(first.student), on_test(first.teacher)
    yield "generation 2", "generation 1", on_test(second.student), on_test(second.teacher)
    yield "generation 2", "the first model", on_test(second.student), on_test(first.teacher)

    # Each job has trained a student alone besides, of another start.
    three = [first.teacher, *(made.evidence.trials[0].students["alone"].eval() for made in (first, second))]
    student = on_test(fit(us.methods.multi_teacher(cnn(8, seed), three), train, epochs, seed))
    yield "of three models", "their mean", student, on_test(Ensemble(*three))
    best = max(three, key=lambda model: accuracy(model, *DATA.valid))
    yield "of three models", "the best of them", student, on_test(best)

    yield from at_once((DATA.train[0][:labels], DATA.train[1][:labels]), epochs, seed)


def at_once(hard: Split, epochs: int, seed: int) -> Iterable[Pair]:
    """Students and teachers of one training."""
    method = us.methods.byot(cnn(8, seed), layers=["layer1", "layer2", "layer3"])
    fit(method, hard, epochs, seed, choose=False)
    with torch.no_grad():
        exits = exits_of(method).eval()(DATA.test[0])
    *early, last = ((logits.argmax(1) == DATA.test[1]).float().mean().item() for logits in exits)
    for i, exit_ in enumerate(early, 1):
        yield f"exit {i}", "the last output", exit_, last

    method = us.methods.dml(cnn(8, seed), seed=seed)
    fit(method, hard, epochs, seed, choose=False)
    yield "one of two peers", "the other", on_test(method.student), on_test(method.models["peer1"].eval())


def smaller(epochs: int, seed: int) -> Iterable[Pair]:
    """A student of 1,030 parameters and a teacher of 56,554."""
    teacher, train = fit(us.methods.alone(cnn(32, seed)), DATA.train, epochs, seed), few(200)
    job: dict[str, Any] = {"epochs": epochs, "seed": seed, "seeds": 1, "fine_tune": False, "progress": False}
    job |= {"optimizer": OPTIMIZER, "device": "cpu"}
    assistant, over = (
        on_test(made.student) for made in takd(lambda: CNN(4), [lambda: CNN(12)], teacher, train, DATA.valid, **job)
    )
    straight = on_test(us.distill(lambda: CNN(4), teacher, train, DATA.valid, **job).student)
    yield "CNN(12), the assistant", "CNN(32)", assistant, on_test(teacher)
    yield "CNN(4) over it", "the assistant", over, assistant
    yield "CNN(4) over it", "CNN(32)", over, on_test(teacher)
    yield "CNN(4) without", "CNN(32)", straight, on_test(teacher)
    yield "CNN(4) over it", "CNN(4) without", over, straight


def judged(labels: int, seeds: Sequence[Sequence[Pair]]) -> list[dict[str, Any]]:
    """A row for each pair."""
    rows = []
    for pairs in zip(*seeds, strict=True):
        student, teacher = ([pair[i] for pair in pairs] for i in (2, 3))
        test = paired(student, teacher)
        half = "" if test.difference.half is None else f" ± {test.difference.half:.3f}"
        rows.append(
            {
                "labels": f"{labels:,}",
                "who": f"{pairs[0][0]} / {pairs[0][1]}",
                "student_accuracy": str(interval(student)),
                "teacher_accuracy": sum(teacher) / len(teacher),
                "difference": f"{test.difference.mean:+.3f}{half}",
                "p_value": test.p_value,
                "p": None if test.p_value is None else f"{test.p_value:.2g}",
                "beat": BEAT[test.better],
            }
        )
    return rows


def words(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the table says. Its last row is of two students."""
    *taught, straight = rows
    said = {beat: [row for row in taught if row["beat"] == beat] for beat in BEAT.values()}
    won, worse, unclear = said.values()
    verdict = {"yes": "better", "no, worse": "worse", "no, unclear": "no clear difference"}[straight["beat"]]
    return [
        f"Did any student beat its teacher? Each by itself: {named(won)}. After correction: {named(won, sure=True)}.",
        f"Clearly worse: {named(worse)}. After correction: {named(worse, sure=True)}.",
        f"No clear difference: {len(unclear)} of {len(taught)}.",
        f"Over an assistant against without one: {verdict}.",
        f"Of {len(rows)} comparisons about {0.05 * len(rows):.1f} would be clear by chance: * marks what holds after Holm's correction.",
    ]


def named(rows: Sequence[dict[str, Any]], *, sure: bool = False) -> str:
    """Those rows; or those that hold after the correction."""
    return "; ".join(f"{row['who']} ({row['labels']} labels)" for row in rows if row["holds"] or not sure) or "none"


def show(rows: Sequence[dict[str, Any]], title: str) -> None:
    screen = Console(width=120, highlight=False)
    screen.print(render(rows, COLUMNS, title=title))
    screen.print(*words(rows), sep="\n")


def main(
    labels: Sequence[int] = (200, 1000), seeds: Sequence[int] = range(5), epochs: int = 40
) -> list[dict[str, Any]]:
    rows = [row for n in labels for row in judged(n, [list(alike(n, epochs, seed)) for seed in seeds])]
    rows += judged(200, [list(smaller(epochs, seed)) for seed in seeds])
    for row, p in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["holds"] = p is not None and p < 0.05
        row["p"] = None if row["p"] is None else row["p"] + "*" * row["holds"]
    show(rows, f"{epochs * 16} steps, {len(seeds)} seeds, ± 95 % t-interval, on the test images")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
