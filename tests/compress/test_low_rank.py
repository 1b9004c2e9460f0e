from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import compress
from understudy.compress.low_rank import Factorized
from understudy.errors import InputError

from .models import outputs, size, small


def thin(shape: tuple[int, ...], rank: int) -> Tensor:
    """A weight that is of this rank as a matrix."""
    rows = torch.randn(shape[0], rank)
    return (rows @ torch.randn(rank, int(torch.tensor(shape[1:]).prod()))).view(shape)


def factorized(model: nn.Module) -> dict[str, int]:
    return {n: m[0].weight.shape[0] for n, m in model.named_modules() if isinstance(m, Factorized)}


CONVS: list[dict[str, Any]] = [
    {"padding": 1}, {"stride": 2, "padding": (2, 1)}, {"dilation": 2, "bias": False}, {"padding": "same", "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "circular", "stride": (1, 2)},
]  # fmt: skip


@pytest.mark.parametrize("options", CONVS, ids=str)
@pytest.mark.parametrize("more", [{}, {"whitened": True}], ids=str)
def test_a_layer_of_low_rank_is_found_out_and_gives_the_same_outputs(options: Any, more: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 20, (3, 5), **options), nn.Flatten(1, -1), nn.LazyLinear(30))
    x = torch.randn(20, 8, 9, 9)
    model(x)
    with torch.no_grad():
        model[0].weight.copy_(thin((20, 8, 3, 5), 3))
        model[2].weight.copy_(thin(tuple(model[2].weight.shape), 2))
    found = compress.low_rank(model, x, energy=0.99999, **more)
    assert factorized(found) == {"0": 3, "2": 2}
    scale = float(outputs(model, x).std())
    assert float((outputs(found, x) - outputs(model, x)).abs().max()) < 2e-2 * scale if more else 1e-4 * scale
    assert torch.allclose(found.get_submodule("0").weight, model[0].weight, atol=1e-3)


@pytest.mark.parametrize("options", CONVS, ids=str)
def test_a_separable_convolution_is_split_into_columns_and_rows(options: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 12, (3, 5), **options)
    with torch.no_grad():
        conv.weight.copy_(torch.einsum("ocr,rih->oihc", torch.randn(12, 5, 2), torch.randn(2, 6, 3)))
    x = torch.randn(4, 6, 9, 9)
    found: Any = compress.low_rank(nn.Sequential(conv), x, energy=0.99999, spatial=True)
    assert [tuple(layer.kernel_size) for layer in found[0]] == [(3, 1), (1, 5)]
    assert factorized(found) == {"0": 2}
    assert (found[0].kernel_size, found[0].stride) == (
        conv.kernel_size,
        conv.stride,
    )  # which code around it may ask for
    assert torch.allclose(outputs(found, x), outputs(nn.Sequential(conv), x), atol=1e-3)
    assert torch.allclose(found[0].weight, conv.weight, atol=1e-4)


def test_the_truncation_is_the_best_there_is() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(40, 30)), torch.randn(5, 40)
    found = compress.low_rank(model, x, ratio=0.4)
    (rank,) = factorized(found).values()
    assert rank == int(0.4 * 1200 / 70)
    values = torch.linalg.svdvals(model[0].weight.detach())
    error = float((found.get_submodule("0").weight - model[0].weight).detach().norm())
    assert error == pytest.approx(float(values[rank:].detach().square().sum().sqrt()), rel=1e-4)


