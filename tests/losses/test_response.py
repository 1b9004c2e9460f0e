from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses import cross_entropy, kl
from understudy.losses.arithmetic import counted

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
    with pytest.raises(InputError, match="For soft labels use kl"):
        cross_entropy(logits(2, 5), torch.tensor([0.2, 0.9]))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 5), ()])
def test_cross_entropy_refuses_labels_of_another_shape(shape):
    with pytest.raises(ShapeError, match=r"student \[2, 5\] and label .* do not go together; allowed: \[\*N, C\] and"):
        cross_entropy(logits(2, 5), torch.zeros(shape, dtype=torch.long))
