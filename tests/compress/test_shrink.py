from typing import Any

import pytest
import torch
from torch import nn

from understudy import compress
from understudy.compress.shrink import _note_layers
from understudy.errors import InputError
from understudy.zoo import ResNet

from .models import bert, outputs, size, small, vit, words


@pytest.mark.parametrize(("ratio", "round_to"), [(0.5, 8), (0.25, 8), (0.1, 1), (0.02, 1)])
def test_the_student_has_the_share_of_parameters_and_not_more(ratio: float, round_to: int) -> None:
    model, x = small("cnn")
    share = size(compress.narrower(model, x, ratio=ratio, round_to=round_to)) / size(model)
    assert share <= ratio
    assert share > (0.85 if round_to == 1 else 0.5) * ratio


def test_nearly_all_is_nearly_the_teacher() -> None:
    model, x = small("cnn")
    found = compress.narrower(model, x, ratio=0.999, round_to=1)
    assert 0.9 * size(model) < size(found) < size(model)
    assert float((outputs(found, x) - outputs(model, x)).std() / outputs(model, x).std()) < 0.3


def test_a_share_that_cannot_be_had_is_refused_with_the_smallest_that_can() -> None:
    model, x = small("cnn")
    with pytest.raises(InputError, match=r"^narrower: ratio=0\.05 cannot be reached with round_to=8: the narrowest has 1,362 of 14,458 parameters, 0\.094\."):  # fmt: skip
        compress.narrower(model, x, ratio=0.05)


def test_every_second_block_of_each_stage_stays_with_its_weights() -> None:
    torch.manual_seed(0)
    model, x = ResNet(8, (4, 3, 2)).eval(), torch.randn(4, 3, 8, 8)
    found = compress.shallower(model, x)
    stages = {name: len(found.get_submodule(name)) for name in ("layer1", "layer2", "layer3")}
    assert stages == {"layer1": 2, "layer2": 2, "layer3": 1}
    for stage, kept in {"layer1": [0, 2], "layer2": [0, 2], "layer3": [0]}.items():
        for now, before in enumerate(kept):
            mine, theirs = (m.get_submodule(f"{stage}.{i}").state_dict() for m, i in ((found, now), (model, before)))
            assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_every_third_and_chosen_blocks() -> None:
    model, x = ResNet(8, (7, 1)).eval(), torch.randn(4, 3, 8, 8)
    assert len(compress.shallower(model, x, every=3).layer1) == 3
    found = compress.shallower(model, x, blocks=[0, 6])
    assert torch.equal(found.get_submodule("layer1.1.conv1").weight, model.get_submodule("layer1.6.conv1").weight)
    for wrong in ([], [7], [-1], list(range(7)), [0.5]):
        with pytest.raises(InputError, match=r"^shallower: blocks="):
            compress.shallower(model, x, blocks=wrong)
    with pytest.raises(InputError, match=r"^shallower: every=1 is not allowed"):
        compress.shallower(model, x, every=1)


def test_a_block_that_does_nothing_can_go_unnoticed() -> None:
    torch.manual_seed(0)
    model, x = ResNet(8, (2, 2, 2)).eval(), torch.randn(4, 3, 8, 8)
    for stage in ("layer1", "layer2", "layer3"):
        norm: Any = model.get_submodule(f"{stage}.1.norm2")
        nn.init.zeros_(norm.weight)
    assert torch.equal(outputs(compress.shallower(model, x), x), outputs(model, x))
    nn.init.ones_(norm.weight)  # the control
    assert not torch.equal(outputs(compress.shallower(model, x), x), outputs(model, x))


def test_a_model_without_equal_blocks_is_refused() -> None:
    model, x = small("cnn")
    with pytest.raises(InputError, match=r"^shallower: CNN has no list with two equal blocks in a row\."):
        compress.shallower(model, x)


def test_blocks_without_which_the_model_does_not_run_are_told() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Any) -> Any:
            for i in range(4):
                x = self.blocks[i](x)
            return x

    with pytest.raises(InputError, match=r"^shallower: without the blocks: Counted does not run on the example"):
        compress.shallower(Counted(), torch.zeros(2, 4))


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_transformers_configuration_is_told_how_many_layers_are_left(name: str) -> None:
    torch.manual_seed(0)
    model: Any = bert() if name == "bert" else vit()
    x = words() if name == "bert" else torch.randn(6, 1, 8, 8)
    found: Any = compress.shallower(model, x)
    assert (found.config.num_hidden_layers, model.config.num_hidden_layers) == (2, 4)
    anew = type(found)(found.config).eval()
    anew.load_state_dict(found.state_dict())
    assert torch.equal(outputs(anew, x), outputs(found, x))
    home = "bert.encoder.layer" if name == "bert" else "vit.layers"
    theirs = model.get_submodule(f"{home}.2").state_dict()
    assert all(torch.equal(t, theirs[key]) for key, t in found.get_submodule(f"{home}.1").state_dict().items())
    half = compress.narrower(model, x, ratio=0.5)
    assert 0.3 * size(model) < size(half) <= 0.5 * size(model)
    assert outputs(half, x).shape == (6, 3)


@pytest.mark.long
def test_a_residual_network_of_transformers_loses_blocks_in_every_stage() -> None:
    library = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = library.ResNetConfig(num_channels=3, embedding_size=8, hidden_sizes=[8, 16], depths=[3, 2], layer_type="basic", num_labels=3)  # fmt: skip
    model, x = library.ResNetForImageClassification(config).eval(), torch.randn(4, 3, 32, 32)
    found: Any = compress.shallower(model, x)
    assert found.config.depths == [2, 1]
    anew = type(found)(found.config).eval()
    anew.load_state_dict(found.state_dict())
    assert torch.equal(outputs(anew, x), outputs(found, x))
    assert size(compress.narrower(model, x, ratio=0.5, round_to=2)) <= 0.5 * size(model)


def test_a_configuration_that_lists_kinds_of_layers_is_thinned_along() -> None:
    class Config:
        num_hidden_layers = 4
        layer_types = ("a", "b", "c", "d")

    model: Any = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    model.config = Config()
    model.config.layer_types = list(Config.layer_types)
    found: Any = compress.shallower(model, torch.zeros(2, 4))
    assert (found.config.num_hidden_layers, found.config.layer_types) == (2, ["a", "c"])
    assert model.config.layer_types == ["a", "b", "c", "d"]
    assert callable(_note_layers)


class Placed(nn.Module):
    """A block that knows its place, and has parts in a list that know it too, as those of T5."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.layer_idx = at
        self.parts = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        for part in self.parts:
            part.layer_idx = at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.parts:
            x = part(x)
        return x


def test_blocks_and_their_parts_are_told_the_blocks_new_place() -> None:
    found = compress.shallower(nn.Sequential(*map(Placed, range(6))), torch.randn(2, 4))
    told = [(block.layer_idx, *(part.layer_idx for part in block.parts)) for block in found]
    assert told == [(at, at, at) for at in range(3)]


def test_what_is_no_place_is_left_alone() -> None:
    model = nn.Sequential(*map(Placed, range(6)))
    for block in model:
        block.parts[0].layer_idx = 77
    assert {block.parts[0].layer_idx for block in compress.shallower(model, torch.randn(2, 4))} == {77}
