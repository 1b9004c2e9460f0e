"""Losses on a model's last outputs. Shapes: N samples (or any leading axes), C classes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from understudy.losses.arithmetic import counted_by, exact, same_shape
from understudy.losses.distributions import CLASSES, check_temperature, cross, divergence, log_softened
from understudy.losses.labels import UNLABELLED, check_label, labelled

__all__ = [
    "UNLABELLED",
    "cross_entropy",
    "hard_label",
    "kl",
    "kl_multi_temperature",
    "kl_standardized",
    "labelled",
    "soft_cross_entropy",
]


@counted_by("label", labelled)
@exact
def cross_entropy(student: Tensor, label: Tensor) -> Tensor:
    r"""Cross-entropy of the student's distribution against hard labels.

    .. math:: -\log q_y, \quad q = \mathrm{softmax}(s)

    Args:
        student: logits ``[*N, C]``, any real scale; the class axis is the last.
        label: class indices ``[*N]`` in 0..C-1, or -100 for a sample without a label.

    Returns: one value per label, in nats, >= 0; 0 for an unlabelled sample, which a :class:`~understudy.Term`
        moreover leaves out of the mean.
    Raises: ShapeError if the leading axes differ; InputError if labels are not integers, or one is no class (the
        latter checked on the CPU only, where it costs no synchronisation).
    Scale: free of the batch's size.
    Family: response.
    Source: the usual one; Hinton et al. 2015, arXiv:1503.02531, section 2, call it the hard-target term.
    Differs: from ``torch.nn.functional.cross_entropy`` in that the class axis is always last and nothing is averaged.
    See also: kl.

    >>> cross_entropy(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([1, -100]))
    tensor([0.3133, 0.0000])
    """
    check_label("cross_entropy", student, label)
    classes = student.shape[-1]
    value = F.cross_entropy(
        student.reshape(-1, classes), label.reshape(-1).long(), ignore_index=UNLABELLED, reduction="none"
    )
    return value.reshape(label.shape)


@exact
def kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""Forward KL divergence from the teacher's softened distribution to the student's.

    .. math:: T^2 \sum_c p_c \log (p_c / q_c), \quad p = \mathrm{softmax}(t/T),\ q = \mathrm{softmax}(s/T)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order; -inf for a class that cannot be.
        temperature: T > 0. 1 compares the raw distributions; 2 to 8 is usual for images.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the softened distributions agree.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T², so that the gradient does not shrink as T grows; free of the batch's size.
    Family: response.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    Differs: no label term; add one as its own Term.
    See also: cross_entropy, mse.

    >>> kl(torch.zeros(1, 2), torch.tensor([[0., 1.]]))
    tensor([0.1109])
    """
    check_temperature("kl", temperature)
    same_shape("kl", student, teacher, CLASSES)
    log_q = F.log_softmax(student / temperature, dim=-1)
    log_p = F.log_softmax(teacher / temperature, dim=-1)
    p = log_p.exp()
    # Where p is 0 the summand is 0 by its limit; computed, it would be 0 * inf for a class that the teacher rules out.
    gap = (log_p - log_q).masked_fill(p == 0, 0.0)
    return (p * gap).sum(-1) * (temperature * temperature)


@exact
def kl_multi_temperature(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0)
) -> Tensor:
    r"""KL divergence at several temperatures, added up: what MLKD calls prediction augmentation.

    .. math:: \sum_T T^2 \sum_c p_c^T \log (p_c^T / q_c^T), \quad
              p^T = \mathrm{softmax}(t/T),\ q^T = \mathrm{softmax}(s/T)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order.
        temperatures: each T > 0.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the distributions agree.
    Raises: ShapeError if the shapes differ; InputError if a temperature is not positive and finite.
    Scale: each summand times its T²; the sum grows with the number of temperatures; free of the batch's size.
    Family: response.
    Source: Jin et al. 2023 (MLKD), CVPR, "Multi-Level Logit Distillation", section 3.2.
    Differs: nothing; the paper's masks are a term's ``mask=``.
    See also: kl, class_correlation, batch_correlation.

    >>> kl_multi_temperature(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]), temperatures=(1.0, 2.0))
    tensor([0.2321])
    """
    check_temperature("kl_multi_temperature", *temperatures)
    same_shape("kl_multi_temperature", student, teacher, CLASSES)
    total = student.new_zeros(student.shape[:-1])
    for temperature in temperatures:
        softened = divergence(log_softened(teacher, temperature), log_softened(student, temperature))
        total = total + softened * (temperature * temperature)
    return total


