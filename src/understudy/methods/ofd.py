"""Overhaul of feature distillation: margin ReLU and partial distance."""

from __future__ import annotations

from typing import Any

from torch import nn

from understudy import losses
from understudy.method import Distillation
from understudy.methods.hinted import Layers, at, chosen, hinted, projector, scaled
from understudy.progress import Curve
from understudy.reading import unwrap
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["ofd"]


def ofd(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 0.001,
    label_weight: float = 1.0,
    layers: Layers | None = None,
    example: Any = None,
    project: nn.Module | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's features drawn to the teacher's where that helps.

    By :func:`understudy.losses.ofd`.

    Args:
        student: what learns.
        teacher: a frozen module.
        weight: of the last pair, halved for each one before it: a number, or a function of progress.
        label_weight: of the hard labels.
        layers: of the student and of the teacher, such as ``[("layer2", "layer3")]``; those that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        project: between the two, copied for each pair; if not given, a :class:`~understudy.projectors.ConvNorm` for maps and
            a :class:`~understudy.projectors.Linear` else, fitted by the dry run.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if layers are neither given nor to be found.
    Family: feature.
    Source: Heo et al. 2019, arXiv:1904.01866; 1/1000 and the halves as in its published code for CIFAR (1/10000 for
        ImageNet).
    Differs: the teacher's BatchNorm is in evaluation mode, where the published code leaves it in training mode.
        Layers that are chosen are read behind their activation; name those before it, such as ``layer3.1.bn2``.
    """
    found = chosen(student, teacher, layers, example, options)
    terms = [
        Term(
            losses.ofd,
            *at(pair),
            *margin_of(teacher, pair.teacher),
            weight=scaled(weight, 0.5**halves),
            project=projector(pair, project, norm=True),
        )
        for halves, pair in zip(reversed(range(len(found))), found, strict=True)
    ]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)


def margin_of(teacher: Any, layer: str) -> list[str]:
    """Addresses of the weight and bias of the BatchNorm that gives what a layer puts out: the last one inside of it."""
    model = unwrap(teacher)
    if not isinstance(model, nn.Module) or layer not in dict(model.named_modules()):  # what goes in, or one of several
        return []
    norms = [name for name, m in model.get_submodule(layer).named_modules(prefix=layer) if _scales(m)]
    return [f"teacher:{norms[-1]}.{part}" for part in ("weight", "bias")] if norms else []


def _scales(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine
