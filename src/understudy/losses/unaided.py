"""Losses with which a student teaches itself: no teacher is asked. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

import torch
from torch import Tensor

from understudy.errors import InputError
from understudy.losses.arithmetic import counted_by, exact, same_shape
from understudy.losses.distributions import CLASSES, check_temperature, cross, divergence, log_softened, without_label
from understudy.losses.labels import check_label, labelled

__all__ = ["cs_kd", "ps_kd", "tf_kd", "uskd"]


@counted_by("label", labelled)
@exact
def tf_kd(student: Tensor, label: Tensor, *, temperature: float = 20.0, correct: float = 0.99) -> Tensor:
    r"""KL divergence from a teacher that is made up: nearly sure of the label, and indifferent to all else.

    .. math:: \sum_c p_c \log (p_c / q_c), \quad p = \mathrm{softmax}(u/T),\ q = \mathrm{softmax}(s),\quad
              u_y = a,\ u_{c \neq y} = \frac{1 - a}{C - 1}

    Args:
        student: logits ``[*N, C]``, any real scale; taken at temperature 1.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        temperature: T > 0, of the made-up teacher, whose probabilities are its logits.
        correct: a, the made-up teacher's probability of the label, in (0, 1].

    Returns: one value per label ``[*N]``, in nats, >= 0; 0 for an unlabelled sample, which a :class:`~understudy.Term`
        moreover leaves out of the mean.
    Raises: ShapeError if the leading axes differ; InputError for a temperature, a share or a label that is none.
    Scale: not times T²; free of the batch's size.
    Family: self.
    Source: Yuan et al. 2020, arXiv:1909.11723, section 5: the manually designed teacher.
    Differs: the published code averages over classes as well and multiplies by 100, which is the same for 100 classes.
    See also: cross_entropy, kl.

    >>> tf_kd(torch.zeros(1, 2), torch.tensor([1]))
    tensor([0.0003])
    """
    check_temperature("tf_kd", temperature)
    if not 0 < correct <= 1:
        raise InputError(f"tf_kd: correct={correct!r} is no probability; allowed: above 0, up to 1, such as 0.99.")
    check_label("tf_kd", student, label)
    known = labelled(label)
    classes = student.shape[-1]
    made_up = torch.full_like(student.detach(), (1 - correct) / max(classes - 1, 1))
    made_up = made_up.scatter(-1, label.long().masked_fill(~known, 0).unsqueeze(-1), correct)
    s = student.masked_fill(~known.unsqueeze(-1), 0)
    return divergence(log_softened(made_up, temperature), log_softened(s, 1.0)).masked_fill(~known, 0)


@counted_by("label", labelled)
@exact
def ps_kd(student: Tensor, previous: Tensor, label: Tensor, *, alpha: float = 0.8) -> Tensor:
    r"""Cross-entropy to hard labels that are softened by what the student itself said of the sample before.

    .. math:: -\sum_c \left((1 - \alpha) [c = y] + \alpha\, p_c\right) \log q_c, \quad p = \mathrm{softmax}(t),\
              q = \mathrm{softmax}(s)

    Args:
        student: logits ``[*N, C]``, any real scale.
        previous: the student's own logits ``[*N, C]`` of an earlier epoch.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        alpha: share of the earlier prediction, in [0, 1].

    Returns: one value per label ``[*N]``, in nats, >= 0. It is not 0 where both agree. It is 0 for an unlabelled sample, which
        a :class:`~understudy.Term` moreover leaves out of the mean.
    Raises: ShapeError if the shapes do not go together; InputError for a share or a label that is none.
    Scale: free of the batch's size.
    Family: self.
    Source: Kim et al. 2021, arXiv:2006.12000, equation 3.
    Differs: alpha is fixed; the paper's grows with the epoch. As the loss is linear in it, that is two terms,
        :func:`cross_entropy` and :func:`soft_cross_entropy`, with curves as weights.
    See also: soft_cross_entropy, tf_kd.

    >>> ps_kd(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([1]), alpha=0.5)
    tensor([0.6788])
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"ps_kd: alpha={alpha!r} must be in [0, 1]: the share of the earlier prediction.")
    same_shape("ps_kd", student, previous, CLASSES, other="previous")
    check_label("ps_kd", student, label)
    known = labelled(label)
    s, t = (x.masked_fill(~known.unsqueeze(-1), 0) for x in (student, previous))
    log_q, log_p = (log_softened(x, 1.0) for x in (s, t))
    hard = -log_q.gather(-1, label.long().masked_fill(~known, 0).unsqueeze(-1)).squeeze(-1)
    return ((1 - alpha) * hard + alpha * cross(log_p, log_q)).masked_fill(~known, 0)


