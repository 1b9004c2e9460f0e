"""A layer's matrix as the product of two thin ones: fewer parameters and fewer operations, in any runtime."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.compress.finish import copied, finished
from understudy.compress.layers import batches, output_shapes, parameters, weighted, whole
from understudy.errors import InputError
from understudy.inputs import Inputs, run
from understudy.modes import evaluating

__all__ = ["Factorized", "low_rank"]


TOLD = ("in_features", "out_features", "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
"""What code around a layer may ask it for."""


class Factorized(nn.Sequential):
    """Two layers in the place of one."""

    @property
    def weight(self) -> Tensor:
        """The product, in the shape of the layer that was there, for code that looks at a layer's weight."""
        first, second = (cast("Tensor", layer.weight) for layer in self)
        if first.ndim == 2:
            return second @ first
        return torch.einsum("orab,ricd->oiacbd", second, first).flatten(4).flatten(2, 3)

    @property
    def bias(self) -> Tensor | None:
        """Of the second layer."""
        return cast("Tensor | None", list(self)[1].bias)


def low_rank(
    model: nn.Module,
    example: Inputs,
    *,
    energy: float | None = None,
    ratio: float | None = None,
    budget: int | None = None,
    spatial: bool = False,
    whitened: bool = False,
    keep: Sequence[str] = (),
) -> nn.Module:
    """Put two thin layers in the place of each linear layer and convolution, by truncated singular value decomposition.

    A linear layer becomes two; a k×k convolution one of k×k into few channels and one of 1×1 out of them. Where that would
    not be smaller the layer stays, and so do grouped convolutions. Give one of ``energy``, ``ratio`` and ``budget``;
    with none of them ``energy`` is 0.9.

    Args:
        model: what is factorized. It is not changed; masks in it are written into the weights first.
        example: samples as the model takes them; where ``whitened``, what it is fitted to: a few hundred.
        energy: in each layer so many directions are kept that their squared singular values are this share of all, in (0, 1].
        ratio: of each layer's weights, this share at most is left, in (0, 1); at least one direction stays.
        budget: the parameters of the whole model afterwards, at most. Directions are kept where they hold the largest
            share of their layer's energy for the parameters that they cost.
        spatial: factorize k×k convolutions into k×1 and 1×k.
        whitened: keep the directions that matter most for the layer's outputs on the example, not for its weights.
        keep: names of modules to leave as they are, or patterns.

    Returns: a model with other layers within, which can be trained.
    Raises: InputError for shares, budgets or names that are not allowed, and for a budget that one direction a layer exceeds.
    Source: Denton et al. 2014, arXiv:1404.0736; Jaderberg et al. 2014, arXiv:1405.3866, for ``spatial``; Wang et al. 2024
        (SVD-LLM), arXiv:2403.07378, section 3.1, for ``whitened``.
    Differs: no weight is fitted again after the decomposition; train the result.
    """
    _check(energy, ratio, budget, spatial, whitened)
    shapes = output_shapes("low_rank", model, example)
    made = copied(finished(model))
    places = _places(made, keep, spatial)
    moments = _moments(made, {name: place.layer for name, place in places.items()}, example) if whitened else {}
    found = {name: _decomposed(place, moments.get(name)) for name, place in places.items()}
    if budget is not None:
        ranks = _within(budget, made, found)
    elif ratio is not None:
        ranks = {name: max(1, int(ratio * f.full / f.cost)) for name, f in found.items()}
    else:
        ranks = {name: _rank(f, 0.9 if energy is None else energy) for name, f in found.items()}
    for name, factors in found.items():
        if ranks[name] * factors.cost < factors.full:
            home, _, last = name.rpartition(".")
            if not name:  # the model is one layer
                made = factors.made(ranks[name])
            else:
                setattr(made.get_submodule(home), last, factors.made(ranks[name]))
    if output_shapes("low_rank: factorized", made, example) != shapes:
        raise InputError("low_rank: the factorized model's outputs have another shape. Name layers in keep.")
    return made


