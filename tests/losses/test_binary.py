from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from understudy.batch import Batch
from understudy.errors import InputError, ShapeError
from understudy.losses import binary_cross_entropy, binary_kl, kl
from understudy.losses.arithmetic import counted
from understudy.method import Distillation
from understudy.term import Term

NAN, INF = math.nan, math.inf


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- binary_cross_entropy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (6, 1), (6,), (2, 3, 4)])
def test_it_equals_torch_in_value_and_gradient(shape):
    label = (logits(*shape, seed=1) > 0).double()
    mine, theirs = (logits(*shape).requires_grad_() for _ in range(2))
    value = binary_cross_entropy(mine, label)
    expected = F.binary_cross_entropy_with_logits(theirs, label, reduction="none")
    assert torch.equal(value, expected)
    value.sum().backward()
    expected.sum().backward()
    assert torch.equal(mine.grad, theirs.grad)


def test_it_takes_answers_between_no_and_yes():
    value = binary_cross_entropy(torch.zeros(1, 3), torch.tensor([[0.0, 0.25, 1.0]]))
    torch.testing.assert_close(value, torch.full((1, 3), math.log(2)))
    sure = binary_cross_entropy(torch.tensor([2.0]), torch.tensor([0.25]))
    p = 1 / (1 + math.exp(-2))
    assert float(sure) == pytest.approx(-0.25 * math.log(p) - 0.75 * math.log(1 - p))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_it_takes_answers_of_any_type_and_computes_in_the_students(dtype):
    label = torch.tensor([[1, 0], [0, 1]])
    student = logits(2, 2).float()
    value = binary_cross_entropy(student, label.to(dtype))
    assert value.dtype == torch.float32
    assert torch.equal(value, F.binary_cross_entropy_with_logits(student, label.float(), reduction="none"))


@pytest.mark.parametrize("unknown", [NAN, -1.0, -100.0, -INF])
def test_an_answer_that_is_not_known_gives_no_value_and_no_gradient_even_beside_an_output_that_is_not_finite(unknown):
    student = torch.tensor([[0.5, INF, NAN]], requires_grad=True)
    value = binary_cross_entropy(student, torch.tensor([[1.0, unknown, unknown]]))
    value.sum().backward()
    assert value[0, 0] > 0
    assert value[0, 1:].tolist() == [0, 0]
    assert student.grad[0, 0] < 0
    assert student.grad[0, 1:].tolist() == [0, 0]


def test_control_to_blank_only_the_value_leaves_a_gradient_that_is_not_a_number():
    student = torch.tensor([INF, NAN], requires_grad=True)
    value = F.binary_cross_entropy_with_logits(student, torch.zeros(2), reduction="none").masked_fill(
        torch.ones(2, dtype=torch.bool), 0
    )
    value.sum().backward()
    assert student.grad.isnan().any()


def test_a_term_takes_its_mean_over_the_answers_that_are_known():
    label = torch.tensor([[1.0, NAN, 0.0], [-1.0, -1.0, 1.0], [NAN, NAN, NAN]])
    student = torch.nn.Linear(4, 3).double()
    method = Distillation(Term(binary_cross_entropy, "student", "batch.label"), student=student)
    x = logits(3, 4)
    known = label >= 0
    expected = F.binary_cross_entropy_with_logits(student(x)[known], label[known].double())
    torch.testing.assert_close(method.loss((x, label)), expected)
    assert method.prepare(Batch.of((x, label)), None).counts.tolist() == [3, 3]
    wrong = F.binary_cross_entropy_with_logits(student(x), label.nan_to_num().clamp(min=0).double())
    assert not torch.isclose(method.loss((x, label)), wrong)


def test_what_is_there_is_zero_and_above():
    _, present = counted(binary_cross_entropy)
    assert present(torch.tensor([0.0, 0.5, 1.0, -0.5, NAN])).tolist() == [True, True, True, False, False]
    assert present(torch.tensor([True, False])).all()


