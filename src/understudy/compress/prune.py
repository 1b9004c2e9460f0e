"""Single weights set to zero: the shapes stay, and so does the time of a dense runtime; the compressed file shrinks.

A mask is a parametrization: the weight that the layer uses is the trained one where the mask is set, and zero elsewhere,
whatever an optimizer does to the number behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from understudy.compress.finish import Baked, copied, finished, unparametrized
from understudy.compress.layers import WEIGHTED, output_shapes, share, weighted, whole
from understudy.errors import InputError
from understudy.inputs import Inputs

__all__ = ["magnitude", "movement", "n_m", "sparsity"]


class Mask(Baked):
    """Zero where the mask is not set."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, masked."""
        return torch.where(cast("Tensor", self.mask), weight, 0)


class Movement(Baked):
    """Zero where the scores are lowest. The mask's gradient is passed straight on to the scores."""

    def __init__(self, scores: Tensor, zeros: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.zeros = zeros

    def forward(self, weight: Tensor) -> Tensor:
        """The weight, masked."""
        mask = _without_least(self.scores.detach(), self.zeros).to(weight.dtype)
        return weight * (mask + (self.scores - self.scores.detach()))


def magnitude(
    model: nn.Module, example: Inputs, *, amount: float = 0.5, per_layer: bool = False, keep: Sequence[str] = ()
) -> nn.Module:
    """Set the smallest weights of convolutions and linear layers to zero, and keep them there.

    Args:
        model: what is pruned. It is not changed.
        example: samples as the model takes them; that it runs on them is checked.
        amount: share of the weights that become zero, in (0, 1). Biases and normalizations are not counted.
        per_layer: the same share of each layer; otherwise the smallest of all layers together, so that a layer of small
            weights loses more.
        keep: names of modules to leave as they are, or patterns such as ``encoder.*``; the head, for one.

    Returns: a model with masks, which can be trained; ``finished`` writes them into the weights. Of one that has masks
        already, the weights that are zero stay so.
    Raises: InputError for an amount or a name that is not allowed.
    Source: Han et al. 2015, arXiv:1506.02626.
    """
    zeros = share("magnitude", "amount", amount)
    made, layers = _opened("magnitude", model, example, keep)
    sizes = {name: layer.weight.detach().abs() for name, layer in layers.items()}
    if per_layer:
        masks = {name: _without_least(size, round(zeros * size.numel())) for name, size in sizes.items()}
    else:
        flat = torch.cat([size.flatten().float() for size in sizes.values()])
        parts = _without_least(flat, round(zeros * flat.numel())).split([size.numel() for size in sizes.values()])
        masks = {name: part.view_as(size) for (name, size), part in zip(sizes.items(), parts, strict=True)}
    return _masked(made, layers, masks)


def n_m(model: nn.Module, example: Inputs, *, n: int = 2, m: int = 4, keep: Sequence[str] = ()) -> nn.Module:
    """Keep the ``n`` largest of every ``m`` weights in a row along the input axis: the pattern that sparse tensor cores run.

    Layers whose inputs are no multiple of ``m`` stay as they are, as the first convolution of an image does.

    Args:
        model: what is pruned. It is not changed.
        example: samples as the model takes them; that it runs on them is checked.
        n: weights kept in each group, from 1.
        m: weights in a group, more than ``n``. 2 of 4 is what hardware knows.
        keep: names of modules to leave as they are, or patterns.

    Returns: a model with masks, which can be trained; ``finished`` writes them into the weights.
    Raises: InputError for numbers or names that are not allowed, or where no layer's inputs can be grouped so.
    Source: Mishra et al. 2021, arXiv:2104.08378, section 3.
    Differs: the masks are chosen once, and no channels are permuted before.
    """
    whole("n_m", "n", n)
    whole("n_m", "m", m, least=2)
    if n >= m:
        raise InputError(f"n_m: n={n} of m={m} keeps every weight; n must be smaller than m.")
    made, layers = _opened("n_m", model, example, keep)
    able = {name: layer for name, layer in layers.items() if layer.weight.shape[1] % m == 0}
    if not able:
        told = ", ".join(f"{name} ({layer.weight.shape[1]})" for name, layer in list(layers.items())[:8])
        raise InputError(f"n_m: no layer's inputs are a multiple of m={m}: {told}. Take another m.")
    return _masked(made, able, {name: _largest(layer.weight.detach().abs(), n, m) for name, layer in able.items()})


def movement(model: nn.Module, example: Inputs, *, amount: float = 0.5, keep: Sequence[str] = ()) -> nn.Module:
    """Let training choose which weights become zero: those that move towards it. For a trained model that is tuned on.

    Each weight has a score that trains with it; those of the lowest scores in each layer are zero in the forward. A
    score's gradient is the weight's times the weight itself, so that scores fall where weights shrink. A pruned weight's
    score goes on moving, and it may come back. Without training after it, it is ``magnitude`` per layer.

    Args:
        model: what is pruned. It is not changed.
        example: samples as the model takes them; that it runs on them is checked.
        amount: share of each layer's weights that is zero, in (0, 1).
        keep: names of modules to leave as they are, or patterns.

    Returns: a model with scores, which must be trained; ``finished`` writes the last masks into the weights. The scores are
        parameters: while it trains there are twice as many of these layers'.
    Raises: InputError for an amount or a name that is not allowed.
    Source: Sanh et al. 2020, arXiv:2005.07683, section 3.
    Differs: the amount is the final one from the start, where the paper raises it by a cubic schedule; so scores begin at
        the weights' magnitudes and not at zero, for the first mask to make sense.
    """
    zeros = share("movement", "amount", amount)
    made, layers = _opened("movement", model, example, keep)
    for layer in layers.values():
        size = layer.weight.detach().abs()
        if parametrize.is_parametrized(layer, "weight"):
            unparametrized(layer, "weight")
        held = Movement(size, round(zeros * size.numel()))
        parametrize.register_parametrization(layer, "weight", held)
    return made


def sparsity(model: nn.Module) -> float:
    """The share of zeros among the weights of convolutions and linear layers, as the model uses them.

    >>> sparsity(magnitude(nn.Linear(8, 4), torch.zeros(1, 8), amount=0.75))
    0.75
    """
    with torch.no_grad():
        weights = [m.weight for m in finished(model).modules() if isinstance(m, WEIGHTED)]
    return sum(int((w == 0).sum()) for w in weights) / max(1, sum(w.numel() for w in weights))


def _opened(
    where: str, model: nn.Module, example: Inputs, keep: Sequence[str]
) -> tuple[nn.Module, Mapping[str, nn.Linear]]:
    """A copy, and its layers, of which all have a weight."""
    output_shapes(where, model, example)
    made = copied(model)
    return made, cast("Mapping[str, nn.Linear]", weighted(where, made, keep))


def _without_least(values: Tensor, zeros: int) -> Tensor:
    """Where the values are not among so many of the smallest; of equals, exactly so many."""
    mask = torch.ones(values.numel(), dtype=torch.bool, device=values.device)
    mask[values.flatten().topk(zeros, largest=False, sorted=False).indices] = False
    return mask.view_as(values)


def _largest(size: Tensor, n: int, m: int) -> Tensor:
    groups = size.movedim(1, -1)
    rows = groups.reshape(-1, m)
    mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.topk(n, dim=1).indices, True)
    return mask.view(groups.shape).movedim(-1, 1).contiguous()


def _masked(model: nn.Module, layers: Mapping[str, nn.Linear], masks: Mapping[str, Tensor]) -> nn.Module:
    for name, layer in layers.items():
        held = _mask_of(layer)
        if held is None:
            parametrize.register_parametrization(layer, "weight", Mask(masks[name]))
        else:
            held &= masks[name]
    return model


def _mask_of(layer: nn.Module) -> Tensor | None:
    if not parametrize.is_parametrized(layer, "weight"):
        return None
    parts = cast("Sequence[nn.Module]", cast("nn.ModuleDict", layer.parametrizations)["weight"])
    return next((cast("Tensor", part.mask) for part in parts if isinstance(part, Mask)), None)
