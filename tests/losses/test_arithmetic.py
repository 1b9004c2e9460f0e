from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from understudy.errors import ShapeError
from understudy.losses import cross_entropy, kl
from understudy.losses.arithmetic import counted, counted_by, exact, same_shape


def gram(x: Tensor) -> Tensor:
    return x @ x.t()


exact_gram = exact(gram)


def test_exact_computes_a_matrix_product_in_float32_under_autocast_where_the_bare_function_does_not():
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        value, bare = exact_gram(x), gram(x)
        named = exact_gram(x=x)
    assert torch.equal(value, x @ x.t())
    assert torch.equal(named, value)
    assert bare.dtype == torch.bfloat16


def test_exact_leaves_autocast_on_behind_it():
    with torch.autocast("cpu", torch.bfloat16):
        exact_gram(torch.ones(2, 2))
        assert torch.is_autocast_enabled("cpu")
        assert gram(torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_exact_widens_what_is_narrower_than_float32(dtype):
    assert exact_gram(torch.ones(2, 2).to(dtype)).dtype == torch.float32
    assert exact_gram(x=torch.ones(2, 2).to(dtype)).dtype == torch.float32


def test_exact_asks_the_device_of_its_tensors_however_they_are_given(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda device: bool(asked.append(device)))
    exact_gram(torch.ones(2, 2, device="meta"))
    exact_gram(x=torch.ones(2, 2, device="meta"))
    assert asked == ["meta", "meta"]


def test_exact_works_on_the_meta_device_which_knows_no_autocast():
    x = torch.ones(2, 3, device="meta", dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert kl(x, x).shape == (2,)
    assert kl(x, x).dtype == torch.float32


def test_exact_keeps_float64_and_integers():
    seen = []

    @exact
    def look(x: Tensor, *, y: Tensor) -> Tensor:
        seen.extend([x.dtype, y.dtype])
        return x

    look(torch.ones(1, dtype=torch.float64), y=torch.ones(1, dtype=torch.int32))
    assert seen == [torch.float64, torch.int32]


def test_exact_keeps_name_and_docstring():
    assert kl.__name__ == "kl"
    assert "T^2" in kl.__doc__


def present(label: Tensor) -> Tensor:
    return label > 0


def test_counted_is_what_counted_by_declared_seen_through_partials():
    @counted_by("label", present)
    def loss(student: Tensor, label: Tensor, *, slope: float = 1.0) -> Tensor:
        return student

    assert counted(loss) == ("label", present)
    assert counted(functools.partial(functools.partial(loss, slope=2.0), slope=3.0)) == ("label", present)


def test_counted_by_declares_on_a_class_of_modules_too():
    @counted_by("label", present)
    class Loss(nn.Module):
        pass

    assert counted(Loss()) == ("label", present)


def test_counted_is_none_where_nothing_was_declared():
    assert counted(kl) is None
    assert counted(functools.partial(kl, temperature=2.0)) is None
    assert counted(nn.MSELoss()) is None


def test_cross_entropy_counts_the_labels_that_are_there():
    argument, there = counted(cross_entropy)
    assert argument == "label"
    assert there(torch.tensor([0, -100, 3, -1])).tolist() == [True, False, True, True]


def test_same_shape_lets_equal_shapes_pass_and_quotes_the_first_axis_that_differs():
    same_shape("x", torch.zeros(2, 3), torch.ones(2, 3), "")
    with pytest.raises(ShapeError) as error:
        same_shape("x", torch.zeros(2, 3, 4), torch.zeros(2, 5, 6), "Do this.")
    assert (
        str(error.value)
        == "x: shapes [2, 3, 4] (student) and [2, 5, 6] (teacher) differ in axis 1. x needs equal shapes. Do this."
    )
