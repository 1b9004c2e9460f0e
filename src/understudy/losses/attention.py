"""Where a model looks: maps of activation, and the attention of transformers.

Shapes: N samples, C channels, P positions, T tokens, D features.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import exact, same_shape
from understudy.losses.maps import channels_first, same_area, unit
from understudy.losses.response import kl

__all__ = ["attention_map", "attention_probabilities", "attention_relation", "attention_scores", "relation_values"]

Form = Literal["code", "paper"]


@exact
def attention_map(student: Tensor, teacher: Tensor, *, power: float = 2.0, form: Form = "code") -> Tensor:
    r"""Difference between the maps of where both models are active.

    .. math:: \frac{1}{P} \|Q_s - Q_t\|_2^2 \ \text{(code)},\quad \|Q_s - Q_t\|_2 \ \text{(paper)},\qquad
              Q = \frac{a}{\|a\|_2},\ a_p = \frac{1}{C} \sum_c |F_{cp}|^k

    Args:
        student: maps ``[N, C, H, W]`` or tokens ``[N, T, D]``.
        teacher: the same samples; channels may differ, and of maps the area, of which the smaller counts.
        power: k, at least 1.
        form: ``"code"``, the mean squared difference of the published code; or ``"paper"``, the distance.

    Returns: one value per sample ``[N]``, >= 0, and 0 where the maps agree, as those of a single position always do.
    Raises: ShapeError if samples or tokens do not go together; InputError for another form or a power below 1.
    Scale: free of the batch's size and of the features' scale. In the code's form it falls with the number of
        positions; hence weights such as 1000.
    Family: attention.
    Source: Zagoruyko & Komodakis 2017, arXiv:1612.03928, equation 2.
    Differs: the paper's form leaves out the weight beta / 2, which is the term's.
    See also: attention_probabilities.

    >>> attention_map(torch.tensor([[[[1., 0.]]]]), torch.tensor([[[[1., 1.]]]]))
    tensor([0.2929])
    """
    if form not in get_args(Form) or not 1 <= power < math.inf:
        raise InputError(
            f"attention_map: form={form!r}, power={power!r} is not allowed; form is 'code' or 'paper', power 1 or above."
        )
    if student.ndim < 3 or teacher.ndim < 3:
        raise ShapeError(
            f"attention_map: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher): a vector has no "
            "positions; allowed: maps [N, C, H, W] or tokens [N, T, D]."
        )
    s, t = (activity(x, power) for x in same_area("attention_map", student, teacher))
    if form == "paper":
        distance: Tensor = torch.linalg.vector_norm(s - t, dim=1)
        return distance
    return (s - t).square().mean(1)


def activity(x: Tensor, power: float) -> Tensor:
    """The map ``[N, P]`` of mean activity over the channels, of length 1."""
    return unit(channels_first("attention_map", x).abs().pow(power).mean(1), 1)


@exact
def attention_probabilities(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Mean squared difference of two attention matrices, head by head.

    .. math:: \frac{1}{H T^2} \sum_{h,i,j} (A^s_{hij} - A^t_{hij})^2

    Args:
        student: ``[N, H, T, T]``, whatever the model gives out: probabilities, or the scores before them.
        teacher: ``[N, H, T, T]``; where it has another number of heads, the mean over the heads of both is compared.

    Returns: one value per sample ``[N]``, >= 0, and 0 where they are equal.
    Raises: ShapeError if samples or tokens do not go together.
    Scale: free of the batch's size. Of probabilities it falls with the number of tokens.
    Family: transformer.
    Source: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, equation 7.
    Differs: the paper takes the scores before the softmax; for those see attention_scores, which needs no model that
        gives its attention out.
    See also: attention_scores, attention_relation.

    >>> attention_probabilities(torch.eye(2).view(1, 1, 2, 2), torch.full((1, 1, 2, 2), 0.5))
    tensor([0.2500])
    """
    if student.ndim != 4 or teacher.ndim != 4:
        raise ShapeError(
            f"attention_probabilities: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher); "
            "allowed: attention [N, heads, T, T] of both, as a model with eager attention gives it."
        )
    s, t = _heads(student, teacher)
    same_shape("attention_probabilities", s, t, "Both models must see the same tokens.")
    return (s - t).square().flatten(1).mean(1)


