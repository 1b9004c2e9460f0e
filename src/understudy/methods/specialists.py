"""Teachers that each know some of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy import losses
from understudy.address import Address
from understudy.batch import Batch
from understudy.errors import InputError
from understudy.losses.labels import labelled
from understudy.method import Distillation
from understudy.methods.taught import of_classes
from understudy.progress import Curve, Progress
from understudy.tasks import Task
from understudy.teachers.ensemble import Ensemble
from understudy.term import Term

__all__ = ["OfSpecialists", "specialists"]


def specialists(
    student: nn.Module,
    teacher: Any,
    *,
    classes: Sequence[Sequence[int]] | None = None,
    temperature: float = 4.0,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    everything: bool = False,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and for each teacher its soft ones among the classes that it knows.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]`` of all classes.
        teacher: an :class:`~understudy.teachers.Ensemble` with ``classes``; or a sequence of teachers.
        classes: of each, ``[[0, 1, 2], [3, 4]]``, in the order of its outputs. An Ensemble has its own.
        temperature: T > 0.
        weight: of the soft labels, of all teachers together: a number, or a function of progress.
        label_weight: of the hard labels. Without any, what no teacher compares is never learnt: whether a sample is of the
            classes of one or of the other.
        everything: ask each teacher of every sample, as the paper does; if not, of those whose label it knows, and of those
            without a label.
        label: address of the hard labels ``[N]``; -100, or none in the batch, is unlabelled.
        task: classification, which it is if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, or without classes.
    Family: several teachers.
    Source: Vongkulbhisal et al. 2019, CVPR, arXiv:1904.06062, for unlabelled samples; Hinton et al. 2015, arXiv:1503.02531,
        section 5, which asks the specialists whose classes a generalist names. The temperature as in :func:`kd`.
    Differs: the label says whom to ask; each teacher's mean is over the samples that it is asked of.
    """
    task = of_classes("specialists", task)
    if not isinstance(teacher, Ensemble):
        given = list(teacher) if isinstance(teacher, Sequence | nn.ModuleList) else [teacher]
        if classes is None:
            raise InputError(
                "specialists: give classes=, of each teacher those that it knows, such as [[0, 1, 2], [3, 4]]."
            )
        teacher, classes = Ensemble(*given, classes=classes), None
    if classes is not None or teacher.classes is None:
        raise InputError(
            "specialists: say the classes of an Ensemble where it is made: Ensemble(a, b, classes=[[0, 1, 2], [3, 4]])."
        )
    share = _share(weight, len(teacher))
    soft = [
        Term(
            partial(losses.specialist_kl, classes=[own], temperature=temperature),
            "student",
            f"teacher.{i}",
            weight=share,
            mask=None if everything else f"batch.knows/{i}",
            name=f"specialist {i}",
        )
        for i, own in enumerate(teacher.classes)
    ]
    return OfSpecialists(
        Term(task.label_loss, "student", label, weight=label_weight),
        *soft,
        label=label,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


def _share(weight: float | Curve, teachers: int) -> float | Curve:
    return (lambda progress: weight(progress) / teachers) if callable(weight) else weight / teachers


class OfSpecialists(Distillation):
    """A distillation whose batches have one field more: ``knows``, for each teacher which samples it is asked of.

    Args:
        *terms: some of which have it for a mask.
        label: address of the class indices.
        **options: of :class:`~understudy.Distillation`; one model is the ``teacher``, an Ensemble with classes.
    """

    def __init__(self, *terms: Term, label: str, **options: Any) -> None:
        super().__init__(*terms, **options)
        self.label = Address.parse(label)

    def prepare(self, batch: Any, progress: Progress) -> Batch:
        """The batch with whom to ask, counted."""
        given = Batch.of(batch)
        if "knows" not in given:
            label = given.get(str(self.label.module))
            classes: list[list[int]] = self.reader.models["teacher"].classes
            given = Batch.of(given, knows=tuple(_known(label, own, given.rows) for own in classes))
        return super().prepare(given, progress)


def _known(label: Any, own: Sequence[int], rows: int) -> Tensor:
    """Which samples are of these classes, or of unknown ones."""
    if not isinstance(label, Tensor):
        return torch.ones(rows, dtype=torch.bool)
    return torch.isin(label, torch.tensor(own, device=label.device, dtype=label.dtype)) | ~labelled(label)
