"""Losses with layers of their own."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses import FSP, MGD, SRD, VID, FactorTransfer, ResidualHint, ReviewKD, fsp, ft, hcl, residual
from understudy.losses.fitted import BatchNorm
from understudy.method import Distillation
from understudy.projectors import ConvNorm
from understudy.term import Term


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3))


MADE = {"VID": VID, "SRD": SRD, "MGD": MGD, "FactorTransfer": FactorTransfer, "ReviewKD": ReviewKD}


@pytest.mark.parametrize("name", MADE)
def test_a_dry_run_fills_the_sizes_in_and_what_is_made_trains(name):
    method = Distillation(Term(MADE[name](), "student.layer", "teacher.layer"), student=Net(3), teacher=Net(5))
    before = {n for n, _ in method.named_parameters()}
    batch = randn(4, 1, 6, 6)
    with pytest.raises(InputError, match=rf"{name}\(\) has no sizes yet. Give them, or call method.dry_run"):
        method.loss(batch)
    method.dry_run(batch)
    made = {n for n, _ in method.named_parameters()} - before
    assert made
    method.loss(batch).backward()
    assert all(p.grad is not None and p.requires_grad for n, p in method.named_parameters() if n in made)
    assert all(m.training for m in method.modules())
    assert made <= set(method.state_dict())


def test_other_sizes_than_before_are_refused_with_both():
    vid = VID(student=3, teacher=5)
    with pytest.raises(ShapeError, match=r"VID: was made for \[3, 5\] channels, and the tensors have \[4, 5\]"):
        vid(randn(2, 4), randn(2, 5))


def test_one_of_two_sizes_is_refused():
    with pytest.raises(InputError, match="VID: give all of its sizes, or none"):
        VID(student=3)


def test_sizes_that_are_given_need_no_dry_run_and_have_the_same_keys():
    given, fitted = VID(student=3, teacher=5), VID()
    with torch.no_grad():
        fitted(randn(2, 3), randn(2, 5))
    assert list(given.state_dict()) == list(fitted.state_dict())
    given(randn(2, 3), randn(2, 5)).sum().backward()


def test_layers_take_the_dtype_of_the_features_but_never_half():
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        vid = VID()
        with torch.no_grad():
            vid(randn(2, 3).to(dtype), randn(2, 5).to(dtype))
        assert {p.dtype for p in vid.parameters()} == {expected}


# -- BatchNorm ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 2, 2), (2, 3, 1, 1)])
def test_batchnorm_is_torchs_in_training_mode_in_either_mode(shape):
    ours, theirs = BatchNorm(3), nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)
    with torch.no_grad():
        for some in (ours, theirs):
            some.weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
            some.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(randn(*shape)), theirs(randn(*shape)))
    assert not list(ours.buffers())


def test_batchnorm_of_a_single_number_and_of_nothing():
    norm = BatchNorm(3)
    with torch.no_grad():
        norm.bias.fill_(2.0)
    x = randn(1, 3, 1, 1).requires_grad_()
    norm(x).sum().backward()
    assert norm(x).eq(2).all()
    assert x.grad.eq(0).all()
    assert norm(randn(0, 3)).shape == (0, 3)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm2d(3)(x)


def test_conv_norm_projects_to_the_teachers_channels_area_and_scale():
    project, student, teacher = ConvNorm(), 100 * randn(4, 3, 8, 8), randn(4, 6, 4, 4)
    project.fit(student.shape, teacher.shape, like=student)
    found = project(student, teacher.shape)
    assert found.shape == teacher.shape
    assert project.layer[0].bias is None
    torch.testing.assert_close(project(student).std((0, 2, 3)), torch.ones(6), rtol=1e-2, atol=1e-2)


# -- VID, SRD ----------------------------------------------------------------------------------------------------------


def test_vid_in_plain_loops():
    vid = VID(student=2, teacher=3, variance=2.0).double()
    with torch.no_grad():
        vid.alpha.copy_(torch.tensor([0.1, -1.0, 3.0]))
    vid.requires_grad_(False)
    student, teacher = randn(2, 2, 2, 2).double(), randn(2, 3, 2, 2, seed=1).double()
    first, _, middle, _, last = vid.mean
    value = vid(student, teacher)
    for n in range(2):
        total = 0.0
        for c, i, j in ((c, i, j) for c in range(3) for i in range(2) for j in range(2)):
            x = student[n, :, i, j]
            mean = last.weight @ F.relu(middle.weight @ F.relu(first.weight @ x))
            variance = math.log1p(math.exp(float(vid.alpha[c]))) + 1e-5
            total += 0.5 * ((float(mean[c]) - float(teacher[n, c, i, j])) ** 2 / variance + math.log(variance))
        assert float(value[n]) == pytest.approx(total / 12, rel=1e-9)


def test_vid_starts_with_the_variance_that_it_was_given_and_learns_it():
    vid = VID(student=2, teacher=3, variance=7.0)
    torch.testing.assert_close(F.softplus(vid.alpha) + 1e-5, torch.full((3,), 7.0))
    assert "alpha" in dict(vid.named_parameters())
    assert "alpha" in vid.state_dict()
    optimizer = torch.optim.Adam(vid.parameters(), lr=0.05)
    student, teacher = torch.zeros(256, 2), randn(256, 3) * torch.tensor([0.5, 1.0, 2.0])
    for _ in range(400):
        optimizer.zero_grad()
        vid(student, teacher).mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        (F.softplus(vid.alpha) + 1e-5).detach(), teacher.square().mean(0), rtol=0.05, atol=0.01
    )  # the most likely variance of what the student says nothing of


@pytest.mark.parametrize("variance", [0.0, -1.0, math.inf])
def test_vid_refuses_a_variance_that_is_none(variance):
    with pytest.raises(InputError, match="VID: variance"):
        VID(variance=variance)


def test_srd_is_the_log_of_the_summed_powers():
    srd = SRD(student=4, teacher=3, power=4.0).double()
    student, teacher = randn(6, 4).double(), randn(6, 3, seed=1).double()
    s, t = (F.batch_norm(x, None, None, training=True) for x in (srd.project(student), teacher))
    torch.testing.assert_close(srd(student, teacher), (s - t).abs().pow(4).sum().log())
    pooled = srd(student[:, :, None, None].expand(6, 4, 2, 3), teacher[:, :, None, None].expand(6, 3, 2, 3))
    torch.testing.assert_close(pooled, srd(student, teacher))


def test_srd_of_equal_features_is_finite_and_so_is_its_gradient():
    srd = SRD(student=3, teacher=3)
    with torch.no_grad():
        srd.project.weight.copy_(torch.eye(3))
    x = randn(5, 3).requires_grad_()
    value = srd(x, x.detach())
    value.backward()
    assert float(value.detach()) == pytest.approx(math.log(1e-8))
    assert x.grad.isfinite().all()
    assert torch.zeros(()).log().isinf()  # what the code without the addend gives
    with pytest.raises(InputError, match=r"SRD: power 0\.5"):
        SRD(power=0.5)


# -- FSP, factors, review ----------------------------------------------------------------------------------------------


def test_fsp_with_its_convolutions_is_fsp_behind_them():
    module = FSP(student=3, student_later=4, teacher=3, teacher_later=6)
    tensors = [randn(2, c, 4, 4, seed=c) for c in (3, 4, 3, 6)]
    assert not list(module.project.parameters())
    expected = fsp(tensors[0], module.project_later(tensors[1]), *tensors[2:])
    torch.testing.assert_close(module(*tensors), expected)


def test_factor_transfer_reaches_the_translator_by_the_factors_and_the_paraphraser_by_the_reconstruction():
    for reconstruction, idle in ((0.0, {"paraphrase", "back"}), (0.002, set())):
        factors = FactorTransfer(student=3, teacher=4, reconstruction=reconstruction)
        student = randn(2, 3, 4, 4).requires_grad_()
        factors(student, randn(2, 4, 4, 4, seed=1)).sum().backward()
        without = {n.partition(".")[0] for n, p in factors.named_parameters() if p.grad is None}
        assert without == idle
        assert student.grad.ne(0).any()


def test_factor_transfer_does_not_move_the_paraphraser_towards_the_student():
    factors = FactorTransfer(student=3, teacher=4, reconstruction=1.0)
    alone = copy.deepcopy(factors)
    teacher = randn(2, 4, 4, 4, seed=1)
    factors(randn(2, 3, 4, 4), teacher).sum().backward()
    alone.reconstructed(teacher).sum().backward()
    for (n, p), (_, q) in zip(factors.named_parameters(), alone.named_parameters(), strict=True):
        if not n.startswith("translate"):
            torch.testing.assert_close(p.grad, q.grad)


def test_factor_transfer_compares_factors_of_the_rate():
    factors = FactorTransfer(student=3, teacher=10, rate=0.3, reconstruction=0.0)
    student, teacher = randn(2, 3, 4, 4), randn(2, 10, 4, 4, seed=1)
    assert factors.paraphrase(teacher).shape == factors.translate(student).shape == (2, 3, 4, 4)
    expected = ft(factors.translate(student), factors.paraphrase(teacher))
    torch.testing.assert_close(factors(student, teacher), expected)


def test_the_paraphraser_learns_to_reconstruct():
    torch.manual_seed(0)
    factors, teacher = FactorTransfer(student=3, teacher=4), randn(8, 2, 4, 4).repeat(1, 2, 1, 1)
    optimizer = torch.optim.Adam(factors.parameters(), lr=0.01)
    first = factors.reconstructed(teacher).mean().item()
    for _ in range(60):
        optimizer.zero_grad()
        value = factors.reconstructed(teacher).mean()
        value.backward()
        optimizer.step()
    assert value.item() < 0.5 * first


def test_review_of_one_level_is_hcl_behind_its_convolutions():
    review = ReviewKD(width=4)
    student, teacher = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    with torch.no_grad():
        review(student, teacher)
    (fusion,) = review.fusions
    assert fusion.attention is None
    assert fusion.inside[0].out_channels == 3  # no wider than the student's deepest level
    torch.testing.assert_close(review(student, teacher), hcl(fusion.out(fusion.inside(student)), teacher))


def test_review_fuses_each_level_with_the_deeper_ones_by_an_attention_of_two_maps():
    review = ReviewKD(width=4)
    shallow, deep = randn(2, 3, 4, 4), randn(2, 6, 2, 2, seed=1)
    others = randn(2, 5, 4, 4, seed=2), randn(2, 7, 2, 2, seed=3)
    with torch.no_grad():
        review(shallow, deep, *others)
    first, last = review.fusions
    below = last.inside(deep)
    here, above = first.inside(shallow), below.repeat_interleave(2, 2).repeat_interleave(2, 3)
    shares = torch.sigmoid(first.attention(torch.cat([here, above], 1)))
    fused = here * shares[:, :1] + above * shares[:, 1:]
    expected = hcl(last.out(below), others[1]) + hcl(first.out(fused), others[0])
    torch.testing.assert_close(review(shallow, deep, *others), expected)


def test_review_takes_vectors_as_the_deepest_level_and_refuses_an_odd_number_of_levels():
    review = ReviewKD(width=4)
    with torch.no_grad():
        value = review(randn(2, 3, 4, 4), randn(2, 6), randn(2, 5, 4, 4), randn(2, 7))
    assert value.shape == (2,)
    with pytest.raises(ShapeError, match=r"ReviewKD: shapes .*as many levels"):
        review(randn(2, 3, 4, 4), randn(2, 6), randn(2, 5, 4, 4))


# -- residual ----------------------------------------------------------------------------------------------------------


def test_residual_is_zero_where_hint_and_output_together_are_the_teachers():
    student, teacher = randn(4, 3).double(), randn(4, 3, seed=1).double()
    assert residual(teacher - student, student, teacher).max() < 1e-30
    torch.testing.assert_close(
        residual(torch.zeros_like(student), student, teacher), (student - teacher).square().mean(1)
    )


def test_residual_hint_has_a_head_on_the_mean_of_the_features():
    loss = ResidualHint(features=3, outputs=2)
    features, student, teacher = randn(4, 3, 2, 2), randn(4, 2, seed=1), randn(4, 2, seed=2)
    expected = residual(F.linear(features.mean((2, 3)), loss.head.weight, loss.head.bias), student, teacher)
    torch.testing.assert_close(loss(features, student, teacher), expected)
    tokens = features.flatten(2).transpose(1, 2)
    torch.testing.assert_close(loss(tokens, student, teacher), expected)
