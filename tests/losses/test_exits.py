"""Heads on a student's own layers, and what it said before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Progress
from understudy.errors import InputError, ShapeError
from understudy.losses import BYOT, ONE, PSKD, consistency, cross_entropy, kl, masked_l2, soft_cross_entropy
from understudy.losses.exits import as_map


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


S, LABEL = 2 * randn(4, 5), torch.tensor([0, 2, -100, 1])
SHALLOW, MIDDLE, DEEP = randn(4, 2, 6, 6, seed=1), randn(4, 3, 4, 4, seed=2), randn(4, 6, 2, 2, seed=3)


def fitted(loss: nn.Module, *given: Tensor) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        loss.eval()(*given)
    return loss.train().double()


# -- BYOT --------------------------------------------------------------------------------------------------------------


def by_hand(loss: BYOT, alpha: float, beta: float) -> Tensor:
    """From losses that have the authors' numbers."""
    value = torch.zeros(4, dtype=torch.float64)
    for head, layer in zip(loss.exits, (SHALLOW, MIDDLE), strict=True):
        features = head.body(F.adaptive_avg_pool2d(layer, 2))
        logits = head.head(features.mean((2, 3)))
        value = value + (1 - alpha) * cross_entropy(logits, LABEL)
        value = value + alpha * soft_cross_entropy(logits, S, temperature=3.0) + beta * masked_l2(features, DEEP)
    return value.masked_fill(LABEL < 0, 0)


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1e-6), (0.5, 1e-2)])
def test_byot_is_the_sum_over_exits_of_these_losses(alpha, beta):
    loss = fitted(BYOT(alpha=alpha, beta=beta), S, LABEL, SHALLOW, MIDDLE, DEEP)
    torch.testing.assert_close(loss(S, LABEL, SHALLOW, MIDDLE, DEEP), by_hand(loss, alpha, beta))
    assert not torch.allclose(loss(S, LABEL, SHALLOW, MIDDLE, DEEP), by_hand(loss, alpha + 0.1, beta), rtol=1e-3)


def test_byot_cuts_what_teaches_and_not_what_learns():
    loss = fitted(BYOT(beta=1.0), S, LABEL, SHALLOW, MIDDLE, DEEP)
    leaves = [t.clone().requires_grad_() for t in (S, SHALLOW, MIDDLE, DEEP)]
    loss(leaves[0], LABEL, *leaves[1:]).sum().backward()
    assert leaves[0].grad is None
    assert leaves[3].grad is None
    assert leaves[1].grad[[0, 1, 3]].ne(0).any()
    assert leaves[2].grad[[0, 1, 3]].ne(0).any()
    assert leaves[1].grad[2].eq(0).all()


@pytest.mark.parametrize(
    "layers", [(randn(4, 7, 6), randn(4, 5, 3)), (randn(4, 6), randn(4, 3)), (SHALLOW, randn(4, 3))]
)
def test_exits_stand_on_maps_tokens_and_vectors(layers):
    loss = fitted(BYOT(), S, LABEL, *layers)
    value = loss(S, LABEL, *layers)
    assert value.shape == (4,)
    assert value[[0, 1, 3]].gt(0).all()
    assert as_map(randn(2, 7, 3)).shape == (2, 3, 7, 1)


@pytest.mark.parametrize("layers", [(DEEP,), (), (SHALLOW[:2], DEEP), (randn(4), DEEP)])
def test_layers_that_do_not_go_together_are_refused(layers):
    with pytest.raises(ShapeError, match=r"BYOT|exit"):
        BYOT()(S, LABEL, *layers)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"beta": -1.0}, {"temperature": 0.0}])
def test_options_of_byot_that_are_none_are_refused(options):
    with pytest.raises(InputError, match="BYOT"):
        BYOT(**options)


# -- ONE ---------------------------------------------------------------------------------------------------------------


