from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from response_golden import golden
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses import (
    cross_entropy,
    hard_label,
    kl,
    kl_multi_temperature,
    kl_standardized,
    soft_cross_entropy,
)
from understudy.losses.arithmetic import counted
from understudy.losses.distributions import divergence
from understudy.losses.response import _standardized

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "response_and_hint.json").read_text())["values"]
TEMPERATURES = [0.5, 1.0, 4.0, 20.0]


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def golden_logits() -> tuple[torch.Tensor, torch.Tensor]:
    i, j = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(5.0, dtype=torch.float64)
    return 3 * torch.sin(0.7 * i + 1.3 * j + 0.1), 4 * torch.cos(0.5 * i - 0.9 * j + 0.2)


# -- kl ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_kl_equals_torch_times_the_square_of_the_temperature(temperature):
    student, teacher = logits(7, 5), logits(7, 5, seed=1)
    mine, theirs = (student.clone().requires_grad_() for _ in range(2))
    value = kl(mine, teacher, temperature=temperature)
    log_q, log_p = (x.div(temperature).log_softmax(-1) for x in (theirs, teacher))
    expected = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1) * temperature**2
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_kl_gives_the_number_of_the_published_code():
    value = kl(*golden_logits(), temperature=4).mean()
    golden = GOLDEN["kl, temperature 4, mean over the batch"]["value"]
    assert float(value) == pytest.approx(golden, rel=1e-10)
    assert float(kl(*reversed(golden_logits()), temperature=4).mean()) != pytest.approx(golden, rel=1e-2)


def test_kl_is_of_the_teacher_to_the_student_and_not_the_other_way_round():
    student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 50.0]])
    assert float(kl(student, teacher)) == pytest.approx(math.log(2))
    assert float(kl(teacher, student)) > 20


def test_kl_has_a_gradient_whose_size_does_not_shrink_with_the_temperature():
    def norm(temperature: float) -> float:
        student = logits(50, 10).requires_grad_()
        kl(student, logits(50, 10, seed=1), temperature=temperature).mean().backward()
        return float(student.grad.norm())

    norms = {t: norm(t) for t in (10.0, 100.0, 1000.0)}
    assert max(norms.values()) / min(norms.values()) < 1.5
    without = [n / t**2 for t, n in norms.items()]
    assert max(without) / min(without) > 5000


def test_kl_does_not_change_with_a_constant_added_to_the_logits():
    student, teacher = logits(6, 4), logits(6, 4, seed=1)
    torch.testing.assert_close(kl(student + 7, teacher - 3), kl(student, teacher), rtol=1e-11, atol=1e-11)


def test_kl_of_tokens_is_that_of_each_token():
    student, teacher = logits(2, 3, 4), logits(2, 3, 4, seed=1)
    value = kl(student, teacher, temperature=2)
    assert value.shape == (2, 3)
    torch.testing.assert_close(value[1, 2], kl(student[1, 2], teacher[1, 2], temperature=2))


def test_kl_with_a_class_that_the_teacher_rules_out_counts_only_the_others():
    student, teacher = logits(5, 4).requires_grad_(), logits(5, 4, seed=1)
    teacher[:, 2] = -math.inf
    value = kl(student, teacher, temperature=2)
    p, log_q = teacher.div(2).softmax(-1), student.div(2).log_softmax(-1)
    kept = [0, 1, 3]
    expected = 4 * (p[:, kept] * (p[:, kept].log() - log_q[:, kept])).sum(-1)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    value.sum().backward()
    torch.testing.assert_close(student.grad, 2 * (student.detach().div(2).softmax(-1) - p), rtol=1e-12, atol=1e-12)


def test_kl_with_a_class_that_both_rule_out_is_kl_without_it():
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    student[:, 1] = teacher[:, 1] = -math.inf
    kept = [0, 2, 3]
    torch.testing.assert_close(kl(student, teacher), kl(student[:, kept], teacher[:, kept]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, math.inf])
def test_kl_refuses_a_temperature_that_is_no_temperature(temperature):
    with pytest.raises(InputError, match=r"kl: temperature .* must be finite and above 0, and 1 to 8 is usual"):
        kl(logits(2, 3), logits(2, 3), temperature=temperature)


def test_kl_names_both_shapes_and_the_axis_in_which_they_differ():
    with pytest.raises(ShapeError) as error:
        kl(logits(2, 3), logits(2, 4))
    text = "kl: shapes [2, 3] (student) and [2, 4] (teacher) differ in axis 1. kl needs equal shapes. "
    assert str(error.value) == text + "Both models must score the same classes in the same order."
    with pytest.raises(ShapeError, match="differ in their number of axes"):
        kl(logits(2, 3), logits(2, 3, 1))


