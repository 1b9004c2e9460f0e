import dataclasses
import re
from typing import Any

import pytest

from understudy import Optim, Settings, cosine, linear, steps_at
from understudy.errors import InputError, MachineError


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "epochs=None and steps=None: give one of the two"),
        ({"epochs": 1, "steps": 1}, "epochs=1 and steps=1: give one of the two"),
        ({"epochs": 0}, "epochs=0 must be a whole number, 1 or above"),
        ({"steps": 1.5}, "steps=1.5 must be a whole number"),
        ({"steps": True}, "steps=True must be a whole number"),
        ({"epochs": "3"}, "epochs='3' must be a whole number"),
        ({"steps": 1, "batch_size": 0}, "batch_size=0"),
        ({"steps": 1, "accumulate": 0}, "accumulate=0"),
        ({"steps": 1, "workers": -1}, "workers=-1 must be a whole number, 0 or above"),
        ({"steps": 1, "seed": -1}, "seed=-1"),
        ({"steps": 1, "data_seed": -1}, "data_seed=-1 must be a whole number, 0 or above"),
        ({"steps": 1, "draws": 0}, "draws=0 must be a whole number, 1 or above"),
        ({"steps": 1, "patience": 0}, "patience=0"),
        ({"steps": 1, "validate_every": 0}, "validate_every=0"),
        ({"steps": 1, "save_every": 0}, "save_every=0"),
        ({"steps": 1, "keep": 0}, "keep=0"),
        ({"steps": 1, "log_every": 0}, "log_every=0"),
        ({"steps": 1, "precision": "bf61"}, "precision='bf61'. Did you mean 'bf16'?"),
        ({"steps": 1, "best_is": "most"}, "best_is='most'. Allowed: max, min."),
        ({"steps": 1, "ema": 1.0}, "ema=1.0 must be in [0, 1)"),
        ({"steps": 1, "ema": float("nan")}, "ema=nan"),
        ({"steps": 1, "ema": "0.9"}, "ema='0.9'"),
        ({"steps": 1, "device": "gpuu"}, "device='gpuu'"),
        ({"steps": 1, "optimizer": "SGD"}, "optimizer='SGD' is not an Optim, such as Optim('SGD', lr=0.05)"),
        ({"steps": 1, "optimizer": {"student": "SGD"}}, "optimizer='SGD' is not an Optim"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_its_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=re.escape(told)) as caught:
        Settings(**options)
    assert str(caught.value).count("settings:") == 1


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Settings(batch_size=0, precision="x", ema=2, optimizer=None)  # type: ignore[arg-type]
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == [
        "settings: epochs", "settings: batch_size", "settings: precision", "settings: ema", "settings: optimizer",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 1},
        {"steps": 10**9},
        {"steps": 1, "workers": 0, "seed": 0, "ema": 0.0, "patience": 1, "device": "cpu", "data_seed": 0, "draws": 1},
    ],
)
def test_a_setting_at_the_edge_is_taken(options: dict[str, Any]) -> None:
    Settings(**options)


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings(steps=1).steps = 2  # type: ignore[misc]


def test_each_player_has_its_optimizer() -> None:
    one, two = Optim("SGD", lr=0.1), Optim("AdamW")
    assert Settings(steps=1, optimizer=one).optim_for("anyone") is one
    both = Settings(steps=1, optimizer={"student": one, "critic": two})
    assert both.optim_for("critic") is two
    with pytest.raises(InputError, match=r"no optimizer for player 'generator'\. Given: student, critic"):
        both.optim_for("generator")


def test_a_device_that_is_not_there_is_an_error_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(MachineError, match="device='cuda:3', but this machine has 0 GPUs"):
        Settings(steps=1, device="cuda:3").on()


# -- what a resumed run must have in common ----------------------------------------------------------------------------

BASE = Settings(steps=8)
MATTERS = {
    "epochs": Settings(epochs=8),
    "steps": Settings(steps=9),
    "batch_size": dataclasses.replace(BASE, batch_size=2),
    "accumulate": dataclasses.replace(BASE, accumulate=2),
    "precision": dataclasses.replace(BASE, precision="bf16"),
    "channels_last": dataclasses.replace(BASE, channels_last=True),
    "ema": dataclasses.replace(BASE, ema=0.5),
    "seed": dataclasses.replace(BASE, seed=1),
    "data_seed": dataclasses.replace(BASE, data_seed=1),
    "draws": dataclasses.replace(BASE, draws=2),
    "drop_last": dataclasses.replace(BASE, drop_last=True),
    "validate_every": dataclasses.replace(BASE, validate_every=2),
    "best": dataclasses.replace(BASE, best="loss"),
    "best_is": dataclasses.replace(BASE, best_is="min"),
    "patience": dataclasses.replace(BASE, patience=2),
}


@pytest.mark.parametrize("name", MATTERS)
def test_what_changes_a_weight_is_part_of_the_identity(name: str) -> None:
    ours, theirs = BASE.identity(), MATTERS[name].identity()
    assert name in {field for field in {**ours, **theirs} if ours.get(field) != theirs.get(field)}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Optim(lr=1e-3), Optim(lr=2e-3)),
        (Optim(), Optim("Adam")),
        (Optim(), Optim(weight_decay=0.1)),
        (Optim(), Optim(clip=1.0)),
        (Optim(groups={"*.bias": {"lr": 1.0}}), Optim(groups={"*.bias": {"lr": 2.0}})),
        (Optim(schedule=cosine(1, 0)), Optim(schedule=linear(1, 0))),
        (Optim(warmup=0.05), Optim(warmup=0.06)),
        (Optim(warmup=5), Optim(warmup=6)),
        (Optim(schedule=steps_at((0.5,))), Optim(schedule=steps_at((0.45,)))),
        (Optim(schedule=lambda p: 0.9**p.epoch), Optim(schedule=lambda p: 0.8**p.epoch)),
    ],
)
def test_optimizers_that_differ_look_different(a: Optim, b: Optim) -> None:
    assert repr(a) != repr(b)


def test_optimizers_that_are_equal_look_equal() -> None:
    assert repr(Optim("SGD", lr=0.1, schedule=cosine(1, 0))) == repr(Optim("SGD", lr=0.1, schedule=cosine(1, 0)))


@pytest.mark.parametrize("name", ["workers", "device", "log_every", "save_every", "keep"])
def test_what_changes_no_weight_may_differ(name: str) -> None:
    value: Any = "cpu" if name == "device" else 3
    assert dataclasses.replace(BASE, **{name: value}).identity() == BASE.identity()


def test_every_field_is_in_one_of_the_two_lists() -> None:
    fields = {f.name for f in dataclasses.fields(Settings)}
    assert fields == {*MATTERS, "optimizer", "workers", "device", "log_every", "save_every", "keep"}
