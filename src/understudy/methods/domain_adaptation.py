"""A student for a domain in which there are no labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from understudy.batch import call as plain_call
from understudy.errors import InputError, choices
from understudy.losses import DomainCritic, coral, kl, mmd
from understudy.matching import penultimate
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["domain_adaptation"]

ALIGNS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "mmd": lambda: mmd,
    "coral": lambda: coral,
    "critic": DomainCritic,
}


def domain_adaptation(
    student: nn.Module,
    teacher: Any,
    *,
    align: Literal["mmd", "coral", "critic"] = "mmd",
    weight: float | Curve = 1.0,
    soft_weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    temperature: float = 1.0,
    target: str = "target",
    layer: str | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels on the source domain, the teacher's soft labels on the target's, and features that do not tell the two apart.

    A batch's inputs and labels are the source's. A further field holds inputs of the target domain, a row for each of the source's,
    in any order: ``{"input": photos, "label": label, "target": sketches}``.

    Args:
        student: what learns: a module from inputs of either domain to logits ``[N, C]``.
        teacher: a frozen model to logits of the same classes, for inputs of the target domain.
        align: how features are drawn together: ``mmd``, ``coral``, or ``critic``, a
            :class:`~understudy.losses.DomainCritic` behind a reversed gradient.
        weight: of the alignment.
        soft_weight: of the teacher's soft labels.
        label_weight: of the hard labels.
        temperature: of the soft labels, above 0.
        target: the field that holds the target domain's inputs.
        layer: the student's layer whose features are aligned; what goes into its last linear layer if not given.
        label: address of the source's hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        example: a small batch, to find the layer by; not needed if that is given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task or an alignment that is none, or if there is neither ``layer`` nor ``example``.
    Family: domain.
    Source: Long et al. 2015 (DAN), arXiv:1502.02791; Sun and Saenko 2016 (Deep CORAL), arXiv:1607.01719; Ganin et al. 2016
        (DANN), arXiv:1505.07818, which give the alignment the weight 1 or tune it.
    Differs: one layer is aligned, where DAN has three; the teacher's soft labels are not in these papers. ``mmd`` and ``coral``
        are of the batch as a whole: a step of several micro-batches is not that of one large batch.
    """
    task = of_classes("domain_adaptation", task)
    if align not in ALIGNS:
        raise InputError(f"domain_adaptation: align={align!r} is not known. {choices(align, ALIGNS)}")
    at = layer or penultimate(student, example, call=options.get("call", plain_call))
    here, there = f"student@{target}", f"teacher@{target}"
    return Distillation(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(partial(kl, temperature=temperature), here, there, weight=soft_weight),
        Term(ALIGNS[align](), f"student.{at}", f"{here}.{at}", weight=weight),
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, here, there)},
        **options,
    )
