import importlib
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from understudy import compress
from understudy.compress import structured
from understudy.compress.structured import Thinner
from understudy.errors import InputError, MissingExtra

from .models import Attending, Dealt, bert, outputs, size, small, vit, words


def silenced(model: nn.Module, dead: dict[str, list[int]]) -> nn.Module:
    """The model with some output channels of layers, and what normalizes them, set to zero."""
    with torch.no_grad():
        for name, channels in dead.items():
            module: Any = model.get_submodule(name)
            for t in (module.weight, module.bias):
                if t is not None:
                    t[channels] = 0
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean[channels] = 0
    return model


def test_what_says_nothing_goes_and_the_outputs_stay() -> None:
    model, x = small("cnn")
    halves = [1, 3, 4, 5, 8, 11, 12, 15]
    double = [2 * i for i in range(16)]
    silenced(model, {"layer1.0": halves, "layer1.1": halves, "layer2.0": double, "layer2.1": double, "layer3.0": double, "layer3.1": double})  # fmt: skip
    for importance in ("magnitude", "taylor"):
        found = compress.channels(model, x, amount=0.5, importance=importance)
        assert [m.out_channels for m in found.modules() if isinstance(m, nn.Conv2d)] == [8, 16, 16]
        assert torch.allclose(outputs(found, x), outputs(model, x), atol=1e-5)


def test_control_by_another_importance_the_outputs_would_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structured, "_scores", lambda group: -1.0 * torch.arange(len(group[0].idxs)))
    with pytest.raises(AssertionError, match="allclose"):
        test_what_says_nothing_goes_and_the_outputs_stay()


def test_channels_are_followed_through_a_flattening_and_added_shortcuts() -> None:
    model, x = small("flattened")
    dead = {
        "conv.0": [0, 3, 5, 6, 9, 10, 13, 14],
        "deep.0": [*range(0, 24, 3), 1, 2, 4, 5],
        "head.1": list(range(16)),
    }
    found = compress.channels(silenced(model, dead), x, amount=0.5, round_to=4)
    assert [m.weight.shape[0] for m in found.modules() if isinstance(m, nn.Conv2d | nn.Linear)] == [8, 12, 16, 5]
    assert torch.allclose(outputs(found, x), outputs(model, x), atol=1e-5)


def test_a_padded_shortcut_keeps_its_channels_and_the_blocks_lose_theirs() -> None:
    model, x = small("resnet")
    found = compress.channels(model, x, amount=0.5)
    assert {(m.in_channels, m.out_channels) for n, m in found.named_modules() if n.endswith("conv1") and isinstance(m, nn.Conv2d)} == {(16, 8), (16, 16), (32, 16), (32, 32), (64, 32)}  # fmt: skip
    assert size(found) < 0.6 * size(model)


@pytest.mark.parametrize(("amount", "round_to", "left"), [(0.5, 1, 16), (0.3, 8, 24), (0.3, 1, 22), (0.9, 1, 3)])
def test_as_many_are_left_as_was_asked_for(amount: float, round_to: int, left: int) -> None:
    model, x = small("cnn")
    found = compress.channels(model, x, amount=amount, round_to=round_to, keep=["layer1*"])
    assert [m.out_channels for m in found.modules() if isinstance(m, nn.Conv2d)] == [16, left, left]
    assert [m.num_features for m in found.modules() if isinstance(m, nn.BatchNorm2d)] == [16, left, left]


def test_numbers_that_leave_no_channel_or_take_none_are_refused_with_the_layers() -> None:
    model, x = small("cnn")
    with pytest.raises(
        InputError, match=r"^channels: amount=0\.9 with round_to=8 leaves no channel in layer1\.0 \(16 channels\)"
    ):
        compress.channels(model, x, amount=0.9)
    with pytest.raises(
        InputError, match=r"^channels: amount=0\.1 with round_to=16 takes nothing out of .*layer2\.0 \(32\)"
    ):
        compress.channels(model, x, amount=0.1, round_to=16)
    with pytest.raises(InputError, match=r"^channels: there is no importance 'tailor'\. Did you mean 'taylor'\?"):
        compress.channels(model, x, importance="tailor")
    with pytest.raises(InputError, match=r"^channels: round_to=0"):
        compress.channels(model, x, round_to=0)
    with pytest.raises(
        InputError, match=r"^channels: the channels of no layer of CNN can be followed.*but for those kept"
    ):
        compress.channels(model, x, keep=["*"])


