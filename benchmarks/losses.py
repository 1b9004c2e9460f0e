"""Time and memory of the losses that are hard to compute, against the straightforward form of each.

    python benchmarks/losses.py                 all of them, about two minutes
    python benchmarks/losses.py rkd_angle CRD   some of them

The straightforward form is the formula as it stands, one tensor for each of its expressions, as the first published code of
each has it. Both forms make a value and the gradient of the student's features, and for CRD of its layers. One thread; the
two forms take turns; the figure is the median of process CPU time over the rounds. The peak is what a form has allocated at
most on top of its inputs, on the CPU as PyTorch's profiler counts it.

CRD: ours lets a step's samples share its negatives, where the straightforward form gathers a list for each sample (here the
same ones, so that values and gradients can be compared). The drawing of those lists, a permutation of all samples for each,
is left out of its time, while ours draws within it; the banks' update is left out of both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from understudy import losses
from understudy.losses.contrastive import drawn

Gradients = list[Tensor]
Step = Callable[[], Gradients]
AGREE = 1e-4
"""Of the gradients' lengths: so far they may differ."""


@dataclass(frozen=True)
class Contest:
    """A loss at a size, in both forms; ``faster`` and ``smaller`` are the ratios that were promised, if any."""

    name: str
    size: str
    straight: Step
    ours: Step
    faster: float | None = None
    smaller: float | None = None


# -- the straightforward forms -----------------------------------------------------------------------------------------


def rkd_angle(student: Tensor, teacher: Tensor) -> Tensor:
    def angles(x: Tensor) -> Tensor:
        towards = F.normalize(x[None] - x[:, None], dim=2)  # [N, N, D]
        return torch.bmm(towards, towards.transpose(1, 2)).flatten()

    return F.smooth_l1_loss(angles(student), angles(teacher))


def rkd_distance(student: Tensor, teacher: Tensor) -> Tensor:
    def proportions(x: Tensor) -> Tensor:
        square = x.square().sum(1)
        far = (square[:, None] + square[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        far = far * (1 - torch.eye(len(x)))
        return far / far[far > 0].mean()

    return F.smooth_l1_loss(proportions(student), proportions(teacher))


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    rows = [F.normalize(x @ x.T, dim=1) for x in (student, teacher)]
    return (rows[0] - rows[1]).square().sum() / len(student) ** 2


def pkt(student: Tensor, teacher: Tensor) -> Tensor:
    def neighbours(x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=1)
        likeness = (unit @ unit.T + 1) / 2
        return likeness / likeness.sum(1, keepdim=True)

    q, p = neighbours(student), neighbours(teacher)
    return (p * ((p + 1e-7) / (q + 1e-7)).log()).mean()


def correlation_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    def kernel(x: Tensor) -> Tensor:
        unit = F.normalize(x, dim=1)
        cosine = unit @ unit.T
        return sum((2 * 0.4) ** p / (1, 1, 2)[p] * cosine**p for p in range(3)) * torch.exp(torch.tensor(-0.8))

    return F.mse_loss(kernel(student), kernel(teacher))


def nst(student: Tensor, teacher: Tensor) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, :, None] * b[:, None]).sum(-1).square().mean()  # [N, C, C, P] on the way

    s, t = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def crd(module: losses.CRD, student: Tensor, teacher: Tensor, index: Tensor, chosen: Tensor) -> Tensor:
    """With a list of negatives for each sample, ``chosen`` [N, 1 + K], the sample itself first."""
    s, t = (F.normalize(layer(x)) for layer, x in ((module.embed_student, student), (module.embed_teacher, teacher)))
    loss = torch.zeros(())
    noise = (chosen.shape[1] - 1) / module.samples
    for feature, bank, z in (
        (s, module.bank_teacher, module.partition[0]),
        (t, module.bank_student, module.partition[1]),
    ):
        held = bank[chosen.flatten()].view(*chosen.shape, -1)  # [N, 1 + K, D]
        p = torch.exp(torch.bmm(held, feature[:, :, None])[..., 0] / module.temperature) / z
        own, others = p[:, :1], p[:, 1:]
        found = torch.log(own / (own + noise + 1e-7)).sum()
        rejected = torch.log(noise / (others + noise + 1e-7)).sum()
        loss = loss - (found + rejected) / len(student)
    return loss


# -- the contests ------------------------------------------------------------------------------------------------------


def of_features(name: str, *shape: int, **promised: float) -> Contest:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(shape, generator=generator) for _ in range(2))
    student.requires_grad_()

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
        return lambda: list(torch.autograd.grad(loss(student, teacher).mean(), [student]))

    return Contest(name, "x".join(map(str, shape)), step(STRAIGHT[name]), step(getattr(losses, name)), **promised)


