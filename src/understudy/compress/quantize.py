"""Weights and activations in fewer bits, after training.

What is said to be int8 here holds its weights as int8; which arithmetic runs is said of each way. The layers are those of
:mod:`understudy.compress.integers`, saved as plain tensors. Layers of other kinds stay in float, and are named in a warning
if they hold matrices.
"""

from __future__ import annotations

import collections
import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.utils import _pytree as pytree

from understudy.compress.anatomy import Place, places, swapped
from understudy.compress.calibration import RANGES, observed
from understudy.compress.finish import bare, finished
from understudy.compress.integers import Grid, quantized
from understudy.compress.layers import WEIGHTED, batches, kept, output_shapes, tensors, whole
from understudy.errors import InputError, choices
from understudy.inputs import Inputs, run
from understudy.modes import evaluating

__all__ = ["bf16", "fp16", "int4_weights", "int8_dynamic", "int8_static", "int8_weights"]


class Cast(nn.Module):
    """A model in half precision that takes and gives float32."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model.to(dtype), dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives, each tensor of half precision as float32."""
        args, kwargs = pytree.tree_map(lambda x: self._to(x, None, self.dtype), (args, kwargs))
        return pytree.tree_map(lambda x: self._to(x, self.dtype, torch.float32), self.model(*args, **kwargs))

    def _to(self, x: Any, only: torch.dtype | None, dtype: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return x.to(dtype) if only is None or x.dtype == only else x


def fp16(model: nn.Module, example: Inputs) -> nn.Module:
    """All floats in 16 bits, of which 5 are the exponent: half the bytes. Products are of fp16.

    Args:
        model: what is made smaller. It is not changed.
        example: samples as the model takes them, float32; that the result is finite on them is checked.

    Returns: a model that takes and gives float32, for inference.
    Raises: InputError where the model does not run on the example, or the result is not finite: above 65,504 fp16 has
        no numbers.
    """
    return _cast("fp16", model, example, torch.float16)


def bf16(model: nn.Module, example: Inputs) -> nn.Module:
    """All floats in 16 bits, of which 8 are the exponent: half the bytes, the range of float32. Products are of bf16.

    Args:
        model: what is made smaller. It is not changed.
        example: samples as the model takes them, float32.

    Returns: a model that takes and gives float32, for inference.
    Raises: InputError where the model does not run on the example.
    """
    return _cast("bf16", model, example, torch.bfloat16)


def _cast(way: str, model: nn.Module, example: Inputs, dtype: torch.dtype) -> nn.Module:
    output_shapes(way, model, example)
    made = Cast(_finished(model), dtype).train(model.training)
    with evaluating(made), torch.no_grad():
        for part in batches(example):
            if not all(torch.isfinite(x).all() for x in tensors(run(made, part)) if x.is_floating_point()):
                raise InputError(
                    f"{way}: gives values that are not finite on the example. Use bf16, whose range is wider."
                )
    return made


def int8_weights(model: nn.Module, example: Inputs, *, keep: Sequence[str] = ()) -> nn.Module:
    """Weights of convolutions, linear layers and embeddings in int8, a scale for each output channel or row.

    A quarter of the bytes and no calibration. Weights are made float again when the layer runs, and products are of
    floats: so it saves memory, not time.

    Args:
        model: what is quantized. It is not changed.
        example: samples as the model takes them; that it runs on them is checked.
        keep: names of modules to leave as they are, or patterns such as ``encoder.*``.

    Returns: a model for inference.
    Raises: InputError where no layer has such a form.
    """
    return _weights("int8_weights", model, example, keep, lambda layer: quantized(layer))


def int4_weights(model: nn.Module, example: Inputs, *, group: int = 32, keep: Sequence[str] = ()) -> nn.Module:
    """Weights of convolutions, linear layers and embeddings in 4 bits, two in a byte, a scale for each group of them.

    An eighth of the bytes, and the scales. Of each group the scale is that of the least squared error. Weights are made
    float again when the layer runs, on any device: it saves memory, and costs time.

    Args:
        model: what is quantized. It is not changed.
        example: samples as the model takes them; that it runs on them is checked.
        group: weights of one output channel in a row that have a scale in common; a scale has four bytes.
        keep: names of modules to leave as they are, or patterns.

    Returns: a model for inference.
    Raises: InputError where no layer has such a form.
    """
    whole("int4_weights", "group", group, 2)
    return _weights("int4_weights", model, example, keep, lambda layer: quantized(layer, 4, group))


def int8_dynamic(model: nn.Module, example: Inputs, *, keep: Sequence[str] = ()) -> nn.Module:
    """Linear layers in int8, their inputs rounded when they come; weights of convolutions and embeddings in int8 alone.

    Each row of a linear layer's inputs has a symmetric scale of its own, its largest value over 127: no calibration, and
    answers that do not depend on what else is in the batch. On a CPU the products of linear layers are of int8.

    Args:
        model: what is quantized. It is not changed.
        example: samples as the model takes them; that it runs on them is checked.
        keep: names of modules to leave as they are, or patterns.

    Returns: a model for inference.
    Raises: InputError where no layer is linear.
    """

    def made(layer: nn.Module) -> nn.Module:
        new = quantized(layer)
        new.dynamic = isinstance(layer, nn.Linear)
        return cast("nn.Module", new)

    return _weights("int8_dynamic", model, example, keep, made, needs=(nn.Linear,))


def int8_static(
    model: nn.Module, example: Inputs, *, ranges: str = "minmax", percentile: float = 99.99, keep: Sequence[str] = ()
) -> nn.Module:
    """Weights and inputs of convolutions and linear layers in int8, with ranges that are seen on the example.

    A BatchNorm behind a layer is folded into it first. Weights have a scale for each output channel, activations one for
    the whole tensor. The output of a convolution that goes into something else than another such layer, a sum for one, is
    rounded too, or runtimes would compute that convolution in float. In PyTorch on a CPU the products of linear layers are of
    int8 and those of convolutions of the rounded values in float; an ONNX file made of it has QuantizeLinear and
    DequantizeLinear, and runs in int8.

    Args:
        model: what is quantized. It is not changed.
        example: calibration samples as the model takes them, a few hundred that are like those to come.
        ranges: "minmax", from the least to the largest value; "percentile", without the outermost; or "mse", the part of
            that with the least squared error.
        percentile: of the values on either side that lie within, for ``ranges="percentile"``.
        keep: names of modules to leave as they are, or patterns.

    Returns: a model for inference.
    Raises: InputError for an empty example or one of another shape, values that are not finite, an option that is not
        allowed, or where no layer has an int8 form.
    """
    way = "int8_static"
    if ranges not in RANGES:
        raise InputError(f"{way}: ranges: there is no {ranges!r}. {choices(ranges, RANGES)}")
    if isinstance(percentile, bool) or not isinstance(percentile, int | float) or not 50 < percentile <= 100:
        raise InputError(
            f"{way}: percentile={percentile!r} is not allowed; give a number above 50 and up to 100, such as 99.99."
        )
    work = _opened(way, model, example)
    layers = chosen(way, work, keep, WEIGHTED)
    at = places(work, example, layers)
    work = _folded(work, layers, at)
    seen = observed(way, work, example, layers, at, sampled=ranges != "minmax")
    layers = {name: layer for name, layer in layers.items() if seen[name][0].ran}
    if not layers:
        raise InputError(
            f"{way}: no layer of {type(model).__name__} ran on the example. Its forward reads their weights itself."
        )
    new = {}
    for name, layer in layers.items():
        before, after = seen[name]
        new[layer] = quantized(layer)
        new[layer].before = Grid(*before.range(ranges, percentile))
        if after is not None:
            new[layer].after = Grid(*after.range(ranges, percentile))
    left(way, work, set(new), keep)
    return swapped(work, new)


# -- what the ways have in common ----------------------------------------------------------------------------------------


def _finished(model: nn.Module) -> nn.Module:
    done = finished(model)
    return copy.deepcopy(bare(model)) if done is model else done


def _opened(way: str, model: nn.Module, example: Inputs) -> nn.Module:
    output_shapes(way, model, example)
    lengths = {} if isinstance(example, Tensor) else {name: len(x) for name, x in example.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{way}: the example needs equally many samples of each input, but has {lengths}.")
    work = _finished(model)
    held = {p.dtype for p in work.parameters() if p.is_floating_point()}
    if held - {torch.float32}:
        told = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in held))
        raise InputError(f"{way}: integers are made of float32, and the model holds {told}. Give model.float().")
    return work


