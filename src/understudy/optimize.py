"""How a player's parameters are changed: any optimizer of ``torch.optim``, its schedule, clipping and loss scale."""

from __future__ import annotations

import copy
import fnmatch
import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from understudy.errors import InputError, choices, raise_all
from understudy.parallel import average_gradients, sum_over_ranks
from understudy.progress import Curve, Progress, constant, described, warmed_up

__all__ = ["Optim", "Player", "optimizers"]

_UNFIT = {
    "LBFGS": "evaluates the loss several times in one step, but a move has one loss",
    "SparseAdam": "takes sparse gradients only, and those of a move are dense",
}


class Optim:
    """What an optimizer is to be: a description, used for each player anew.

    Args:
        name: a class of ``torch.optim``: "SGD", "AdamW", ...
        lr: learning rate at the height of the schedule.
        schedule: factor on every group's learning rate, over the run.
        warmup: see :func:`~understudy.progress.warmed_up`.
        clip: largest allowed 2-norm of the player's whole gradient; None does not clip.
        groups: options for the parameters whose name matches a pattern: ``{"*.bias": {"weight_decay": 0}}``. Names are
            ``student.layer1.weight``, ``terms.1.project.layer.weight``; the first pattern that matches counts.
        **options: of that optimizer: ``momentum=0.9``, ``weight_decay=5e-4``, ...

    Raises: InputError with every name that torch does not know.
    """

    def __init__(
        self,
        name: str = "AdamW",
        *,
        lr: float = 1e-3,
        schedule: Curve | None = None,
        warmup: float = 0,
        clip: float | None = None,
        groups: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        self.name, self.lr, self.clip, self.options = name, lr, clip, options
        self.groups = {pattern: dict(values) for pattern, values in (groups or {}).items()}
        self.schedule = warmed_up(schedule or constant(1.0), warmup)
        self.kind = _optimizer(name)
        raise_all(InputError, self._problems())

    def at(self, share: float) -> Optim:
        """The same at a share of the learning rate, those of its groups included."""
        other = copy.copy(self)
        other.lr = self.lr * share
        other.groups = {g: {k: v * share if k == "lr" else v for k, v in o.items()} for g, o in self.groups.items()}
        return other

    def _problems(self) -> list[str]:
        allowed = [n for n in inspect.signature(self.kind).parameters if n not in ("params", "lr")]
        problems = [
            f"Optim({self.name!r}): {n} is not an option. {choices(n, allowed)}"
            for n in self.options
            if n not in allowed
        ]
        problems += [
            f"Optim({self.name!r}): groups[{pattern!r}]: {n} is not an option. {choices(n, ['lr', *allowed])}"
            for pattern, values in self.groups.items()
            for n in values
            if n not in ("lr", *allowed)
        ]
        if not (isinstance(self.lr, (int, float)) and math.isfinite(self.lr) and self.lr >= 0):
            problems.append(f"Optim({self.name!r}): lr={self.lr!r} must be a finite number, 0 or above.")
        if self.clip is not None and not self.clip > 0:
            problems.append(f"Optim({self.name!r}): clip={self.clip!r} must be above 0, or None.")
        return problems

    def build(self, parameters: Sequence[nn.Parameter], names: Mapping[nn.Parameter, str]) -> torch.optim.Optimizer:
        """The optimizer over these parameters, in groups."""
        groups: dict[str, list[nn.Parameter]] = {pattern: [] for pattern in [*self.groups, ""]}
        for p in parameters:
            groups[next((g for g in self.groups if fnmatch.fnmatchcase(names.get(p, ""), g)), "")].append(p)
        unused = [g for g in self.groups if not groups[g]]
        if unused:
            raise InputError(
                f"Optim({self.name!r}): groups {unused} match no parameter. {choices(unused[0], names.values())}"
            )
        # torch's kernels that take many parameters at once cannot take sharded and whole ones together.
        alike = {
            (g, whole): [p for p in members if whole is not isinstance(p, DTensor)]
            for g, members in groups.items()
            for whole in (False, True)
        }
        settings = [{"params": members, **self.groups.get(g, {})} for (g, _), members in alike.items() if members]
        try:
            return self.kind(settings, lr=self.lr, **self.options)  # type: ignore[call-arg]
        except (TypeError, ValueError) as error:
            raise InputError(f"Optim({self.name!r}): torch refuses it: {error}") from error

    def __repr__(self) -> str:
        said = {"lr": self.lr, "clip": self.clip, "groups": self.groups, **self.options}
        options = ", ".join(f"{k}={v!r}" for k, v in said.items())
        return f"Optim({self.name!r}, {options}, schedule={described(self.schedule)})"


def optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    """Those of torch.optim that a move can use, by name."""
    return {name: kind for name, kind in _of_torch().items() if name not in _UNFIT}


def _of_torch() -> dict[str, type[torch.optim.Optimizer]]:
    root = torch.optim.Optimizer
    found = {n: c for n, c in vars(torch.optim).items() if isinstance(c, type) and issubclass(c, root)}
    return {name: found[name] for name in sorted(found) if found[name] is not root}


def _optimizer(name: str) -> type[torch.optim.Optimizer]:
    known = _of_torch()
    if name not in known:
        raise InputError(f"Optim: torch.optim has no optimizer {name!r}. {choices(name, optimizers())}")
    if name in _UNFIT:
        raise InputError(f"Optim: {name} {_UNFIT[name]}. AdamW or SGD is usual.")
    return known[name]


class Player:
    """Parameters that one move minimises, with their optimizer.

    Args:
        name: as moves say it.
        parameters: what trains, in a fixed order.
        names: of each parameter, for groups and errors.
        optim: what the optimizer is to be.
        scaled: multiply losses by a scale that keeps fp16 gradients from vanishing, found by trial.
    """

    def __init__(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        names: Mapping[nn.Parameter, str],
        optim: Optim,
        scaled: bool,
    ) -> None:
        self.name, self.parameters, self.names, self.optim = name, list(parameters), names, optim
        self.optimizer = optim.build(self.parameters, names)
        self.base_lr = [float(g["lr"]) for g in self.optimizer.param_groups]
        self.scale = 2.0**16 if scaled else 1.0
        self.scaled = scaled
        self.good_steps = self.skipped = 0

    def zero(self) -> None:
        """Forget gradients."""
        for p in self.parameters:
            p.grad = None

    def reduce(self) -> Tensor:
        """The mean gradient over ranks, unscaled; returns the 2-norm of the whole, NaN or inf if any element is."""
        average_gradients(self.parameters)
        grads = [p.grad for p in self.parameters if p.grad is not None]
        if self.scale != 1.0:
            torch._foreach_mul_([_local(g) for g in grads], 1.0 / self.scale)
        return _norm(grads)

    def step(self, progress: Progress, norm: Tensor) -> None:
        """Clip, set the learning rates, and make the optimizer's step."""
        if self.optim.clip is not None:
            factor = (self.optim.clip / (norm + 1e-6)).clamp(max=1.0)
            for p in self.parameters:
                if p.grad is not None:
                    p.grad.mul_(factor.to(p.grad.dtype))
        for group, lr in zip(self.optimizer.param_groups, self.base_lr, strict=True):
            group["lr"] = lr * self.optim.schedule(progress)
        self.optimizer.step()
        self._grow()

    def _grow(self, every: int = 2000) -> None:
        self.good_steps += 1
        if self.scaled and self.good_steps % every == 0:
            self.scale = min(self.scale * 2, 2.0**24)

    def skip(self) -> bool:
        """Halve the scale after an overflow and count it; False where there is no scale left to blame."""
        if not self.scaled or self.scale <= 1.0:
            return False
        self.scale /= 2
        self.good_steps = 0
        self.skipped += 1
        return True

    @property
    def lr(self) -> list[float]:
        """The learning rate of each group at the last step."""
        return [float(g["lr"]) for g in self.optimizer.param_groups]

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        scale = {"scale": self.scale, "good_steps": self.good_steps, "skipped": self.skipped}
        return {"optimizer": self.optimizer.state_dict(), **scale}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        members = [p for group in self.optimizer.param_groups for p in group["params"]]
        for i, saved in state["optimizer"]["state"].items():
            mine = self.optimizer.state[members[i]]
            for name, value in saved.items():
                if isinstance(value, Tensor) and mine[name].dtype != value.dtype:
                    mine[name] = value.to(mine[name].device)  # torch rounded it to the parameter's dtype
        self.scale, self.good_steps, self.skipped = state["scale"], state["good_steps"], state["skipped"]

    def non_finite(self) -> list[str]:
        """Names of parameters whose gradient is NaN or infinite."""
        return [
            self.names.get(p, "?")
            for p in self.parameters
            if p.grad is not None and not _local(p.grad).isfinite().all()
        ]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _norm(grads: Sequence[Tensor]) -> Tensor:
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm([_local(g) for g in grads])
    stacked = torch.stack(norms)
    squares = (stacked if stacked.device.type == "mps" else stacked.double()).square()
    if any(isinstance(g, DTensor) for g in grads):
        holders = torch.tensor([_holders(g) for g in grads], device=squares.device)
        sharded = holders > 0
        return (squares[~sharded].sum() + sum_over_ranks((squares / holders)[sharded].sum())).sqrt()
    return squares.sum().sqrt()


def _holders(grad: Tensor) -> int:
    """How many ranks hold this same part of a sharded gradient; 0 for one that is whole everywhere."""
    if not isinstance(grad, DTensor):
        return 0
    sizes = grad.device_mesh.shape
    return math.prod(n for n, placement in zip(sizes, grad.placements, strict=True) if not placement.is_shard())
