"""Fewer bits after training: what is held, what it computes, what is saved, what is said."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from understudy import compress
from understudy.compress import integers
from understudy.compress.anatomy import places
from understudy.compress.rounding import affine, codes, pack, rounded, scales, unpack
from understudy.errors import InputError
from understudy.measure import parameters, size_mb

from .models import Attending, Dealt, outputs, same, small, state

WAYS: dict[str, tuple[dict[str, Any], float]] = {
    "fp16": ({}, 0.002),
    "bf16": ({}, 0.02),
    "int8_weights": ({}, 0.02),
    "int4_weights": ({}, 0.3),
    "int8_dynamic": ({}, 0.03),
    "int8_static": ({}, 0.05),
}
"""And the error, in parts of the largest output, that it stays below."""
INT8 = ("int8_weights", "int8_dynamic", "int8_static")


def made(way: str, model: nn.Module, x: Any, **more: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: nn.Module = getattr(compress, way)(model, x, **WAYS[way][0] | more)
    return found


def error(found: nn.Module, model: nn.Module, x: Any) -> float:
    right = outputs(model, x)
    return float((outputs(found, x) - right).abs().max() / right.abs().max())


# -- numbers -------------------------------------------------------------------------------------------------------------


def test_zero_is_one_of_the_values_and_the_ends_are_met() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)):
        scale, zero = affine(torch.tensor(low), torch.tensor(high))
        x = torch.tensor([0.0, low, high])
        found = rounded(x, scale, zero)
        assert found[0] == 0
        assert (found - x).abs().max() <= scale / 2 * 1.001


def test_the_gradient_passes_inside_the_range_and_not_outside() -> None:
    x = torch.tensor([-2.0, 0.3, 5.0], requires_grad=True)
    scale, zero = affine(torch.tensor(-1.0), torch.tensor(1.0))
    rounded(x, scale, zero).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 0]
    assert torch.equal(rounded(x, scale, zero).detach(), rounded(x.detach(), scale, zero))


@pytest.mark.parametrize("length", [1, 6, 7])
def test_four_bits_come_out_as_they_went_in(length: int) -> None:
    values = torch.arange(-7, 8, dtype=torch.int8).repeat(2)[:length]
    assert torch.equal(unpack(pack(values), length), values)
    assert len(pack(values)) == (length + 1) // 2


def test_at_four_bits_an_outlier_is_cut_off_if_that_costs_less() -> None:
    torch.manual_seed(0)
    rows = torch.randn(4, 400)
    rows[:, 0] = 8.0
    full = rows.abs().amax(1) / 7

    def worse(scale: Tensor) -> Tensor:
        return (codes(rows, scale, 4) * scale[:, None] - rows).square().sum(1)

    assert (worse(scales(rows, 4)) < worse(full)).all()  # the control: the grid to the largest
    assert torch.equal(scales(rows, 8), rows.abs().amax(1) / 127)


# -- what comes back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "resnet", "flattened", "mlp"])
@pytest.mark.parametrize("way", WAYS)
def test_the_outputs_are_near_and_the_model_is_left_as_it_is(way: str, name: str) -> None:
    model, x = small(name)
    before = state(model)
    found = made(way, model, x)
    assert 0 < error(found, model, x) < WAYS[way][1]
    assert same(before, model.state_dict())
    assert not any(m._forward_hooks for m in [*model.modules(), *found.modules()])
    assert compress.finished(found) is found


def test_control_codes_of_another_channel_would_be_seen() -> None:
    model, x = small("mlp")
    found = made("int8_weights", model, x)
    layer = next(m for m in found.modules() if isinstance(m, integers.QuantLinear))
    layer.scale.data = layer.scale.roll(1)
    assert error(found, model, x) > WAYS["int8_weights"][1]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_and_a_saved_state_give_the_same_outputs(way: str, tmp_path: Path) -> None:
    model, x = small("flattened")
    found = made(way, model, x)
    expected = outputs(found, x)
    assert torch.equal(outputs(copy.deepcopy(found), x), expected)
    safetensors.torch.save_file(found.state_dict(), tmp_path / "state.safetensors")
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.data *= 1.5
    anew = made(way, other, 2 * x)
    assert not torch.equal(outputs(anew, x), expected)
    anew.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert torch.equal(outputs(anew, x), expected)


def test_bytes_are_those_that_are_held_and_every_weight_is_counted() -> None:
    model = nn.Sequential(nn.Linear(256, 256, bias=False), nn.ReLU(), nn.Linear(256, 256, bias=False)).eval()
    x = torch.randn(8, 256)
    weights, scale = 2 * 256 * 256, 2 * 256 * 4
    whole = {way: made(way, model, x) for way in WAYS}
    assert size_mb(whole["fp16"]) * 1e6 == 2 * weights
    # Sums of weights, by which a zero that is not 0 is taken out again, are as many as there are scales.
    assert size_mb(whole["int8_weights"]) * 1e6 == weights + 2 * scale
    assert size_mb(whole["int4_weights"]) * 1e6 == weights / 2 + weights / 32 * 4 + scale
    assert {parameters(found) for found in whole.values()} == {weights}


@pytest.mark.parametrize("way", ["int8_dynamic", "int8_static"])
def test_the_products_of_linear_layers_are_those_of_integers(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small("mlp")
    found = made(way, model, x)
    kinds = []

    def product(a: Tensor, b: Tensor, real: Any = torch._int_mm) -> Tensor:
        kinds.append((a.dtype, b.dtype))
        return torch.as_tensor(real(a, b))

    monkeypatch.setattr(torch, "_int_mm", product)
    whole = outputs(found, x)
    assert kinds
    assert set(kinds) == {(torch.int8, torch.int8)}
    asked = found(x.clone().requires_grad_())  # where a gradient is wanted, the same of rounded floats
    assert torch.allclose(asked, whole, atol=1e-5)
    asked.sum().backward()


def test_answers_do_not_depend_on_what_else_is_in_the_batch() -> None:
    model, x = small("mlp")
    for way in INT8:
        found = made(way, model, x)
        assert torch.allclose(outputs(found, x)[:1], outputs(found, x[:1]), atol=1e-6)


def test_a_batch_norm_is_folded_where_it_alone_reads_a_layer() -> None:
    model, x = small("resnet")
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    at = places(model, x, names)
    assert at["stem.0"].norm == "stem.1"
    assert (at["stem.0"].open, at["stem.0"].relu) == (True, True)  # the shortcut reads it too
    first = next(n for n in names if n.endswith("conv1"))
    assert (at[first].open, at[first].relu) == (False, True)
    assert at["head"].norm is None
    found = made("int8_static", model, x)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in found.modules())
    stem = found.get_submodule("stem.0")
    assert isinstance(stem, integers.QuantConv)
    assert stem.after is not None
    assert stem.after.numbers[1] == -128  # of what a ReLU leaves


class Twice(nn.Module):
    """A convolution whose output is read before the norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.as_tensor(self.norm(y) + y)


