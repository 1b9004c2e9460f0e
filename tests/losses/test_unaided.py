from __future__ import annotations

import pytest
import torch
from response_golden import LABEL, golden, golden_logits, logits
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses import cross_entropy, cs_kd, kl, ps_kd, soft_cross_entropy, tf_kd, uskd

NAN = float("nan")


# -- tf_kd -------------------------------------------------------------------------------------------------------------


def test_tf_kd_gives_the_number_of_the_published_code():
    student, _ = golden_logits()
    name = "tf_kd, mean over the batch and the 5 classes"
    assert float(tf_kd(student, LABEL).mean() / 5) == golden(name)
    wrong = (tf_kd(student, LABEL) * 5, tf_kd(student, LABEL, temperature=1), tf_kd(student, LABEL.flip(0)))
    assert all(float(w.mean() / 5) != golden(name, rel=1e-3) for w in wrong)


def test_tf_kd_at_high_temperature_is_near_the_uniform_distribution_and_leans_to_the_label():
    label = torch.tensor([1])
    student = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    value = tf_kd(student, label)
    value.sum().backward()
    assert 0 < value.item() < 1e-3
    assert student.grad.argmin() == 1


@pytest.mark.parametrize("correct", [0, -0.1, 1.5, NAN])
def test_tf_kd_refuses_a_share_that_is_none(correct):
    with pytest.raises(InputError, match=r"tf_kd: correct=.* is no probability"):
        tf_kd(logits(2, 3), torch.tensor([0, 1]), correct=correct)


# -- ps_kd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_ps_kd_is_hard_and_soft_cross_entropy_in_shares(alpha):
    student, previous, label = logits(6, 5), logits(6, 5, seed=1), torch.arange(6) % 5
    expected = (1 - alpha) * cross_entropy(student, label) + alpha * soft_cross_entropy(student, previous)
    torch.testing.assert_close(ps_kd(student, previous, label, alpha=alpha), expected, rtol=1e-12, atol=1e-12)
    assert not torch.isclose(ps_kd(student, previous, label, alpha=0.6), expected).any()


def test_ps_kd_refuses_a_share_outside_0_to_1():
    with pytest.raises(InputError, match=r"ps_kd: alpha=1.1 must be in \[0, 1\]"):
        ps_kd(logits(2, 3), logits(2, 3), torch.tensor([0, 1]), alpha=1.1)


# -- cs_kd -------------------------------------------------------------------------------------------------------------


def test_cs_kd_of_pairs_is_kl_to_the_cut_partner_in_value_and_gradient():
    first, second, label = logits(4, 5), logits(4, 5, seed=1), torch.arange(4)
    mine = torch.cat([first, second]).requires_grad_()
    value = cs_kd(mine, torch.cat([label, label]))
    value.backward()
    a, b = first.clone().requires_grad_(), second.clone().requires_grad_()
    expected = (kl(a, b.detach(), temperature=4).mean() + kl(b, a.detach(), temperature=4).mean()) / 2
    expected.backward()
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(mine.grad, torch.cat([a.grad, b.grad]), rtol=1e-9, atol=1e-13)
    c = first.clone().requires_grad_()
    ((kl(c, second, temperature=4).mean() + kl(second, c, temperature=4).mean()) / 2).backward()  # uncut
    assert (c.grad - a.grad).norm() > 1e-2 * a.grad.norm()


def test_cs_kd_leaves_out_samples_without_a_partner_and_without_a_label():
    student = logits(6, 5)
    paired = cs_kd(student[:2], torch.tensor([3, 3]))
    torch.testing.assert_close(cs_kd(student, torch.tensor([3, 3, 0, 1, -100, -100])), paired)
    alone = student.clone().requires_grad_()
    value = cs_kd(alone, torch.tensor([0, 1, 2, 3, -100, -100]))
    value.backward()
    assert value == 0
    assert alone.grad.eq(0).all()


def test_cs_kd_is_zero_where_predictions_within_a_class_agree():
    student = logits(3, 5).repeat(2, 1)
    assert float(cs_kd(student, torch.arange(3).repeat(2))) == pytest.approx(0, abs=1e-12)
    assert float(cs_kd(student, torch.zeros(6, dtype=torch.long))) > 0.1


# -- uskd --------------------------------------------------------------------------------------------------------------


def assembled(student: Tensor, label: Tensor, cut: bool) -> Tensor:
    """USKD alone, its soft labels cut from the graph or not."""
    q = student.softmax(-1)
    at = q.gather(-1, label.unsqueeze(-1)).squeeze(-1)
    weight = at**2 + 1 - (at**2).mean()
    target = -(weight.detach() if cut else weight) * at.log()
    rows = []
    for row, y in zip(student, label, strict=True):
        rank = torch.empty_like(row)
        rank[row.argsort(descending=True)] = torch.arange(1.0, len(row) + 1, dtype=row.dtype)
        kept = torch.arange(len(row)) != y
        share = 1 / rank[kept]
        rows.append(-(share / share.sum() * row[kept].log_softmax(-1)).sum())
    return (target + 0.1 * torch.stack(rows)).mean()


def test_uskd_is_its_two_parts_and_cuts_the_labels_that_it_makes():
    label = torch.arange(6) % 5
    mine, cut, uncut = (logits(6, 5).requires_grad_() for _ in range(3))
    values = uskd(mine, label), assembled(cut, label, True), assembled(uncut, label, False)
    for value in values:
        value.backward()
    torch.testing.assert_close(values[0], values[1], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(mine.grad, cut.grad, rtol=1e-9, atol=1e-12)
    assert (mine.grad - uncut.grad).norm() > 1e-2 * mine.grad.norm()


def test_uskd_with_a_weak_head_trains_it_on_smoothed_labels():
    student, weak, label = logits(6, 5), logits(6, 5, seed=1).requires_grad_(), torch.arange(6) % 5
    uskd(student, label, weak, mu=0.5).backward()
    smooth = 0.9 * torch.eye(5, dtype=torch.float64)[label] + 0.02
    torch.testing.assert_close(weak.grad, 0.5 * (weak.detach().softmax(-1) - smooth) / 6, rtol=1e-9, atol=1e-12)


def test_the_weak_head_has_a_say_in_the_ranks():
    student, label = logits(1, 4) * 0 + torch.tensor([3.0, 0.0, 0.1, 0.2]), torch.tensor([0])
    weak = torch.tensor([[0.0, 9.0, 0.0, 0.0]], dtype=torch.float64)
    without, given = uskd(student, label, mu=0), uskd(student, label, weak, mu=0)
    # Class 1, the student's last, becomes its second: more is asked of what it holds least likely.
    assert given > without + 1e-3


def test_uskd_averages_over_what_is_labelled():
    student, label = logits(6, 5), torch.tensor([0, -100, 2, 3, -100, 1])
    held = student.clone()
    held[1] = NAN
    torch.testing.assert_close(uskd(held, label), uskd(student[label >= 0], label[label >= 0]))
    assert uskd(student, torch.full((6,), -100)) == 0


def test_uskd_refuses_a_weak_head_of_other_classes():
    with pytest.raises(ShapeError, match=r"uskd: shapes \[2, 3\] \(student\) and \[2, 4\] \(weak\) differ in axis 1"):
        uskd(logits(2, 3), torch.tensor([0, 1]), logits(2, 4))
