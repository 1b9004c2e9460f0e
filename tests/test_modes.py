from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy.modes import evaluating


def mixed() -> nn.Sequential:
    """A model whose normalisation its user has frozen."""
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Sequential(nn.Dropout())).train()
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [m.training for m in model.modules()]


def test_all_is_in_eval_mode_and_each_in_its_own_again_afterwards() -> None:
    model = mixed()
    before = modes(model)
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before == [True, True, False, True, True]


def test_what_is_done_to_the_modes_meanwhile_is_undone() -> None:
    model = mixed()
    before = modes(model)
    with evaluating(model):
        model.train()
    assert modes(model) == before


def test_the_modes_are_put_back_after_an_error() -> None:
    model = mixed()
    before = modes(model)
    with pytest.raises(ZeroDivisionError), evaluating(model):
        1 / 0  # noqa: B018
    assert modes(model) == before


class Folding(nn.Linear):
    """Adds what it has learnt to its weight in eval mode, and takes it away again in training mode."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.learnt, self.folded = nn.Parameter(torch.ones(2, 2)), False

    def train(self, mode: bool = True) -> Any:
        if self.folded == mode:
            self.weight.data += -self.learnt.data if mode else self.learnt.data
            self.folded = not mode
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.folded else super().forward(x) + x @ self.learnt.T


def test_a_layer_that_folds_its_weights_in_eval_says_the_same_before_within_and_after() -> None:
    layer, x = Folding(), torch.randn(4, 2)
    before, weight = layer(x), layer.weight.clone()
    with evaluating(layer):
        torch.testing.assert_close(layer(x), before)
    torch.testing.assert_close(layer(x), before)
    assert torch.equal(layer.weight, weight)


def test_eval_and_the_flags_put_back_would_leave_it_folded() -> None:
    layer = Folding()
    weight = layer.weight.clone()
    layer.eval()
    layer.training = True
    assert not torch.equal(layer.weight, weight)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_model_is_in_eval_mode_too() -> None:
    model = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))).train()
    x = torch.ones(64, 3)
    with evaluating(model):
        assert not any(modes(model))
        assert torch.equal(model(x), model(x))
    assert all(modes(model))
    assert not torch.equal(model(x), model(x))