def test_a_batch_norm_stays_where_something_else_reads_the_layer() -> None:
    torch.manual_seed(0)
    model, x = Twice().eval(), torch.randn(8, 1, 6, 6)
    model.norm.running_mean = torch.ones(4)
    assert places(model, x, ["conv"])["conv"].norm is None
    assert error(made("int8_static", model, x), model, x) < 0.05


def test_attention_and_groups_and_other_shapes_of_inputs() -> None:
    torch.manual_seed(0)
    for model, x in ((Attending(), torch.randn(16, 5, 16)), (Dealt(), torch.randn(16, 1, 8, 8))):
        for way in INT8:
            assert error(made(way, model.eval(), x), model, x) < 0.05


def test_the_fast_path_of_transformer_layers_does_not_go_around_the_rounding() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(4, 5, 16)
    found = made("int8_static", layer, x)
    found.requires_grad_(False)
    calls = []
    found.get_submodule("linear1").register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert 0 < (found(x) - layer(x)).abs().max() < 0.1
    assert calls


@pytest.mark.parametrize("ranges", ["percentile", "mse"])
def test_an_outlier_in_the_calibration_costs_less_where_ranges_do_without_it(ranges: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(32, 8).eval(), torch.randn(500, 32)
    spoilt = x.clone()
    spoilt[0, 0] = 400.0
    plain = made("int8_static", model, spoilt)
    spared = made("int8_static", model, spoilt, ranges=ranges, percentile=99.9)
    mean = [(outputs(m, x[1:]) - outputs(model, x[1:])).square().mean() for m in (plain, spared)]
    assert mean[1] < (0.05 if ranges == "percentile" else 1.01) * mean[0]


# -- what is refused and what is told ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_calibration_set_that_is_empty_or_of_another_shape_is_refused(way: str) -> None:
    model, x = small("resnet")
    with pytest.raises(InputError, match=f"^{way}: the example holds no sample"):
        made(way, model, x[:0])
    with pytest.raises(InputError, match=f"^{way}: ResNet does not run on the example"):
        made(way, model, x[:, :2])


def test_a_calibration_set_with_a_nan_is_refused() -> None:
    model, x = small("cnn")
    x[20] = torch.nan
    with pytest.raises(InputError, match=r"^int8_static: layer1.0 sees values that are not finite"):
        made("int8_static", model, x)


class Recurrent(nn.Module):
    def __init__(self, head: bool) -> None:
        super().__init__()
        self.lstm, self.up = nn.LSTM(4, 8, batch_first=True), nn.ConvTranspose1d(5, 5, 2)
        self.head = nn.Linear(9, 3) if head else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.up(self.lstm(x)[0])))