def _heads(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.shape[1] == teacher.shape[1]:
        return student, teacher
    return student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)


@exact
def attention_scores(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    present: Tensor | None = None,
    *,
    student_heads: int = 12,
    teacher_heads: int = 12,
) -> Tensor:
    r"""Mean squared difference of the attention scores before the softmax, made from queries and keys.

    .. math:: \frac{1}{H T^2} \sum_{h,i,j} (A^s_{hij} - A^t_{hij})^2, \quad A_{hij} = \frac{q_{hi} \cdot k_{hj}}{\sqrt{d}}

    Args:
        student_query: ``[N, T, D]``, the output of the layer that makes the queries.
        student_key: ``[N, T, D]``.
        teacher_query: ``[N, T, D]`` of the same tokens; D may differ.
        teacher_key: ``[N, T, D]``.
        present: ``[N, T]``, true or 1 where there is a token; all of them if not given.
        student_heads: heads of the student's attention.
        teacher_heads: heads of the teacher's; where it is another number, the mean over the heads of both is compared.

    Returns: one value per sample ``[N]``, >= 0, and 0 where the scores agree; 0 without any token.
    Raises: ShapeError if tokens do not go together or the heads do not divide the features.
    Scale: a mean over heads and pairs of tokens that are there; free of the batch's size.
    Family: transformer.
    Source: Jiao et al. 2020 (TinyBERT), arXiv:1909.10351, equation 7.
    Differs: the published code counts pairs with padding as 0; here they do not count.
    See also: attention_probabilities, attention_relation.

    >>> attention_scores(*torch.tensor([1., 2., 0., 0.]).view(4, 1, 1, 1), student_heads=1, teacher_heads=1)
    tensor([4.])
    """
    name = "attention_scores"
    s = scores(name, student_query, student_key, student_heads)
    t = scores(name, teacher_query, teacher_key, teacher_heads)
    s, t = _heads(s, t)
    same_shape(name, s, t, "Both models must see the same tokens.")
    square = (s - t).square().mean(1)
    if present is None:
        return square.flatten(1).sum(1) / max(square.shape[1] ** 2, 1)
    there = _present(name, present, student_query)
    pairs = there.unsqueeze(1) & there.unsqueeze(2)
    return square.masked_fill(~pairs, 0).flatten(1).sum(1) / pairs.flatten(1).sum(1).clamp(min=1)


@exact
def attention_relation(
    student_query: Tensor,
    student_key: Tensor,
    teacher_query: Tensor,
    teacher_key: Tensor,
    present: Tensor | None = None,
    *,
    heads: int = 12,
) -> Tensor:
    r"""KL divergence from the teacher's attention to the student's, made from queries and keys.

    .. math:: \frac{1}{H T} \sum_{h,i} \mathrm{KL}(A^t_{hi} \,\|\, A^s_{hi}), \quad
              A_{hi} = \mathrm{softmax}_j\!\left(\frac{q_{hi} \cdot k_{hj}}{\sqrt{d}}\right)

    Args:
        student_query: ``[N, T, D]``, the output of the layer that makes the queries.
        student_key: ``[N, T, D]``.
        teacher_query: ``[N, T, D]`` of the same tokens; D may differ.
        teacher_key: ``[N, T, D]``.
        present: ``[N, T]``, true or 1 where there is a token; all of them if not given.
        heads: into how many parts the features of both are cut.

    Returns: one value per sample ``[N]``, in nats, >= 0, and 0 where the attention agrees; 0 without any token.
    Raises: ShapeError if tokens do not go together or the heads do not divide the features.
    Scale: a mean over heads and the tokens that are there; free of the batch's size.
    Family: transformer.
    Source: Wang et al. 2020 (MiniLM), arXiv:2002.10957, equation 7.
    Differs: tokens that are padding neither attend nor are attended to.
    See also: relation_values, attention_scores.

    >>> attention_relation(*torch.tensor([[0., 0.], [1., 0.], [1., 0.], [1., 0.]]).view(4, 1, 2, 1), heads=1)
    tensor([0.0555])
    """
    s = scores("attention_relation", student_query, student_key, heads)
    t = scores("attention_relation", teacher_query, teacher_key, heads)
    same_shape("attention_relation", s, t, "Both models must see the same tokens.")
    return _divergence(s, t, None if present is None else _present("attention_relation", present, student_query))


