"""Soft labels at several temperatures, for samples, for the batch and for classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import batch_correlation, class_correlation, kl_multi_temperature
from understudy.method import Distillation
from understudy.methods.taught import of_classes, taught_by
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["mlkd"]


def mlkd(
    student: nn.Module,
    teacher: Any,
    *,
    temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
    weight: float = 0.9,
    correlation: float = 1.0,
    label_weight: float = 0.1,
    views: Sequence[str] = (),
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and soft ones on three levels.

    :func:`understudy.losses.kl_multi_temperature`, :func:`understudy.losses.batch_correlation` and
    :func:`understudy.losses.class_correlation`. The last two are of the batch as a whole, so that a step of several
    micro-batches is not that of one large batch; and they grow with the batch, for which the paper has 64 samples.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: a module or any callable to logits of the same classes; or, without views, the address of logits that it
            gave before and that the batch holds, such as ``"batch.soft"``.
        temperatures: each T > 0.
        weight: of all three.
        correlation: of the last two against the first. With a batch of 64 they weigh little for 100 classes, as in the paper,
            and outweigh all else for 4; such cases want 0.01.
        label_weight: of the hard labels.
        views: fields of the batch that hold the inputs augmented, each of which gets all terms, such as
            ``["weak", "strong"]`` in the paper; if none are given, the inputs as they are.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or for views of a teacher that is an address.
    Family: response.
    Source: Jin et al. 2023, CVPR, "Multi-Level Logit Distillation"; weights as in the code for CIFAR-100.
    Differs: the paper keeps, of the weak view, the samples and classes of which the teacher is less sure than of the median.
        Its code multiplies each weak term's mean by the share of those, which is a half; here all count in full.
    """
    task = of_classes("mlkd", task)
    soft, models = taught_by(teacher)
    if views and not models:
        raise InputError(f"mlkd: views={list(views)} need a teacher that can be called; {teacher!r} is an address.")
    shares = {kl_multi_temperature: 1.0, batch_correlation: correlation, class_correlation: correlation}
    levels = [(partial(loss, temperatures=tuple(temperatures)), share) for loss, share in shares.items()]
    terms = []
    for view in [f"@{name}" for name in views] or [""]:
        terms.append(Term(task.label_loss, f"student{view}", label, weight=label_weight))
        terms += [Term(loss, f"student{view}", f"{soft}{view}", weight=weight * share) for loss, share in levels]
    return Distillation(
        *terms,
        student=student,
        watch={"agreement": (task.agreement, *(f"{who}@{views[0]}" if views else who for who in ("student", soft)))},
        **models,
        **options,
    )
