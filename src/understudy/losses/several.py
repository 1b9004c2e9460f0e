"""Losses of one student and several teachers. Shapes: N samples (or any leading axes), C classes, K teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses.arithmetic import counted_by, exact, same_shape
from understudy.losses.distributions import CLASSES, check_temperature, cross, divergence, log_softened
from understudy.losses.labels import check_label, labelled
from understudy.losses.min_norm import min_norm

__all__ = ["aekd", "average_kl", "ca_mkd", "confidence", "ebkd", "specialist_kl"]


@exact
def average_kl(
    student: Tensor, *teachers: Tensor, temperature: float = 4.0, weights: Sequence[float] | None = None
) -> Tensor:
    r"""Mean of the KL divergences from several teachers' softened distributions to the student's.

    .. math:: T^2 \sum_k w_k \sum_c p_{kc} \log (p_{kc} / q_c), \quad p_k = \mathrm{softmax}(t_k/T),\ q = \mathrm{softmax}(s/T)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teachers: logits ``[*N, C]`` of each, over the same classes in the same order.
        temperature: T > 0.
        weights: one for each teacher, >= 0; divided by their sum. All alike if not given.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the student's distribution is that of every teacher.
    Raises: ShapeError if the shapes differ; InputError without a teacher, or for a temperature or weights that are none.
    Scale: times T²; free of the batch's size and of the number of teachers.
    Family: several teachers.
    Source: You et al. 2017, KDD, "Learning from Multiple Teacher Networks", with a loss for each teacher as in the code of
        Zhang et al. 2022 (CA-MKD), arXiv:2201.00007.
    Differs: the gradient is that of one KL divergence from the mean of the teachers' distributions (You et al.); the value is
        larger by as much as the teachers differ from one another.
    See also: kl, ebkd, ca_mkd, aekd.

    >>> average_kl(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), temperature=1.0)
    tensor([0.0555])
    """
    apart = _divergences("average_kl", student, teachers, temperature)
    shares = _shares("average_kl", weights, len(teachers))
    return sum((share * one for share, one in zip(shares, apart, strict=True)), torch.zeros_like(apart[0]))


@exact
def ebkd(student: Tensor, *teachers: Tensor, temperature: float = 4.0) -> Tensor:
    r"""KL divergences from several teachers, of which the surer ones weigh more, sample by sample.

    .. math:: \frac{T^2}{K} \sum_k \left(1 - \frac{H_k}{\sum_j H_j}\right) \mathrm{KL}(p_k \| q), \quad
              H_k = \text{the entropy of } \mathrm{softmax}(t_k)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teachers: logits ``[*N, C]`` of each, over the same classes in the same order.
        temperature: T > 0, of the distributions that are compared; the entropies are those at 1.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the student's distribution is that of every teacher.
    Raises: ShapeError if the shapes differ; InputError without a teacher, or if the temperature is not positive and finite.
    Scale: times T²; the weights of K teachers add up to (K - 1) / K: of two equal ones, half of :func:`average_kl`.
    Family: several teachers.
    Source: Kwon et al. 2020, ICASSP, "Adaptive Knowledge Distillation Based on Entropy"; as in the code of Zhang et al. 2022,
        arXiv:2201.00007.
    Differs: the paper weighs by the softmax of negative entropies. Teachers that are all certain weigh alike, and one alone
        weighs 1, where the code has 0 / 0.
    See also: average_kl, ca_mkd.

    >>> ebkd(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2), temperature=1.0)
    tensor([0.1073])
    """
    apart = torch.stack(_divergences("ebkd", student, teachers, temperature))
    logs = [log_softened(teacher, 1.0) for teacher in teachers]
    entropy = torch.stack([cross(log, log) for log in logs])
    total = entropy.sum(0)
    share = torch.where(total > 0, entropy / total.masked_fill(total <= 0, 1.0), 1 / len(teachers))
    return _mixed(1 - share, apart)


@counted_by("label", labelled)
@exact
def ca_mkd(student: Tensor, label: Tensor, *teachers: Tensor, temperature: float = 4.0) -> Tensor:
    r"""KL divergences from several teachers, of which those weigh more that come closer to the label, sample by sample.

    .. math:: \frac{T^2}{K} \sum_k w_k\, \mathrm{KL}(p_k \| q), \quad w_k = \frac{1}{K - 1} \left(1 -
              \frac{e^{\ell_k}}{\sum_j e^{\ell_j}}\right),\ \ell_k = \text{the cross-entropy of } t_k

    Args:
        student: logits ``[*N, C]``, any real scale.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        teachers: logits ``[*N, C]`` of each, over the same classes in the same order.
        temperature: T > 0, of the distributions that are compared; the cross-entropies are those at 1.

    Returns: one value per label ``[*N]``, in nats, >= 0, and 0 where the student's distribution is that of every teacher; 0 for
        an unlabelled sample, which a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError without a teacher, or for a temperature or a label that is
        none.
    Scale: times T²; the weights add up to 1 / K: of K equal teachers it is :func:`average_kl` over K.
    Family: several teachers.
    Source: Zhang et al. 2022, arXiv:2201.00007, equations 2 and 3.
    Differs: the paper does not divide by K, its code does. One teacher alone weighs 1, where the code has 0 / 0.
    See also: average_kl, ebkd, CAMKD.

    >>> ca_mkd(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2), temperature=1.0)
    tensor([0.1046])
    """
    check_label("ca_mkd", student, label)
    known = labelled(label).unsqueeze(-1)
    student, *cut = (x.masked_fill(~known, 0) if x.shape == student.shape else x for x in (student, *teachers))
    apart = torch.stack(_divergences("ca_mkd", student, cut, temperature))
    value = _mixed(confidence(label, *cut), apart)
    return value.masked_fill(~labelled(label), 0)


def confidence(label: Tensor, *logits: Tensor) -> Tensor:
    """How much each of several models weighs for each sample: the more, the closer it comes to the label ``[K, *N]``."""
    losses = torch.stack([F.cross_entropy(z.flatten(0, -2), label.flatten().long(), reduction="none") for z in logits])
    shares = (1 - losses.softmax(0)) / max(len(logits) - 1, 1) if len(logits) > 1 else torch.ones_like(losses)
    return shares.reshape(len(logits), *label.shape)


@exact
def aekd(student: Tensor, *teachers: Tensor, temperature: float = 4.0, cap: float = 1.0) -> Tensor:
    r"""KL divergences from several teachers, weighed so that their gradients disagree least: none is made much worse.

    .. math:: \frac{T^2}{N} \sum_k a_k \sum_n \mathrm{KL}(p_{kn} \| q_n), \quad a = \arg\min_a \Big\| \sum_k a_k g_k \Big\|^2,\
              g_k = \frac{T}{N} \sum_n (q_n - p_{kn}),\ \sum_k a_k = 1,\ 0 \le a_k \le \mathrm{cap}

    with :math:`g_k` the mean gradient of the student's logits. No gradient flows into the weights.

    Args:
        student: logits ``[*N, C]``, any real scale; all leading axes are samples.
        teachers: logits ``[*N, C]`` of each, over the same classes in the same order.
        temperature: T > 0.
        cap: most that one teacher may weigh: C of the paper, in (0, 1]; 1 / K or less makes all alike.

    Returns: a scalar, in nats, >= 0, and 0 where the student's distribution is that of every teacher.
    Raises: ShapeError if the shapes differ; InputError without a teacher, or for a temperature or a cap that is none.
    Scale: times T²; free of the batch's size.
    Family: several teachers.
    Source: Du et al. 2020 (AE-KD), NeurIPS, "Agree to Disagree", equation 6 with the gradients of logits.
    Differs: the published code solves it with a one-class support vector machine, to 1e-6; this one in closed form for two
        teachers, and to rounding for more.
    See also: average_kl, ca_mkd.

    >>> aekd(torch.zeros(1, 2), torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]]), temperature=1.0)
    tensor(0.1928)
    """
    if not 0 < cap <= 1:
        raise InputError(f"aekd: cap={cap!r} must be above 0 and at most 1: the most that one teacher may weigh.")
    apart = torch.stack(_divergences("aekd", student, teachers, temperature)).flatten(1)
    count = max(apart.shape[1], 1)
    with torch.no_grad():
        q, *targets = ((x / temperature).softmax(-1).reshape(-1, x.shape[-1]) for x in (student, *teachers))
        pulls = torch.stack([(q - p).sum(0) / count for p in targets])
        share = min_norm(pulls @ pulls.T, cap)
    return (share * (apart.sum(1) / count)).sum()


@exact
def specialist_kl(
    student: Tensor, *teachers: Tensor, classes: Sequence[Sequence[int]], temperature: float = 4.0
) -> Tensor:
    r"""KL divergences from teachers that each know some of the classes, each among its own.

    .. math:: \frac{T^2}{K} \sum_k \sum_{c \in L_k} p_{kc} \log (p_{kc} / q_{kc}), \quad p_k = \mathrm{softmax}(t_k/T),\
              q_k = \mathrm{softmax}_{c \in L_k}(s/T)

    It says nothing of classes that no teacher knows both of: that takes labels, or teachers that overlap.

    Args:
        student: logits ``[*N, C]`` over all classes, any real scale.
        teachers: logits ``[*N, C_k]`` of each, over its own classes.
        classes: of each teacher, in the order of its outputs: ``[[0, 1, 2], [3, 4]]``.
        temperature: T > 0.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the student's distribution among each teacher's classes is
        that teacher's.
    Raises: ShapeError if the shapes do not go together; InputError for classes that the student has not, or a temperature that
        is none.
    Scale: times T²; free of the batch's size and of the number of teachers.
    Family: several teachers.
    Source: Vongkulbhisal et al. 2019, CVPR, arXiv:1904.06062, equation 4; Hinton et al. 2015, arXiv:1503.02531, section 5.
    Differs: KL divergence for cross-entropy, which has the same gradient; the mean over teachers for the sum.
    See also: average_kl.

    >>> specialist_kl(torch.zeros(1, 3), torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2), classes=[[0, 2], [1, 2]], temperature=1.0)
    tensor([0.0555])
    """
    check_temperature("specialist_kl", temperature)
    _check_classes(student, teachers, classes)
    apart = []
    for teacher, own in zip(teachers, classes, strict=True):
        ours = student[..., torch.tensor(list(own), dtype=torch.long, device=student.device)]
        same_shape("specialist_kl", ours, teacher, "Give each teacher's own classes, as many as it has outputs.")
        apart.append(divergence(log_softened(teacher, temperature), log_softened(ours, temperature)))
    return sum(apart, torch.zeros_like(apart[0])) * (temperature * temperature) / len(apart)


def _check_classes(student: Tensor, teachers: Sequence[Tensor], classes: Sequence[Sequence[int]]) -> None:
    if not teachers or len(classes) != len(teachers):
        raise InputError(
            f"specialist_kl: classes are given of {len(classes)} teachers, and there are {len(teachers)}; give a list for each."
        )
    if not student.ndim:
        raise ShapeError("specialist_kl: student [] has no class axis; allowed: [*N, C].")
    outside = sorted({c for own in classes for c in own if not 0 <= c < student.shape[-1]})
    if outside or not all(len(own) and len(set(own)) == len(own) for own in classes):
        raise InputError(
            f"specialist_kl: classes {[list(own) for own in classes]} must be lists of different classes in "
            f"0..{student.shape[-1] - 1}, at least one each."
        )


def _divergences(loss: str, student: Tensor, teachers: Sequence[Tensor], temperature: float) -> list[Tensor]:
    """T² KL from each teacher."""
    check_temperature(loss, temperature)
    if not teachers:
        raise InputError(
            f"{loss}: there is no teacher; give at least one: Term(loss, 'student', 'teacher.0', 'teacher.1')."
        )
    for teacher in teachers:
        same_shape(loss, student, teacher, CLASSES)
    log_q = log_softened(student, temperature)
    return [divergence(log_softened(teacher, temperature), log_q) * (temperature * temperature) for teacher in teachers]


def _mixed(shares: Tensor, apart: Tensor) -> Tensor:
    """The mean over teachers ``[K, *N]`` of their weighted losses; of a single teacher, its own."""
    return (shares * apart).mean(0) if len(apart) > 1 else apart[0]


def _shares(loss: str, weights: Sequence[float] | None, teachers: int) -> list[float]:
    if weights is None:
        return [1 / teachers] * teachers
    if len(weights) != teachers or not all(0 <= w < float("inf") for w in weights) or not sum(weights) > 0:
        raise InputError(
            f"{loss}: weights {list(weights)} do not fit {teachers} teachers; allowed: a number for each, none below 0, not all 0."
        )
    return [w / sum(weights) for w in weights]
