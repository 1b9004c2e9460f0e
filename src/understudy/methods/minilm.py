"""MiniLM: the last layer's attention, and the relations among its values."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import attention_relation, relation_values
from understudy.method import Distillation
from understudy.methods.attentions import attentions
from understudy.methods.hinted import hinted
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["minilm"]


def minilm(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    heads: int | None = None,
    present: str | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the student's last attention and relations of values drawn to the teacher's last.

    With :func:`understudy.losses.attention_relation` and :func:`understudy.losses.relation_values`.

    Args:
        student: what learns: a transformer, of any depth and width.
        teacher: a frozen transformer.
        weight: of the attention and of the values' relations, each: a number, or a function of progress.
        label_weight: of the hard labels. With 0, as in the paper, what is behind the last attention does not learn; train
            it afterwards.
        heads: of both; what the teacher says if not given.
        present: address of a mask over the tokens, such as ``batch.attention_mask``: what is padding counts nowhere.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if attentions are not to be found, or do not say how many heads they have.
    Family: transformer.
    Source: Wang et al. 2020, arXiv:2002.10957.
    Differs: hard labels beside it; the paper distils on text without labels, and trains on a task afterwards.
    See also: minilmv2, which wants no equal number of heads.
    """
    mine, theirs = attentions("student", student)[-1], attentions("teacher", teacher)[-1]
    heads = heads or theirs.heads
    if heads is None:
        raise InputError(f"minilm: {theirs.query} does not say how many heads it has; give heads=.")
    masked = [present] if present else []
    attended = [f"student.{mine.query}", f"student.{mine.key}", f"teacher.{theirs.query}", f"teacher.{theirs.key}"]
    valued = [f"student.{mine.value}", f"teacher.{theirs.value}"]
    terms = [
        Term(partial(attention_relation, heads=heads), *attended, *masked, weight=weight),
        Term(partial(relation_values, heads=heads), *valued, *masked, weight=weight),
    ]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
