"""What goes through a model's layers on calibration samples, and from where to where a grid reaches for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from understudy.compress.anatomy import Place
from understudy.compress.layers import batches
from understudy.compress.rounding import affine, rounded
from understudy.errors import InputError
from understudy.inputs import Inputs, run
from understudy.modes import evaluating

__all__ = ["RANGES", "Seen", "observed"]

RANGES = ("minmax", "percentile", "mse")
SAMPLED = 2**16
"""Values of an activation that are kept of a batch, where the range depends on more than the least and the largest."""


class Seen:
    """What a tensor's values were on the calibration samples."""

    def __init__(self, sampled: bool) -> None:
        self.low, self.high = torch.tensor(0.0), torch.tensor(0.0)
        self.sampled, self.kept, self.ran = sampled, list[Tensor](), False

    def add(self, x: Tensor) -> None:
        """Take in a batch."""
        x = x.detach().float()
        self.ran = True
        self.low, self.high = (
            torch.minimum(self.low.to(x.device), x.amin()),
            torch.maximum(self.high.to(x.device), x.amax()),
        )
        if self.sampled:
            flat = x.flatten()
            self.kept.append(flat[:: max(1, -(-len(flat) // SAMPLED))].clone())

    def range(self, how: str = "minmax", percentile: float = 100.0) -> tuple[Tensor, Tensor]:
        """From where to where."""
        if how == "minmax":
            return self.low, self.high
        values = torch.cat(self.kept).sort().values
        if how == "percentile":
            last = len(values) - 1
            cut = round(last * (1 - percentile / 100))
            return values[cut].clamp_max(0), values[last - cut].clamp_min(0)
        best, least = (self.low, self.high), torch.inf
        for share in [1 - step / 50 for step in range(40)]:
            low, high = self.low * share, self.high * share
            error = float((rounded(values, *affine(low, high)) - values).square().mean())
            if error < least:
                best, least = (low, high), error
        return best


def observed(
    way: str,
    model: nn.Module,
    example: Inputs,
    layers: Mapping[str, Any],
    at: Mapping[str, Place],
    *,
    sampled: bool = False,
    ends: Mapping[str, nn.Module] | None = None,
) -> dict[str, tuple[Seen, Seen | None]]:
    """What goes into each layer, and what comes out of it where that is to be rounded as well.

    ``ends`` has the module by whose outputs a layer's are judged, where that is not the layer.

    Raises: InputError where the example holds, or leads to, values that are not finite.
    """
    seen: dict[str, tuple[Seen, Seen | None]] = {}
    hooks = []
    for name, layer in layers.items():
        place = at.get(name, Place())
        closes = place.open and not isinstance(layer, nn.Linear)
        seen[name] = (Seen(sampled), Seen(sampled) if closes else None)
        before, after = seen[name]
        hooks.append(layer.register_forward_hook(_takes(before)))
        if after is not None:
            hooks.append((ends or {}).get(name, layer).register_forward_hook(_gives(after, place.relu)))
    try:
        with evaluating(model), torch.no_grad():
            for part in batches(example):
                run(model, part)
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise InputError(f"{way}: {type(model).__name__} does not run on the example: {told}") from error
    finally:
        for hook in hooks:
            hook.remove()
    for name, pair in seen.items():
        if not all(bool(torch.isfinite(x)) for s in pair if s is not None for x in (s.low, s.high)):
            raise InputError(f"{way}: {name} sees values that are not finite. Does the example hold NaN?")
    return seen


def _takes(seen: Seen) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args:
            seen.add(args[0])

    return hook


def _gives(seen: Seen, relu: bool) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen.add(output.relu() if relu else output)

    return hook
