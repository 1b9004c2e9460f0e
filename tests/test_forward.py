"""What a forward shows of a model's layers, and what it does not keep."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.forward import Forward
from understudy.zoo import CNN

PICTURES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_every_layer_is_seen_with_the_shape_of_what_it_puts_out_and_takes_in():
    forward = Forward(CNN(4), PICTURES)
    outs = {s.at: (s.shape, s.source) for s in forward.outs}
    assert outs["layer1.0"] == ((4, 4, 8, 8), (4, 1, 8, 8))
    assert outs["head"] == ((4, 10), (4, 8))
    assert [s.at for s in forward.ins] == ["layer1.0<", "layer2.0<", "layer3.0<", "head<"]
    assert forward.rows == 4
    assert set(forward.calls.values()) == {1}
    assert {s.same for s in forward.outs if s.at == "head"} == forward.output


def test_layers_that_pass_one_tensor_on_are_known_by_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Dropout(), nn.Linear(4, 4), nn.Linear(4, 2))
    forward = Forward(model, torch.randn(5, 3))
    same = {s.at: s.same for s in (*forward.outs, *forward.ins)}
    assert same["0"] == same["0.1"] == same["1"] == same["2<"]
    assert same["2"] == same["3<"] != same["0"] != same["0.0"]


class Pool(nn.Module):
    """Tensors that are gone by the time that the next one takes their place in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(20))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x) + 1
        return x


def test_tensors_that_take_each_others_place_in_memory_are_not_mistaken_for_each_other():
    forward = Forward(Pool(), torch.randn(5, 64))
    assert len({s.same for s in forward.outs}) == 20
    assert not {s.same for s in forward.outs} & {s.same for s in forward.ins}


def test_no_output_is_kept():
    seen: list[weakref.ref[Tensor]] = []
    model = Pool()
    for layer in model.layers:
        layer.register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
    forward = Forward(model, torch.randn(5, 64))
    gc.collect()
    assert len(forward.outs) == len(seen) == 20
    assert [ref for ref in seen if ref() is not None] == []
    assert {s.version.numel() for s in forward.outs} == {0}


class Writes(nn.Module):
    """Changes a layer's output in place, through itself or through a view, and lets it go."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.layer, self.head, self.how = nn.Linear(3, 4), nn.Linear(4, 2), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.how == "view":
            y.view(-1)[:2].mul_(2)
        if self.how == "relu":
            y = F.relu(y, inplace=True)
        return self.head(y * 1)


@pytest.mark.parametrize(("how", "changed"), [("not", False), ("relu", True), ("view", True)])
def test_what_is_changed_in_place_is_known_though_it_is_not_kept(how, changed):
    forward = Forward(Writes(how), torch.randn(5, 3))
    assert [s.at for s in forward.outs if s.changed] == ["layer"] * changed
    assert [s.at for s in forward.once(forward.outs)] == ["layer"] * (not changed) + ["head"]


def test_tensors_of_inference_mode_do():
    class Inference(nn.Linear):
        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)

    assert [s.at for s in Forward(nn.Sequential(Inference(3, 4)), torch.randn(5, 3)).outs] == ["0"]


def test_keys_lead_to_each_tensor_of_a_fraction():
    class Many(nn.Module):
        def forward(self, x: Tensor) -> object:
            packed = nn.utils.rnn.pack_padded_sequence(x, [2, 1], batch_first=True)
            return {"a": (x, [x + 1]), "n": torch.arange(2), "none": None, "packed": packed}

    forward = Forward(nn.Sequential(Many()), torch.randn(2, 2, 3))
    assert [s.at for s in forward.outs] == ["0/a/0", "0/a/1/0"]