@pytest.mark.parametrize("energy", [0.3, 0.6, 0.9])
def test_the_fewest_directions_that_hold_the_energy_are_kept(energy: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 60))
    with torch.no_grad():
        model[0].weight.mul_(torch.logspace(0, -3, 60))
    found = factorized(compress.low_rank(model, torch.randn(2, 60), energy=energy))["0"]
    share = torch.linalg.svdvals(model[0].weight.detach()).square()
    share = share / share.sum()
    assert float(share[:found].sum()) >= energy > float(share[: found - 1].sum())


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_the_model_holds_at_most_the_budget_and_nearly_as_much(part: float) -> None:
    model, x = small("resnet")
    budget = int(part * size(model))
    found = compress.low_rank(model, x, budget=budget)
    assert 0.97 * budget < size(found) <= budget
    closer = {p: float((outputs(compress.low_rank(model, x, budget=int(p * size(model))), x) - outputs(model, x)).norm()) for p in (0.3, 0.9)}  # fmt: skip
    assert closer[0.9] < closer[0.3]


def test_a_budget_that_cannot_be_met_and_one_that_is_met_already() -> None:
    model, x = small("cnn")
    with pytest.raises(
        InputError,
        match=r"^low_rank: budget=100 cannot be met: with one direction a layer [\d,]+ of 14,\d+ parameters are left\.",
    ):
        compress.low_rank(model, x, budget=100)
    assert torch.equal(outputs(compress.low_rank(model, x, budget=size(model)), x), outputs(model, x))


def test_with_all_the_energy_nothing_is_removed() -> None:
    model, x = small("flattened")
    found = compress.low_rank(model, x, energy=1)
    assert factorized(found) == {}
    assert torch.equal(outputs(found, x), outputs(model, x))


def test_layers_that_would_not_become_smaller_and_grouped_ones_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3, groups=4), nn.Conv2d(8, 8, 1), nn.Flatten(), nn.LazyLinear(2), nn.Linear(2, 2)
    )
    x = torch.randn(3, 8, 5, 5)
    model(x)
    assert factorized(compress.low_rank(model, x, energy=0.95)) == {}
    assert set(factorized(compress.low_rank(model, x, ratio=0.5))) == {"1", "3"}


def test_whitened_keeps_what_matters_for_the_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 40))
    x = torch.randn(500, 6) @ torch.randn(6, 50)  # inputs that lie in six directions
    plain, whitened = (compress.low_rank(model, x, ratio=0.3, whitened=w) for w in (False, True))
    errors = [float((outputs(m, x) - outputs(model, x)).norm()) for m in (plain, whitened)]
    assert errors[1] < 0.05 * errors[0]
    assert not any(m._forward_pre_hooks for m in whitened.modules())


def test_what_is_asked_for_twice_or_out_of_bounds_is_refused() -> None:
    model, x = small("cnn")
    refused: dict[str, dict[str, Any]] = {
        "energy and ratio both": {"energy": 0.5, "ratio": 0.5}, "ratio and budget both": {"ratio": 0.5, "budget": 9}, "energy=0 ": {"energy": 0},
        "energy=1.1": {"energy": 1.1}, "ratio=1 ": {"ratio": 1}, "ratio=True": {"ratio": True}, "budget=0": {"budget": 0},
        "budget=0.5": {"budget": 0.5}, "spatial and whitened": {"spatial": True, "whitened": True},
    }  # fmt: skip
    for told, options in refused.items():
        with pytest.raises(InputError, match=f"^low_rank: {told}"):
            compress.low_rank(model, x, **options)


def test_an_attention_of_torch_reads_its_own_layer_and_keeps_it() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 64, batch_first=True).eval()
    x = torch.randn(3, 5, 16)
    found = compress.low_rank(model, x, ratio=0.5)
    assert set(factorized(found)) == {"linear1", "linear2"}
    with torch.no_grad():  # whose fast path reads weights
        assert torch.allclose(found(x), found.train(False).requires_grad_(True)(x), atol=1e-5)


def test_a_model_of_one_layer_is_replaced() -> None:
    torch.manual_seed(0)
    found: Any = compress.low_rank(nn.Linear(32, 32), torch.zeros(1, 32), ratio=0.5)
    assert isinstance(found, Factorized)
    assert torch.allclose(found(torch.eye(32)), F.linear(torch.eye(32), found.weight, found.bias), atol=1e-5)
