"""Training with the rounding in it: what it computes, how it trains, and what it becomes."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import understudy as us
from understudy import compress, parallel
from understudy.compress import aware, integers
from understudy.errors import InputError, Interrupted
from understudy.measure import size_mb

from .models import Attending, outputs, same, small, state

NAMES = ("cnn", "resnet", "flattened", "mlp")


def made(model: nn.Module, x: Any, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return compress.qat(model, x, **options)


def stepped(model: nn.Module, x: Tensor, steps: int = 5, lr: float = 0.02) -> nn.Module:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        out = model(x + 0.1 * torch.randn_like(x))
        torch.nn.functional.cross_entropy(out, torch.arange(len(x)) % out.shape[1]).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NAMES)
def test_the_finished_model_gives_the_trained_ones_outputs(name: str, bits: int) -> None:
    model, x = small(name)
    found = stepped(made(model, x, bits=bits), x)
    before = state(found)
    done = compress.finished(found)
    assert same(before, found.state_dict())
    assert not any(isinstance(m, aware.Rehearsed) for m in done.modules())
    assert any(isinstance(m, integers.QuantLinear) for m in done.modules())
    right = outputs(found, x)
    apart = (outputs(done, x) - right).abs() / right.abs().max()
    # Sums of floats in another order may put a value that lies halfway on the other side of a code.
    assert apart.median() < 1e-5
    assert apart.mean() < 0.002


def test_control_other_ranges_would_be_seen() -> None:
    model, x = small("mlp")
    found = stepped(made(model, x), x)
    done = compress.finished(found)
    next(m for m in found.modules() if isinstance(m, aware.Range)).high *= 1.1
    right = outputs(found, x)
    assert ((outputs(done, x) - right).abs() / right.abs().max()).median() > 1e-4


def test_untrained_it_is_what_int8_static_makes() -> None:
    for name in NAMES:
        model, x = small(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            static = compress.int8_static(model, x)
        aware_ = compress.finished(made(model, x))
        right = outputs(static, x)
        assert static.state_dict().keys() == aware_.state_dict().keys()
        assert (outputs(aware_, x) - right).abs().mean() < 0.002 * right.abs().max()


def test_every_parameter_trains_and_a_norm_goes_on_looking_at_the_batch() -> None:
    model, x = small("resnet")
    model.requires_grad_(False)
    found = made(model, x).train()
    before = state(found)
    found(2 * x).square().sum().backward()
    assert {n for n, p in found.named_parameters() if p.grad is None or not p.grad.abs().sum()} == set()
    moved = {name for name, t in found.state_dict().items() if not torch.equal(t, before[name])}
    for part in ("norm.running_mean", "norm.running_var", "before.low", "before.high", "before.passes", "after.high"):
        assert f"stem.0.{part}" in moved
    found.eval()
    with torch.no_grad():
        found(x)
    assert {name for name, t in found.state_dict().items() if not torch.equal(t, before[name])} == moved


def test_in_training_the_norm_sees_what_the_float_model_would_give() -> None:
    # The rounding is that of folded weights; their scale is taken out again before the batch is looked at.
    model, x = small("cnn")
    found = made(model, x).train()
    model.train()
    right = model(x)
    assert (found(x) - right).abs().max() < 0.1 * right.abs().max()
    old = model.get_submodule("layer1.1")
    new = found.get_submodule("layer1.0.norm")
    assert torch.allclose(new.running_var, old.running_var, rtol=0.02)


def test_ranges_move_by_their_rate_and_are_held_after_so_many_passes() -> None:
    model, x = small("cnn")
    found = made(model, x, rate=0.25, freeze=2).train()
    layer = found.get_submodule("layer1.0")
    assert isinstance(layer, aware.Rehearsed)
    first = layer.before.high.clone()
    found(2 * x)
    assert torch.allclose(layer.before.high, first + 0.25 * (2 * x.max() - first))
    found(x)
    held = state(found)
    found(5 * x)
    assert same(held, found.state_dict())  # norms as well
    free = made(model, x, rate=0.25).train()
    free(5 * x)
    free(5 * x)
    held = state(free)
    free(5 * x)
    assert not same(held, free.state_dict())


def test_a_channel_that_its_norm_takes_out_does_no_harm() -> None:
    model, x = small("cnn")
    norm = model.get_submodule("layer2.1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.weight.data[:3] = torch.tensor([0.0, -0.5, 1e-12])
    found = made(model, x).train()
    found(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in found.parameters() if p.grad is not None)
    done = compress.finished(found)
    right = outputs(found, x)
    assert (outputs(done, x) - right).abs().mean() < 0.002 * right.abs().max()


def test_masks_of_before_hold_through_training_and_in_integers() -> None:
    model, x = small("flattened")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = compress.chain(model, x, [("magnitude", {"amount": 0.7}), "qat"])
    done = compress.finished(stepped(found, x))
    layers = [m for m in done.modules() if isinstance(m, integers.QuantLinear | integers.QuantConv)]
    zeros = sum(int((m.integers() == 0).sum()) for m in layers) / sum(m.codes.numel() for m in layers)
    assert 0.7 <= zeros < 0.8
    right = outputs(found, x)
    assert (outputs(done, x) - right).abs().mean() < 0.002 * right.abs().max()


def test_four_bits_take_half_a_byte() -> None:
    model = nn.Linear(256, 256, bias=False)
    x = torch.randn(8, 256)
    sizes = [size_mb(compress.finished(made(model, x, bits=bits))) * 1e6 for bits in (8, 4)]
    assert sizes[0] - sizes[1] == 256 * 256 / 2


def test_a_copy_and_a_saved_state_give_the_same_outputs(tmp_path: Path) -> None:
    model, x = small("resnet")
    found = stepped(made(model, x), x)
    expected = outputs(found, x)
    assert torch.equal(outputs(copy.deepcopy(found), x), expected)
    safetensors.torch.save_file(found.state_dict(), tmp_path / "state.safetensors")
    anew = made(model, x)
    assert not torch.equal(outputs(anew, x), expected)
    anew.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert torch.equal(outputs(anew, x), expected)


def test_attention_trains() -> None:
    torch.manual_seed(0)
    model, x = Attending(), torch.randn(16, 5, 16)
    found = stepped(made(model, x), x)
    done = compress.finished(found)
    assert (outputs(done, x) - outputs(found, x)).abs().max() < 0.05


@pytest.mark.parametrize("kept", [True, False])
def test_compiled_gradients_are_those_of_the_statistics_in_the_forward(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kept:  # the control
        monkeypatch.setattr(aware, "_now", lambda x: x.clone())
    model, x = small("cnn")
    found = made(model, x).train()
    other = copy.deepcopy(found)
    torch.compiler.reset()
    torch.compile(found, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    other(x).square().sum().backward()
    pairs = zip(found.parameters(), other.parameters(), strict=True)
    apart = [float((a.grad - b.grad).norm() / b.grad.norm()) for a, b in pairs if a.grad is not None]
    assert (max(apart) < 1e-3) is kept
    assert all(torch.equal(t, other.state_dict()[name]) for name, t in found.state_dict().items())


@pytest.mark.parametrize("moving", [True, False])
def test_processes_make_their_ranges_the_same(moving: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small("mlp")
    found = made(model, x)
    layer = next(m for m in found.modules() if isinstance(m, aware.Range))
    high = layer.high.clone()
    monkeypatch.setattr(parallel, "ranks", lambda: 2)
    monkeypatch.setattr(parallel.dist, "all_reduce", lambda mine: mine.add_(1))  # what the other process has is 1
    monkeypatch.setattr(aware.Range, "moving", moving)
    parallel.sync_batch_norm(found)
    assert torch.allclose(layer.high, (high + 1) / 2) is moving


class Stop(us.Callback):
    """Ends a run in its middle, after the checkpoint of step 4."""

    def stepped(self, progress: us.Progress) -> None:
        if progress.step == 5:
            raise Interrupted("here")


def run(folder: Path, *callbacks: us.Callback, resume: bool = False, forget: bool = False) -> dict[str, Tensor]:
    model, x = small("cnn")
    teacher, _ = small("cnn")
    student = made(model, x, freeze=14)
    if forget:
        for module in student.modules():
            if isinstance(module, aware.Range):
                module._non_persistent_buffers_set |= {"low", "high"}
    method = us.methods.kd(student, teacher, temperature=4, alpha=0.9)
    settings = us.Settings(steps=8, batch_size=16, accumulate=2, optimizer=us.Optim("AdamW", lr=0.01), save_every=4, device="cpu")  # fmt: skip
    us.train(method, (x, torch.arange(40) % 10), settings, folder=folder, resume=resume, callbacks=callbacks)
    named = {**dict(method.student.named_buffers()), **dict(method.student.named_parameters())}
    return {name: t.detach().clone() for name, t in named.items()}


@pytest.mark.parametrize("forget", [False, True])
def test_a_run_in_micro_batches_resumes_to_the_same_bits(tmp_path: Path, forget: bool) -> None:
    whole = run(tmp_path / "whole", forget=forget)
    with pytest.raises(Interrupted):
        run(tmp_path / "parts", Stop(), forget=forget)
    parts = run(tmp_path / "parts", resume=True, forget=forget)
    assert same(whole, parts) is not forget  # the control: ranges that a checkpoint does not hold


def test_options_that_are_not_allowed_and_samples_that_do_not_fit_are_refused() -> None:
    model, x = small("cnn")
    with pytest.raises(InputError, match=r"^qat: bits=3 is not allowed; weights have 8 or 4"):
        made(model, x, bits=3)
    with pytest.raises(InputError, match=r"^qat: rate=0 is not allowed"):
        made(model, x, rate=0)
    with pytest.raises(InputError, match=r"^qat: freeze=0 is not allowed"):
        made(model, x, freeze=0)
    with pytest.raises(InputError, match=r"^qat: the example holds no sample"):
        made(model, x[:0])
    with pytest.raises(InputError, match=r"^qat: Embedding has no layer that can be quantized"):
        made(nn.Embedding(4, 4), torch.zeros(2, dtype=torch.long))
    with pytest.warns(UserWarning, match=r"qat: left in float: 0 \(Embedding\)"):
        compress.qat(nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 2)), torch.zeros(2, dtype=torch.long))


@pytest.mark.long
def test_the_onnx_file_keeps_the_ranges_that_were_learned(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from understudy.export import graph, run_onnx

    model, x = small("cnn")
    found = stepped(made(model, x), x)
    done = compress.finished(found)
    graph.write(done, x, tmp_path / "model.onnx")
    right = outputs(done, x)
    apart = (run_onnx(tmp_path / "model.onnx", x) - right).abs() / right.abs().max()
    assert apart.max() < 0.03
    held = onnx.load(tmp_path / "model.onnx")
    kinds = [node.op_type for node in held.graph.node]
    layers = [m for m in done.modules() if isinstance(m, integers.QuantLinear | integers.QuantConv)]
    grids = [grid for m in layers for grid in (m.before, m.after) if grid is not None]
    assert kinds.count("QuantizeLinear") == len(grids)
    assert kinds.count("DequantizeLinear") == len(grids) + len(layers)
    numbers = {float(onnx.numpy_helper.to_array(t)) for t in held.graph.initializer if not t.dims and t.data_type == 1}
    assert {grid.numbers[0] for grid in grids} <= numbers