# -- cross_entropy -----------------------------------------------------------------------------------------------------


def test_cross_entropy_equals_torch_in_value_and_gradient():
    label = torch.tensor([0, 4, -100, 2, 2, -100])
    mine, theirs = (logits(6, 5).requires_grad_() for _ in range(2))
    value, expected = cross_entropy(mine, label), F.cross_entropy(theirs, label, reduction="none")
    assert torch.equal(value, expected)
    value.sum().backward()
    expected.sum().backward()
    assert torch.equal(mine.grad, theirs.grad)
    assert value[2] == value[5] == 0
    assert mine.grad[2].eq(0).all()


def test_cross_entropy_gives_the_number_of_the_published_code():
    student, teacher = golden_logits()
    value = cross_entropy(student, teacher.argmax(-1)).mean()
    golden = GOLDEN["cross_entropy, label = the teacher's argmax, mean over the batch"]["value"]
    assert float(value) == pytest.approx(golden, rel=1e-10)


def test_cross_entropy_of_tokens_has_the_classes_last():
    student = logits(2, 3, 5)
    label = torch.tensor([[0, 1, -100], [4, -100, 2]])
    expected = F.cross_entropy(student.movedim(-1, 1), label, reduction="none")
    assert torch.equal(cross_entropy(student, label), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_cross_entropy_takes_labels_of_any_integer_type(dtype):
    label = torch.tensor([0, 4, 2])
    assert torch.equal(cross_entropy(logits(3, 5), label.to(dtype)), cross_entropy(logits(3, 5), label))


def test_a_uint8_label_of_156_is_not_taken_for_minus_100():
    label = torch.tensor([156, 3], dtype=torch.uint8)
    _, present = counted(cross_entropy)
    assert present(label).tolist() == [True, True]
    assert not bool((label != -100)[0])  # why it needs saying


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ([0, 5], r"label 5 at \[1\] is not a class of a student with 5 outputs; allowed: 0\.\.4, or -100 for no label"),
        ([-1, 0], r"label -1 at \[0\] is not a class"),
        ([0, -99], r"label -99 at \[1\] is not a class"),
    ],
)
def test_cross_entropy_names_a_label_that_is_no_class(label, told):
    with pytest.raises(InputError, match=told):
        cross_entropy(logits(2, 5), torch.tensor(label))


def test_cross_entropy_names_the_place_of_a_wrong_token():
    with pytest.raises(InputError, match=r"label 9 at \[1, 2\]"):
        cross_entropy(logits(2, 3, 5), torch.tensor([[0, 0, 0], [0, 0, 9]]))


def test_cross_entropy_refuses_soft_labels():
    with pytest.raises(InputError, match="For soft labels use soft_cross_entropy"):
        cross_entropy(logits(2, 5), torch.tensor([0.2, 0.9]))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 5), ()])
def test_cross_entropy_refuses_labels_of_another_shape(shape):
    with pytest.raises(ShapeError, match=r"student \[2, 5\] and label .* do not go together; allowed: \[\*N, C\] and"):
        cross_entropy(logits(2, 5), torch.zeros(shape, dtype=torch.long))


# -- hard_label and soft_cross_entropy ---------------------------------------------------------------------------------


def test_hard_label_gives_the_number_of_the_published_code_and_is_cross_entropy_to_the_teachers_class():
    student, teacher = golden_logits()
    assert float(hard_label(student, teacher).mean()) == golden("hard_label, mean over the batch")
    assert torch.equal(hard_label(student, teacher), cross_entropy(student, teacher.argmax(-1)))
    assert float(hard_label(student, -teacher).mean()) != golden("hard_label, mean over the batch", rel=1e-2)


def test_soft_cross_entropy_gives_the_number_of_the_published_code():
    student, teacher = golden_logits()
    name = "soft_cross_entropy, temperature 3, mean over the batch"
    value = soft_cross_entropy(student, teacher, temperature=3)
    assert float(value.mean()) == golden(name)
    wrong = (value / 9, soft_cross_entropy(teacher, student, temperature=3), soft_cross_entropy(student, teacher))
    assert all(float(w.mean()) != golden(name, rel=1e-2) for w in wrong)