def chosen(way: str, model: nn.Module, keep: Sequence[str], kinds: tuple[type[nn.Module], ...]) -> dict[str, Any]:
    """The layers of these kinds that can be quantized, by name: computed by torch's own forward, their weights nowhere else.

    Raises: InputError where there is none.
    """
    out = kept(way, model, keep)
    counts = collections.Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds)
        and name not in out
        and any(type(module).forward is kind.forward for kind in kinds)
        and all(counts[id(p)] < 2 for p in module.parameters(recurse=False))
        and getattr(module, "max_norm", None) is None
    }
    if not found:
        told = ", ".join(kind.__name__ for kind in kinds)
        others = sorted({type(m).__name__ for _, m in _matrices(model, set())})
        raise InputError(
            f"{way}: {type(model).__name__} has no layer that can be quantized{' but those kept' if out else ''}; those are {told}, "
            f"with weights that stand in one place. It has {', '.join(others) or 'no weights in matrices'}. Use fp16 or bf16."
        )
    return found


def _weights(
    way: str,
    model: nn.Module,
    example: Inputs,
    keep: Sequence[str],
    made: Callable[[nn.Module], nn.Module],
    needs: tuple[type[nn.Module], ...] = (),
) -> nn.Module:
    work = _opened(way, model, example)
    if needs:
        chosen(way, work, keep, needs)
    new = {layer: made(layer) for layer in chosen(way, work, keep, (*WEIGHTED, nn.Embedding)).values()}
    left(way, work, set(new), keep)
    return swapped(work, new)


