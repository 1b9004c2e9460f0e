"""MiniLMv2: relations among queries, among keys and among values of one layer."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.losses import relation_values
from understudy.method import Distillation
from understudy.methods.attentions import attentions
from understudy.methods.hinted import hinted
from understudy.progress import Curve
from understudy.tasks import Task
from understudy.term import Term

__all__ = ["minilmv2"]


def minilmv2(
    student: nn.Module,
    teacher: nn.Module,
    *,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    heads: int | None = None,
    teacher_layer: int = -1,
    present: str | None = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and the relations of the student's last queries, keys and values.

    By :func:`understudy.losses.relation_values`.

    Args:
        student: what learns: a transformer, of any depth, width and number of heads.
        teacher: a frozen transformer.
        weight: of each of the three: a number, or a function of progress.
        label_weight: of the hard labels. With 0, as in the paper, what is behind the last attention does not learn; train
            it afterwards.
        heads: relation heads, into which the features of both are cut; as many as the teacher has if not given. The paper
            takes 48 for a teacher of 12 heads, and 64 for one of 16.
        teacher_layer: which of the teacher's layers; the last for teachers of 12, the 21st (20) or 19th of 24 in the paper.
        present: address of a mask over the tokens, such as ``batch.attention_mask``: what is padding counts nowhere.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if attentions are not to be found, or do not say how many heads they have.
    Family: transformer.
    Source: Wang et al. 2021, arXiv:2012.15828.
    Differs: hard labels beside it; the paper distils on text without labels, and trains on a task afterwards.
    See also: minilm.
    """
    mine, all_theirs = attentions("student", student)[-1], attentions("teacher", teacher)
    if not -len(all_theirs) <= teacher_layer < len(all_theirs):
        raise InputError(f"minilmv2: teacher_layer={teacher_layer!r}: the teacher has {len(all_theirs)} attentions.")
    theirs = all_theirs[teacher_layer]
    heads = heads or theirs.heads
    if heads is None:
        raise InputError(f"minilmv2: {theirs.query} does not say how many heads it has; give heads=.")
    loss = partial(relation_values, heads=heads)
    pairs = [(mine.query, theirs.query), (mine.key, theirs.key), (mine.value, theirs.value)]
    masked = [present] if present else []
    terms = [Term(loss, f"student.{a}", f"teacher.{b}", *masked, weight=weight) for a, b in pairs]
    return hinted(student, teacher, *terms, label_weight=label_weight, label=label, task=task, options=options)
