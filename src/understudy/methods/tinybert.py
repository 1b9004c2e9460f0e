"""TinyBERT: hidden states and attention of every layer, and soft labels."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import attention_scores, mse
from understudy.method import Distillation
from understudy.methods.attentions import Attention, of_both
from understudy.methods.hinted import Layers, at, chosen, hinted, none
from understudy.progress import Curve
from understudy.projectors import Linear
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["tinybert"]


def tinybert(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 1.0,
    attention_weight: float | Curve | None = None,
    soft_weight: float | Curve = 1.0,
    temperature: float = 1.0,
    label_weight: float = 0.0,
    heads: tuple[int, int] | None = None,
    present: str | None = None,
    layers: Layers | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """A transformer's blocks and attention drawn to the teacher's at the same depth, and its output to soft labels.

    Args:
        student: what learns: a transformer.
        teacher: a frozen transformer, as deep or deeper.
        weight: of each pair of hidden states: a number, or a function of progress.
        attention_weight: of each pair of attentions (:func:`understudy.losses.attention_scores`); as ``weight`` if not
            given. With 0 the models need no attention that is made by layers of its own.
        soft_weight: of the soft labels.
        temperature: T of the soft labels.
        label_weight: of the hard labels, which the paper does without.
        heads: of the student's and the teacher's attention; what the models say if not given.
        present: address of a mask over the tokens, such as ``batch.attention_mask``: what is padding counts nowhere.
        layers: blocks of the student and of the teacher, such as ``[("layer.0", "layer.2")]``; the tokens that
            :func:`understudy.matching.pairs` finds if not given.
        example: a small batch, by which layers that are not given are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if blocks or attentions are not to be found, or do not say how many heads they have.
    Family: transformer.
    Source: Jiao et al. 2020, arXiv:1909.10351, equations 7 to 11.
    Differs: all losses in one stage, where the paper fits the layers first and the output after them. The embeddings are
        not compared; add a term for them. Each pair of blocks has a linear map of its own.
    """
    task = task or TASKS["classification"]
    found = chosen(student, teacher, layers, example, options, kind="tokens")
    terms = [Term(mse, *at(pair), weight=weight, project=Linear(), mask=present) for pair in found]
    attention_weight = weight if attention_weight is None else attention_weight
    for mine, theirs in () if none(attention_weight) else of_both(student, teacher):
        ours, others = _heads(mine, theirs, heads)
        loss = partial(attention_scores, student_heads=ours, teacher_heads=others)
        addresses = [f"student.{mine.query}", f"student.{mine.key}", f"teacher.{theirs.query}", f"teacher.{theirs.key}"]
        terms.append(Term(loss, *addresses, *([present] if present else []), weight=attention_weight))
    terms.append(Term(task.soft_loss(temperature), "student", "teacher", weight=soft_weight))
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)


def _heads(student: Attention, teacher: Attention, given: tuple[int, int] | None) -> tuple[int, int]:
    ours, theirs = given or (student.heads, teacher.heads)
    if ours is None or theirs is None:
        raise InputError(
            f"tinybert: {student.query} does not say how many heads it has; give heads=(student's, teacher's)."
        )
    return ours, theirs
