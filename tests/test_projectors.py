from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.projectors import Conv1x1, Linear, Projector


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(2, 3), (2, 7, 3), (2, 4, 5, 3)])
def test_linear_is_fitted_to_the_last_axes(shape):
    project, target = Linear(), (*shape[:-1], 6)
    project.fit(shape, target, like=randn(*shape))
    assert project(randn(*shape), target).shape == target
    assert torch.equal(project(randn(*shape)), project.layer(randn(*shape)))
    assert project.layer.weight.shape == (6, 3)


def test_linear_refuses_shapes_that_differ_elsewhere():
    with pytest.raises(ShapeError) as error:
        Linear().fit((2, 7, 3), (2, 8, 6), like=randn(1))
    assert str(error.value) == "Linear: student [2, 7, 3] and teacher [2, 8, 6] may differ in the last axis only."
    with pytest.raises(ShapeError, match="last axis only"):
        Linear().fit((2, 3), (2, 1, 3), like=randn(1))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((2, 3, 4, 4), (2, 5, 4, 4)),
        ((2, 3, 8, 6), (2, 5, 4, 2)),
        ((2, 3, 4, 4), (2, 5, 8, 8)),
        ((2, 3, 8, 2), (2, 5, 4, 4)),
    ],
)
def test_conv1x1_gives_a_map_of_the_teachers_shape(student, teacher):
    project = Conv1x1()
    project.fit(student, teacher, like=randn(*student))
    y = project(randn(*student), teacher)
    assert y.shape == teacher
    assert project.layer.weight.shape == (5, 3, 1, 1)


def test_conv1x1_averages_down_and_interpolates_up():
    project, x = Conv1x1(3, 5), randn(2, 3, 8, 8)
    y = project(x)
    assert y.shape == (2, 5, 8, 8)
    torch.testing.assert_close(project(x, (2, 5, 2, 2)), F.avg_pool2d(y, 4))
    expected = F.interpolate(y, (16, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(project(x, (2, 5, 16, 4)), expected)
    assert torch.equal(project(x, (2, 5, 8, 8)), y)


def test_conv1x1_refuses_what_is_no_map():
    with pytest.raises(ShapeError) as error:
        Conv1x1().fit((2, 3), (2, 5, 4, 4), like=randn(1))
    assert str(error.value) == "Conv1x1: needs maps [N, C, H, W]; student is [2, 3] and teacher [2, 5, 4, 4]."


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_projector_takes_device_and_dtype_of_the_student(dtype, device):
    project = Linear()
    project.fit((2, 3), (2, 6), like=randn(2, 3).to(device, dtype))
    assert {(p.dtype, p.device.type) for p in project.parameters()} == {(dtype, device)}


@pytest.mark.parametrize("kind", [Linear, Conv1x1])
def test_given_sizes_are_kept_and_checked(kind):
    shapes = [(2, 3), (2, 6)] if kind is Linear else [(2, 3, 4, 4), (2, 6, 4, 4)]
    project = kind(3, 6)
    before = copy.deepcopy(project.state_dict())
    project.fit(*shapes, like=randn(1).double())
    assert all(torch.equal(v, before[k]) for k, v in project.state_dict().items())
    with pytest.raises(ShapeError) as error:
        kind(4, 6).fit(*shapes, like=randn(1))
    name = kind.__name__
    assert str(error.value) == (
        f"{name}(4, 6) does not fit student {list(shapes[0])} and teacher {list(shapes[1])}; "
        f"use {name}(3, 6), or {name}() to have the sizes fitted."
    )


def test_a_second_fit_keeps_what_was_learned_and_refuses_other_sizes():
    project = Linear()
    project.fit((2, 3), (2, 6), like=randn(1))
    layer = project.layer
    project.fit((5, 3), (5, 6), like=randn(1))
    assert project.layer is layer
    with pytest.raises(ShapeError, match=r"Linear\(3, 6\) does not fit"):
        project.fit((2, 4), (2, 6), like=randn(1))


class Deep(Projector):
    def sizes(self, student, teacher):
        return student[1], teacher[1]

    def build(self, inputs, outputs):
        return nn.Sequential(nn.Linear(inputs, 9), nn.ReLU(), nn.Linear(9, outputs))


class Same(Projector):
    def sizes(self, student, teacher):
        return student[1], teacher[1]


@pytest.mark.parametrize("kind", [Deep, Same])
def test_a_projector_of_ones_own_can_be_fitted_twice_whatever_it_is_made_of(kind):
    project = kind()
    for _ in range(2):
        project.fit((2, 3), (2, 6), like=randn(1))
    assert project(randn(2, 3)).shape == ((2, 6) if kind is Deep else (2, 3))


@pytest.mark.parametrize(("inputs", "outputs"), [(3, None), (None, 6)])
def test_one_size_alone_is_refused(inputs, outputs):
    with pytest.raises(InputError, match=r"Linear\(.*\): give both sizes, or neither to have them fitted"):
        Linear(inputs, outputs)


def test_a_projector_without_sizes_says_to_call_the_dry_run():
    for kind in (Linear, Conv1x1):
        with pytest.raises(InputError, match=rf"{kind.__name__}\(\) has no sizes yet\. Call method\.dry_run\(batch\)"):
            kind()(randn(2, 3, 4, 4), (2, 3, 4, 4))
        assert list(kind().parameters()) == []


def test_a_projector_that_does_not_say_its_sizes_is_an_error():
    with pytest.raises(ShapeError, match="Projector does not say how its sizes follow"):
        Projector().fit((2, 3), (2, 6), like=randn(1))