def _check(energy: Any, ratio: Any, budget: Any, spatial: bool, whitened: bool) -> None:
    given = [name for name, value in (("energy", energy), ("ratio", ratio), ("budget", budget)) if value is not None]
    if len(given) > 1:
        raise InputError(f"low_rank: {' and '.join(given)} both say how much is kept. Give one of them.")
    for name, value, most in (("energy", energy, "<= 1"), ("ratio", ratio, "< 1")):
        if value is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 < value <= 1 or (value == 1 and name == "ratio"):
            raise InputError(f"low_rank: {name}={value!r} is not allowed; give a share with 0 < {name} {most}.")
    if budget is not None:
        whole("low_rank", "budget", budget)
    if spatial and whitened:
        raise InputError(
            "low_rank: spatial and whitened do not go together: what is between k x 1 and 1 x k is not what comes in."
        )


@dataclass(frozen=True)
class Place:
    """A layer that may be factorized; ``split`` if into k×1 and 1×k."""

    layer: nn.Linear | nn.Conv2d
    split: bool


@dataclass(frozen=True)
class Factors:
    """A layer's decomposition: ``left @ diag(values) @ right`` is its matrix, with all directions.

    Attributes:
        place: the layer.
        left: [outputs, directions], orthonormal.
        values: singular values, the largest first.
        right: [directions, inputs].
        cost: parameters of one direction.
        full: parameters of the layer's weight.
    """

    place: Place
    left: Tensor
    values: Tensor
    right: Tensor
    cost: int
    full: int

    @property
    def energies(self) -> Tensor:
        """Squared singular values, the largest first; of the outputs where whitened."""
        return self.values.square()

    def made(self, rank: int) -> Factorized:
        """Two layers of so many directions."""
        root = self.values[:rank].sqrt()
        first, second = root[:, None] * self.right[:rank], self.left[:, :rank] * root
        layer = self.place.layer
        trains, like = layer.weight.requires_grad, {"device": layer.weight.device, "dtype": layer.weight.dtype}
        a, b = _two(self.place, rank, like)
        with torch.no_grad():
            a.weight.copy_(first.view(a.weight.shape))  # where split: inputs and rows, of one column
            b.weight.copy_(_columns(second, b.weight) if self.place.split else second.view(b.weight.shape))
        for weight in (a.weight, b.weight):
            weight.requires_grad_(trains)
        b.bias = layer.bias  # the very parameter, with its name's last part
        both = Factorized(a, b).train(layer.training)
        for name in TOLD:
            if hasattr(layer, name):
                setattr(both, name, getattr(layer, name))
        return both


def _two(place: Place, rank: int, like: Mapping[str, Any]) -> tuple[Any, Any]:
    layer = place.layer
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, rank, bias=False, **like), nn.Linear(
            rank, layer.out_features, bias=False, **like
        )
    kernel, stride, dilation, mode = layer.kernel_size, layer.stride, layer.dilation, layer.padding_mode
    padding = layer.padding if isinstance(layer.padding, str) else tuple(layer.padding)
    first: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "padding": padding}
    second: dict[str, Any] = {"kernel_size": 1}
    if place.split:
        pads: Any = (padding, padding) if isinstance(padding, str) else ((padding[0], 0), (0, padding[1]))
        first = {"kernel_size": (kernel[0], 1), "stride": (stride[0], 1), "dilation": (dilation[0], 1), "padding": pads[0]}  # fmt: skip
        second = {"kernel_size": (1, kernel[1]), "stride": (1, stride[1]), "dilation": (1, dilation[1]), "padding": pads[1], "padding_mode": mode}  # fmt: skip
    return (
        nn.Conv2d(layer.in_channels, rank, bias=False, padding_mode=mode, **first, **like),
        nn.Conv2d(rank, layer.out_channels, bias=False, **second, **like),
    )


def _matrix(place: Place) -> Tensor:
    """The weight as a matrix: outputs by all that one output sees; where split, outputs and columns by inputs and rows."""
    weight = place.layer.weight.detach().float()
    if place.split:
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return weight.flatten(1)


def _columns(second: Tensor, weight: Tensor) -> Tensor:
    """From outputs and columns by directions to a kernel of one row."""
    outputs, rank, _, columns = weight.shape
    return second.view(outputs, columns, rank).permute(0, 2, 1)[:, :, None, :]


