from __future__ import annotations

import pytest
import torch
from response_golden import LABEL, golden, golden_logits, logits
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses import cross_entropy, dkd, kl, nkd
from understudy.losses.arithmetic import counted

NAN, INF = float("nan"), float("inf")


def published(student: Tensor, teacher: Tensor, label: Tensor, temperature: float, alpha: float, beta: float) -> Tensor:
    """DKD by logarithms of probabilities, and 1000 off the label's logit."""
    q, p = ((x / temperature).softmax(-1) for x in (student, teacher))
    at = label.unsqueeze(-1)
    b, a = (torch.cat([x.gather(-1, at), 1 - x.gather(-1, at)], -1) for x in (q, p))
    off = 1000.0 * F.one_hot(label, student.shape[-1])
    log_q, log_p = ((x / temperature - off).log_softmax(-1) for x in (student, teacher))
    target, others = (a * (a.log() - b.log())).sum(-1), (log_p.exp() * (log_p - log_q)).sum(-1)
    return temperature**2 * (alpha * target + beta * others)


# -- dkd ---------------------------------------------------------------------------------------------------------------


def test_dkd_gives_the_numbers_of_the_published_code():
    student, teacher = golden_logits()
    assert float(dkd(student, teacher, LABEL).mean()) == golden("dkd, mean over the batch")
    assert float(dkd(student, teacher, LABEL, beta=0).mean()) == golden("dkd with beta 0, mean over the batch")
    wrong = [dkd(teacher, student, LABEL), dkd(student, teacher, LABEL.flip(0)), dkd(student, teacher, LABEL) / 16]
    assert all(float(w.mean()) != golden("dkd, mean over the batch", rel=1e-2) for w in wrong)


def test_kd_is_the_targets_part_and_the_others_times_what_is_not_the_targets():
    student, teacher, label = logits(6, 5), logits(6, 5, seed=1), torch.arange(6) % 5
    for temperature in (1.0, 4.0):
        parts = [dkd(student, teacher, label, temperature=temperature, alpha=a, beta=1 - a) for a in (1.0, 0.0)]
        rest = 1 - (teacher / temperature).softmax(-1).gather(-1, label.unsqueeze(-1)).squeeze(-1)
        whole = kl(student, teacher, temperature=temperature)
        torch.testing.assert_close(parts[0] + rest * parts[1], whole, rtol=1e-11, atol=1e-12)
        assert not torch.isclose(parts[0] + parts[1], whole).any()


def test_dkd_equals_the_published_form_in_value_and_gradient_where_that_is_finite():
    given = logits(6, 5), logits(6, 5, seed=1), torch.arange(6) % 5
    mine, theirs = (given[0].clone().requires_grad_() for _ in range(2))
    value, expected = dkd(mine, *given[1:]), published(theirs, *given[1:], 4.0, 1.0, 8.0)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_dkd_is_finite_for_a_sure_student_where_the_published_form_is_not():
    student, teacher, label = torch.tensor([[600.0, 0.0, 0.0]]), torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([0])
    mine, theirs = (student.clone().requires_grad_() for _ in range(2))
    value, naive = dkd(mine, teacher, label, temperature=1), published(theirs, teacher, label, 1.0, 1.0, 8.0)
    value.sum().backward()
    naive.sum().backward()
    assert not naive.isfinite().all()
    assert not theirs.grad.isfinite().all()
    assert value.item() == pytest.approx(float(dkd(student.double(), teacher.double(), label, temperature=1)), rel=1e-5)
    # All that the student must learn: how much of the rest there is, which is 1 - p, nearly all of it at the label now.
    torch.testing.assert_close(mine.grad[0, 0], 1 - teacher.softmax(-1)[0, 0])


