"""Losses of several teachers: the authors' numbers, and what the weights are for."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Term
from understudy.errors import InputError, ShapeError
from understudy.losses import CAMKD, aekd, average_kl, ca_mkd, ebkd, kl, specialist_kl
from understudy.losses.camkd import confident_mse
from understudy.losses.min_norm import min_norm

VALUES = json.loads((Path(__file__).parents[1] / "reference" / "several.json").read_text())["values"]
ROW, COLUMN = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(5.0, dtype=torch.float64)
K = torch.arange(4 * 3 * 4 * 4.0, dtype=torch.float64).reshape(4, 3, 4, 4)
S, A = 3 * torch.sin(0.7 * ROW + 1.3 * COLUMN + 0.1), 4 * torch.cos(0.5 * ROW - 0.9 * COLUMN + 0.2)
C, D = -S.flip(0), 2 * torch.sin(1.1 * ROW - 0.4 * COLUMN + 0.7)
LABEL = torch.tensor([0, 2, 4, 1])
TOLD = {2: (A, C), 3: (A, C, D)}
NAMES = {2: "a and c", 3: "a, c and d"}


def golden(name: str, rel: float = 1e-9) -> object:
    return pytest.approx(VALUES[name]["value"], rel=rel)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the authors' numbers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teachers", [2, 3])
def test_weighted_losses_are_the_authors_numbers(teachers):
    told, whom = TOLD[teachers], NAMES[teachers]
    assert average_kl(S, *told).mean() == golden(f"average_kl of {whom}, mean over the batch")
    assert ebkd(S, *told).mean() == golden(f"ebkd of {whom}, mean over the batch")
    assert ca_mkd(S, LABEL, *told).mean() == golden(f"ca_mkd of {whom}, mean over the batch")
    assert aekd(S, *told) == golden(f"aekd of {whom}", rel=1e-6)


def test_a_cap_is_the_authors_number():
    assert aekd(S, A, C, cap=1 / 1.2) == golden("aekd of a and c, cap 0.8333", rel=1e-6)
    assert aekd(S, A, C, D, cap=1 / 2.7) == golden("aekd of a, c and d, cap 0.3704", rel=1e-6)


def test_features_weighed_by_the_classifiers_are_the_authors_number():
    f, g = torch.sin(0.31 * K + 0.2), torch.cos(0.17 * K)
    value = confident_mse([f, f], [g, g.flip(0)], [A, -S.flip(1)], LABEL).mean()
    assert value == golden("CAMKD: f against g and g with the samples in reverse, classifiers a and b")
    equal = confident_mse([f, f], [g, g.flip(0)], [A, A], LABEL).mean()
    assert equal != golden("CAMKD: f against g and g with the samples in reverse, classifiers a and b", rel=1e-3)


def test_controls_of_the_authors_numbers():
    unweighted = average_kl(S, A, C).mean()
    for name in ("ebkd of a and c, mean over the batch", "ca_mkd of a and c, mean over the batch", "aekd of a and c"):
        assert unweighted != golden(name, rel=1e-2)
        assert unweighted / 2 != golden(name, rel=1e-3)
    assert average_kl(S, A, C, temperature=1.0).mean() != golden("average_kl of a and c, mean over the batch", rel=1e-2)


# -- what the weights are for ------------------------------------------------------------------------------------------


def test_the_average_has_the_gradient_of_the_mean_of_the_distributions():
    student = S.clone().requires_grad_()
    (one,) = torch.autograd.grad(average_kl(student, A, C, temperature=3.0).sum(), student)
    mean = ((A / 3).softmax(-1) + (C / 3).softmax(-1)).log() * 3
    (other,) = torch.autograd.grad(kl(student, mean, temperature=3.0).sum(), student)
    torch.testing.assert_close(one, other)
    mean_logits = (A + C) / 2
    (control,) = torch.autograd.grad(kl(student, mean_logits, temperature=3.0).sum(), student)
    assert not torch.allclose(one, control, rtol=1e-2)


def test_weights_of_one_and_nothing_leave_the_first_teacher_alone():
    torch.testing.assert_close(average_kl(S, A, C, weights=[2.0, 0.0]), kl(S, A, temperature=4.0))


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(InputError, match="weights"):
        average_kl(S, A, C, weights=weights)


@pytest.mark.parametrize("loss", [average_kl, ebkd, aekd, lambda s, *t: ca_mkd(s, LABEL, *t)])
def test_of_a_single_teacher_all_are_the_kl_divergence_and_without_one_they_are_refused(loss):
    alone = loss(S, A)
    expected = kl(S, A, temperature=4.0)
    torch.testing.assert_close(alone, expected if alone.ndim else expected.mean())
    with pytest.raises(InputError, match="no teacher"):
        loss(S)


def sides(loss, student: Tensor, first: Tensor, second: Tensor) -> tuple[float, float]:
    """How much of the gradient comes from each of two teachers: the shares of a mix of both."""
    student = student.clone().requires_grad_()
    (whole,) = torch.autograd.grad(loss(student, first, second).sum(), student)
    pulls = [torch.autograd.grad(kl(student, t, temperature=4.0).sum(), student)[0] for t in (first, second)]
    found = torch.linalg.lstsq(torch.stack([p.flatten() for p in pulls], 1), whole.flatten()[:, None]).solution
    return float(found[0]), float(found[1])


def test_the_surer_teacher_weighs_more():
    sure, vague = torch.tensor([[9.0, 0.0, 0.0]]).double(), torch.tensor([[0.1, 0.0, 0.2]]).double()
    one, other = sides(ebkd, randn(1, 3), sure, vague)
    assert one > 10 * other > 0
    even = sides(average_kl, randn(1, 3), sure, vague)
    assert even == pytest.approx((0.5, 0.5))


def test_the_teacher_that_is_right_weighs_more():
    right, wrong = torch.tensor([[0.0, 4.0, 0.0]]).double(), torch.tensor([[4.0, 0.0, 0.0]]).double()

    def of_class_one(student: Tensor, *teachers: Tensor) -> Tensor:
        return ca_mkd(student, torch.tensor([1]), *teachers)

    one, other = sides(of_class_one, randn(1, 3), right, wrong)
    assert one > 10 * other > 0


def test_certain_teachers_weigh_alike():
    certain = torch.tensor([[2e3, 0.0, 0.0]]).double()
    other = certain.flip(1)
    assert sides(ebkd, randn(1, 3), certain, other) == pytest.approx((0.25, 0.25))


def test_unlabelled_samples_count_nothing():
    label = LABEL.clone()
    label[1] = -100
    value = ca_mkd(S, label, A, C)
    assert value[1] == 0
    torch.testing.assert_close(value[[0, 2, 3]], ca_mkd(S, LABEL, A, C)[[0, 2, 3]])


def descends(student: Tensor, teachers: tuple[Tensor, ...], gradient: Tensor) -> list[bool]:
    """Whether a small step of the logits' mean brings each teacher's mean divergence down."""
    before = [float(kl(student, t, temperature=4.0).mean()) for t in teachers]
    after = [float(kl(student - 1e-4 * gradient, t, temperature=4.0).mean()) for t in teachers]
    return [b > a for b, a in zip(before, after, strict=True)]


def test_the_gradient_space_keeps_every_teacher_content_where_the_average_leaves_one_behind():
    student = torch.zeros(1, 3, dtype=torch.float64)
    loud = torch.tensor([[6.0, 0.0, 0.0]]).double()
    soft = torch.tensor([[-0.4, 0.3, 0.0]]).double()
    leaf = student.clone().requires_grad_()
    (kept,) = torch.autograd.grad(aekd(leaf, loud, soft), leaf)
    (mean,) = torch.autograd.grad(average_kl(leaf, loud, soft).sum(), leaf)
    assert descends(student, (loud, soft), kept) == [True, True]
    assert descends(student, (loud, soft), mean) == [True, False]


# -- the shortest sum --------------------------------------------------------------------------------------------------


def shortest_on_a_grid(gram: Tensor, cap: float, steps: int = 60) -> float:
    shares = [
        (i / steps, j / steps, (steps - i - j) / steps)
        for i, j in itertools.product(range(steps + 1), repeat=2)
        if i + j <= steps
    ]
    points = torch.tensor([s for s in shares if max(s) <= cap + 1e-9], dtype=gram.dtype)
    return float((points @ gram * points).sum(1).min())


@pytest.mark.parametrize("cap", [1.0, 0.5, 0.4])
def test_the_shortest_sum_of_three_is_no_longer_than_any_on_a_grid(cap):
    for seed in range(20):
        vectors = randn(3, 2 + seed % 4, seed=seed) + (seed % 3)
        gram = vectors @ vectors.T
        share = min_norm(gram, cap)
        assert float(share.sum()) == pytest.approx(1)
        assert float(share.min()) >= 0
        assert float(share.max()) <= cap + 1e-12
        assert float(share @ gram @ share) <= shortest_on_a_grid(gram, cap) * (1 + 1e-9) + 1e-12


def test_the_shortest_sum_of_many_meets_its_conditions():
    """Where the sum is shortest, all vectors that have a share slope alike, and no other slopes less."""
    for seed in range(10):
        vectors = randn(7, 20, seed=seed) + 0.3
        share = min_norm(vectors @ vectors.T)
        slope = vectors @ vectors.T @ share
        assert float((slope[share > 1e-9]).max() - slope.min()) <= 1e-6 * float(slope.abs().max())
    even = torch.full((7,), 1 / 7, dtype=torch.float64)
    slope = vectors @ vectors.T @ even
    assert float(slope.max() - slope.min()) > 1e-2 * float(slope.abs().max())


def test_vectors_that_are_equal_opposite_or_nothing_do_no_harm():
    for vectors in (torch.ones(3, 2), torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]])):
        share = min_norm(vectors @ vectors.T)
        assert share.isfinite().all()
        assert float(share.sum()) == pytest.approx(1)
    assert float((vectors.T @ share).norm()) < 1e-6


# -- specialists -------------------------------------------------------------------------------------------------------


def test_a_specialist_of_all_classes_is_the_kl_divergence():
    torch.testing.assert_close(specialist_kl(S, A, classes=[range(5)]), kl(S, A, temperature=4.0))
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(specialist_kl(S, A[:, order], classes=[order]), kl(S, A, temperature=4.0))


def test_classes_that_a_specialist_does_not_know_take_no_gradient():
    student = S.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(specialist_kl(student, A[:, :2], classes=[[1, 3]]).sum(), student)
    assert gradient[:, [0, 2, 4]].eq(0).all()
    assert gradient[:, [1, 3]].ne(0).all()


@pytest.mark.parametrize("classes", [[[0, 1]], [[0, 9], [1, 2]], [[0, 0], [1, 2]], [[0, 1], []]])
def test_classes_that_do_not_fit_are_refused(classes):
    with pytest.raises(InputError, match="specialist_kl"):
        specialist_kl(S, A[:, :2], C[:, :2], classes=classes)


# -- features ----------------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, width: int, bias: bool = True) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, width), nn.Linear(width, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).tanh())


def test_features_are_read_with_the_teachers_own_heads_and_reach_the_student():
    student, one, two = Net(3), Net(7), Net(4, bias=False)
    term = Term(
        CAMKD(), "student.head<", "batch.label",
        "one.head<", "one:head.weight", "one:head.bias", "two.head<", "two:head.weight",
    )  # fmt: skip
    method = Distillation(term, student=student, one=one, two=two)
    batch = (torch.randn(4, 6), torch.tensor([0, -100, 4, 1]))
    method.dry_run(batch)
    assert [tuple(layer.weight.shape) for layer in term.loss.maps] == [(7, 3), (4, 3)]
    method.loss(batch).backward()
    assert student.body.weight.grad.ne(0).any()
    assert all(p.grad is None for p in (*one.parameters(), *two.parameters()))
    x = student.body(batch[0]).tanh()
    mapped = [layer(x) for layer in term.loss.maps]
    targets = [one.body(batch[0]).tanh(), two.body(batch[0]).tanh()]
    losses = torch.stack(
        [
            nn.functional.cross_entropy(n.head(m), batch[1], reduction="none")
            for n, m in zip((one, two), mapped, strict=True)
        ]
    )
    shares = 1 - losses.softmax(0)
    apart = torch.stack([(m - t).square().mean(1) for m, t in zip(mapped, targets, strict=True)])
    by_hand = (shares * apart).mean(0)[[0, 2, 3]].mean()
    torch.testing.assert_close(method.loss(batch), by_hand)


@pytest.mark.parametrize(
    "given", [(), (A,), (A, torch.ones(2, 4)), (A, torch.ones(2, 5), C, torch.ones(3, 5)), (A[:2], torch.ones(2, 5))]
)
def test_heads_that_do_not_fit_are_refused(given):
    with pytest.raises(ShapeError, match="CAMKD"):
        CAMKD()(S, LABEL % 2, *given)
