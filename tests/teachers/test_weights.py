import copy
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError
from understudy.teachers import load_weights

torch.set_num_threads(1)


def net(classes: int = 3, hidden: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, hidden), nn.BatchNorm1d(hidden), nn.Linear(hidden, classes))


def trained() -> nn.Sequential:
    torch.manual_seed(1)
    model = net()
    model(torch.randn(8, 2))  # BatchNorm's buffers are weights too
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


def by_torch(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def by_safetensors(state: dict[str, Tensor], path: Path) -> Path:
    safetensors.torch.save_file(state, path)
    return path


WAYS: dict[str, Any] = {
    "safetensors": by_safetensors,
    "torch": by_torch,
    "torch of old": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False) or path,
    "state_dict": lambda state, path: by_torch({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, path),
    "model": lambda state, path: by_torch({"model": state}, path),
    "model_state_dict": lambda state, path: by_torch({"model_state_dict": state}, path),
    "nested": lambda state, path: by_torch({"model": {"state_dict": state}}, path),
    "module.": lambda state, path: by_torch({f"module.{k}": v for k, v in state.items()}, path),
    "_orig_mod.": lambda state, path: by_safetensors({f"_orig_mod.{k}": v for k, v in state.items()}, path),
    "both": lambda state, path: by_torch({"state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}}, path),
    "with numbers beside": lambda state, path: by_torch({**state, "epoch": 3}, path),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
def test_weights_come_back_however_they_were_saved_and_called(tmp_path: Path, way: str, name: str) -> None:
    source, model = trained(), net()
    path = WAYS[way](source.state_dict(), tmp_path / name)
    assert not equal(model, source)
    assert load_weights(model, path) is model
    assert equal(model, source)


def test_a_model_whose_own_keys_share_a_prefix_keeps_it(tmp_path: Path) -> None:
    source, model = nn.Sequential(trained()), nn.Sequential(net())
    assert set(source.state_dict()) == {f"0.{key}" for key in net().state_dict()}
    load_weights(model, by_torch(source.state_dict(), tmp_path / "a.pt"))
    assert equal(model, source)


def test_weights_go_into_a_compiled_model(tmp_path: Path) -> None:
    source, model = trained(), net()
    compiled = torch.compile(model, backend="eager")
    assert load_weights(compiled, by_torch(source.state_dict(), tmp_path / "a.pt")) is compiled
    assert equal(model, source)


def test_the_model_keeps_its_dtype_and_its_parameters(tmp_path: Path) -> None:
    source, model = trained(), net()
    before = [id(p) for p in model.parameters()]
    load_weights(model, by_torch(copy.deepcopy(source).half().state_dict(), tmp_path / "a.pt"))
    assert [id(p) for p in model.parameters()] == before
    assert all(p.dtype is torch.float32 and p.requires_grad for p in model.parameters())
    assert torch.allclose(model[0].weight, source[0].weight, atol=1e-3)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    source, model = Tied(), Tied()
    safetensors.torch.save_model(source, tmp_path / "a.safetensors")
    assert len(safetensors.torch.load_file(tmp_path / "a.safetensors")) == 1
    load_weights(model, tmp_path / "a.safetensors")
    assert equal(model, source)
    assert model.head.weight is model.embedding.weight
    untied = Tied()
    untied.head = nn.Linear(2, 5, bias=False)
    with pytest.raises(InputError, match=r"weight' \[5, 2\] is not in the file"):
        load_weights(untied, tmp_path / "a.safetensors")


def test_a_counter_that_older_files_lack_may_be_missing(tmp_path: Path) -> None:
    source, model = trained(), net()
    state = {k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    load_weights(model, by_safetensors(state, tmp_path / "a.safetensors"))
    assert torch.equal(model[1].running_mean, source[1].running_mean)


# -- what does not fit -------------------------------------------------------------------------------------------------


def renamed(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {k.replace(old, new): v for k, v in state.items()}


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        (
            lambda state: renamed(state, "2.", "two."),
            [
                "'2.weight' [3, 4] is not in the file. Is it 'two.weight'?",
                "'2.bias' [3] is not in the file. Is it 'two.bias'?",
                "'two.weight' [3, 4] is not the model's. Is it '2.weight'?",
                "'two.bias' [3] is not the model's. Is it '2.bias'?",
            ],
        ),
        (
            lambda state: net(classes=10).state_dict(),
            [
                "'2.weight' is [10, 4] of torch.float32 in the file, and in the model [3, 4] of torch.float32.",
                "'2.bias' is [10] of torch.float32 in the file, and in the model [3] of torch.float32.",
            ],
        ),
        (
            lambda state: state | {"2.bias": state["2.bias"].to(torch.int8)},
            ["'2.bias' is [3] of torch.int8 in the file, and in the model [3] of torch.float32."],
        ),
        (
            lambda state: state | {f"spare{i}": torch.zeros(1) for i in range(9)},
            [*(f"'spare{i}' [1] is not the model's." for i in range(5)), "... and 4 more like these."],
        ),
    ],
    ids=["renamed", "other shapes", "whole numbers", "many"],
)
def test_each_key_that_does_not_fit_is_told_and_the_model_stays_as_it_was(
    tmp_path: Path, change: Any, lines: list[str]
) -> None:
    model = net()
    before = copy.deepcopy(model)
    path = by_torch(change(trained().state_dict()), tmp_path / "a.pt")
    with pytest.raises(InputError) as caught:
        load_weights(model, path)
    first, *rest = str(caught.value).split("\n")
    assert (
        first == f"{path}: does not fit the model (Sequential). Make the model as it was when these weights were saved."
    )
    assert [line.strip() for line in rest] == lines
    assert equal(model, before)


def test_keys_that_are_none_of_the_models_are_told_as_they_stand_in_the_file(tmp_path: Path) -> None:
    path = by_torch(
        {f"encoder.layer.{key}x": value for key, value in trained().state_dict().items()}, tmp_path / "a.pt"
    )
    with pytest.raises(InputError, match=r"'encoder\.layer\.0\.weightx' \[4, 2\] is not the model's"):
        load_weights(net(), path)


def test_torch_itself_would_have_changed_the_model_before_it_refused(tmp_path: Path) -> None:
    model = net()
    before = copy.deepcopy(model)
    with pytest.raises(RuntimeError):
        model.load_state_dict(net(classes=10).state_dict())
    assert not equal(model, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "optimizer": {}}, "holds a mapping of 'epoch', 'optimizer' and no state_dict"),
        (torch.zeros(3), "holds a Tensor and no state_dict"),
        ([torch.zeros(3)], "holds a list and no state_dict"),
        ({}, "holds a dict and no state_dict"),
    ],
)
def test_a_file_without_a_state_dict_is_told(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_weights(net(), by_torch(content, tmp_path / "a.pt"))


def test_a_model_without_sizes_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'weight' has no size yet"):
        load_weights(nn.LazyLinear(3), by_torch(nn.Linear(2, 3).state_dict(), tmp_path / "a.pt"))


def test_a_file_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    by_torch({}, tmp_path / "teacher.pt")
    with pytest.raises(InputError, match=r"no such file\. Did you mean 'teacher\.pt'"):
        load_weights(net(), tmp_path / "techer.pt")
    with pytest.raises(InputError, match=r"is a folder; give the file in it\. Allowed: teacher\.pt"):
        load_weights(net(), tmp_path)


# -- what is no file of weights, or a hostile one ----------------------------------------------------------------------


def hostile(path: Path, ran: Path) -> Path:
    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(ran),)

    torch.save({"weight": Hostile(), **trained().state_dict()}, path)
    return path


def test_code_in_a_file_is_refused_and_never_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    path = hostile(tmp_path / "a.pt", ran)
    with pytest.raises(CorruptError, match=r"a\.pt: holds code \(\w+\.mkdir\), which is never run"):
        load_weights(net(), path)
    assert not ran.exists()
    torch.load(path, weights_only=False)  # the control: whoever trusts it runs it
    assert ran.exists()


@pytest.mark.parametrize("variable", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def test_nor_when_the_environment_asks_for_it(tmp_path: Path, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    ran = tmp_path / "ran"
    with pytest.raises(CorruptError):
        load_weights(net(), hostile(tmp_path / "a.pt", ran))
    assert not ran.exists()


def test_a_whole_model_is_refused_with_the_way_to_save_it(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"Sequential.*torch\.save\(model\.state_dict\(\), path\)"):
        load_weights(net(), by_torch(net(), tmp_path / "a.pt"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TorchScript")
def test_a_program_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(net().eval(), torch.zeros(1, 2)), tmp_path / "a.pt")
    with pytest.raises(CorruptError, match=r"holds code \(TorchScript\), which is never run"):
        load_weights(net(), tmp_path / "a.pt")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def zeros_within(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:64] + bytes(200) + data[264:])


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")


def arrays(path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("save", [by_torch, by_safetensors, WAYS["torch of old"]], ids=["zip", "safetensors", "old"])
@pytest.mark.parametrize("damage", [truncated, zeros_within, other_zip, arrays])
def test_a_damaged_file_is_named(tmp_path: Path, save: Any, damage: Any) -> None:
    path = save(trained().state_dict(), tmp_path / "a.bin")
    damage(path)
    with pytest.raises(CorruptError, match=r"a\.bin: is damaged: .*anew"):
        load_weights(net(), path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html>", r"is no file of weights: it begins with b'<!DOCTYPE'; allowed: safetensors"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS: `git lfs pull`"),
    ],
)
def test_what_is_no_file_of_weights_is_told_by_how_it_begins(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CorruptError, match=message):
        load_weights(net(), tmp_path / "a.pt")


def test_weights_that_are_nan_are_refused_by_name(tmp_path: Path) -> None:
    state = trained().state_dict()
    state["2.bias"][1] = torch.nan
    with pytest.raises(CorruptError, match=r"a\.pt: '2\.bias' holds NaN"):
        load_weights(net(), by_torch(state, tmp_path / "a.pt"))
