from __future__ import annotations

import pytest
import torch
from response_golden import golden, golden_logits, logits
from torch import Tensor

from understudy.errors import InputError
from understudy.losses import batch_correlation, class_correlation, dist_inter, dist_intra


def dist(student: Tensor, teacher: Tensor, added: float = 0.0) -> float:
    """Both parts by Pearson's formula, with a number added to each denominator."""
    q, p = student.softmax(-1), teacher.softmax(-1)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        a, b = (x - x.mean(-1, keepdim=True) for x in (a, b))
        return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1) + added)

    return float(2 - correlation(q, p).mean() - correlation(q.t(), p.t()).mean())


def ours(student: Tensor, teacher: Tensor) -> float:
    return float(dist_inter(student, teacher).mean() + dist_intra(student, teacher))


def test_dist_is_the_papers_formula_and_the_published_number_is_that_with_something_added():
    name = "dist_inter, mean over the batch, plus dist_intra"
    given = golden_logits()
    assert dist(*given, added=1e-8) == golden(name)
    assert ours(*given) == pytest.approx(dist(*given), rel=1e-8)
    assert ours(*given) == golden(name, rel=2e-6)
    assert dist(*given) != golden(name, rel=1e-6)
    assert ours(*given[::-1]) == pytest.approx(ours(*given), rel=1e-9)
    assert float(dist_inter(*given).mean()) != golden(name, rel=1e-2)


def test_dist_is_zero_for_probabilities_that_are_a_linear_function_of_the_teachers():
    p = logits(7, 5).softmax(-1)
    student, teacher = (0.3 * p + 0.7 / 5).log(), p.log()
    assert dist_inter(student, teacher).abs().max() < 1e-10
    assert float(dist_intra(student, teacher)) < 1e-10
    away = (0.3 / 5 - 0.2 * p + 0.2).log()  # the other way round
    torch.testing.assert_close(dist_inter(away, teacher), torch.full((7,), 2.0).double(), rtol=1e-8, atol=0)
    torch.testing.assert_close(dist_intra(away, teacher), torch.tensor(2.0).double(), rtol=1e-8, atol=0)


def test_the_parts_look_along_different_axes():
    base = logits(6, 4)
    shifted = base + torch.tensor([0.0, 3.0, -2.0, 1.0])  # each class moves for all samples alike
    assert float(dist_inter(shifted, base).mean()) > 0.2
    moved = base.softmax(-1).lerp(torch.tensor([0.7, 0.1, 0.1, 0.1]).double(), 0.5).log()  # linear within each class
    assert float(dist_intra(moved, base)) < 1e-10
    assert float(dist_inter(moved, base).mean()) > 0.05


def test_dist_has_a_gradient_towards_correlation_which_the_other_sign_has_not():
    student, teacher = logits(6, 4).requires_grad_(), logits(6, 4, seed=1)
    value = dist_intra(student, teacher)
    value.backward()
    better, worse = (dist_intra(student.detach() - s * 0.1 * student.grad, teacher) for s in (1, -1))
    assert better < value < worse


def test_a_batch_of_one_and_constant_predictions_correlate_without_a_gradient_that_is_not_finite():
    assert float(dist_intra(logits(1, 5), logits(1, 5, seed=1))) == 0
    student = torch.zeros(3, 4, requires_grad=True)
    value = dist_inter(student, torch.zeros(3, 4))
    value.sum().backward()
    assert value.eq(0).all()
    assert student.grad.eq(0).all()
    lone = dist_inter(torch.zeros(3, 4), logits(3, 4).float())
    torch.testing.assert_close(lone, torch.ones(3), rtol=1e-4, atol=1e-4)


def test_mlkds_correlations_give_the_numbers_of_the_published_code():
    given = golden_logits()
    for loss, name, factor in (
        (class_correlation, "class_correlation", 5),
        (batch_correlation, "batch_correlation", 4),
    ):
        value = loss(*given, temperatures=(4.0,))
        assert float(value) == golden(f"{name}, temperature 4")
        wrong = (value * factor, value * 16, loss(*given, temperatures=(1.0,)))
        assert all(float(w) != golden(f"{name}, temperature 4", rel=1e-2) for w in wrong)


@pytest.mark.parametrize("loss", [class_correlation, batch_correlation])
def test_temperatures_add_up(loss):
    given = golden_logits()
    each = [loss(*given, temperatures=[t]) for t in (2.0, 3.0, 4.0, 5.0, 6.0)]
    torch.testing.assert_close(loss(*given), sum(each), rtol=1e-12, atol=0)


def test_class_correlation_grows_with_the_square_of_the_batch_and_batch_correlation_with_the_batch():
    given = golden_logits()
    twice = tuple(torch.cat([x, x]) for x in given)
    torch.testing.assert_close(class_correlation(*twice), 4 * class_correlation(*given))
    torch.testing.assert_close(batch_correlation(*twice), 2 * batch_correlation(*given))


@pytest.mark.parametrize("loss", [dist_intra, class_correlation, batch_correlation])
def test_leading_axes_are_samples(loss):
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    torch.testing.assert_close(loss(student, teacher), loss(student.flatten(0, 1), teacher.flatten(0, 1)))


@pytest.mark.parametrize("loss", [class_correlation, batch_correlation])
def test_every_temperature_is_checked(loss):
    with pytest.raises(InputError, match=f"{loss.__name__}: temperature 0.0 is not allowed"):
        loss(logits(2, 3), logits(2, 3), temperatures=(4.0, 0.0))
