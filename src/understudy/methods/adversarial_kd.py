"""Soft labels, and a critic that must not tell student from teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from understudy.losses import kl
from understudy.method import Distillation
from understudy.methods.players import Adversarial, Critic, Watched
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["adversarial_kd"]


def adversarial_kd(
    student: nn.Module,
    teacher: Any,
    *,
    weight: float | Curve = 0.1,
    soft_weight: float | Curve = 0.9,
    label_weight: float = 0.1,
    temperature: float = 4.0,
    hidden: int = 64,
    critic: nn.Module | None = None,
    layers: Sequence[tuple[str, str]] = (),
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""Hard and soft labels, and a critic of the outputs: it learns to tell student from teacher, and the student to fool it.

    .. math:: \min_c\ -\log(1 - \sigma(c(s))) - \log \sigma(c(t)), \quad
              \min_s\ 0.1\,\mathrm{CE}(s, y) + 0.9\,T^2\,\mathrm{KL} - w \log \sigma(c(s))

    Two moves a step, of two players, ``critic`` and ``student``, each with an optimizer of its own:
    ``Settings(optimizer={"critic": ..., "student": ...})``.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: a frozen model to logits of the same classes.
        weight: of fooling each critic: a number, or a function of progress.
        soft_weight: of the soft labels.
        label_weight: of the hard labels.
        temperature: of the soft labels, above 0.
        hidden: units of each critic's two hidden layers.
        critic: of the outputs, instead: a module from ``[N, C]`` to one logit for each sample.
        layers: the student's and the teacher's that get a critic too, such as ``[("pool", "pool")]``, of equal shapes.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task; ShapeError if the shapes at two layers differ.
    Family: adversarial.
    Source: Xu et al. 2018, arXiv:1709.00513, for a critic of logits; Belagiannis et al. 2018, arXiv:1803.10750, for features.
    Differs: the critic does not see the label or name the class, as the first paper's does; the non-saturating form of the
        student's loss, -log c(s); the hard and soft weights are those of Tian et al. 2020, the critic's is ours.
    """
    task = of_classes("adversarial_kd", task)
    watched = [Watched("student", "teacher", Critic(net=critic, hidden=hidden), weight)]
    watched += [
        Watched(f"student.{a}", f"teacher.{b}", Critic(hidden=hidden), weight, f"critic({a}, {b})") for a, b in layers
    ]
    return Adversarial(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(partial(kl, temperature=temperature), "student", "teacher", weight=soft_weight),
        watched=watched,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )
