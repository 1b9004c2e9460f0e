"""Losses of feature maps: what the conformance suite does not say."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from understudy.errors import InputError, ShapeError
from understudy.losses import ab, cosine, cwd, fsp, ft, hcl, kl, nst, ofd, pkd
from understudy.losses.ofd import margin


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation makes."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in made if isinstance(made, tuple | list) else (made,):
            self.numbers = max(self.numbers, x.numel() if isinstance(x, Tensor) else 0)
        return made


def usual_nst(student: Tensor, teacher: Tensor) -> Tensor:
    """With a tensor [N, C, C, H W] for each kernel."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] * b[:, :, None]).sum(-1).square().flatten(1).mean(1)

    s, t = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def test_nst_is_the_usual_form_in_value_and_gradient_without_its_large_tensor():
    mine, theirs = (randn(2, 16, 8, 8).requires_grad_() for _ in range(2))
    teacher = randn(2, 24, 8, 8, seed=1)
    with Largest() as ours:
        value = nst(mine, teacher)
        value.sum().backward()
    with Largest() as usual:
        expected = usual_nst(theirs, teacher)
        expected.sum().backward()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(mine.grad, theirs.grad)
    assert ours.numbers <= 2 * 24 * 64
    assert usual.numbers >= 2 * 24 * 24 * 64


def test_nst_compares_distributions_and_not_channels():
    x = randn(2, 5, 4, 4)
    assert nst(x[:, [3, 1, 0, 4, 2]], x).abs().max() < 1e-12
    assert nst(x, randn(2, 5, 4, 4, seed=1)).min() > 1e-3


def test_pkd_is_one_minus_the_correlation_of_each_channel_in_the_mean():
    student, teacher = randn(6, 3, 2, 2), 4 + 9 * randn(6, 3, 2, 2, seed=1)
    pairs = zip(student.transpose(0, 1).flatten(1), teacher.transpose(0, 1).flatten(1), strict=True)
    correlations = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in pairs]
    biased = (6 * 4 - 1) / (6 * 4)
    assert float(pkd(student, teacher)) == pytest.approx(biased * (1 - sum(correlations) / 3), rel=1e-5)
    assert float(pkd(5 * student - 2, student)) == pytest.approx(0, abs=1e-9)


def test_pkd_of_tokens_has_the_features_last():
    student, teacher = randn(4, 3, 2, 5), randn(4, 3, 2, 5, seed=1)
    tokens = (x.flatten(2).transpose(1, 2) for x in (student, teacher))
    torch.testing.assert_close(pkd(*tokens), pkd(student, teacher))
    vectors = (x.transpose(0, 1).flatten(1).T for x in (student, teacher))
    torch.testing.assert_close(pkd(*vectors), pkd(student, teacher))


def test_pkd_of_constant_channels_and_of_single_numbers_is_zero_with_a_finite_gradient():
    for shape in ((4, 3, 2, 2), (1, 3), (1, 3, 1, 1)):
        student = torch.full(shape, 2.0, requires_grad=True)
        value = pkd(student, torch.zeros(shape))
        value.backward()
        assert value == 0
        assert student.grad.isfinite().all()
    assert torch.std(torch.ones(1, 3), 0, correction=0).isfinite().all()  # the unbiased one is NaN, with a warning


def test_fsp_takes_the_smaller_of_two_areas():
    first, later = randn(2, 3, 8, 8), randn(2, 5, 4, 4, seed=1)
    others = randn(2, 3, 6, 6, seed=2), randn(2, 5, 6, 6, seed=3)
    torch.testing.assert_close(fsp(first, later, *others), fsp(F.avg_pool2d(first, 2), later, *others))


def test_fsp_of_other_channels_names_its_module():
    with pytest.raises(ShapeError, match=r"fsp: shapes \[2, 3, 5\].*use FSP\(\)"):
        fsp(randn(2, 3, 4, 4), randn(2, 5, 4, 4), randn(2, 4, 4, 4), randn(2, 5, 4, 4))


def test_cwd_is_kl_over_the_positions_of_each_channel():
    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    each = kl(student.flatten(2), teacher.flatten(2), temperature=3)
    torch.testing.assert_close(cwd(student, teacher, temperature=3), each.mean(1))
    with pytest.raises(ShapeError, match=r"cwd: .*no positions"):
        cwd(randn(2, 3), randn(2, 3))
    with pytest.raises(InputError, match="cwd: temperature 0 "):
        cwd(student, teacher, temperature=0)


def test_ab_looks_at_the_teachers_sign_only():
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    assert torch.equal(ab(student, teacher), ab(student, 100 * teacher))
    assert ab(1.5 * teacher.sign(), teacher).eq(0).all()
    assert ab(0.9 * teacher.sign(), teacher).gt(0).all()
    with pytest.raises(InputError, match="ab: margin 0 is not allowed"):
        ab(student, teacher, margin=0)


# -- ofd ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 1.0), (-2.0, 0.3), (1.0, -4.0), (3.0, -0.1)])
def test_the_margin_is_the_mean_of_what_is_below_zero(scale, shift):
    x = torch.linspace(-12, 0, 200_001, dtype=torch.float64)
    density = torch.exp(-(((x - shift) / scale) ** 2) / 2)
    expected = float((x * density).sum() / density.sum())
    found = margin(torch.tensor([scale], dtype=torch.float64), torch.tensor([shift], dtype=torch.float64))
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_the_margin_of_a_channel_that_is_hardly_ever_below_zero_is_three_deviations():
    found = margin(torch.tensor([0.1, 0.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, -2.0, 50.0]))
    torch.testing.assert_close(found, torch.tensor([-0.3, 0.0, -2.0, -3.0]))


def test_ofd_with_the_batchnorm_of_the_teacher_in_plain_loops():
    student, teacher = randn(2, 3, 2, 2), randn(2, 3, 2, 2, seed=1)
    scale, shift = torch.tensor([1.0, 0.5, 2.0]).double(), torch.tensor([0.0, 0.4, -1.0]).double()
    least = margin(scale, shift)
    total = [0.0, 0.0]
    for n, c, i, j in itertools.product(range(2), range(3), range(2), range(2)):
        target = max(float(teacher[n, c, i, j]), float(least[c]))
        s = float(student[n, c, i, j])
        total[n] += (s - target) ** 2 if s > target or target > 0 else 0.0
    torch.testing.assert_close(ofd(student, teacher, scale, shift), torch.tensor(total, dtype=torch.float64))
    assert not torch.allclose(ofd(student, teacher), ofd(student, teacher, scale, shift), rtol=1e-2)


def test_ofd_leaves_a_student_alone_that_is_low_enough_where_the_teacher_is_below_zero():
    student = torch.tensor([[-0.5, -3.0, -3.0]], requires_grad=True)
    ofd(student, torch.tensor([[-2.0, -2.0, 2.0]]), torch.ones(3), torch.zeros(3)).sum().backward()
    lower, alone, higher = student.grad[0].tolist()
    assert lower > 0
    assert alone == 0
    assert higher < 0


def test_ofd_names_a_batchnorm_that_does_not_fit():
    with pytest.raises(ShapeError, match=r"ofd: scale and shift \[4\] do not fit the teacher's \[2, 3, 2, 2\]"):
        ofd(randn(2, 3, 2, 2), randn(2, 3, 2, 2), torch.ones(4), torch.zeros(4))


# -- ft, hcl, cosine ---------------------------------------------------------------------------------------------------


def test_ft_does_not_see_the_scale_and_refuses_another_form():
    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(ft(1e-5 * student, 1e5 * teacher), ft(student, teacher))
    with pytest.raises(InputError, match="ft: form 'factor' is not allowed"):
        ft(student, teacher, form="factor")


def test_hcl_leaves_out_sizes_that_are_not_smaller_than_the_map():
    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(hcl(student, teacher), hcl(student, teacher, sizes=(2, 1)))
    assert not torch.allclose(hcl(student, teacher), hcl(student, teacher, sizes=(1,)))
    single = randn(2, 3, 1, 1), randn(2, 3, 1, 1, seed=1)
    torch.testing.assert_close(hcl(*single), (single[0] - single[1]).square().flatten(1).mean(1))


def test_cosine_is_torchs_at_each_position():
    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(
        cosine(student, teacher), (1 - F.cosine_similarity(student, teacher, 1)).flatten(1).mean(1)
    )
    tokens = randn(2, 5, 3), randn(2, 5, 3, seed=1)
    torch.testing.assert_close(cosine(*tokens), (1 - F.cosine_similarity(*tokens, -1)).mean(1))


def test_cosine_of_a_dead_position_has_a_gradient_of_order_one():
    student = torch.zeros(1, 2, requires_grad=True)
    value = cosine(student, torch.tensor([[3.0, 4.0]]))
    value.sum().backward()
    assert value.tolist() == [0.5]
    assert student.grad.abs().max() <= 1
    torchs = torch.zeros(1, 2, requires_grad=True)
    F.cosine_similarity(torchs, torch.tensor([[3.0, 4.0]])).sum().backward()
    assert torchs.grad.abs().max() > 1e6  # what is guarded against


@pytest.mark.parametrize("loss", [fsp, nst])
def test_what_is_no_map_is_refused(loss):
    with pytest.raises(ShapeError, match=rf"{loss.__name__}: needs maps \[N, C, H, W\]; one is \[2, 3\]"):
        loss(*[randn(2, 3)] * (4 if loss is fsp else 2))


def test_infinite_margin_is_refused():
    with pytest.raises(InputError):
        ab(randn(1, 1), randn(1, 1), margin=math.inf)