def _folded(model: nn.Module, layers: dict[str, Any], at: Mapping[str, Place]) -> nn.Module:
    """Fold each layer's BatchNorm into it, and leave nothing in the BatchNorm's place."""
    gone: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        if name in at and (norm := at[name].norm) is not None:
            bn: Any = model.get_submodule(norm)
            fuse: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
            layer.weight, layer.bias = fuse(
                layer.weight, layer.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
            gone[bn] = nn.Identity()
    return swapped(model, gone)


def left(way: str, model: nn.Module, done: set[nn.Module], keep: Sequence[str]) -> None:
    """Warn of what stays in float and holds matrices of weight, other than what was asked to stay."""
    asked, least = kept(way, model, keep), 0.01 * sum(p.numel() for p in model.parameters())
    found = [
        f"{name} ({type(module).__name__})"
        for name, module in _matrices(model, done)
        if name not in asked and sum(p.numel() for p in _own(module)) >= least
    ]
    if found:
        more = f" and {len(found) - 6} more" if len(found) > 6 else ""
        warnings.warn(
            f"{way}: left in float: {', '.join(found[:6])}{more}. It has no form of such layers, or the layer did not run on "
            "the example, or its weight stands in two places.",
            stacklevel=4,
        )


def _matrices(model: nn.Module, done: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    inside = {part for module in done for part in module.modules()}
    for name, module in model.named_modules():
        if module not in inside and any(p.ndim > 1 and p.is_floating_point() for p in _own(module)):
            yield name or "the model itself", module


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    held = module._modules.get("parametrizations")
    return itertools.chain(module.parameters(recurse=False), () if held is None else held.parameters())
