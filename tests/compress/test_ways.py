"""What holds for every way of pruning, factorizing and shrinking."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import understudy as us
from understudy import compress
from understudy.errors import InputError

from .models import outputs, same, size, small, state

WAYS: dict[str, dict[str, Any]] = {
    "magnitude": {"amount": 0.5},
    "movement": {"amount": 0.5},
    "n_m": {},
    "low_rank": {"ratio": 0.4},
    "channels": {"amount": 0.5, "round_to": 4},
    "narrower": {"ratio": 0.5, "round_to": 2},
    "shallower": {},
}
ONLY = {"shallower": ("resnet",), "narrower": ("cnn",), "movement": ("cnn", "flattened")}
"""Where the others have no such layers, or would take long and tell no more."""

CASES = [(way, name) for way in WAYS for name in ONLY.get(way, ("cnn", "resnet", "flattened"))]
PRUNING = ("magnitude", "movement", "n_m")


def made(way: str, model: nn.Module, x: Any, **more: Any) -> nn.Module:
    return getattr(compress, way)(model, x, **WAYS[way] | more)


@pytest.mark.parametrize(("way", "name"), CASES)
def test_the_model_is_left_as_it_is_and_shares_nothing(way: str, name: str) -> None:
    model, x = small(name)
    before, modes = state(model), [m.training for m in model.modules()]
    found = made(way, model, x)
    assert same(before, model.state_dict())
    assert [m.training for m in model.modules()] == modes
    held = {t.data_ptr() for t in model.state_dict().values() if t.numel()}
    assert not held & {t.data_ptr() for t in found.state_dict().values() if t.numel()}
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in [*model.modules(), *found.modules()])


def test_control_a_changed_model_would_be_seen() -> None:
    model, _ = small("cnn")
    before = state(model)
    next(model.parameters()).data[0] += 1e-6
    assert not same(before, model.state_dict())


@pytest.mark.parametrize(("way", "name"), CASES)
def test_what_comes_back_is_called_alike_and_trains_in_every_parameter(way: str, name: str) -> None:
    model, x = small(name)
    model.requires_grad_(False)  # as a teacher is
    found = made(way, model, x).train()
    assert outputs(found, x).shape == outputs(model, x).shape
    assert not any(p.requires_grad for p in model.parameters())
    found(x).square().sum().backward()
    assert {n for n, p in found.named_parameters() if p.grad is None or not p.requires_grad} == set()
    before = outputs(found, x)
    torch.optim.SGD(found.parameters(), lr=1e-4).step()
    assert not torch.equal(outputs(found, x), before)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "shallower"])
def test_what_is_frozen_in_part_stays_so(way: str) -> None:
    model, x = small("cnn")
    model.get_submodule("layer2").requires_grad_(False)
    found = made(way, model, x)
    frozen = {name.partition(".")[0] for name, p in found.named_parameters() if not p.requires_grad}
    trains = {
        name.partition(".")[0] for name, p in found.named_parameters() if p.requires_grad and "scores" not in name
    }
    assert (frozen, trains) == ({"layer2"}, {"layer1", "layer3", "head"})


@pytest.mark.parametrize(("way", "name"), CASES)
def test_a_copy_and_a_saved_state_give_the_same_outputs(way: str, name: str, tmp_path: Path) -> None:
    model, x = small(name)
    found = made(way, model, x)
    for p in found.parameters():
        p.data += 0.01 * torch.randn_like(p)
    expected = outputs(found, x)
    assert torch.equal(outputs(copy.deepcopy(found), x), expected)
    safetensors.torch.save_file(found.state_dict(), tmp_path / "state.safetensors")
    anew = made(way, model, x)
    assert not torch.equal(outputs(anew, x), expected)
    anew.load_state_dict(safetensors.torch.load_file(tmp_path / "state.safetensors"))
    assert torch.equal(outputs(anew, x), expected)


@pytest.mark.parametrize(("way", "name"), CASES)
def test_the_finished_model_gives_the_same_outputs_and_holds_nothing_of_training(way: str, name: str) -> None:
    model, x = small(name)
    found = made(way, model, x)
    before = state(found)
    done = compress.finished(found)
    assert torch.equal(outputs(done, x), outputs(found, x))
    assert same(before, found.state_dict())
    assert (done is not found) == (way in PRUNING)
    assert not any("parametrizations" in key for key in done.state_dict())
    if way in PRUNING:
        assert done.state_dict().keys() == model.state_dict().keys()
        assert [type(m) for m in done.modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_example_and_one_that_does_not_fit_are_refused(way: str) -> None:
    model, x = small("resnet")
    with pytest.raises(InputError, match="holds no sample"):
        made(way, model, x[:0])
    with pytest.raises(InputError, match="ResNet does not run on the example"):
        made(way, model, x[:, :2])


@pytest.mark.parametrize("way", [way for way in WAYS if way != "shallower"])
def test_a_kept_layer_keeps_its_outputs_and_weights(way: str) -> None:
    model, x = small("mlp")
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    found = compress.finished(made(way, model, x, keep=[linear[0]]))
    kept = found.get_submodule(linear[0])
    assert torch.equal(kept.weight, model.get_submodule(linear[0]).weight)
    other = compress.finished(made(way, model, x)).get_submodule(linear[0])
    assert not torch.equal(other.weight, model.get_submodule(linear[0]).weight)
    with pytest.raises(InputError, match=r"keep: the model has no module 'haed'\. "):
        made(way, model, x, keep=["haed"])


@pytest.mark.parametrize("way", ["magnitude", "movement", "channels", "narrower"])
@pytest.mark.parametrize("value", [0, 1, 1.5, -0.1, True, "half", float("nan")])
def test_a_share_outside_of_nothing_and_all_is_refused(way: str, value: Any) -> None:
    model, x = small("cnn")
    option = "ratio" if way == "narrower" else "amount"
    with pytest.raises(InputError, match=f"^{way}: {option}="):
        made(way, model, x, **{option: value})


class Stop(us.Callback):
    """Ends a run in its middle, after the checkpoint of step 4."""

    def stepped(self, progress: us.Progress) -> None:
        if progress.step == 5:
            raise ZeroDivisionError


def trained(
    way: str, teacher: nn.Module, x: Any, folder: Path, *callbacks: us.Callback, resume: bool = False
) -> nn.Module:
    student = made(way, teacher, x)
    optimizer = us.Optim("AdamW", lr=1e-3)
    settings = us.Settings(steps=8, batch_size=8, optimizer=optimizer, save_every=4, ema=0.9, device="cpu")
    data = (x, torch.arange(len(x)) % 10)
    us.train(us.methods.kd(student, teacher), data, settings, folder=folder, resume=resume, callbacks=callbacks)
    return student


@pytest.mark.parametrize("way", ["magnitude", "movement", "channels", "low_rank"])
def test_a_student_learns_and_resumes_bit_for_bit(way: str, tmp_path: Path) -> None:
    teacher, x = small("cnn")
    whole = trained(way, teacher, x, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        trained(way, teacher, x, tmp_path / "halves", Stop())
    resumed = trained(way, teacher, x, tmp_path / "halves", resume=True)
    assert same(state(resumed), state(whole))
    assert not same(state(whole), state(made(way, teacher, x)))
    if way in PRUNING:
        assert compress.sparsity(resumed) == pytest.approx(0.5, abs=0.01)
        assert (
            sum(int((p == 0).sum()) for p in resumed.parameters() if p.ndim > 1) == 0
        )  # the mask holds them, not the weights


def test_the_shrinking_ways_shrink_and_the_others_do_not() -> None:
    model, x = small("resnet")
    smaller = {way: size(compress.finished(made(way, model, x))) < size(model) for way in WAYS}
    assert smaller == {way: way not in PRUNING for way in WAYS}
