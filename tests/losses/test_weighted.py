from __future__ import annotations

import pytest
import torch
from response_golden import LABEL, golden, golden_logits, logits

from understudy.errors import InputError
from understudy.losses import cross_entropy, soft_cross_entropy, wsld


def test_wsld_gives_the_number_of_the_published_code():
    student, teacher = golden_logits()
    assert float(wsld(student, teacher, LABEL).mean()) == golden("wsld, mean over the batch")
    wrong = [wsld(student, teacher, LABEL) / 4, wsld(teacher, student, LABEL), wsld(student, teacher, LABEL.flip(0))]
    assert all(float(w.mean()) != golden("wsld, mean over the batch", rel=1e-2) for w in wrong)


def test_no_gradient_flows_through_the_weight():
    teacher, label = logits(6, 5, seed=1), torch.arange(6) % 5

    def gradient(cut: bool) -> torch.Tensor:
        student = logits(6, 5).requires_grad_()
        ratio = cross_entropy(student, label) / (cross_entropy(teacher, label) + 1e-7)
        weight = 1 - torch.exp(-(ratio.detach() if cut else ratio))
        (weight * soft_cross_entropy(student, teacher, temperature=2)).sum().backward()
        return student.grad

    student = logits(6, 5).requires_grad_()
    wsld(student, teacher, label).sum().backward()
    torch.testing.assert_close(student.grad, gradient(cut=True), rtol=1e-10, atol=1e-12)
    assert (student.grad - gradient(cut=False)).norm() > 1e-2 * student.grad.norm()


def test_a_student_ahead_of_its_teacher_is_taught_less_and_one_behind_in_full():
    teacher, label = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([1])
    for logit, least, most in ((8.0, 0.0, 0.01), (1.0, 0.6, 0.7), (-20.0, 0.999, 1.0)):
        student = torch.tensor([[0.0, logit, 0.0]])
        share = wsld(student, teacher, label) / soft_cross_entropy(student, teacher, temperature=2)
        assert least <= float(share) <= most


def test_a_teacher_that_has_nothing_left_to_learn_gives_a_finite_weight():
    teacher, label = torch.tensor([[0.0, 1e4], [0.0, 1e4]]), torch.tensor([1, 1])
    student = torch.tensor([[0.0, 0.0], [0.0, 1e4]], requires_grad=True)
    value = wsld(student, teacher, label)
    value.sum().backward()
    torch.testing.assert_close(value[:1], soft_cross_entropy(student[:1], teacher[:1], temperature=2))
    assert value[1] == 0
    assert student.grad.isfinite().all()


def test_a_wrong_temperature_is_refused_under_its_name():
    with pytest.raises(InputError, match="wsld: temperature -1 is not allowed"):
        wsld(logits(1, 3), logits(1, 3), torch.tensor([0]), temperature=-1)
