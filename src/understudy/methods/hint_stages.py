"""FitNets in two stages: the hint first, then the labels."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy.losses import mse
from understudy.method import Distillation
from understudy.methods.hinted import Layers, after, at, chosen, hinted, none, projector, until
from understudy.progress import Curve, linear
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["hint_stages"]


def hint_stages(
    student: nn.Module,
    teacher: nn.Module,
    *,
    share: float = 0.25,
    weight: float | Curve = 1.0,
    temperature: float = 3.0,
    soft_weight: float | Curve | None = None,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    project: nn.Module | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    r"""A hint from an inner layer alone in the first stage; hard and soft labels alone in the second.

    Args:
        student: what learns.
        teacher: a frozen module.
        share: of the run that is its first stage; above 0.
        weight: of the hint in the first stage: a number, or a function of progress. The layers of the student behind the
            guided one do not learn meanwhile.
        temperature: T of the soft labels.
        soft_weight: of the soft labels in the second stage: a number, or a function of that stage's progress. If not given,
            it falls from 4 / T² to 1 / T², which with our loss, that is times T², are the paper's 4 to 1.
        label_weight: of the hard labels in the second stage.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; if not given, the middle one of those
            that :func:`understudy.matching.pairs` finds.
        example: a small batch, by which layers that are not given are chosen.
        project: between the two, copied for each pair; if not given, a :class:`~understudy.projectors.Conv1x1` for maps and
            a :class:`~understudy.projectors.Linear` else, fitted by the dry run.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Romero et al. 2015, arXiv:1412.6550, algorithm 1.
    Differs: both stages are one run with one schedule of the learning rate; the paper trains each until validation stops
        it. Its regressor is a 3x3 convolution or larger.
    See also: fitnets.
    """
    found = chosen(student, teacher, layers, example, options)
    if layers is None:
        found = [found[(len(found) - 1) // 2]]
    task = task or TASKS["classification"]
    if soft_weight is None:
        soft_weight = linear(4 / temperature**2, 1 / temperature**2)
    stage = 0.0 if none(weight) else share
    terms = [Term(mse, *at(p), weight=until(stage, weight), project=projector(p, project)) for p in found]
    soft = Term(task.soft_loss(temperature), "student", "teacher", weight=after(stage, soft_weight))
    hard = after(stage, label_weight)
    return hinted(student, teacher, *terms, soft, label_weight=hard, label=label, task=task, options=options)