def _places(model: nn.Module, keep: Sequence[str], spatial: bool) -> dict[str, Place]:
    """Plain linear layers and two-dimensional convolutions; an attention of torch reads its own layer's weight by itself."""
    inside = {id(child) for m in model.modules() if isinstance(m, nn.MultiheadAttention) for child in m.modules()}
    found: dict[str, Place] = {}
    for name, layer in weighted("low_rank", model, keep).items():
        plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1)
        if plain and id(layer) not in inside:
            layer = cast("nn.Linear | nn.Conv2d", layer)
            split = spatial and isinstance(layer, nn.Conv2d) and min(layer.kernel_size) > 1
            found[name] = Place(layer, split)
    return found


def _decomposed(place: Place, moment: Tensor | None) -> Factors:
    matrix = _matrix(place)
    root = None if moment is None else _root(moment)
    left, values, right = torch.linalg.svd(matrix if root is None else matrix @ root, full_matrices=False)
    if root is not None:
        right = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    return Factors(place, left, values, right, sum(matrix.shape), place.layer.weight.numel())


def _root(moment: Tensor) -> Tensor:
    """Its Cholesky factor; what the example never shows counts a little, for the factor to have an inverse."""
    ridge = 1e-4 * moment.diagonal().mean().clamp_min(1e-12)
    root: Tensor = torch.linalg.cholesky(moment + ridge * torch.eye(len(moment), device=moment.device))
    return root.float()


def _moments(model: nn.Module, layers: Mapping[str, nn.Linear | nn.Conv2d], example: Inputs) -> dict[str, Tensor]:
    """The mean product of every two inputs of a layer over the example, in float64."""
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(layers, 0)

    def watch(name: str, layer: nn.Linear | nn.Conv2d) -> Any:
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = _rows(layer, given[0].detach()).double()
            sums[name] = sums.get(name, 0) + rows.T @ rows
            counts[name] += len(rows)

        return layer.register_forward_pre_hook(see)

    handles = [watch(name, layer) for name, layer in layers.items()]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches(example):
                run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / counts[name] for name, total in sums.items()}


def _rows(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What the layer multiplies its matrix with."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        pads = layer._reversed_padding_repeated_twice
        x = F.pad(x, pads, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
        patches = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride)
    else:
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    return patches.transpose(1, 2).flatten(0, 1)


def _rank(factors: Factors, energy: float) -> int:
    """The fewest directions that hold this share of the energy."""
    held = factors.energies.double().cumsum(0)
    if energy >= 1 or float(held[-1]) == 0:
        return len(held) if energy >= 1 else 1
    return int((held < energy * held[-1]).sum()) + 1


def _within(budget: int, model: nn.Module, found: Mapping[str, Factors]) -> dict[str, int]:
    """The ranks with which the model holds at most so many parameters: all directions above one threshold.

    Raises: InputError where one direction a layer is too many.
    """
    rest = parameters(model) - sum(f.full for f in found.values())
    worth = {n: f.energies / f.energies.sum().clamp_min(1e-30) / f.cost for n, f in found.items()}

    def ranks(threshold: float) -> dict[str, int]:
        return {name: max(1, int((w >= threshold).sum())) for name, w in worth.items()}

    def size(chosen: Mapping[str, int]) -> int:
        return rest + sum(min(chosen[name] * f.cost, f.full) for name, f in found.items())

    least = ranks(math.inf)
    if size(least) > budget:
        raise InputError(
            f"low_rank: budget={budget:,} cannot be met: with one direction a layer {size(least):,} of {parameters(model):,} parameters are left."
        )
    levels = sorted(itertools.chain(*(w.tolist() for w in worth.values())), reverse=True)
    low, high = 0, len(levels)  # so many levels fit, so many are too many
    if levels and size(ranks(levels[-1])) <= budget:
        return ranks(levels[-1])
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(ranks(levels[middle - 1])) <= budget else (low, middle)
    return ranks(levels[low - 1]) if low else least