@counted_by("label", labelled)
@exact
def cs_kd(student: Tensor, label: Tensor, *, temperature: float = 4.0) -> Tensor:
    r"""KL divergence between the student's predictions for samples of one class, each towards the others.

    .. math:: \frac{T^2}{|M|} \sum_{n \in M} \frac{1}{|S_n|} \sum_{m \in S_n} \mathrm{KL}(p_m \| p_n), \quad
              p = \mathrm{softmax}(s/T),\ S_n = \{m \neq n : y_m = y_n\},\ M = \{n : S_n \neq \emptyset\}

    No gradient flows into :math:`p_m`.

    Args:
        student: logits ``[*N, C]``, any real scale; all leading axes are samples.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        temperature: T > 0.

    Returns: a scalar for the batch, in nats, >= 0 up to rounding, and 0 where predictions within each class agree, or where no
        class has two samples.
    Raises: ShapeError if the leading axes differ; InputError for a temperature or a label that is none.
    Scale: times T²; free of the batch's size.
    Family: self.
    Source: Yun et al. 2020, arXiv:2003.13964, equation 2.
    Differs: the paper's loader draws one partner of the same class for each sample; this takes the mean over all of them that
        are in the batch, so that any loader will do. With a loader of pairs it is :func:`kl` at ``student`` and
        ``stop student@pair``.
    See also: kl.

    >>> cs_kd(torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 0.0]]), torch.tensor([1, 1, 0]), temperature=1.0)
    tensor(0.1155)
    """
    check_temperature("cs_kd", temperature)
    check_label("cs_kd", student, label)
    known = labelled(label).flatten()
    log_q = log_softened(student.reshape(-1, student.shape[-1]).masked_fill(~known.unsqueeze(-1), 0), temperature)
    log_p = log_q.detach()
    same = (label.flatten().unsqueeze(0) == label.flatten().unsqueeze(1)) & known
    partners = (same & ~torch.eye(len(known), dtype=torch.bool, device=same.device)).to(log_q.dtype)
    paired = partners.sum(1)
    share = partners / paired.clamp(min=1).unsqueeze(1)
    # The mean of KL over partners is the mean of their negative entropies and the cross-entropy to their mean prediction.
    entropy = share @ cross(log_p, log_p)
    value = -((share @ log_p.exp()) * log_q).sum(-1) - entropy
    return value.sum() / (paired > 0).sum().clamp(min=1) * (temperature * temperature)


@counted_by("label", labelled)
@exact
def uskd(
    student: Tensor,
    label: Tensor,
    weak: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.1,
    mu: float = 0.005,
) -> Tensor:
    r"""Soft labels that the student makes for itself: surer samples weigh more, and the other classes are ranked.

    .. math:: \frac{1}{N} \sum_n \left( -\alpha\, w_n \log q_{ny} - \beta \sum_{c \neq y} z_{nc} \log \hat q_{nc}
              - \mu \sum_c v_{nc} \log r_{nc} \right), \quad w_n = q_{ny}^2 + 1 - \frac{1}{N} \sum_m q_{my}^2

    with :math:`q = \mathrm{softmax}(s)`, :math:`\hat q = \mathrm{softmax}_{c \neq y}(s)`, :math:`z_{nc}` proportional to 1 over
    the rank of class c, adding up to 1 over the other classes, :math:`r = \mathrm{softmax}` of the weak head, and v the hard
    label smoothed by a tenth. No gradient flows into w and z.

    Args:
        student: logits ``[*N, C]``, any real scale; all leading axes are samples.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.
        weak: logits ``[*N, C]`` of a head on an inner layer, which learns too and has a say in the ranks; without one the
            ranks are the student's, and the last summand is left out.
        alpha: weight of the label's part.
        beta: weight of the other classes' part.
        mu: weight of the weak head's labels.

    Returns: a scalar for the batch, in nats, >= 0; 0 where nothing is labelled.
    Raises: ShapeError if the shapes do not go together; InputError for a label that is none.
    Scale: free of the batch's size.
    Family: self.
    Source: Yang et al. 2023, arXiv:2303.13005, section 3.3; ranks by Zipf's law.
    Differs: as in the published code the label's class has a rank too, which no other class then takes, and with a weak head
        the ranks are those of :math:`r_c / (1 - r_y) + \log q_c / (1 - \log q_y)`, where the paper has q for its logarithm.
    See also: nkd, tf_kd.

    >>> uskd(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor(0.4789)
    """
    check_label("uskd", student, label)
    if weak is not None:
        same_shape("uskd", student, weak, CLASSES, other="weak")
    known = labelled(label).flatten()
    y = label.flatten().long().masked_fill(~known, 0)
    s, *heads = (
        x.reshape(-1, x.shape[-1]).masked_fill(~known.unsqueeze(-1), 0)
        for x in ((student,) if weak is None else (student, weak))
    )
    log_q, *log_r = (log_softened(x, 1.0) for x in (s, *heads))
    count = known.sum().clamp(min=1)
    at_label = log_q.gather(-1, y.unsqueeze(-1)).squeeze(-1)
    square = (2 * at_label.detach()).exp()
    sure = square + 1 - (square * known).sum() / count
    others = cross(_zipf(_standing(log_q, log_r, y), y).log(), log_softened(without_label(s, y), 1.0))
    value = -alpha * sure * at_label + beta * others
    for head in log_r:
        value = value - mu * (0.9 * head.gather(-1, y.unsqueeze(-1)).squeeze(-1) + 0.1 * head.mean(-1))
    return (value * known).sum() / count


def _standing(log_q: Tensor, log_r: list[Tensor], label: Tensor) -> Tensor:
    """By what the classes are ranked."""
    at = label.unsqueeze(-1)
    standing = log_q.detach() / (1 - log_q.detach().gather(-1, at) + 1e-6)
    for head in log_r:
        r = head.detach().exp()
        standing = standing + r / (1 - r.gather(-1, at) + 1e-6)
    return standing


def _zipf(standing: Tensor, label: Tensor) -> Tensor:
    """1 over each class's rank, over the classes but the label's, to a sum of 1."""
    rank = standing.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1
    share = without_label(1 / rank.to(standing.dtype), label)
    return share / share.sum(-1, keepdim=True)