@pytest.mark.parametrize("way", [*INT8, "int4_weights"])
def test_layers_without_an_integer_form_are_named_and_refused_where_there_are_no_others(way: str) -> None:
    x = torch.randn(4, 5, 4)
    with pytest.warns(UserWarning, match=r"left in float: lstm \(LSTM\), up \(ConvTranspose1d\)\."):
        found = getattr(compress, way)(Recurrent(head=True).eval(), x)
    assert isinstance(found.head, integers.QuantLinear)
    with pytest.raises(InputError, match=r"no layer that can be quantized.*ConvTranspose1d, LSTM"):
        made(way, Recurrent(head=False).eval(), x)


def test_what_is_next_to_nothing_is_not_warned_of() -> None:
    class Placed(nn.Module):
        def __init__(self, places: int) -> None:
            super().__init__()
            self.place, self.deep = nn.Parameter(torch.randn(places, 64)), nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.deep(x + self.place.mean(0)))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress.int8_weights(nn.Sequential(Placed(places=1), nn.Linear(64, 64)), torch.randn(4, 64))
    with pytest.warns(UserWarning, match=r"left in float: 0 \(Placed\)"):
        compress.int8_weights(nn.Sequential(Placed(places=8), nn.Linear(64, 64)), torch.randn(4, 64))


def test_what_is_kept_stays_and_is_not_warned_of() -> None:
    model, x = small("cnn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compress.int8_static(model, x, keep=["head", "layer1"])
    assert type(found.get_submodule("head")) is nn.Linear
    assert type(found.get_submodule("layer1.1")) is nn.BatchNorm2d
    with pytest.raises(InputError, match=r"has no layer that can be quantized but those kept"):
        compress.int8_static(model, x, keep=["*"])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.deep, self.head = nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.head(self.deep(self.table(x))))


def test_an_embedding_is_held_in_integers_and_one_that_is_the_head_too_is_left() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 20, (4, 6))
    with pytest.warns(UserWarning, match=r"left in float: table \(Embedding\), head \(Linear\)"):
        found = compress.int8_weights(Tied().eval(), x)
    assert found.get_submodule("head").weight is found.get_submodule("table").weight
    model = Tied().eval()
    model.head.weight = nn.Parameter(torch.randn(20, 8))
    assert isinstance(made("int8_weights", model, x).get_submodule("table"), integers.QuantEmbedding)
    for way in ("int8_weights", "int4_weights"):
        assert error(made(way, model, x), model, x) < WAYS[way][1]


def test_options_that_are_not_allowed_are_refused() -> None:
    model, x = small("cnn")
    with pytest.raises(InputError, match=r"ranges: there is no 'min_max'\. Did you mean 'minmax'"):
        compress.int8_static(model, x, ranges="min_max")
    with pytest.raises(InputError, match=r"percentile=40 is not allowed"):
        compress.int8_static(model, x, ranges="percentile", percentile=40)
    with pytest.raises(InputError, match=r"group=1 is not allowed"):
        compress.int4_weights(model, x, group=1)
    with pytest.raises(InputError, match=r"made of float32, and the model holds bfloat16"):
        compress.int8_weights(copy.deepcopy(model).bfloat16(), x.bfloat16())
    model.get_submodule("head").weight.data *= 1e6
    with pytest.raises(InputError, match=r"^fp16: gives values that are not finite"):
        compress.fp16(model, x)
    assert torch.isfinite(outputs(compress.bf16(model, x), x)).all()


# -- elsewhere -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("way", ["fp16", *INT8, "int4_weights"])
def test_the_onnx_file_answers_alike(way: str, tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    from understudy.export import graph, run_onnx

    model, x = small("resnet")
    found = made(way, model, x)
    file = tmp_path / "model.onnx"
    graph.write(found, x, file)
    right = outputs(found, x)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    asked = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    plain = torch.from_numpy(asked.run(None, {asked.get_inputs()[0].name: x.numpy()})[0])
    limit = 1e-3 if way == "fp16" else 1e-6
    assert ((plain - right).abs() / right.abs().max()).median() < limit
    assert ((plain - outputs(model, x)).abs() / right.abs().max()).median() > limit or way == "fp16"  # the control
    # In int8 biases are rounded too, so that some values get the code beside theirs.
    assert ((run_onnx(file, x) - right).abs() / right.abs().max()).max() < (0.03 if way == "int8_static" else 0.005)


@pytest.mark.long
def test_onnxruntime_computes_the_static_form_in_int8(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    from understudy.export import graph

    model, x = small("resnet")
    kinds = {}
    for way in ("int8_static", "int8_weights"):
        graph.write(made(way, model, x), x, tmp_path / "model.onnx")
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
        kinds[way] = [node.op_type for node in nodes if "Conv" in node.op_type]
    assert set(kinds["int8_static"]) == {"QLinearConv"}
    assert set(kinds["int8_weights"]) == {"Conv"}  # the control
