from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.errors import InputError, ShapeError
from understudy.losses import (
    attention_map,
    attention_probabilities,
    attention_relation,
    attention_scores,
    kl,
    relation_values,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- attention_map -----------------------------------------------------------------------------------------------------


def test_attention_map_of_other_channels_and_areas_is_that_of_the_smaller_area():
    student, teacher = randn(2, 3, 4, 4), randn(2, 7, 8, 8, seed=1)
    expected = attention_map(student, F.avg_pool2d(teacher, 2))
    torch.testing.assert_close(attention_map(student, teacher), expected)
    torch.testing.assert_close(attention_map(teacher, student), attention_map(F.avg_pool2d(teacher, 2), student))


def test_attention_map_of_tokens_is_that_of_the_same_positions_in_a_map():
    student, teacher = randn(2, 3, 2, 4), randn(2, 5, 2, 4, seed=1)
    tokens = (x.flatten(2).transpose(1, 2) for x in (student, teacher))
    torch.testing.assert_close(attention_map(*tokens), attention_map(student, teacher))


@pytest.mark.parametrize("form", ["code", "paper"])
def test_attention_map_does_not_see_the_scale_of_the_features(form):
    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    for scale in (1e-8, 1e-3, 1e5):
        torch.testing.assert_close(
            attention_map(scale * student, teacher, form=form), attention_map(student, teacher, form=form)
        )


def test_control_with_an_addend_in_the_norm_small_features_vanish():
    def naive(student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (F.normalize(x.square().mean(1).flatten(1), eps=1e-12) for x in (student, teacher))
        return (s - t).square().mean(1)

    student, teacher = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(naive(student, teacher), attention_map(student, teacher))
    assert not torch.allclose(naive(1e-8 * student, teacher), naive(student, teacher))


def test_attention_map_of_a_dead_layer_has_a_value_and_no_gradient():
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    for form in ("code", "paper"):
        attention_map(dead, randn(2, 3, 4, 4).float(), form=form).sum().backward()
        assert dead.grad.eq(0).all()


@pytest.mark.parametrize("options", [{"form": "papers"}, {"power": 0.5}, {"power": math.inf}])
def test_attention_map_refuses_what_is_no_option(options):
    with pytest.raises(InputError, match=r"attention_map: form=.*is not allowed; form is 'code' or 'paper'"):
        attention_map(randn(2, 3, 4, 4), randn(2, 3, 4, 4), **options)


def test_attention_map_refuses_vectors_of_which_it_would_always_be_zero():
    with pytest.raises(ShapeError, match=r"\[2, 3\] \(student\).*a vector has no positions"):
        attention_map(randn(2, 3), randn(2, 3))
    with pytest.raises(ShapeError, match="as many tokens"):
        attention_map(randn(2, 3, 4), randn(2, 5, 4))


# -- attention of transformers -----------------------------------------------------------------------------------------


def attended(x: Tensor, y: Tensor, heads: int) -> Tensor:
    """Scores, head by head."""
    size = x.shape[2] // heads
    parts = [slice(h * size, (h + 1) * size) for h in range(heads)]
    return torch.stack([x[..., p] @ y[..., p].transpose(1, 2) / math.sqrt(size) for p in parts], 1)


def test_scores_of_several_heads_are_those_of_torchs_attention():
    q, k = randn(2, 5, 6), randn(2, 5, 6, seed=1)
    teacher = randn(2, 5, 9, seed=2), randn(2, 5, 9, seed=3)
    value = attention_scores(q, k, *teacher, student_heads=3, teacher_heads=3)
    expected = (attended(q, k, 3) - attended(*teacher, 3)).square().flatten(1).mean(1)
    torch.testing.assert_close(value, expected)
    one_head = attention_scores(q, k, *teacher, student_heads=1, teacher_heads=1)
    assert not torch.allclose(one_head, expected, rtol=1e-2)


def test_scores_of_other_numbers_of_heads_are_compared_in_the_mean_over_heads():
    q, k = randn(2, 5, 6), randn(2, 5, 6, seed=1)
    teacher = randn(2, 5, 8, seed=2), randn(2, 5, 8, seed=3)
    value = attention_scores(q, k, *teacher, student_heads=3, teacher_heads=4)
    gap = attended(q, k, 3).mean(1) - attended(*teacher, 4).mean(1)
    torch.testing.assert_close(value, gap.square().flatten(1).mean(1))


def test_probabilities_of_other_numbers_of_heads_are_compared_in_the_mean_over_heads():
    student, teacher = randn(2, 3, 5, 5).softmax(-1), randn(2, 4, 5, 5, seed=1).softmax(-1)
    expected = (student.mean(1) - teacher.mean(1)).square().flatten(1).mean(1)
    torch.testing.assert_close(attention_probabilities(student, teacher), expected)


def test_relation_of_several_heads_is_the_divergence_of_each_token_of_each_head():
    q, k = randn(2, 5, 6), randn(2, 5, 6, seed=1)
    teacher = randn(2, 5, 9, seed=2), randn(2, 5, 9, seed=3)
    expected = kl(attended(q, k, 3), attended(*teacher, 3)).flatten(1).mean(1)
    torch.testing.assert_close(attention_relation(q, k, *teacher, heads=3), expected)
    torch.testing.assert_close(
        relation_values(q, k, heads=3), kl(attended(q, q, 3), attended(k, k, 3)).flatten(1).mean(1)
    )


LOSSES = {
    "attention_scores": lambda q, k, present: attention_scores(
        q, k, 2 * k, q, present, student_heads=2, teacher_heads=2
    ),
    "attention_relation": lambda q, k, present: attention_relation(q, k, 2 * k, q, present, heads=2),
    "relation_values": lambda q, k, present: relation_values(q, k, present, heads=2),
}


@pytest.mark.parametrize("name", LOSSES)
def test_padding_counts_nowhere_whatever_it_holds(name):
    q, k = randn(3, 6, 4), randn(3, 6, 4, seed=1)
    present = torch.tensor([[1] * 6, [1, 1, 1, 1, 0, 0], [1] + [0] * 5])
    value = LOSSES[name](q, k, present)
    for i, length in enumerate((6, 4, 1)):
        alone = LOSSES[name](q[i : i + 1, :length], k[i : i + 1, :length], None)
        torch.testing.assert_close(value[i : i + 1], alone)
    noise = q.masked_fill(present[..., None] == 0, 1e4).requires_grad_()
    torch.testing.assert_close(LOSSES[name](noise, k, present.bool()), value)
    LOSSES[name](noise, k, present).sum().backward()
    assert noise.grad[present == 0].eq(0).all()
    assert noise.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_control_without_the_mask_padding_counts(name):
    q, k = randn(1, 6, 4), randn(1, 6, 4, seed=1)
    assert not torch.allclose(LOSSES[name](q, k, None), LOSSES[name](q[:, :4], k[:, :4], None), rtol=1e-2)


@pytest.mark.parametrize("name", LOSSES)
def test_a_sample_without_any_token_gives_zero(name):
    q, k = randn(2, 3, 4).requires_grad_(), randn(2, 3, 4, seed=1)
    value = LOSSES[name](q, k, torch.tensor([[1, 1, 1], [0, 0, 0]]))
    value.sum().backward()
    assert value[0] > 0
    assert value[1] == 0
    assert q.grad[1].eq(0).all()
    assert q.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_mask_of_another_shape_is_refused(name):
    with pytest.raises(ShapeError, match=rf"{name}: present \[2, 4\] does not fit tokens \[2, 3, 4\]"):
        LOSSES[name](randn(2, 3, 4), randn(2, 3, 4), torch.ones(2, 4))


def test_heads_that_do_not_divide_the_features_are_refused():
    with pytest.raises(ShapeError, match="relation_values: 12 heads do not divide 4 features"):
        relation_values(randn(2, 3, 4), randn(2, 3, 4))
    with pytest.raises(ShapeError, match="attention_scores: 3 heads do not divide 4 features"):
        attention_scores(*[randn(2, 3, 4)] * 4, student_heads=2, teacher_heads=3)