def test_soft_cross_entropy_is_kl_and_the_teachers_entropy_and_has_kls_gradient():
    teacher = logits(6, 5, seed=1)
    mine, theirs = (logits(6, 5).requires_grad_() for _ in range(2))
    value, expected = soft_cross_entropy(mine, teacher, temperature=3), kl(theirs, teacher, temperature=3)
    entropy = 9 * torch.special.entr((teacher / 3).softmax(-1)).sum(-1)
    torch.testing.assert_close(value, expected + entropy, rtol=1e-11, atol=1e-12)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_soft_cross_entropy_takes_shares_of_any_sum_and_hard_labels_among_them():
    student = logits(3, 4)
    shares = torch.tensor([[2.0, 1.0, 1.0, 0.0], [0.0, 0.0, 7.0, 0.0], [0.1, 0.2, 0.3, 0.4]]).double()
    value = soft_cross_entropy(student, shares, probabilities=True)
    expected = F.cross_entropy(student, shares / shares.sum(-1, keepdim=True), reduction="none")
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(value[1:2], cross_entropy(student[1:2], torch.tensor([2])))
    assert not torch.isclose(soft_cross_entropy(student, shares), value).any()


def test_soft_cross_entropy_counts_nothing_for_a_class_that_both_rule_out():
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    student[:, 1] = teacher[:, 1] = -math.inf
    kept = [0, 2, 3]
    value = soft_cross_entropy(student.requires_grad_(), teacher, temperature=2)
    torch.testing.assert_close(value, soft_cross_entropy(student[:, kept], teacher[:, kept], temperature=2))
    value.sum().backward()
    assert student.grad.isfinite().all()


# -- kl_multi_temperature and kl_standardized --------------------------------------------------------------------------


def test_kl_multi_temperature_is_the_sum_of_kl():
    student, teacher = logits(6, 5), logits(6, 5, seed=1)
    expected = sum(kl(student, teacher, temperature=t) for t in (2.0, 3.0, 4.0, 5.0, 6.0))
    torch.testing.assert_close(kl_multi_temperature(student, teacher), expected, rtol=1e-11, atol=1e-12)
    assert float(kl_multi_temperature(*golden_logits(), temperatures=(4.0,)).mean()) == golden(
        "kl, temperature 4, mean over the batch"
    )
    assert kl_multi_temperature(student, teacher, temperatures=()).eq(0).all()


def test_kl_standardized_is_kl_of_standardised_logits_and_blind_to_their_size_and_shift():
    student, teacher = logits(6, 5), logits(6, 5, seed=1)

    def z(x: torch.Tensor, unbiased: bool) -> torch.Tensor:
        return (x - x.mean(-1, keepdim=True)) / (1e-7 + x.std(-1, keepdim=True, unbiased=unbiased))

    value = kl_standardized(student, teacher)
    torch.testing.assert_close(value, kl(z(student, True), z(teacher, True), temperature=2), rtol=1e-6, atol=0)
    assert not torch.isclose(value, kl(z(student, False), z(teacher, False), temperature=2), rtol=1e-2).any()
    torch.testing.assert_close(kl_standardized(9 * student + 4, 0.5 * teacher - 1), value, rtol=1e-5, atol=0)
    assert not torch.isclose(kl(9 * student, teacher), kl(student, teacher), rtol=1e-2).any()


def test_kl_standardized_of_a_student_that_starts_at_zero_has_a_gradient_that_training_survives():
    def norm(standardized: Callable[[torch.Tensor], torch.Tensor]) -> float:
        student = torch.zeros(1, 5, requires_grad=True)
        kl(standardized(student), torch.tensor([[1.0, 0.0, 0.0, 0.0, -1.0]])).sum().backward()
        return float(student.grad.norm())

    assert norm(_standardized) < 1e3
    assert norm(lambda x: (x - x.mean(-1, keepdim=True)) / (1e-7 + x.std(-1, keepdim=True))) > 1e5


def test_the_divergence_that_newer_losses_share_is_kls_and_leaves_no_rounding_in_the_gradient():
    student, teacher = logits(50, 7).float(), logits(50, 7, seed=1).float()
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    torch.testing.assert_close(divergence(log_p, log_q), kl(student, teacher), rtol=1e-5, atol=1e-6)
    mine, plain = (student.clone().requires_grad_() for _ in range(2))
    divergence(student.log_softmax(-1), mine.log_softmax(-1)).sum().backward()
    kl(plain, student).sum().backward()
    assert mine.grad.eq(0).all()
    assert plain.grad.ne(0).any()