@pytest.mark.parametrize(("label", "told"), [([[0.0, 2.0]], r"2.0 at \[0, 1\]"), ([[7, 1]], r"7 at \[0, 0\]")])
def test_a_class_index_is_not_an_answer(label, told):
    with pytest.raises(InputError, match=f"binary_cross_entropy: label {told} is not an answer.*use cross_entropy"):
        binary_cross_entropy(torch.zeros(1, 2), torch.tensor(label))


def test_labels_of_another_shape_are_refused_by_their_name():
    with pytest.raises(ShapeError, match=r"shapes \[4, 1\] \(student\) and \[4\] \(label\) differ in their number"):
        binary_cross_entropy(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ShapeError, match="differ in axis 1"):
        binary_cross_entropy(torch.zeros(4, 1), torch.zeros(4, 3))


# -- binary_kl ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_binary_kl_is_kl_over_the_two_outcomes_in_value_and_gradient(temperature):
    mine, theirs = (logits(7, 5).requires_grad_() for _ in range(2))
    teacher = logits(7, 5, seed=1)
    value = binary_kl(mine, teacher, temperature=temperature)
    both = (torch.stack([x, torch.zeros_like(x)], -1) for x in (theirs, teacher))
    expected = kl(*both, temperature=temperature)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-13)
    value.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_binary_kl_is_torchs_cross_entropy_of_soft_answers_less_their_entropy(temperature):
    student, teacher = logits(7, 5), logits(7, 5, seed=1)
    soft = torch.sigmoid(teacher / temperature)
    entropy = F.binary_cross_entropy(soft, soft, reduction="none")
    crossed = F.binary_cross_entropy_with_logits(student / temperature, soft, reduction="none")
    torch.testing.assert_close(
        binary_kl(student, teacher, temperature=temperature),
        (crossed - entropy) * temperature**2,
        rtol=1e-9,
        atol=1e-12,
    )


def test_binary_kl_is_of_the_teacher_to_the_student_and_not_the_other_way_round():
    student, teacher = torch.tensor([0.0]), torch.tensor([50.0])
    assert float(binary_kl(student, teacher)) == pytest.approx(math.log(2))
    assert float(binary_kl(teacher, student)) > 20


def test_binary_kl_keeps_its_digits_where_the_student_is_sure():
    student, teacher = torch.tensor([21.0], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64)
    # log 1/2 - log q and log 1/2 - log (1 - q), a half of each
    expected = -math.log(2) + math.log1p(math.exp(-21)) / 2 + (21 + math.log1p(math.exp(-21))) / 2
    assert float(binary_kl(student, teacher)) == pytest.approx(expected, rel=1e-14)
    assert float(F.softplus(student)) == 21  # which torch cuts off above 20
    assert 21 + math.log1p(math.exp(-21)) != pytest.approx(21, rel=1e-12)


@pytest.mark.parametrize(("teacher", "yes"), [(-INF, 0.0), (INF, 1.0)])
def test_a_teacher_that_is_certain_leaves_the_cross_entropy_of_its_answer(teacher, yes):
    student = torch.tensor([0.7, -2.0], requires_grad=True)
    value = binary_kl(student, torch.full((2,), teacher))
    torch.testing.assert_close(value, binary_cross_entropy(student, torch.full((2,), yes)))
    value.sum().backward()
    torch.testing.assert_close(student.grad, torch.sigmoid(student.detach()) - yes)


@pytest.mark.parametrize("temperature", [0, -1.0, NAN, INF])
def test_binary_kl_refuses_a_temperature_that_is_no_temperature(temperature):
    with pytest.raises(InputError, match=r"binary_kl: temperature .* must be finite and above 0, and 1 to 8 is usual"):
        binary_kl(logits(2, 3), logits(2, 3), temperature=temperature)


def test_binary_kl_names_both_shapes():
    with pytest.raises(
        ShapeError, match=r"\[2, 3\] \(student\) and \[2, 4\] \(teacher\) differ in axis 1.*same labels"
    ):
        binary_kl(logits(2, 3), logits(2, 4))