def test_one_is_the_sum_over_branches_of_these_losses():
    loss = fitted(ONE(branches=2), S, LABEL, SHALLOW)
    logits = [S, *(b.head(b.body(SHALLOW).mean((2, 3))) for b in loss.branches)]
    gate = loss.gate(SHALLOW.mean((2, 3))).softmax(-1)
    ensemble = sum(gate[:, i, None] * z for i, z in enumerate(logits))
    expected = sum(cross_entropy(z, LABEL) for z in (*logits[1:], ensemble))
    expected = expected + sum(kl(z, ensemble, temperature=3.0) for z in logits)
    torch.testing.assert_close(loss(S, LABEL, SHALLOW), expected.masked_fill(LABEL < 0, 0))
    colder = ONE(branches=2, temperature=1.0).double()
    colder.sizes, colder.branches, colder.gate = loss.sizes, loss.branches, loss.gate
    assert not torch.allclose(colder(S, LABEL, SHALLOW), loss(S, LABEL, SHALLOW), rtol=1e-2)


def test_the_ensemble_teaches_and_is_not_taught_by_the_branches():
    """With the ensemble's own labels taken away, the gate has nothing to learn from."""
    loss = fitted(ONE(), S, LABEL, SHALLOW)
    loss(S, LABEL, SHALLOW).sum().backward()
    assert loss.gate.weight.grad.ne(0).any()
    logits = torch.stack([S, *(b(SHALLOW)[1] for b in loss.branches)], 1)
    gate = loss.gate(SHALLOW.mean((2, 3))).softmax(-1)
    hard = cross_entropy((gate[:, :, None] * logits).sum(1), LABEL).sum()
    (expected,) = torch.autograd.grad(hard, loss.gate.weight)
    torch.testing.assert_close(loss.gate.weight.grad, expected)


def test_one_refuses_what_does_not_go_together():
    with pytest.raises(ShapeError, match="ONE"):
        ONE()(S, LABEL, SHALLOW[:2])
    with pytest.raises(InputError, match="branches"):
        ONE(branches=0)


# -- what was said before ----------------------------------------------------------------------------------------------

INDEX = torch.tensor([7, 0, 3, 9])


def test_what_was_never_said_is_the_label():
    loss = fitted(PSKD(samples=10), S, LABEL, INDEX)
    torch.testing.assert_close(loss(S, LABEL, INDEX), cross_entropy(S, LABEL))


def test_what_was_said_counts_from_the_next_step_on():
    loss = fitted(PSKD(samples=10), S, LABEL, INDEX)
    earlier = randn(4, 5, seed=9).requires_grad_()
    first = loss(earlier, LABEL, INDEX)
    torch.testing.assert_close(loss(earlier, LABEL, INDEX), first)  # within a step it does not
    loss.after(Progress(0, 10))
    expected = soft_cross_entropy(S, earlier.detach()).masked_fill(LABEL < 0, 0)
    torch.testing.assert_close(loss(S, LABEL, INDEX), expected, rtol=1e-6, atol=1e-6)
    other = torch.tensor([1, 2, 4, 5])
    torch.testing.assert_close(loss(S, LABEL, other), cross_entropy(S, LABEL))


def test_what_is_only_looked_at_is_not_kept():
    loss = fitted(PSKD(samples=10), S, LABEL, INDEX)
    loss.eval()(S.clone().requires_grad_(), LABEL, INDEX)
    with torch.no_grad():
        loss.train()(S, LABEL, INDEX)
    loss.after(Progress(0, 10))
    assert not loss.seen.any()


def test_pskd_refuses_what_does_not_go_together():
    with pytest.raises(InputError, match="index 0 to 9 is not within 5"):
        PSKD(samples=5)(S, LABEL, INDEX)
    with pytest.raises(ShapeError, match="PSKD"):
        PSKD(samples=10)(S, LABEL, INDEX[:2])
    with pytest.raises(InputError, match="samples"):
        PSKD(samples=0)


# -- consistency -------------------------------------------------------------------------------------------------------


def test_consistency_is_that_of_probabilities_and_not_of_logits():
    torch.testing.assert_close(consistency(S, S + 7.0), torch.zeros(4, dtype=torch.float64))
    apart = torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]])
    torch.testing.assert_close(consistency(*apart), torch.tensor([1.0]))
