from __future__ import annotations

import math

import pytest
import torch

from understudy.errors import InputError
from understudy.tasks import infer

NAN = math.nan
B, N, F, U = torch.bool, torch.long, torch.float32, torch.uint8
MANY = [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
REAL = [[0.5, 2.0, -1.5], [0.1, 0.2, 0.3]]

CLEAR = [
    ((3, 10), [1, 9, 0], N, "classification"),
    ((3, 10), [1, 9, 0], U, "classification"),
    ((3, 10), [1, -100, 0], torch.int32, "classification"),
    ((3, 2), [1, 0, 0], N, "classification"),
    ((3, 2), [-100, -100, -100], N, "classification"),
    ((5, 4), [1, 0, 0], N, "classification"),  # the labels are of other samples
    ((3, 3), MANY, B, "multi-label"),
    ((3, 3), MANY, N, "multi-label"),
    ((3, 3), MANY, U, "multi-label"),
    ((3, 3), MANY, F, "multi-label"),
    ((3, 3), [[1, -1, 0], [0, 1, -1], [1, 1, 0]], N, "multi-label"),
    ((3, 3), [[1, NAN, 0], [0, 1, NAN], [1, 1, 0]], F, "multi-label"),
    ((3, 3), [[1, -100, 0], [0, 1, -100], [1, 1, 0]], F, "multi-label"),
    ((3, 1), [[1], [0], [0]], B, "multi-label"),
    ((3,), [1, 0, 0], B, "multi-label"),
    ((3,), [0.1, 2.0, 3.5], F, "regression"),
    ((3, 1), [0.1, 2.0, 3.5], F, "regression"),
    ((3,), [[0.1], [2.0], [3.5]], F, "regression"),
    ((3, 1), [[0.1], [NAN], [3.5]], F, "regression"),
    ((3, 1), [0.1, 0.7, 0.5], F, "regression"),
    ((3, 1), [4.0, 7.0, 1.0], torch.float64, "regression"),
    ((2, 3), REAL, F, "regression"),
    ((2, 3), [[-1.0, 2.0, NAN], [1.0, 0.0, 3.0]], F, "regression"),
    ((2, 3), [[-0.5, 0.5, 0.2], [1.0, 0.0, 0.3]], F, "regression"),
]

UNCLEAR = [
    ((3, 10), None, N, r"and no label do not tell .* no label to tell it from"),
    ((3, 10), [1.0, 9.0, 0.0], F, r"one label for 10 outputs. If it is the class, give label.long\(\)"),
    ((3, 2), [True, False, True], B, r"one label for 2 outputs. If it is the class, give label.long\(\)"),
    ((3, 10), [[1], [9], [0]], N, r"give label.squeeze\(1\).long\(\)"),
    ((3, 10), [[0.5], [2.5], [1.5]], F, "one label for 10 outputs"),
    (
        (3, 1),
        [1, 0, 1],
        N,
        "A single output is a value, or the logit of yes.*label.float.*labels of the output's shape",
    ),
    ((3,), [1, 0, 1], N, "A single output"),
    ((3, 1), [[1.0], [0.0], [1.0]], F, "A single output"),
    ((3,), [1.0, 0.0, NAN], F, "A single output"),
    ((3,), [23, 45, 60], N, "A single output"),
    ((3, 1), [True, False, True], B, "A single output"),
    ((3, 1), [NAN, NAN, NAN], F, "A single output"),
    (
        (3, 3),
        [[1, 0, 0], [0, 0, 1], [0, 1, 0]],
        F,
        r"Each sample has one yes. .* one-hot classes, give label.argmax\(1\)",
    ),
    ((3, 3), [[1, 0, 0], [0, 0, 1], [0, 1, 0]], B, "one-hot"),
    ((3, 3), [[1, -1, 1], [-1, 1, 1], [1, 1, -1]], F, r"They are 1 and -1. If -1 is no, give \(label > 0\).long\(\)"),
    ((3, 3), [[0.2, 0.3, 0.5], [0.1, 0.1, 0.8]], F, "Numbers between 0 and 1 may be measured"),
    ((3, 3), [[0.2, -1, 0.5], [1.0, 0.1, NAN]], F, "Numbers between 0 and 1 may be measured"),
    ((3, 3), [[1, 5, 0], [3, 2, 1]], N, "Integers beyond 0 and 1 are no answers"),
    ((3, 3), [[1, 255, 0], [0, 1, 1], [1, 1, 0]], U, "Integers beyond 0 and 1 are no answers"),  # 255 is not -1
    ((3, 3), [[NAN, NAN, NAN]], F, "No label is known"),
    ((3, 3), [[-1, -1, -1]], N, "No label is known"),
    ((3, 3), [[1, 0], [0, 1]], N, "neither one label for a sample nor one for each of its outputs"),
    ((3, 1), [[1.5, 0], [0, 1]], F, "neither one label"),
    ((3, 4, 5), [[1, 0, 2, 3]], N, "neither one label"),
    ((3, 4), 1, N, "neither one label"),
]


@pytest.mark.parametrize(("output", "label", "dtype", "task"), CLEAR)
def test_what_can_only_be_one_task_is_that(output, label, dtype, task):
    assert infer(torch.zeros(output), torch.tensor(label, dtype=dtype)).name == task


@pytest.mark.parametrize(("output", "label", "dtype", "told"), UNCLEAR)
def test_what_may_be_several_is_refused_with_what_to_do(output, label, dtype, told):
    with pytest.raises(InputError, match=told) as error:
        infer(torch.zeros(output), None if label is None else torch.tensor(label, dtype=dtype))
    assert str(error.value).startswith(f"task: output {list(output)} of torch.float32 and ")
    assert str(error.value).endswith("Say task='classification', 'multi-label' or 'regression'.")


def test_an_output_of_integers_is_none():
    with pytest.raises(InputError, match="An output is logits or values, in floating point"):
        infer(torch.zeros(3, dtype=torch.long), torch.zeros(3))


def test_what_was_inferred_takes_these_outputs_and_labels():
    for output, label, dtype, _ in CLEAR:
        y = torch.tensor(label, dtype=dtype)
        task = infer(torch.zeros(output), y)
        task.metrics(torch.zeros(len(y), *output[1:]), y)
        task.chance(y)
