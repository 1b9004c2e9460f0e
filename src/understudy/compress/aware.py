"""Training with the rounding in it, so that a model learns to do without what is rounded away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.compress.anatomy import places, swapped
from understudy.compress.calibration import observed
from understudy.compress.finish import copied, unparametrized
from understudy.compress.integers import Grid, QuantConv, QuantLinear
from understudy.compress.layers import WEIGHTED, output_shapes, whole
from understudy.compress.quantize import chosen, left
from understudy.compress.rounding import affine, largest, rounded, scales
from understudy.errors import InputError
from understudy.inputs import Inputs

__all__ = ["qat"]


def qat(
    model: nn.Module,
    example: Inputs,
    *,
    bits: int = 8,
    rate: float = 0.05,
    freeze: int | None = None,
    keep: Sequence[str] = (),
) -> nn.Module:
    """Rehearse ``int8_static`` while training: weights and activations are rounded in each forward, gradients go straight through.

    Make the student of it and distil: the teacher's soft labels then train what will run. ``finished`` makes integers
    of it, with the ranges that it has come to; its outputs are those of the trained model in eval mode.

    Weights are rounded with a scale for each output channel, as a BatchNorm behind the layer will leave them when it is folded
    in; activations with one range, a moving average over training batches of their least and largest value. The
    BatchNorm itself goes on looking at the batch.

    Args:
        model: what is quantized, best of all trained already. It is not changed.
        example: samples as the model takes them, from which activations have their first ranges.
        bits: of the weights, 8 or 4; activations have 8.
        rate: by which a training batch moves the ranges, in (0, 1].
        freeze: training passes (micro-batches, where a step has several) after which ranges and the statistics of
            BatchNorms are held; never if it is not given. About nine tenths of the run keeps the last steps from chasing them.
        keep: names of modules to leave in float, or patterns. With 4 bits the first and the last layer are candidates.

    Returns: a model that can be trained.
    Raises: InputError for an option that is not allowed, an example that is empty or does not fit, or where no layer has
        an integer form.
    Source: Jacob et al. 2018, arXiv:1712.05877; Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2 (folded statistics).
    """
    if bits not in (4, 8) or isinstance(bits, bool):
        raise InputError(f"qat: bits={bits!r} is not allowed; weights have 8 or 4.")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate <= 1:
        raise InputError(f"qat: rate={rate!r} is not allowed; give a number above 0 and up to 1, such as 0.05.")
    if freeze is not None:
        whole("qat", "freeze", freeze)
    output_shapes("qat", model, example)
    work = copied(model)
    layers = chosen("qat", work, keep, WEIGHTED)
    at = places(work, example, layers)
    norms: dict[str, nn.Module] = {
        name: work.get_submodule(place.norm) for name, place in at.items() if place.norm is not None
    }
    # Behind the norm is where a layer's outputs are rounded, so that is where they are looked at.
    seen = observed("qat", work, example, layers, at, ends=norms)
    new: dict[nn.Module, nn.Module] = {norm: nn.Identity() for norm in norms.values()}
    for name, layer in layers.items():
        before, after = seen[name]
        if not before.ran:
            norms.pop(name, None)
            continue
        inputs = Range(*before.range(), rate, freeze)
        outputs = None if after is None else Range(*after.range(), rate, freeze)
        relu = name in at and at[name].relu
        new[layer] = Rehearsed(layer, norms.get(name), inputs, outputs, relu, bits).train(layer.training)
    if not any(isinstance(module, Rehearsed) for module in new.values()):
        raise InputError(
            f"qat: no layer of {type(model).__name__} ran on the example. Its forward reads their weights itself."
        )
    left("qat", work, set(new), keep)
    return swapped(work, new)


class Range(nn.Module):
    """Rounds activations to a range that follows what training batches hold, and stands still in eval mode."""

    low: Tensor
    high: Tensor
    passes: Tensor
    moving = True  # over ranks these averages are made the same, as those of BatchNorm are

    def __init__(self, low: Tensor, high: Tensor, rate: float, freeze: int | None) -> None:
        super().__init__()
        self.rate, self.freeze = rate, freeze
        self.register_buffer("low", low.detach().float().clone())
        self.register_buffer("high", high.detach().float().clone())
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))

    @property
    def held(self) -> bool:
        """Whether it has seen enough."""
        return self.freeze is not None and int(self.passes) >= self.freeze

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """The nearest values of the grid; ``relu`` where a ReLU follows, and the range need not reach below zero."""
        if self.training and not self.held:
            with torch.no_grad():
                low, high = torch.aminmax(x.detach().float().relu() if relu else x.detach().float())
                self.low.lerp_(low, self.rate)
                self.high.lerp_(high, self.rate)
                self.passes += 1
        return rounded(x.float(), *affine(self.low, self.high)).to(x.dtype)

    def extra_repr(self) -> str:
        """How it moves."""
        return f"rate={self.rate}, freeze={self.freeze}"


class Rehearsed(nn.Module):
    """A layer, and the BatchNorm behind it, computed with what will be left of its numbers."""

    def __init__(
        self, layer: nn.Module, norm: nn.Module | None, before: Range, after: Range | None, relu: bool, bits: int
    ) -> None:
        super().__init__()
        self.layer: Any = layer
        self.norm: Any = norm
        self.before, self.after, self.relu, self.bits = before, after, relu, bits

    @property
    def weight(self) -> Tensor:
        """The layer's own, for code that reads it."""
        return cast("Tensor", self.layer.weight)

    @property
    def bias(self) -> Tensor | None:
        """The layer's own."""
        return cast("Tensor | None", self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """As the layer and its norm."""
        x = self.before(x)
        factor = None if self.norm is None else _nonzero(self._factor())
        weight = self._rounded(self._scaled(factor))
        if factor is None:
            y = self._apply_to(x, weight, self.bias)
        else:
            y = self._apply_to(x, weight, None) / _per_channel(factor, x.ndim, self._linear)
            if self.bias is not None:
                y = y + _per_channel(self.bias, x.ndim, self._linear)
            y = self._normed(y)
        return y if self.after is None else self.after(y, self.relu)

    @property
    def _linear(self) -> bool:
        return isinstance(self.layer, nn.Linear)

    def _factor(self) -> Tensor:
        """By which the norm in eval mode multiplies each channel."""
        spread: Tensor = self.norm.running_var
        if self.training and torch.compiler.is_compiling():
            spread = cast("Tensor", _now(spread))
        made: Tensor = (spread + self.norm.eps).rsqrt()
        return made if self.norm.weight is None else made * cast("Tensor", self.norm.weight)

    def _scaled(self, factor: Tensor | None) -> Tensor:
        weight = self.weight
        return weight if factor is None else weight * factor.view(-1, *[1] * (weight.ndim - 1))

    def _rounded(self, weight: Tensor) -> Tensor:
        scale = scales(weight.detach().flatten(1), self.bits).view(-1, *[1] * (weight.ndim - 1))
        most = largest(self.bits)
        return rounded(weight, scale, 0, -most, most)

    def _apply_to(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        if self._linear:
            return F.linear(x, weight, bias)
        return cast("Tensor", self.layer._conv_forward(x, weight, bias))

    def _normed(self, y: Tensor) -> Tensor:
        if not (self.training and self.before.held):
            return cast("Tensor", self.norm(y))
        norm = self.norm
        return F.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps)

    @torch.no_grad()
    def finished(self) -> nn.Module:
        """The layer with integer weights and fixed ranges, its norm folded in."""
        if hasattr(self.layer, "parametrizations"):
            for tensor in list(self.layer.parametrizations):
                unparametrized(self.layer, tensor)
        factor = None if self.norm is None else self._factor()
        safe = None if factor is None else _nonzero(factor)
        weight, bias = self._scaled(safe), self.bias
        scale = scales(weight.flatten(1), self.bits)
        if factor is not None:
            bias = (0 if bias is None else bias) - self.norm.running_mean
            bias = bias * factor + (0 if self.norm.bias is None else self.norm.bias)
        kind = QuantLinear if self._linear else QuantConv
        made = kind(self.layer, weight, bias, scale, self.bits)
        if factor is not None and safe is not None:
            made.scale *= factor / safe  # where the norm takes a channel out, its weights are still there
        made.before = Grid(self.before.low, self.before.high)
        made.after = None if self.after is None else Grid(self.after.low, self.after.high)
        return made.train(self.training)


@torch.library.custom_op("understudy::now", mutates_args=())
def _now(x: Tensor) -> Tensor:
    """A copy that compiled code keeps for its backward. What it can compute it computes there anew, from statistics that
    have moved on since, and the gradient is off by some per cent."""
    return x.clone()


@_now.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _nonzero(factor: Tensor) -> Tensor:
    """What can be divided by: a norm may have learned to take a channel out."""
    least = torch.finfo(torch.float32).eps
    return torch.where(factor.abs() < least, torch.full_like(factor, least), factor)


def _per_channel(x: Tensor, axes: int, last: bool) -> Tensor:
    return x if last else x.view(-1, *[1] * (axes - 2))