def test_channels_that_are_dealt_out_in_groups_stay() -> None:
    torch.manual_seed(0)
    model, x = Dealt().eval(), torch.randn(4, 1, 8, 8)
    found = compress.channels(model, x, amount=0.5)
    assert [tuple(p.shape) for p in found.grouped.parameters()] == [tuple(p.shape) for p in model.grouped.parameters()]
    assert cast("nn.Linear", found.get_submodule("head.0")).out_features == 16


@pytest.mark.parametrize("grouping", [1, None])
def test_heads_of_which_the_width_is_not_known_stay(grouping: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = Attending().eval(), torch.randn(4, 6, 16)
    if grouping is not None:  # the control: as plain channels they would be taken, and fall into other heads
        monkeypatch.setattr(structured, "_heads", lambda *_: (1, None))
    roots = {unit.root for unit in Thinner("channels", model, x, "magnitude", 4, ()).units}
    assert (roots & {"q", "k", "v"} != set()) == (grouping is not None)
    assert "up" in roots


def test_what_is_frozen_in_part_and_shared_stays_so() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.up, self.down = nn.Embedding(9, 16), nn.Linear(16, 32), nn.Linear(32, 16)
            self.head = nn.Linear(16, 9, bias=False)
            self.head.weight = self.words.weight

        def forward(self, x: Tensor) -> Any:
            return self.head(self.down(self.up(self.words(x)).relu()))

    model = Twice()
    found: Any = compress.channels(model, torch.zeros(2, 3, dtype=torch.long), amount=0.5)
    assert found.head.weight is found.words.weight
    assert found.up.out_features == 16


def test_without_torch_pruning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise ImportError(name)

    model, x = small("cnn")
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtra, match=r"pip install 'understudy\[compress\]'"):
        compress.channels(model, x)


class Turned(nn.Module):
    """Halves that change places, as rotary embeddings have them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.up(x)
        return self.down(x + torch.cat([-x[:, 8:], x[:, :8]], 1))


def test_what_rotary_embeddings_do_is_refused_and_not_followed_for_ever() -> None:
    with pytest.raises(
        InputError, match=r"^channels: torch-pruning cannot follow the channels of Turned: .*another order"
    ):
        compress.channels(Turned(), torch.zeros(2, 8))


class Fixed(nn.Module):
    """Its code counts on the width of its only inner layer."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Any:
        return self.down(self.up(x).view(-1, 16))


def test_where_no_channels_can_be_followed_it_is_said() -> None:
    with pytest.raises(
        InputError, match=r"^channels: the channels of no layer of Fixed can be followed to where they go\. Prune"
    ):
        compress.channels(Fixed(), torch.zeros(2, 8))


@pytest.mark.long
@pytest.mark.parametrize("name", ["bert", "vit"])
@pytest.mark.parametrize("importance", ["magnitude", "taylor"])
def test_a_transformer_loses_width_neurons_and_whole_heads(name: str, importance: str) -> None:
    torch.manual_seed(0)
    model: Any = bert() if name == "bert" else vit()
    x = words() if name == "bert" else torch.randn(6, 1, 8, 8)
    found: Any = compress.channels(model, x, amount=0.5, importance=importance)
    assert outputs(found, x).shape == (6, 3)
    now = {k: getattr(found.config, k) for k in ("hidden_size", "intermediate_size", "num_attention_heads", "head_dim")}
    assert now == {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 8}
    assert (model.config.hidden_size, model.config.num_attention_heads) == (32, 4)
    assert size(found) < 0.3 * size(model)
    if name == "vit":  # whose configuration can say all of it
        anew = type(found)(found.config).eval()
        anew.load_state_dict(found.state_dict())
        assert torch.equal(outputs(anew, x), outputs(found, x))


@pytest.mark.long
def test_a_head_that_says_nothing_goes_whole() -> None:
    torch.manual_seed(0)
    model: Any = vit()
    x = torch.randn(6, 1, 8, 8)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.2)
    dead = torch.cat([torch.arange(8, 16), torch.arange(24, 32)]).tolist()
    for i in range(4):
        silenced(model, {f"vit.layers.{i}.attention.{kind}_proj": dead for kind in "qkv"})
    found = compress.channels(model, x, amount=0.5, keep=["*o_proj", "*fc1", "*projection"])
    assert cast("nn.Linear", found.get_submodule("vit.layers.0.attention.q_proj")).out_features == 16
    assert torch.allclose(outputs(found, x), outputs(model, x), atol=1e-4)
