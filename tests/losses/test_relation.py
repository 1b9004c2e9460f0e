"""Relations within a batch: the numbers of published code, and what each must not see."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from understudy import losses
from understudy.errors import InputError, ShapeError
from understudy.losses import angle
from understudy.losses.relation import directions, distances

GOLDEN = json.loads((Path(__file__).parents[1] / "reference" / "relation.json").read_text())["values"]
PAIRWISE = ("similarity", "rkd_distance", "rkd_angle", "pkt", "correlation_congruence", "cka", "neighbour_graph")
every_relation = pytest.mark.parametrize("name", PAIRWISE)


def golden(name: str) -> object:
    return pytest.approx(GOLDEN[name]["value"], rel=1e-6)


def features() -> tuple[Tensor, Tensor]:
    k = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    return torch.sin(0.9 * k + 0.3), torch.cos(0.55 * k)


def feature_maps() -> tuple[Tensor, Tensor]:
    k = torch.arange(192, dtype=torch.float64).reshape(4, 3, 4, 4)
    return torch.sin(0.31 * k + 0.2), torch.cos(0.17 * k)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the numbers of published code -------------------------------------------------------------------------------------


def test_rkd_distance_gives_the_number_of_the_published_code():
    assert losses.rkd_distance(*features()).item() == golden("rkd_distance")


def test_control_rkd_distance_without_its_unit_is_another_number():
    far = [torch.cdist(x, x) for x in features()]
    assert F.smooth_l1_loss(*far).item() != golden("rkd_distance")


def test_correlation_congruence_gives_the_number_of_the_code_that_follows_the_paper():
    name = "correlation_congruence, gamma .4, order 2"
    assert losses.correlation_congruence(*features()).item() == golden(name)
    assert losses.correlation_congruence(*features(), order=1).item() != golden(name)
    assert losses.correlation_congruence(*(2 * x for x in features())).item() == golden(name)
    gram = [x @ x.T for x in features()]  # of features that were not brought to length 1
    assert (gram[0] - gram[1]).square().mean().item() != golden(name)


def test_the_other_code_of_that_name_compares_no_correlations():
    """It is what `Differs` says, and depends on the order of the batch, which this does not."""
    name = "correlation_congruence, product of neighbouring differences"

    def other(student: Tensor, teacher: Tensor) -> Tensor:
        gap = (student - teacher).abs()
        return (gap[:-1] * gap[1:]).sum(1).mean()

    assert other(*features()).item() == golden(name)
    assert losses.correlation_congruence(*features()).item() != golden(name)
    order = torch.tensor([2, 0, 3, 1])
    assert other(*(x[order] for x in features())).item() != golden(name)


def test_ickd_is_the_number_of_the_published_code_times_the_batch():
    name = "ickd, mean over the batch, over the batch's size once more"
    student, teacher = feature_maps()
    value = losses.ickd(student, teacher)
    assert value.shape == (4,)
    assert value.mean().item() / 4 == golden(name)
    assert value.mean().item() != golden(name)
    gram = [F.normalize(x.flatten(2) @ x.flatten(2).mT, p=1, dim=2) for x in (student, teacher)]  # the wrong norm
    assert (gram[0] - gram[1]).square().sum().item() / 3 / 16 != golden(name)


def test_similarity_divides_its_rows_by_their_euclidean_length():
    student, teacher = features()

    def with_norm(p: float) -> float:
        gap = F.normalize(teacher @ teacher.T, p=p) - F.normalize(student @ student.T, p=p)
        return (gap.square().sum() / 16).item()

    assert losses.similarity(student, teacher).item() == pytest.approx(with_norm(2), rel=1e-12)
    assert losses.similarity(student, teacher).item() != pytest.approx(with_norm(1), rel=0.2)


# -- what they do not see ----------------------------------------------------------------------------------------------


@every_relation
def test_another_scale_of_either_changes_nothing(name):
    loss, student, teacher = getattr(losses, name), randn(7, 5), randn(7, 9, seed=1)
    value = loss(student, teacher)
    for factor in (1e-9, 1e-3, 1e6):
        torch.testing.assert_close(loss(factor * student, teacher), value, rtol=1e-9, atol=0)
        torch.testing.assert_close(loss(student, factor * teacher), value, rtol=1e-9, atol=0)


@every_relation
def test_a_rotation_of_either_changes_nothing(name):
    loss, student, teacher = getattr(losses, name), randn(7, 5), randn(7, 9, seed=1)
    turn = torch.linalg.qr(randn(5, 5, seed=2)).Q
    torch.testing.assert_close(loss(student @ turn, teacher), loss(student, teacher), rtol=1e-9, atol=0)
    stretch = torch.diag(torch.tensor([5.0, 1, 1, 1, 0.2], dtype=torch.float64))
    assert (loss(student @ stretch, teacher) - loss(student, teacher)).abs() > 1e-5


@pytest.mark.parametrize(("name", "moves"), [(n, n not in ("rkd_distance", "rkd_angle", "cka")) for n in PAIRWISE])
def test_where_the_origin_is_matters_to_cosines_only(name, moves):
    loss, student, teacher = getattr(losses, name), randn(7, 5), randn(7, 9, seed=1)
    moved = (loss(student + 3, teacher) - loss(student, teacher)).abs()
    assert moved > 1e-5 if moves else moved < 1e-12


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "pkt", "correlation_congruence", "neighbour_graph"])
def test_of_maps_and_tokens_the_mean_is_taken(name):
    loss, student, teacher = getattr(losses, name), randn(6, 5, 3, 4), randn(6, 7, 9, seed=1)
    torch.testing.assert_close(loss(student, teacher), loss(student.mean((2, 3)), teacher.mean(1)))
    assert (loss(student, teacher) - loss(student.flatten(1), teacher.flatten(1))).abs() > 1e-6


@pytest.mark.parametrize("name", ["similarity", "cka"])
def test_maps_are_flattened_where_positions_count(name):
    loss, student, teacher = getattr(losses, name), randn(6, 5, 3, 4), randn(6, 7, 9, seed=1)
    torch.testing.assert_close(loss(student, teacher), loss(student.flatten(1), teacher.flatten(1)))


@every_relation
def test_one_sample_or_equal_samples_pull_at_nothing(name):
    loss, teacher = getattr(losses, name), randn(3, 4, seed=1).float()
    alone = randn(1, 4).float().requires_grad_()
    value = loss(alone, teacher[:1])
    value.backward()
    assert value.abs() < 1e-9
    assert alone.grad.abs().max() < 1e-6
    equal = torch.ones(3, 4).requires_grad_()
    loss(equal, teacher).backward()
    assert equal.grad.isfinite().all()
    assert equal.grad.abs().max() < 10


def test_control_the_usual_normalisation_gives_a_zero_vector_a_gradient_of_1e12():
    others = torch.eye(3)

    def pull(unit: Callable[[Tensor], Tensor]) -> float:
        x = torch.zeros(3, 3, requires_grad=True)
        (unit(x) * others).sum().backward()
        return float(x.grad.abs().max())

    assert pull(directions) == 0
    assert pull(lambda x: F.normalize(x, dim=-1)) > 1e11


def test_unknown_options_of_correlation_congruence_are_refused():
    for wrong in ({"gamma": 0.0}, {"gamma": float("inf")}, {"order": 0}):
        with pytest.raises(InputError, match="correlation_congruence"):
            losses.correlation_congruence(*features(), **wrong)


def test_ickd_says_what_makes_the_channels_equal():
    with pytest.raises(ShapeError, match=r"project=Conv1x1\(\)"):
        losses.ickd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    assert losses.ickd(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)).shape == (2,)


# -- angles ------------------------------------------------------------------------------------------------------------


def straight_angles(student: Tensor, teacher: Tensor) -> Tensor:
    def cosines(x: Tensor) -> Tensor:
        towards = F.normalize(x[None] - x[:, None], dim=2)
        return towards @ towards.mT

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


@pytest.mark.parametrize("chunk", [1, 40, 300, 1 << 17])
@pytest.mark.parametrize("rows", [1, 2, 5, 13])
def test_the_angles_of_a_few_anchors_at_a_time_are_those_of_all(monkeypatch, chunk, rows):
    monkeypatch.setattr(angle, "CHUNK", chunk)
    tensors = [(randn(rows, w, seed=w).requires_grad_(), randn(rows, w, seed=w).requires_grad_()) for w in (4, 6)]
    ours, theirs = zip(*tensors, strict=True)
    value, expected = losses.rkd_angle(*ours), straight_angles(*theirs)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-15)
    value.backward()
    expected.backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-12)


def test_both_branches_of_the_smooth_l1_are_met():
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.1]], dtype=torch.float64)
    teacher = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-2.0, 0.1]], dtype=torch.float64)
    torch.testing.assert_close(losses.rkd_angle(student, teacher), straight_angles(student, teacher))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            losses.rkd_angle(student, teacher), losses.rkd_angle(student, teacher.abs()), rtol=1e-3, atol=0
        )


def test_angles_of_equal_samples_are_left_out_without_a_gradient():
    student = torch.tensor([[0.0, 1.0], [0.0, 1.0], [3.0, 2.0], [1.0, -1.0]], requires_grad=True)
    teacher = randn(4, 3).float()
    value = losses.rkd_angle(student, teacher)
    value.backward()
    torch.testing.assert_close(value, straight_angles(student, teacher))
    assert student.grad.isfinite().all()
    assert student.grad.abs().max() < 10


def test_the_gradient_of_the_angles_has_no_gradient_and_says_so():
    student = randn(4, 3).requires_grad_()
    value = losses.rkd_angle(student, randn(4, 3, seed=1))
    with pytest.raises(InputError, match="no second derivative"):
        torch.autograd.grad(value, student, create_graph=True)


def test_distances_keep_seven_digits_far_from_the_origin():
    near = torch.tensor([[1000.0, 0.0], [1000.01, 0.0], [1000.0, 1.0]])
    exact = torch.cdist(near.double(), near.double(), compute_mode="donot_use_mm_for_euclid_dist").float()
    torch.testing.assert_close(distances(near), exact, rtol=1e-5, atol=0)
    usual = torch.cdist(near, near, compute_mode="use_mm_for_euclid_dist")
    assert (usual - exact).abs().max() > 1e-3


# -- memory ------------------------------------------------------------------------------------------------------------


def peak(step: Callable[[], object]) -> int:
    """Bytes allocated at most on top of what was there."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    held = most = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


def test_the_angles_take_a_tenth_of_the_memory_of_all_of_them():
    student, teacher = randn(160, 16).float().requires_grad_(), randn(160, 16, seed=1).float()
    whole = peak(lambda: torch.autograd.grad(straight_angles(student, teacher), student))
    assert whole > 160**3 * 4
    assert 10 * peak(lambda: torch.autograd.grad(losses.rkd_angle(student, teacher), student)) < whole
