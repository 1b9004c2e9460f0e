from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from understudy.batch import Batch
from understudy.errors import ShapeError
from understudy.losses import squared_error
from understudy.losses.arithmetic import counted
from understudy.method import Distillation
from understudy.term import Term

NAN, INF = math.nan, math.inf


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (6, 3), (2, 3, 4)])
def test_it_equals_torch_in_value_and_gradient(shape):
    mine, theirs = (values(*shape).requires_grad_() for _ in range(2))
    label = values(*shape, seed=1)
    value, expected = squared_error(mine, label), F.mse_loss(theirs, label, reduction="none")
    assert torch.equal(value, expected)
    value.sum().backward()
    expected.sum().backward()
    assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.parametrize(("student", "label"), [((5, 1), (5,)), ((5,), (5, 1)), ((1, 1), (1,)), ((0, 1), (0,))])
def test_a_column_goes_beside_a_row_sample_by_sample(student, label):
    s, y = values(*student), values(*label, seed=1)
    value = squared_error(s, y)
    expected = [(a - b) ** 2 for a, b in zip(s.flatten().tolist(), y.flatten().tolist(), strict=True)]
    assert value.tolist() == pytest.approx(expected)


def test_control_torch_itself_broadcasts_a_column_beside_a_row():
    assert (values(5, 1) - values(5)).shape == (5, 5)


@pytest.mark.parametrize(
    ("student", "label"),
    [((5, 1), (1,)), ((5, 3), (5,)), ((5, 3), (5, 1)), ((5,), (1,)), ((1,), (5, 1)), ((5, 1), ()), ((5, 5), (5,))],
)
def test_nothing_else_is_broadcast(student, label):
    with pytest.raises(ShapeError, match=r"squared_error: shapes .*\(student\) and .*\(label\) differ.*broadcast"):
        squared_error(torch.zeros(student), torch.zeros(label))


def test_a_value_that_was_not_measured_gives_no_value_and_no_gradient_whatever_the_student_says():
    student = torch.tensor([1.0, 2.0, INF, NAN], requires_grad=True)
    value = squared_error(student, torch.tensor([3.0, NAN, NAN, NAN]))
    value.sum().backward()
    assert value.tolist() == [4, 0, 0, 0]
    assert student.grad.tolist() == [-4, 0, 0, 0]


def test_control_to_blank_only_the_value_leaves_a_gradient_that_is_not_a_number():
    student = torch.tensor([1.0], requires_grad=True)
    (student - NAN).square().masked_fill(torch.tensor([True]), 0).sum().backward()
    assert student.grad.isnan().all()


def test_an_infinite_label_is_not_hidden():
    assert squared_error(torch.zeros(1), torch.tensor([INF])).isinf().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float16, torch.float64])
def test_it_takes_labels_of_any_type_and_computes_in_the_students(dtype):
    value = squared_error(torch.tensor([0.5, 3.0]), torch.tensor([0, 1]).to(dtype))
    assert value.dtype == torch.float32
    assert value.tolist() == [0.25, 4.0]


@pytest.mark.parametrize("column", [True, False])
def test_a_term_takes_its_mean_over_the_values_that_were_measured(column):
    label = torch.tensor([1.0, NAN, -2.0, NAN], dtype=torch.float64)
    student = torch.nn.Linear(3, 1).double()
    method = Distillation(Term(squared_error, "student", "batch.label"), student=student)
    x = values(4, 3)
    expected = F.mse_loss(student(x)[[0, 2], 0], label[[0, 2]])
    batch = Batch.of((x, label[:, None] if column else label))
    torch.testing.assert_close(method.loss(batch), expected)
    assert method.prepare(batch, None).counts.tolist() == [2, 4]


def test_what_is_there_is_everything_but_nan():
    _, present = counted(squared_error)
    assert present(torch.tensor([0.0, NAN, -INF, -100.0])).tolist() == [True, False, True, True]
    assert present(torch.tensor([0, 5])).all()
