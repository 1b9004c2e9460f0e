"""Several teachers, weighed by what they make of each sample's label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from understudy import losses
from understudy.batch import Call
from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.forward import Forward
from understudy.matching import Found
from understudy.method import Distillation
from understudy.methods.multi_teacher import together
from understudy.methods.taught import of_classes
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.teachers.ensemble import Ensemble
from understudy.term import Term

__all__ = ["ca_mkd"]


def ca_mkd(
    student: nn.Module,
    teacher: Any,
    *,
    temperature: float = 4.0,
    weight: float | Curve = 1.0,
    feature_weight: float | Curve = 50.0,
    label_weight: float = 1.0,
    heads: Sequence[str] | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    example: Any = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the soft ones and last features of several teachers, of which those weigh more that come closer to the label.

    The losses are :func:`understudy.losses.ca_mkd` and :class:`understudy.losses.CAMKD`.

    Args:
        student: what learns: a module from a batch's inputs to logits ``[N, C]``.
        teacher: an :class:`~understudy.teachers.Ensemble`, or a sequence of teachers. For the features they must be modules.
        temperature: of the soft labels, T > 0.
        weight: of the soft labels: a number, or a function of progress.
        feature_weight: of the features, likewise; 0 leaves them out, and the teachers may be callables then.
        label_weight: of the hard labels.
        heads: the last linear layer of the student, then of each teacher, such as ``["head", "fc", "fc"]``; found by a forward of
            the example if not given.
        label: address of the hard labels; -100, or none in the batch, is unlabelled: such samples count nowhere.
        task: classification, which it is if not given.
        example: a small batch, to find the heads by; not needed if they are given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError for another task, if there is neither ``heads`` nor ``example``, or where a head is no linear layer.
    Family: several teachers.
    Source: Zhang et al. 2022, arXiv:2201.00007; weights and temperature as in its code.
    Differs: the code begins with the features in the second epoch; and as the losses do.
    """
    task, teacher = of_classes("ca_mkd", task), together("ca_mkd", teacher)
    members = [f"teacher.{i}" for i in range(len(teacher))]
    terms = [
        Term(task.label_loss, "student", label, weight=label_weight),
        Term(partial(losses.ca_mkd, temperature=temperature), "student", label, *members, weight=weight),
    ]
    if feature_weight != 0:
        ours, *theirs = _heads(student, teacher, heads, example, options.get("call", plain_call))
        read = [
            a for i, path in enumerate(theirs) for a in _classifier(f"teacher.{i}", f"teacher:{i}", path, teacher, i)
        ]
        terms.append(Term(losses.CAMKD(), f"student.{ours}<", label, *read, weight=feature_weight))
    return Distillation(
        *terms,
        student=student,
        teacher=teacher,
        watch={"agreement": (task.agreement, "student", "teacher")},
        **options,
    )


def _heads(student: nn.Module, teacher: Ensemble, heads: Sequence[str] | None, example: Any, call: Call) -> list[str]:
    models = [student, *teacher.members]
    if heads is None:
        return [_last_linear(model, example, call) for model in models]
    if len(heads) != len(models):
        raise InputError(
            f"ca_mkd: heads={list(heads)} must name the student's last linear layer and that of {len(models) - 1} teachers."
        )
    return list(heads)


def _last_linear(model: nn.Module, example: Any, call: Call) -> str:
    if example is None:
        raise InputError(
            "ca_mkd: to find the last linear layers, give example=, a small batch; or name them: heads=['head', 'fc', 'fc']."
        )
    last = Found(Forward(model, example, call=call)).last()
    if last is None or not isinstance(last.module, nn.Linear):
        raise InputError(
            f"ca_mkd: {type(model).__name__} has no linear layer that runs once in a forward, whose features could be compared. "
            "Name it in heads=, or leave the features out: feature_weight=0."
        )
    return last.path


def _classifier(at: str, parameters: str, path: str, teacher: Ensemble, member: int) -> list[str]:
    """Addresses of what goes into a teacher's head, and of the head itself."""
    found = dict(teacher.members[member].named_modules()).get(path)
    if not isinstance(found, nn.Linear):
        what = "nothing" if found is None else f"a {type(found).__name__}"
        raise InputError(
            f"ca_mkd: {at}.{path} is {what}, not the linear layer that gives its logits. Name it in heads=."
        )
    bias = [] if found.bias is None else [f"{parameters}.{path}.bias"]
    return [f"{at}.{path}<", f"{parameters}.{path}.weight", *bias]
