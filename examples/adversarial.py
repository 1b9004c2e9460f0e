"""Can a student be told from its teacher? Adversarial distillation on the handwritten digits.

Students of two sizes learn 1,000 digits alone, from soft labels (kd), and from soft labels and a critic that they have to fool
(adversarial_kd). Then somebody new judges: a fresh discriminator, trained from scratch on the outputs of half of the test images,
says of each output of the other half whose it is. 0.5 is chance, the student is indistinguishable; 1 is certainty. The last line
is a second teacher, made as the first from another seed: how well two of a kind are told apart.

A seed's students start from the same weights and see the images in the same order. Nobody has trained on the test images. The
critic's learning rate and the weight of 0.3 were chosen on the validation images, for two other seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy.data.digits import digits
from understudy.measure import accuracy, agreement, fresh_discriminator, interval, paired, parameters
from understudy.report import Column, render
from understudy.zoo import CNN

DATA = digits()
ADVERSARIAL = {"adversarial_kd": 0.1, "adversarial_kd, weight 0.3": 0.3}
CRITIC_LR = 0.003
COLUMNS = (
    Column("model", "model"),
    Column("told_apart", "told apart"),
    Column("agreement", "agrees with\nthe teacher"),
    Column("accuracy", "test accuracy"),
)


def fit(method: us.Method, steps: int, seed: int, lr: float) -> nn.Module:
    optimizer = {
        player: us.Optim("AdamW", lr=rate, schedule=us.cosine(1, 0), warmup=0.05)
        for player, rate in (("student", lr), ("critic", CRITIC_LR))
    }
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=32, device="cpu")
    us.train(method, DATA.train, settings, validate=lambda model: {"accuracy": accuracy(model, *DATA.valid)})
    return method.student.eval()


def teacher(steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return fit(us.methods.alone(CNN(32)), steps, seed, lr=0.003)


def said(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(DATA.test[0])


def judged(model: nn.Module, taught: nn.Module, seed: int) -> dict[str, float]:
    """How often a fresh discriminator is right, in the mean over five of them, and the usual figures."""
    told = fresh_discriminator(said(model), said(taught), seeds=range(5 * seed, 5 * seed + 5))
    return {
        "told_apart": told.mean,
        "agreement": float(agreement(said(model), said(taught)).mean()),
        "accuracy": accuracy(model, *DATA.test),
    }


def main(
    seeds: Sequence[int] = range(5), steps: int = 640, sizes: Sequence[int] = (4, 8)
) -> dict[str, dict[str, list[float]]]:
    taught = teacher(steps, 0)
    ways: dict[str, Callable[[nn.Module], us.Method]] = {
        "alone": us.methods.alone,
        "kd": lambda student: us.methods.kd(student, taught, alpha=0.9, temperature=4),
    }
    for name, weight in ADVERSARIAL.items():
        ways[name] = partial(us.methods.adversarial_kd, teacher=taught, weight=weight)
    found: dict[str, dict[str, list[float]]] = {}
    for seed in seeds:
        models = {"another teacher": teacher(steps, seed + 1)}
        for size in sizes:
            torch.manual_seed(seed)
            start = CNN(size)
            for name, way in ways.items():
                models[f"CNN({size}) {name}"] = fit(way(copy.deepcopy(start)), steps, seed, lr=0.03)
        for name, model in models.items():
            for figure, value in judged(model, taught, seed).items():
                found.setdefault(name, {}).setdefault(figure, []).append(value)
    found["another teacher"] = found.pop("another teacher")  # the last line
    rows = [
        {"model": name, **{k: str(interval(values)) for k, values in figures.items()}}
        for name, figures in found.items()
    ]
    title = f"{len(DATA.train[0]):,} digits, {steps} steps, {len(seeds)} seeds, ± 95 % t-interval"
    screen = Console(width=80, highlight=False)
    students = ", ".join(f"CNN({size}) {parameters(CNN(size)):,}" for size in sizes)
    screen.print(f"Parameters: teacher CNN(32) {parameters(taught):,}, students {students}.")
    screen.print("Told apart: how often a fresh discriminator is right; 0.5 is chance.\n")
    screen.print(render(rows, COLUMNS, title=title))
    for size in sizes:
        for name in ADVERSARIAL:
            these, those = (found[f"CNN({size}) {way}"]["told_apart"] for way in (name, "kd"))
            screen.print(_against(f"CNN({size}) {name}", these, those), soft_wrap=True)
    return found


def _against(name: str, these: Sequence[float], those: Sequence[float]) -> str:
    test = paired([-x for x in these], [-x for x in those])
    if test.difference.half is None:
        return f"{name}: cannot be judged against kd by one seed."
    words = {True: "harder", False: "easier", None: "not clearly harder or easier"}[test.better]
    p = "" if test.p_value is None else f", p = {test.p_value:.2g}"
    change = f"{-test.difference.mean:+.3f} ± {test.difference.half:.3f}"
    return f"{name}: {words} to tell from the teacher than kd ({change}{p})."


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
