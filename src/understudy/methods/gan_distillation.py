"""A small generator from a big one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from understudy.batch import call as plain_call
from understudy.losses import l1, mse
from understudy.matching import pairs
from understudy.method import Distillation
from understudy.methods.players import Adversarial, Critic, Watched
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["gan_distillation"]


def gan_distillation(
    student: nn.Module,
    teacher: nn.Module,
    *,
    output_weight: float | Curve = 100.0,
    feature_weight: float | Curve = 1.0,
    critic_weight: float | Curve = 1.0,
    real: str = "teacher",
    hidden: int = 64,
    critic: nn.Module | None = None,
    layers: Sequence[tuple[str, str]] | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    r"""The big generator's pictures for the same inputs, its features, and a critic that must not tell the small one's from real ones.

    .. math:: w_o\, \|s - t\|_1 + w_f \sum_l \mathrm{mean} (P_l s_l - t_l)^2 - w_c \log \sigma(c(s))

    Two moves a step, of two players, ``critic`` and ``student``. The inputs are whatever the generators take: noise, a label map,
    a picture.

    Args:
        student: the small generator, which learns.
        teacher: the big one, frozen.
        output_weight: of the mean absolute difference of the pictures.
        feature_weight: of each pair of layers, through a 1x1 convolution or a linear map that learns with the student.
        critic_weight: of fooling the critic.
        real: address of what the critic learns to prefer: the teacher's pictures, or real ones, as ``"batch.picture"``.
        hidden: channels of the critic.
        critic: instead of ours: a module from pictures to one logit for each, or to many, of which the mean counts.
        layers: the student's and the teacher's; those that go together if not given.
        label: not read.
        task: not read: a generator has no labels.
        example: a small batch, to find the layers by.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if features have a weight and there is neither ``layers`` nor ``example``.
    Family: GAN.
    Source: Li et al. 2020 (GAN Compression), arXiv:2003.08936, equations 1 to 4; weights as in its code for paired pictures.
    Differs: the critic sees pictures without what they were made from, begins at random where the paper goes on with the
        teacher's own, and has the logistic loss; give ``critic`` to have theirs.
    """
    between: list[Term] = []
    if feature_weight != 0:
        call = options.get("call", plain_call)
        for p in pairs(student, teacher, example, call=call, layers=layers):
            at = (f"student.{p.student}", f"teacher.{p.teacher}")
            between.append(Term(mse, *at, weight=feature_weight, project=p.projector()))
    return Adversarial(
        Term(l1, "student", "teacher", weight=output_weight),
        *between,
        watched=[Watched("student", real, Critic(net=critic, hidden=hidden), critic_weight)],
        student=student,
        teacher=teacher,
        **options,
    )
