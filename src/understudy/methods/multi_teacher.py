"""Several teachers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from understudy import losses
from understudy.errors import InputError, choices
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.teachers.ensemble import Ensemble
from understudy.term import Term

__all__ = ["Weighting", "multi_teacher", "together"]

Weighting = Literal["average", "entropy", "confidence", "gradient"]

LOSSES: dict[str, Callable[..., Tensor]] = {
    "average": losses.average_kl,
    "entropy": losses.ebkd,
    "confidence": losses.ca_mkd,
    "gradient": losses.aekd,
}


def multi_teacher(
    student: nn.Module,
    teacher: Any,
    *,
    weighting: Weighting = "average",
    weights: Sequence[float] | None = None,
    cap: float | None = None,
    temperature: float = 4.0,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the soft ones of several teachers.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[*N, C]``.
        teacher: an :class:`~understudy.teachers.Ensemble`, whose members are the teachers and whose own weights do not count;
            or a sequence of teachers, modules or callables, of which one is made. Addresses name them ``teacher.0``, ``teacher.1``.
        weighting: how much each of them weighs. "average": all alike, or as ``weights`` says (You et al. 2017). "entropy": the
            more, the surer it is of a sample (EBKD). "confidence": the more, the closer it comes to a sample's label (CA-MKD);
            unlabelled samples do not count. "gradient": so that their gradients disagree least (AEKD), for the batch as a whole.
        weights: of "average": one for each teacher.
        cap: of "gradient": most that one may weigh, in (0, 1]; 1 if not given.
        temperature: T > 0.
        weight: of the soft labels: a number, or a function of progress.
        label_weight: of the hard labels.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, for an option that does not go with the weighting, or for weights that do not fit.
    Family: several teachers.
    Source: You et al. 2017, KDD; weights and temperature as in the code of Zhang et al. 2022, arXiv:2201.00007, of which the
        others are told too: :func:`understudy.losses.ebkd`, :func:`~understudy.losses.ca_mkd`, :func:`~understudy.losses.aekd`.
    Differs: as these losses do.
    """
    if weighting not in LOSSES:
        raise InputError(f"multi_teacher: weighting={weighting!r}. {choices(weighting, LOSSES)}")
    for name, value, its in (("weights", weights, "average"), ("cap", cap, "gradient")):
        if value is not None and weighting != its:
            raise InputError(f"multi_teacher: {name} is of weighting={its!r}, and this is {weighting!r}. Leave it out.")
    task, teacher = of_classes("multi_teacher", task), together("multi_teacher", teacher)
    if weights is not None and len(weights) != len(teacher):
        raise InputError(
            f"multi_teacher: weights {list(weights)} are not for {len(teacher)} teachers; give one for each."
        )
    given = {"temperature": temperature, "weights": weights, "cap": cap}
    loss = partial(LOSSES[weighting], **{k: v for k, v in given.items() if v is not None})
    members = [f"teacher.{i}" for i in range(len(teacher))]
    at = ["student", *([label] if weighting == "confidence" else []), *members]
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(loss, *at, weight=weight),
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


def together(method: str, teacher: Any) -> Ensemble:
    """The teachers as one, that can be read one by one."""
    if isinstance(teacher, Ensemble):
        return teacher
    several = (
        list(teacher) if isinstance(teacher, Sequence | nn.ModuleList) and not isinstance(teacher, str) else [teacher]
    )
    if not several or not all(map(callable, several)):
        raise InputError(
            f"{method}: teacher={teacher!r} is no Ensemble, and no sequence of modules or callables. Give Ensemble(a, b), or [a, b]."
        )
    return Ensemble(*several)
