"""Relations between samples as they are and turned."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy.batch import Batch
from understudy.errors import InputError
from understudy.losses import kl, view_relations
from understudy.method import Distillation
from understudy.methods.related import Layers, before_the_head
from understudy.methods.taught import of_classes
from understudy.progress import Curve, Progress
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["Turned", "sskd"]


def sskd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 10.0,
    soft_weight: float | Curve = 0.9,
    view_weight: float | Curve = 2.7,
    label_weight: float = 0.1,
    temperature: float = 4.0,
    relation_temperature: float = 0.5,
    view: str = "turned",
    layers: Layers | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard and soft labels, soft labels of an altered view, and how like that view of a sample is to the originals of all.

    The last, :func:`understudy.losses.view_relations`, is of the batch as a whole: a step of several micro-batches is not that of
    one large batch. The teacher's judgement of altered pictures is what a self-supervised task would ask for, without one.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: a frozen module to logits of the same classes.
        weight: of the relations: a number, or a function of progress.
        soft_weight: of the soft labels of the samples as they are.
        view_weight: of the soft labels of the altered view.
        label_weight: of the hard labels.
        temperature: of both soft labels, above 0.
        relation_temperature: of the relations, above 0.
        view: field of the batch that holds the altered inputs. Where a batch has none, they are its pictures ``[N, C, H, W]``
            turned by a quarter, a half or three quarters, as the step says.
        layers: the student's and the teacher's, such as ``[("pool", "pool")]``; what goes into the last linear layer of each if
            not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        example: a small batch, to find the layers by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, if there is neither ``layers`` nor ``example``, or where there is nothing to turn.
    Family: contrastive.
    Source: Xu et al. 2020, arXiv:2006.07114; weights and temperatures as in its code.
    Differs: features are compared as they are, where the code first trains a projection of the teacher's on the task of finding
        the turned sample; one turn a step, where it has all three; every view counts, where it leaves out some wrong ones.
    """
    task = of_classes("sskd", task)
    chosen = before_the_head(student, teacher, layers, example, options)
    soft = partial(kl, temperature=temperature)
    like = partial(view_relations, temperature=relation_temperature)
    relations = [
        Term(
            like,
            f"student.{p.student}",
            f"student@{view}.{p.student}",
            f"teacher.{p.teacher}",
            f"teacher@{view}.{p.teacher}",
            weight=weight,
        )
        for p in chosen
    ]
    return Turned(
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(soft, "student", "teacher", weight=soft_weight),
        Term(soft, f"student@{view}", f"teacher@{view}", weight=view_weight),
        *relations,
        view=view,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


class Turned(Distillation):
    """A distillation whose batches have one field more: their pictures turned.

    Args:
        *terms: some of which read the view.
        view: the field. A batch that has it is left as it is.
        **options: of :class:`~understudy.Distillation`.
    """

    def __init__(self, *terms: Term, view: str, **options: Any) -> None:
        super().__init__(*terms, **options)
        self.view = view

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch with its view, counted."""
        given = Batch.of(batch)
        if self.view not in given:
            pictures = given.get("input")
            if not isinstance(pictures, Tensor) or pictures.ndim != 4 or pictures.shape[2] != pictures.shape[3]:
                raise InputError(
                    f"sskd: there is no field {self.view!r} in the batch, and its inputs are no square pictures [N, C, H, W] "
                    "that could be turned. Give the altered inputs in that field."
                )
            given = Batch.of(given, **{self.view: torch.rot90(pictures, 1 + progress.step % 3, (2, 3))})
        return super().prepare(given, progress)
