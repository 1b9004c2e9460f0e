"""Graphs: of a batch's samples, of nodes, of knowledge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from understudy.errors import InputError, ShapeError
from understudy.losses import local_structure, neighbour_graph, triple_scores, triple_structure, view_relations
from understudy.losses.graph import _nearest, complex_score, distmult, transe


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- the samples of a batch --------------------------------------------------------------------------------------------


def test_the_edges_are_the_teachers_in_both_directions():
    line = torch.tensor([[0.0], [1.0], [2.1], [9.0]], dtype=torch.float64)
    edges = _nearest(-torch.cdist(line, line), 1)
    assert edges.tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert _nearest(torch.zeros(1, 1), 3).tolist() == [[0]]


def test_what_the_student_does_beside_the_teachers_edges_does_not_matter():
    angles = torch.tensor([0.0, 0.1, 1.5, 1.6], dtype=torch.float64)
    teacher = torch.stack([angles.cos(), angles.sin()], 1)
    student = randn(4, 6)
    turned = torch.cat([student[:2], student[2:] @ torch.linalg.qr(randn(6, 6, seed=1)).Q])
    assert neighbour_graph(turned, teacher, neighbours=1).item() == pytest.approx(
        neighbour_graph(student, teacher, neighbours=1).item(), rel=1e-9
    )
    assert neighbour_graph(turned, teacher, neighbours=3) != neighbour_graph(student, teacher, neighbours=3)


def test_with_all_neighbours_it_is_the_whole_graph():
    student, teacher = randn(5, 3), randn(5, 4, seed=1)
    assert neighbour_graph(student, teacher, neighbours=4) == neighbour_graph(student, teacher, neighbours=99)
    with pytest.raises(InputError, match="neighbours"):
        neighbour_graph(student, teacher, neighbours=0)


# -- nodes -------------------------------------------------------------------------------------------------------------


def ring(nodes: int) -> Tensor:
    around = torch.arange(nodes)
    return torch.stack([torch.cat([around, around]), torch.cat([around.roll(1), around.roll(-1)])])


def test_the_order_of_the_edges_does_not_matter_but_their_direction_does():
    student, teacher, edges = randn(6, 3), randn(6, 5, seed=1), ring(6)[:, :9]
    value = local_structure(student, teacher, edges, width=1.0)
    order = torch.tensor([4, 8, 0, 2, 6, 1, 3, 5, 7])
    torch.testing.assert_close(local_structure(student, teacher, edges[:, order], width=1.0), value)
    assert not torch.allclose(local_structure(student, teacher, edges.flip(0), width=1.0), value)


def test_a_node_without_two_neighbours_has_nothing_to_tell():
    edges = torch.tensor([[1, 0, 2], [0, 1, 1]])
    value = local_structure(randn(3, 3), randn(3, 3, seed=1), edges, width=1.0)
    assert value[[0, 2]].abs().max() < 1e-15
    assert value[1] > 1e-3


def test_it_brings_a_small_embedding_to_the_teachers_neighbourhoods():
    teacher, edges = 3 * randn(20, 16), torch.cat([ring(20), ring(20) * 3 % 20], 1)
    student = randn(20, 2, seed=1).requires_grad_()
    optimizer = torch.optim.Adam([student], lr=0.05)
    first = local_structure(student, teacher, edges, width=10.0).mean().item()
    for _ in range(150):
        optimizer.zero_grad()
        local_structure(student, teacher, edges, width=10.0).mean().backward()
        optimizer.step()
    assert local_structure(student, teacher, edges, width=10.0).mean().item() < 0.2 * first


def test_edges_that_are_none_are_refused():
    x = randn(3, 2)
    with pytest.raises(InputError, match=r"0\.\.2"):
        local_structure(x, x, torch.tensor([[0], [3]]))
    with pytest.raises(ShapeError, match=r"integers \[2, E\]"):
        local_structure(x, x, torch.zeros(2, 4))
    with pytest.raises(InputError, match="width"):
        local_structure(x, x, ring(3), width=0.0)


# -- views -------------------------------------------------------------------------------------------------------------


def test_views_may_be_more_than_the_originals():
    student, teacher = (randn(4, 3), randn(12, 3, seed=1)), (randn(4, 5, seed=2), randn(12, 5, seed=3))
    three = [
        view_relations(student[0], v, teacher[0], w)
        for v, w in zip(student[1].split(4), teacher[1].split(4), strict=True)
    ]
    torch.testing.assert_close(view_relations(*student, *teacher), torch.stack(three).mean())


def test_view_relations_are_times_the_square_of_the_temperature():
    pairs = (randn(4, 3), randn(4, 3, seed=1), randn(4, 3, seed=2), randn(4, 3, seed=3))
    hot = [view_relations(*pairs, temperature=t).item() for t in (100.0, 200.0)]
    assert hot[0] == pytest.approx(hot[1], rel=0.02)
    assert hot[0] / 100**2 != pytest.approx(hot[1] / 200**2, rel=0.5)


# -- knowledge ---------------------------------------------------------------------------------------------------------


def test_transe_is_0_where_the_relation_leads_from_head_to_tail():
    head, relation = randn(5, 4), randn(5, 4, seed=1)
    assert transe(head, relation, head + relation).abs().max() < 1e-12
    assert transe(head, relation, head + 2 * relation, norm=2.0).tolist() == pytest.approx(
        (-relation.norm(dim=1)).tolist()
    )


def test_distmult_cannot_tell_head_from_tail_and_complex_can():
    head, relation, tail = (randn(5, 8, seed=s) for s in range(3))
    torch.testing.assert_close(distmult(head, relation, tail), distmult(tail, relation, head))
    assert not torch.allclose(complex_score(head, relation, tail), complex_score(tail, relation, head))


def test_complex_is_the_real_part_of_the_complex_product():
    head, relation, tail = (randn(5, 8, seed=s) for s in range(3))
    h, r, t = (torch.complex(x[:, :4], x[:, 4:]) for x in (head, relation, tail))
    torch.testing.assert_close(complex_score(head, relation, tail), (h * r * t.conj()).sum(1).real)
    without_conjugate = (h * r * t).sum(1).real
    assert not torch.allclose(complex_score(head, relation, tail), without_conjugate)


@pytest.mark.parametrize("score", [transe, distmult, complex_score])
def test_a_score_of_candidates_broadcasts_over_them(score):
    head, relation, tails = randn(5, 1, 4), randn(5, 1, 4, seed=1), randn(1, 7, 4, seed=2)
    each = torch.stack([score(head[:, 0], relation[:, 0], tails[:, k]) for k in range(7)], 1)
    torch.testing.assert_close(score(head, relation, tails), each)


@pytest.mark.parametrize("score", [transe, distmult, complex_score])
def test_the_scores_of_a_teacher_reach_a_student_of_an_eighth_of_the_dimension(score):
    """As far as four numbers can hold what 32 random ones say."""
    entities, relations = 0.5 * randn(12, 32), 0.5 * randn(2, 32, seed=1)
    ours = [(0.5 * randn(12, 4, seed=2)).requires_grad_(), (0.5 * randn(2, 4, seed=3)).requires_grad_()]

    def all_scores(entity: Tensor, relation: Tensor) -> Tensor:
        return score(entity[:, None, None], relation[None, :, None], entity[None, None]).flatten(0, 1)

    def likeness() -> float:
        return torch.corrcoef(torch.stack([all_scores(*ours).detach().flatten(), target.flatten()]))[0, 1].item()

    target = all_scores(entities, relations)
    start, chance = triple_scores(all_scores(*ours), target).mean().item(), likeness()
    optimizer = torch.optim.Adam(ours, lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        triple_scores(all_scores(*ours), target).mean().backward()
        optimizer.step()
    assert triple_scores(all_scores(*ours), target).mean().item() < 0.6 * start
    assert likeness() > chance + 0.1


def test_structure_is_the_cosine_and_the_share_of_the_lengths():
    head, tail = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    other = torch.tensor([[1.0, 0.0, 0.0]])
    expected = 0.5 * 1.0 + 0.5 * (3 / 7 - 1 / 2) ** 2
    assert triple_structure(head, tail, other, other).item() == pytest.approx(expected, rel=1e-6)
    assert math.isfinite(triple_structure(head, 0 * tail, other, 0 * other).item())