def of_crd(samples: int, negatives: int, rows: int = 64, width: int = 256, **promised: float) -> Contest:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, width, generator=generator) for _ in range(2))
    index = torch.randperm(samples, generator=generator)[:rows]
    student.requires_grad_()
    torch.manual_seed(0)
    module = losses.CRD(samples=samples, negatives=negatives)
    # The same negatives for both: not the samples themselves, which the straightforward form would count.
    others = drawn(module.seed, 0, negatives, samples)
    index = (index + 1) % samples
    while bool(torch.isin(index, others).any()):
        index = torch.where(torch.isin(index, others), (index + 1) % samples, index)
    with torch.no_grad():
        module.eval()(student, teacher, index)
    chosen = torch.cat([index[:, None], others.expand(rows, -1)], 1)
    learns = [student, *module.parameters()]

    def straight() -> Gradients:
        return list(torch.autograd.grad(crd(module, student, teacher, index, chosen), learns))

    def ours() -> Gradients:
        module.train()
        return list(torch.autograd.grad(module(student, teacher, index).mean(), learns))

    return Contest("CRD", f"{samples} samples, {negatives} negatives", straight, ours, **promised)


STRAIGHT = {f.__name__: f for f in (rkd_angle, rkd_distance, similarity, pkt, correlation_congruence, nst)}
CONTESTS: dict[str, Callable[[], Iterator[Contest]]] = {
    "rkd_angle": lambda: iter(
        [
            of_features("rkd_angle", 64, 256),
            of_features("rkd_angle", 128, 256),
            of_features("rkd_angle", 256, 256, faster=7, smaller=10),
            of_features("rkd_angle", 64, 2048),
        ]
    ),
    "CRD": lambda: iter([of_crd(50_000, 16_384, faster=15, smaller=10)]),
    "nst": lambda: iter([of_features("nst", 16, 128, 8, 8, faster=4, smaller=10)]),
    "rkd_distance": lambda: iter([of_features("rkd_distance", 256, 256)]),
    "similarity": lambda: iter([of_features("similarity", 256, 4096)]),
    "pkt": lambda: iter([of_features("pkt", 256, 256)]),
    "correlation_congruence": lambda: iter([of_features("correlation_congruence", 256, 256)]),
}


# -- measuring ---------------------------------------------------------------------------------------------------------


def seconds(step: Step) -> float:
    start = time.process_time()
    step()
    return time.process_time() - start


def peak(step: Step) -> float:
    """MB allocated at most, on top of what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    held = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 1e6


def difference(one: Gradients, other: Gradients) -> float:
    """Of the gradients, over the length of the first."""
    return max(float((a - b).norm() / a.norm().clamp(min=1e-30)) for a, b in zip(one, other, strict=True))


def judge(contest: Contest, rounds: int) -> tuple[str, bool]:
    apart = difference(contest.straight(), contest.ours())
    times = [(seconds(contest.straight), seconds(contest.ours)) for _ in range(rounds)]
    straight, ours = (statistics.median(t) for t in zip(*times, strict=True))
    faster = statistics.median(a / b for a, b in times)
    memory = [peak(step) for step in (contest.straight, contest.ours)]
    smaller = memory[0] / max(memory[1], 1e-9)
    kept = apart <= AGREE and faster >= (contest.faster or 0) and smaller >= (contest.smaller or 0)
    promised = f"{contest.faster:g}x, {contest.smaller:g}x" if contest.faster and contest.smaller else ""
    line = (
        f"{contest.name:24}{contest.size:34}{straight * 1e3:10.1f}{ours * 1e3:9.1f}{faster:8.1f}x"
        f"{memory[0]:10.1f}{memory[1]:8.1f}{smaller:8.1f}x{apart:10.0e}  {promised:12}{'' if kept else 'NOT KEPT'}"
    )
    return line.rstrip(), kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", nargs="*", help=f"of {', '.join(CONTESTS)}; all if none is given")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    if unknown := set(given.losses) - set(CONTESTS):
        parser.error(f"no contest for {', '.join(sorted(unknown))}; there are {', '.join(CONTESTS)}")
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, one thread, medians of {given.rounds} interleaved rounds")
    print(f"{'':58}{'milliseconds (CPU)':>19}{'':>9}{'peak, MB':>18}{'':>9}{'gradients':>10}")
    print(f"{'loss':24}{'size':34}{'straight':>10}{'ours':>9}{'faster':>9}{'straight':>10}{'ours':>8}{'less':>9}{'apart':>10}  promised")  # fmt: skip
    all_kept = True
    for name in given.losses or CONTESTS:
        for contest in CONTESTS[name]():
            line, kept = judge(contest, given.rounds)
            print(line, flush=True)
            all_kept &= kept
    return 0 if all_kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