@exact
def kl_standardized(student: Tensor, teacher: Tensor, *, temperature: float = 2.0) -> Tensor:
    r"""KL divergence of logits that were each brought to mean 0 and deviation 1, so that only their pattern is matched.

    .. math:: T^2 \sum_c p_c \log (p_c / q_c), \quad p = \mathrm{softmax}(z(t)/T),\ q = \mathrm{softmax}(z(s)/T),\quad
              z(x) = \frac{x - \bar x}{\sqrt{\mathrm{var}(x) + 10^{-6}}}

    Args:
        student: logits ``[*N, C]``, any real scale. Of two classes nothing is left but which is larger.
        teacher: logits ``[*N, C]`` over the same classes in the same order.
        temperature: T > 0, of the standardised logits.

    Returns: one value per row ``[*N]``, in nats, >= 0, and 0 where the standardised logits agree.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T²; free of the batch's size and of the size of the logits, and the gradient shrinks as the student's grow.
    Family: response.
    Source: Sun et al. 2024, arXiv:2403.01427, algorithm 1. The variance is over C - 1.
    Differs: the published code divides by the deviation plus 1e-7, which is the same to 1e-6 for a deviation of 1 or more, but
        has a gradient of 1e7 for a student whose logits are all equal, as those of a head that starts at zero.
    See also: kl.

    >>> kl_standardized(torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[0.0, 20.0, 0.0]]))
    tensor([0.8502])
    """
    check_temperature("kl_standardized", temperature)
    same_shape("kl_standardized", student, teacher, CLASSES)
    log_q, log_p = (log_softened(_standardized(x), temperature) for x in (student, teacher))
    return divergence(log_p, log_q) * (temperature * temperature)


def _standardized(logits: Tensor) -> Tensor:
    centred = logits - logits.mean(-1, keepdim=True)
    variance = centred.square().sum(-1, keepdim=True) / max(logits.shape[-1] - 1, 1)
    return centred / (variance + 1e-6).sqrt()


@exact
def hard_label(student: Tensor, teacher: Tensor) -> Tensor:
    r"""Cross-entropy of the student against the class that the teacher ranks first.

    .. math:: -\log q_{\hat y}, \quad \hat y = \arg\max_c t_c,\ q = \mathrm{softmax}(s)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order; no gradient flows into them.

    Returns: one value per row ``[*N]``, in nats, >= 0; it approaches 0 as the student grows certain of the teacher's class.
    Raises: ShapeError if the shapes differ.
    Scale: free of the batch's size.
    Family: response.
    Source: Touvron et al. 2021 (DeiT), arXiv:2012.12877, equation 3.
    Differs: nothing.
    See also: cross_entropy, soft_cross_entropy.

    >>> hard_label(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 5.0]]))
    tensor([0.3133])
    """
    same_shape("hard_label", student, teacher, CLASSES)
    best = teacher.argmax(-1, keepdim=True) if teacher.shape[-1] else teacher.long()
    return -F.log_softmax(student, dim=-1).gather(-1, best).squeeze(-1)


@exact
def soft_cross_entropy(
    student: Tensor, teacher: Tensor, *, temperature: float = 1.0, probabilities: bool = False
) -> Tensor:
    r"""Cross-entropy of the student against soft labels: :func:`kl` and the soft labels' own entropy.

    .. math:: -T^2 \sum_c p_c \log q_c, \quad p = \mathrm{softmax}(t/T),\ q = \mathrm{softmax}(s/T)

    Args:
        student: logits ``[*N, C]``, any real scale.
        teacher: logits ``[*N, C]`` over the same classes in the same order; or shares.
        temperature: T > 0, of both.
        probabilities: the second tensor holds shares of the classes, >= 0, and not logits, as the labels of mixed samples or
            of several annotators do. Its rows need not add up to 1.

    Returns: one value per row ``[*N]``, in nats, >= 0. It is least, but not 0, where both agree.
    Raises: ShapeError if the shapes differ; InputError if the temperature is not positive and finite.
    Scale: times T², as :func:`kl`, whose gradient it has; free of the batch's size.
    Family: response.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2; Zhang et al. 2019 (BYOT), arXiv:1905.08094, between exits.
    Differs: nothing.
    See also: kl, cross_entropy.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]), probabilities=True)
    tensor([0.6931])
    """
    check_temperature("soft_cross_entropy", temperature)
    same_shape("soft_cross_entropy", student, teacher, CLASSES)
    soft = teacher.log() if probabilities else teacher
    return cross(log_softened(soft, temperature), log_softened(student, temperature)) * (temperature * temperature)
