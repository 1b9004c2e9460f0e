"""What a run is made of at a step boundary, and whether a checkpoint is of the same run."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from understudy import parallel
from understudy.errors import InputError
from understudy.method import Method
from understudy.optimize import Player
from understudy.settings import Settings
from understudy.shards import Spread
from understudy.writing import bytes_of

__all__ = [
    "check_arguments",
    "compare",
    "dealt",
    "digest",
    "identity",
    "level",
    "load_module",
    "load_player",
    "pace",
    "snapshot",
    "whole",
]


def check_arguments(method: object, settings: object) -> None:
    """Raise InputError if these are not a method and its settings: a bare model and a dictionary are what people give."""
    if not isinstance(method, Method):
        raise InputError(f"train: a {type(method).__name__} is no Method. Give us.methods.kd(...), or a Distillation.")
    if not isinstance(settings, Settings):
        raise InputError(f"train: a {type(settings).__name__} is no Settings. Give us.Settings(epochs=...).")


def snapshot(module: nn.Module) -> dict[str, Any]:
    """A copy of a module's state that does not change as training goes on."""
    return {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in module.state_dict().items()}


def whole(module: Any) -> dict[str, Tensor]:
    """Every tensor of a module's state under its own name, gathered where it is sharded: all ranks must call this."""
    state = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    return {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}


def dealt(module: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A module's saved state, with this rank's part of each tensor where the module is sharded."""
    mine = module.state_dict()
    return {k: _like(v, mine.get(k)) for k, v in state.items()}


def load_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state into a module, dealt out to ranks where the module is sharded.

    Raises: InputError if names or shapes differ.
    """
    try:
        module.load_state_dict(dealt(module, state))
    except RuntimeError as error:
        raise InputError(f"checkpoint: is not of this {type(module).__name__}: {error}") from error


def load_player(player: Player, state: Mapping[str, Any]) -> None:
    """Load a player's optimizer state, dealt out to ranks where parameters are sharded."""
    optimizer = dict(state["optimizer"])
    members = [p for group in player.optimizer.param_groups for p in group["params"]]
    optimizer["state"] = {
        i: {
            k: _like(v, members[i] if getattr(v, "shape", None) == members[i].shape else None) for k, v in entry.items()
        }
        for i, entry in optimizer["state"].items()
    }
    player.load({**state, "optimizer": optimizer})


def _like(value: Any, mine: Any) -> Any:
    if isinstance(value, Spread):
        return value.like(mine)
    if isinstance(mine, DTensor) and isinstance(value, Tensor) and not isinstance(value, DTensor):
        return distribute_tensor(value.to(mine.device), mine.device_mesh, mine.placements)
    return value


def digest(model: Any) -> str:
    """A hash of every tensor of a model's ``state_dict``; of what has none, its kind."""
    if not hasattr(model, "state_dict"):
        return type(model).__name__
    sha = hashlib.sha256()
    for name, value in sorted(whole(model).items()):
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(bytes_of(value))
    return sha.hexdigest()


def identity(method: Method, settings: Mapping[str, str], samples: int | None) -> dict[str, str]:
    """What must be equal between a checkpoint and the run that resumes it, by name."""
    frozen = {f"frozen model {name!r}": digest(model) for name, model in method.frozen.items()}
    facts = {"method": repr(method), **settings}
    # A function's place in memory is another one in each process.
    facts = {name: re.sub(r" at 0x[0-9a-f]+", "", fact) for name, fact in facts.items()}
    return {**facts, "samples": str(samples), **frozen}


def pace(settings: Settings, folder: object, validate: object, state: Mapping[str, Any] | None) -> dict[str, str]:
    """What else all ranks must have alike, or they would not meet in the same exchanges."""
    given = {"folder": folder is not None, "validate": validate is not None}
    every = {name: getattr(settings, name) for name in ("log_every", "save_every")}
    return {k: str(v) for k, v in {**given, **every, "checkpoint at step": state and state["step"]}.items()}


def level(method: Method, facts: Mapping[str, str], device: torch.device) -> None:
    """Start every rank from rank 0's weights; raise InputError first if the ranks are not about to do the same."""
    if parallel.ranks() == 1:
        return
    # Not parameters() and buffers() alone: a moving average is in neither.
    held = {**method.state_dict(keep_vars=True), **dict(method.named_parameters()), **dict(method.named_buffers())}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    sizes = "; ".join(f"{name} {value.dtype} {list(value.shape)}" for name, value in tensors.items())
    parallel.agree({**facts, "parameters and buffers": sizes}, device)
    parallel.broadcast(tensors.values())


def compare(then: Mapping[str, str], now: Mapping[str, str], folder: object) -> None:
    """Raise InputError that names each thing in which a checkpoint's run differs from this one."""
    problems = []
    for name in {**then, **now}:
        a, b = then.get(name), now.get(name)
        if a != b:
            problems.append(f"  {name}: {_difference(str(a), str(b))}")
    if problems:
        raise InputError(
            "\n".join(
                [
                    f"{folder}: holds another run, so it cannot be resumed:",
                    *problems,
                    "Choose another folder, or put these back.",
                ]
            )
        )


def _difference(then: str, now: str) -> str:
    lines = [line for line in difflib.ndiff(then.splitlines(), now.splitlines()) if line[:1] in "+-"]
    if len(then) + len(now) > 200 and lines:
        return "; ".join(line.strip() for line in lines[:4])
    return f"was {then}, is {now}"