def _divergence(s: Tensor, t: Tensor, there: Tensor | None) -> Tensor:
    """Mean over heads and tokens of the divergence between two attentions, given by their scores."""
    if there is None:
        return kl(s, t).mean(1).sum(1) / max(s.shape[2], 1)
    # A sample without any token would be a softmax over nothing.
    hidden = (~there & there.any(1, keepdim=True))[:, None, None]
    each = kl(s.masked_fill(hidden, -math.inf), t.masked_fill(hidden, -math.inf)).mean(1)
    return each.masked_fill(~there, 0).sum(1) / there.sum(1).clamp(min=1)


@exact
def relation_values(student: Tensor, teacher: Tensor, present: Tensor | None = None, *, heads: int = 12) -> Tensor:
    r"""KL divergence between the relations among values, queries or keys.

    .. math:: \frac{1}{H T} \sum_{h,i} \mathrm{KL}(R^t_{hi} \,\|\, R^s_{hi}), \quad
              R_{hi} = \mathrm{softmax}_j\!\left(\frac{v_{hi} \cdot v_{hj}}{\sqrt{d}}\right)

    Args:
        student: ``[N, T, D]``, the output of the layer that makes the values (or queries, or keys).
        teacher: ``[N, T, D]`` of the same tokens; D may differ.
        present: ``[N, T]``, true or 1 where there is a token; all of them if not given.
        heads: relation heads, into which the features of both are cut.

    Returns: one value per sample ``[N]``, in nats, >= 0, and 0 where the relations agree; 0 without any token.
    Raises: ShapeError if tokens do not go together or the heads do not divide the features.
    Scale: a mean over heads and the tokens that are there; free of the batch's size.
    Family: transformer.
    Source: Wang et al. 2020 (MiniLM), arXiv:2002.10957, equation 10; Wang et al. 2021 (MiniLMv2), arXiv:2012.15828,
        equation 4, for queries and keys, with as many relation heads as one likes.
    Differs: tokens that are padding neither attend nor are attended to.
    See also: attention_relation.

    >>> relation_values(torch.zeros(1, 2, 1), torch.tensor([[[1.], [0.]]]), heads=1)
    tensor([0.0555])
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[:2] != teacher.shape[:2]:
        raise ShapeError(
            f"relation_values: shapes {list(student.shape)} (student) and {list(teacher.shape)} (teacher) do not go "
            "together; allowed: [N, T, D] of the same tokens."
        )
    s, t = (scores("relation_values", x, x, heads) for x in (student, teacher))
    return _divergence(s, t, None if present is None else _present("relation_values", present, student))


def scores(loss: str, query: Tensor, key: Tensor, heads: int) -> Tensor:
    """Attention scores ``[N, heads, T, T]``."""
    if query.ndim != 3 or query.shape != key.shape:
        raise ShapeError(f"{loss}: query {list(query.shape)} and key {list(key.shape)}; allowed: [N, T, D] of both.")
    features = query.shape[2]
    if heads < 1 or features % heads:
        raise ShapeError(f"{loss}: {heads} heads do not divide {features} features. Give another number of heads.")
    q, k = (x.unflatten(2, (heads, features // heads)).transpose(1, 2) for x in (query, key))
    # The root on each side: products of large features stay finite where their quotient does.
    root = (features // heads) ** 0.25
    found: Tensor = (q / root) @ (k / root).transpose(2, 3)
    return found


def _present(loss: str, present: Tensor, tokens: Tensor) -> Tensor:
    if present.shape != tokens.shape[:2]:
        raise ShapeError(
            f"{loss}: present {list(present.shape)} does not fit tokens {list(tokens.shape)}; allowed: [N, T]."
        )
    return present != 0
