"""How long, in what portions, with which optimizer: everything about a run that is not the method or the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from understudy.errors import InputError, MachineError, choices, raise_all
from understudy.optimize import Optim

__all__ = ["Settings"]

# What may differ when a run is resumed: nothing here changes a weight.
_FREE = ("workers", "device", "log_every", "save_every", "keep")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of :func:`understudy.train`.

    Attributes:
        epochs: passes over the data; or give ``steps``.
        steps: optimizer steps of the student.
        batch_size: samples of one step, over all ranks and micro-batches; a DataLoader's own by default, else 128.
        accumulate: micro-batches into which each rank splits its part of a step.
        optimizer: one for all players, or one for each by its name.
        precision: "fp32" leaves the models' own dtype alone; "bf16" and "fp16" compute the forward under autocast, that of a
            teacher too, unless it is an :class:`~understudy.inference.Inference`, which computes as it says.
        channels_last: lay images and convolutions out with the channels innermost while training.
        ema: decay of a moving average of the student, which is then what is validated and kept; None for none.
        seed: of the order of the data and of everything random.
        data_seed: of what is random in a sample, such as its crop; ``seed`` by default. Runs that share it see the same views.
        draws: views of each sample that the epochs go through in turn; None draws a new one each epoch.
        drop_last: leave out an epoch's last, smaller batch.
        workers: processes that load data; the batches are the same with any number.
        device: "cpu", "cuda", ...; None takes the GPU if there is one.
        validate_every: steps between validations; None means once an epoch (for a stream: at the end).
        best: the validated figure by which the best weights are chosen.
        best_is: whether more of it is better, or less.
        patience: stop after so many validations without a better one; None never stops early.
        save_every: steps between checkpoints; None means once an epoch.
        keep: checkpoints that stay on the disk.
        log_every: steps between lines of the metrics log.
    Raises: InputError that lists every setting that cannot be.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    optimizer: Optim | Mapping[str, Optim] = field(default_factory=Optim)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    ema: float | None = None
    seed: int = 0
    data_seed: int | None = None
    draws: int | None = None
    drop_last: bool = False
    workers: int = 0
    device: str | None = None
    validate_every: int | None = None
    best: str = "accuracy"
    best_is: Literal["max", "min"] = "max"
    patience: int | None = None
    save_every: int | None = None
    keep: int = 2
    log_every: int = 10

    def __post_init__(self) -> None:
        problems = []
        if (self.epochs is None) == (self.steps is None):
            problems.append(f"settings: epochs={self.epochs} and steps={self.steps}: give one of the two.")
        least = dict.fromkeys(("epochs", "steps", "batch_size", "accumulate", "validate_every", "patience", "draws"), 1)
        least |= {"save_every": 1, "keep": 1, "log_every": 1, "workers": 0, "seed": 0, "data_seed": 0}
        for name, least_value in least.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least_value:
                problems.append(f"settings: {name}={value!r} must be a whole number, {least_value} or above.")
        for name, allowed in (("precision", ("fp32", "bf16", "fp16")), ("best_is", ("max", "min"))):
            if getattr(self, name) not in allowed:
                problems.append(f"settings: {name}={getattr(self, name)!r}. {choices(getattr(self, name), allowed)}")
        if self.ema is not None and not (isinstance(self.ema, (int, float)) and 0 <= self.ema < 1):
            problems.append(f"settings: ema={self.ema!r} must be in [0, 1); .99 to .9999 is usual.")
        if self.device is not None:
            try:
                torch.device(self.device)
            except (RuntimeError, TypeError) as error:
                problems.append(f"settings: device={self.device!r}: {str(error).splitlines()[0]}")
        optims = self.optimizer.values() if isinstance(self.optimizer, Mapping) else [self.optimizer]
        problems += [
            f"settings: optimizer={o!r} is not an Optim, such as Optim('SGD', lr=0.05)."
            for o in optims
            if not isinstance(o, Optim)
        ]
        raise_all(InputError, problems)

    def optim_for(self, player: str) -> Optim:
        """The description of a player's optimizer."""
        if isinstance(self.optimizer, Optim):
            return self.optimizer
        if player not in self.optimizer:
            raise InputError(f"settings: no optimizer for player {player!r}. Given: {', '.join(self.optimizer)}.")
        return self.optimizer[player]

    @property
    def seed_of_samples(self) -> int:
        """The seed of what is random in samples."""
        return self.seed if self.data_seed is None else self.data_seed

    def on(self) -> torch.device:
        """The device; raises MachineError if this machine has no such one."""
        device = torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise MachineError(
                f"settings: device={self.device!r}, but this machine has {torch.cuda.device_count()} GPUs."
            )
        if device.type not in ("cpu", "cuda"):
            try:
                torch.zeros(1, device=device).item()
            except Exception as error:  # each kind of device has its own way to say that it is not there
                told = str(error).partition("\n")[0]
                raise MachineError(f"settings: device={self.device!r} cannot compute here: {told}") from error
        return device

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of a forward, as a context."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return nullcontext() if dtype is None else torch.autocast(self.on().type, dtype)

    def identity(self) -> dict[str, str]:
        """What must be the same when a run is resumed, in words."""
        told: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in _FREE}
        return {name: repr(value) for name, value in told.items()}
