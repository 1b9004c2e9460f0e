"""Robust soft labels alone, inside the attack and outside of it."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from understudy.losses import kl
from understudy.method import Distillation
from understudy.methods.attack import Attack, Attacked
from understudy.methods.taught import of_classes
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["rslad"]


def rslad(
    student: nn.Module,
    teacher: Any,
    *,
    weight: float = 5 / 6,
    natural_weight: float = 1 / 6,
    label_weight: float = 0.0,
    temperature: float = 1.0,
    eps: float = 8 / 255,
    steps: int = 10,
    stride: float = 2 / 255,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""The teacher's soft labels for the inputs, and the same for the inputs attacked; the attack raises that divergence too.

    .. math:: \tfrac56\, \mathrm{KL}(t(x) \,\|\, s(x')) + \tfrac16\, \mathrm{KL}(t(x) \,\|\, s(x)), \quad
              x' = \arg\max_{\|x' - x\|_\infty \le \epsilon} \mathrm{KL}(t(x) \,\|\, s(x'))

    No label is needed.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: a frozen model to logits of the same classes, itself robust.
        weight: of the attacked inputs. With 0 nothing is attacked.
        natural_weight: of the inputs as they are.
        label_weight: of hard labels, which the paper has not.
        temperature: T > 0; the paper's 1.
        eps: how far an attack may move each number of an input.
        steps: of the attack, from normal noise of deviation 0.001.
        stride: of each of them.
        bounds: least and largest value of an input: (0, 1) for pictures that are not normalised, nothing for any.
        label: address of the hard labels, if they have a weight.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for options that are none, or where the inputs are not one tensor of real numbers.
    Family: robust.
    Source: Zi et al. 2021 (RSLAD), arXiv:2108.07969; all numbers as in its code.
    Differs: the divergence is added up over classes, where the code takes the mean, which is a tenth of it for ten classes.
    """
    task = of_classes("rslad", task)
    divergence = partial(kl, temperature=temperature)
    return Attacked(
        Term(divergence, "student@attacked", "teacher", weight=weight),
        Term(divergence, "student", "teacher", weight=natural_weight),
        Term(task.label_loss, "student", label, weight=label_weight),
        attack=Attack(eps, steps, stride, "normal", bounds, "rslad"),
        loss=_of_soft_labels,
        label=label,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student@attacked", "teacher")},
        **options,
    )


def _of_soft_labels(student: Tensor, teacher: Tensor, label: Tensor | None) -> Tensor:
    return kl(student, teacher)
