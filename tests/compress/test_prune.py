from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from understudy import compress
from understudy.compress.layers import WEIGHTED
from understudy.compress.prune import Movement
from understudy.errors import InputError

from .models import outputs, small


def weights(model: nn.Module) -> dict[str, Tensor]:
    done = compress.finished(model)
    return {n: cast("Tensor", m.weight).detach() for n, m in done.named_modules() if isinstance(m, WEIGHTED)}


def held(model: nn.Module) -> dict[str, bool]:
    """Of each layer, whether its zeros are where they were after some steps of an optimizer that moves every number."""
    before = {n: w == 0 for n, w in weights(model).items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    x = torch.randn(8, 1, 8, 8)
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    return {n: torch.equal(w == 0, before[n]) for n, w in weights(model).items()}


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.95])
def test_exactly_the_smallest_weights_of_all_layers_are_zero(amount: float) -> None:
    model, x = small("cnn")
    sizes = torch.cat([w.abs().flatten() for w in weights(model).values()])
    found = compress.magnitude(model, x, amount=amount)
    zeros = round(amount * sizes.numel())
    limit = sizes.sort().values[zeros]
    for name, w in weights(found).items():
        mine = weights(model)[name]
        assert torch.equal(w, torch.where(mine.abs() < limit, 0, mine))
    assert compress.sparsity(found) == zeros / sizes.numel()
    assert compress.sparsity(model) == 0


def test_equal_weights_are_pruned_to_the_number_that_was_asked_for() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    for p in model.parameters():
        nn.init.ones_(p)
    for per_layer in (False, True):
        found = compress.magnitude(model, torch.zeros(1, 10), amount=0.3, per_layer=per_layer)
        assert compress.sparsity(found) == 0.3


def test_per_layer_takes_the_same_share_of_each() -> None:
    model, x = small("cnn")
    found = compress.magnitude(model, x, amount=0.25, per_layer=True)
    assert {n: float((w == 0).float().mean()) for n, w in weights(found).items()} == {
        n: pytest.approx(0.25, abs=1 / w.numel()) for n, w in weights(model).items()
    }
    together = weights(compress.magnitude(model, x, amount=0.25))
    assert len({round(float((w == 0).float().mean()), 2) for w in together.values()}) > 1


@pytest.mark.parametrize("options", [("magnitude", {"amount": 0.7}), ("n_m", {})])
def test_training_moves_no_weight_away_from_zero(options: tuple[str, dict[str, Any]]) -> None:
    model, x = small("cnn")
    name, more = options
    assert set(held(getattr(compress, name)(model, x, **more)).values()) == {True}


def test_control_without_the_mask_they_would_move() -> None:
    model, x = small("cnn")
    assert not any(held(compress.finished(compress.magnitude(model, x, amount=0.7))).values())


def test_pruning_what_is_pruned_keeps_its_zeros() -> None:
    model, x = small("cnn")
    once = compress.n_m(model, x)
    zeros = {n: w == 0 for n, w in weights(once).items()}
    twice = compress.magnitude(once, x, amount=0.8)
    assert compress.sparsity(once) < 0.55
    assert compress.sparsity(twice) == pytest.approx(0.8, abs=1e-3)
    assert all(bool((w[zeros[n]] == 0).all()) for n, w in weights(twice).items())
    assert not any("parametrizations.weight.1" in key for key in twice.state_dict())


def test_two_of_four_in_a_row_along_the_inputs_are_kept_and_they_are_the_largest() -> None:
    model, x = small("cnn")
    found = weights(compress.n_m(model, x))
    for name, w in weights(model).items():
        if w.shape[1] % 4:
            assert torch.equal(found[name], w)
            continue
        groups, mine = (t.movedim(1, -1).reshape(-1, 4) for t in (found[name], w))
        assert torch.equal((groups != 0).sum(1), torch.full((len(groups),), 2))
        gone = torch.where(groups == 0, mine.abs(), 0).amax(1)
        assert bool((torch.where(groups == 0, torch.inf, groups.abs()).amin(1) >= gone).all())


def test_other_patterns_than_two_of_four() -> None:
    model, x = small("mlp")
    assert compress.sparsity(compress.n_m(model, x, n=1, m=8)) == 7 / 8
    for wrong in ({"n": 0}, {"n": 4}, {"m": 1}, {"n": 2.0}):
        with pytest.raises(InputError, match=r"^n_m: "):
            compress.n_m(model, x, **cast("dict[str, Any]", wrong))
    with pytest.raises(InputError, match=r"^n_m: no layer's inputs are a multiple of m=7: "):
        compress.n_m(model, x, n=1, m=7)


def test_the_scores_gradient_is_the_weights_times_the_weight() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 6, requires_grad=True)
    held = Movement(torch.rand(4, 6), 10)
    seen = torch.randn(4, 6)
    (held(weight) * seen).sum().backward()
    mask = torch.ones(24).scatter(0, held.scores.detach().flatten().argsort()[:10], 0).view(4, 6)
    assert weight.grad is not None
    assert torch.equal(weight.grad, seen * mask)
    assert held.scores.grad is not None
    assert torch.allclose(held.scores.grad, seen * weight.detach())
    assert torch.equal(held(weight) == 0, mask == 0)


def test_movement_lets_a_weight_that_moves_towards_zero_go_and_another_come_back() -> None:
    model, x = small("cnn")
    found = compress.movement(model, x, amount=0.5)
    before = {n: w == 0 for n, w in weights(found).items()}
    assert all(torch.equal(before[n], w == 0) for n, w in weights(compress.magnitude(model, x, per_layer=True)).items())
    optimizer = torch.optim.SGD(found.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        found(torch.randn(8, 1, 8, 8)).square().mean().backward()
        optimizer.step()
    after = {n: w == 0 for n, w in weights(found).items()}
    changed = {n: int((after[n] != before[n]).sum()) for n in after}
    assert sum(changed.values()) > 0
    assert {n: int(z.sum()) for n, z in after.items()} == {n: int(z.sum()) for n, z in before.items()}


def test_movement_takes_the_place_of_a_mask() -> None:
    model, x = small("cnn")
    found = compress.movement(compress.magnitude(model, x, amount=0.3), x, amount=0.6)
    assert compress.sparsity(found) == pytest.approx(0.6, abs=0.01)
    kinds = {type(p) for m in found.modules() if parametrize.is_parametrized(m) for p in m.parametrizations["weight"]}
    assert kinds == {Movement}


def test_a_weight_that_stands_in_two_places_is_left_alone() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.middle, self.head = nn.Embedding(7, 8), nn.Linear(8, 8), nn.Linear(8, 7, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Any:
            return self.head(self.middle(self.words(x)))

    model = Tied()
    found = compress.finished(compress.magnitude(model, torch.zeros(1, 2, dtype=torch.long)))
    assert found.head.weight is found.words.weight
    assert bool((found.head.weight != 0).all())
    assert float((found.middle.weight == 0).float().mean()) == 0.5


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(InputError, match=r"^magnitude: Tanh has no convolution and no linear layer to be changed\.$"):
        compress.magnitude(nn.Tanh(), torch.zeros(1, 2))
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(InputError, match="but those kept"):
        compress.magnitude(model, torch.zeros(1, 2), keep=["*"])


def test_the_outputs_are_those_of_the_weights_that_are_left() -> None:
    model, x = small("flattened")
    found = compress.magnitude(model, x, amount=0.6)
    with torch.no_grad():
        for name, w in weights(found).items():
            cast("Tensor", model.get_submodule(name).weight).copy_(w)
    assert torch.equal(outputs(found, x), outputs(model, x))