def test_dkd_keeps_the_label_out_of_the_others_however_large_its_logit():
    student, teacher, label = torch.tensor([[2500.0, 0.0, 1.0]]), torch.tensor([[2500.0, 1.0, 0.0]]), torch.tensor([0])
    expected = kl(student[:, 1:], teacher[:, 1:])
    assert float(dkd(student, teacher, label, temperature=1, alpha=0, beta=1)) == pytest.approx(float(expected))
    off = torch.tensor([1000.0, 0.0, 0.0])
    assert float(kl(student - off, teacher - off)) == pytest.approx(0, abs=1e-6)


def test_dkd_of_two_classes_has_nothing_to_say_of_others():
    given = logits(4, 2), logits(4, 2, seed=1), torch.tensor([0, 1, 1, 0])
    torch.testing.assert_close(dkd(*given, beta=8), dkd(*given, beta=0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(dkd(*given), kl(*given[:2], temperature=4), rtol=1e-11, atol=1e-12)


# -- nkd ---------------------------------------------------------------------------------------------------------------


def test_nkd_gives_the_number_of_the_published_code():
    student, teacher = golden_logits()
    assert float(nkd(student, teacher, LABEL).mean()) == golden("nkd, mean over the batch")
    wrong = [
        nkd(student, teacher, LABEL, gamma=1.0),
        nkd(teacher, student, LABEL),
        nkd(student, teacher, LABEL.flip(0)),
    ]
    assert all(float(w.mean()) != golden("nkd, mean over the batch", rel=1e-2) for w in wrong)


def test_nkd_takes_the_label_at_temperature_1_and_the_others_softened():
    student, teacher, label = logits(6, 5), logits(6, 5, seed=1), torch.arange(6) % 5
    target = teacher.softmax(-1).gather(-1, label.unsqueeze(-1)).squeeze(-1) * cross_entropy(student, label)
    torch.testing.assert_close(nkd(student, teacher, label, temperature=3, gamma=0), target, rtol=1e-12, atol=1e-12)
    s, t = (
        torch.stack([row[c != label[n]] for n, row in enumerate(x)])
        for c in [torch.arange(5)]
        for x in (student, teacher)
    )
    others = -9 * ((t / 3).softmax(-1) * (s / 3).log_softmax(-1)).sum(-1)
    value = nkd(student, teacher, label, temperature=3, gamma=2)
    torch.testing.assert_close(value - target, 2 * others, rtol=1e-11, atol=1e-12)


# -- both --------------------------------------------------------------------------------------------------------------

both = pytest.mark.parametrize("loss", [dkd, nkd])


@both
def test_an_unlabelled_sample_counts_nothing_whatever_it_holds(loss):
    student, teacher, label = logits(3, 4).requires_grad_(), logits(3, 4, seed=1), torch.tensor([1, -100, 3])
    with torch.no_grad():
        student[1] = torch.tensor([NAN, INF, -INF, 0.0])
    value = loss(student, teacher, label)
    value.sum().backward()
    assert value[1] == 0
    assert student.grad[1].eq(0).all()
    assert student.grad[[0, 2]].isfinite().all()
    torch.testing.assert_close(value[[0, 2]], loss(student[[0, 2]], teacher[[0, 2]], label[[0, 2]]))
    argument, present = counted(loss)
    assert argument == "label"
    assert present(label).tolist() == [True, False, True]


@both
def test_wrong_arguments_are_named(loss):
    given = logits(3, 4), logits(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(InputError, match=f"{loss.__name__}: temperature 0 is not allowed"):
        loss(*given, temperature=0)
    with pytest.raises(
        InputError, match=rf"{loss.__name__}: label 4 at \[1\] is not a class of a student with 4 outputs"
    ):
        loss(*given[:2], torch.tensor([0, 4, 2]))
    with pytest.raises(ShapeError, match=f"{loss.__name__}: student .* and label .* do not go together"):
        loss(*given[:2], torch.tensor([0, 1]))
    with pytest.raises(InputError, match="For soft labels use soft_cross_entropy"):
        loss(*given[:2], torch.zeros(3))
