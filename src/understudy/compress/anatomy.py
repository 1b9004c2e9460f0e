"""What stands where in a model's graph: which normalization follows a layer, and where a layer's output goes.

The graph is that of ``torch.export`` for two samples. Of a model that has none, for its forward branches on values, nothing
is known: normalizations then stay by themselves, which costs a little speed and nothing else.
"""

from __future__ import annotations

import collections
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from understudy.compress.layers import few
from understudy.inputs import Inputs
from understudy.modes import evaluating
from understudy.quiet import quiet

__all__ = ["Place", "places", "swapped"]

THROUGH = {
    "relu", "relu_", "max_pool1d", "max_pool2d", "max_pool3d", "view", "reshape", "flatten", "permute", "transpose", "contiguous", "clone", "dropout",
    "dropout_", "unsqueeze", "squeeze",
}  # fmt: skip
"""Operators that keep values on the grid on which they are."""


@dataclass(frozen=True)
class Place:
    """Where a layer stands.

    Attributes:
        norm: the name of the BatchNorm that alone reads the layer's output.
        relu: whether a ReLU alone reads what the layer and its norm give.
        open: whether something else than layers whose inputs are rounded reads it, such as a sum; False for the model's outputs.
    """

    norm: str | None = None
    relu: bool = False
    open: bool = False


def places(model: nn.Module, example: Inputs, layers: Collection[str]) -> dict[str, Place]:
    """The places of those layers (by name) that run once."""
    pair = few(example)
    args, kwargs = ((pair,), {}) if isinstance(pair, Tensor) else ((), dict(pair))
    try:
        with evaluating(model), torch.no_grad(), quiet():
            graph = torch.export.export(model, args, kwargs, strict=False).graph
    except Exception:  # whatever an exporter says of a model
        return {}
    modules = dict(model.named_modules())
    owners = {node: name for node in graph.nodes if (name := _owner(node)) in modules}
    layer_of = {node: owners[node] for node in owners if owners[node] in layers and _kind(node) in ("conv", "linear")}
    counts = list(layer_of.values())
    norms = collections.Counter(owners[n] for n in owners if _kind(n) == "batch_norm")
    found = {}
    for node, name in layer_of.items():
        if counts.count(name) > 1:
            continue
        after, norm = node, None
        following = _only_user(node)
        if (
            following is not None
            and norms[owners.get(following, "")] == 1
            and _foldable(node, modules[owners[following]])
        ):
            after, norm = following, owners[following]
        user = _only_user(after)
        relu = user is not None and _name(user) in ("relu", "relu_")
        found[name] = Place(norm, relu, any(_leaves(after, layer_of)))
    return found


def _leaves(node: Node, layers: Mapping[Node, str]) -> Iterator[bool]:
    """For every use of a value: whether it is neither rounded there anyway nor an output."""
    for user in node.users:
        if _name(user) in THROUGH:
            yield from _leaves(user, layers)
        else:
            yield user not in layers and user.op != "output"


def _name(node: Node) -> str:
    return str(getattr(getattr(node.target, "_schema", None), "name", "")).removeprefix("aten::")


def _kind(node: Node) -> str:
    name = _name(node)
    return "conv" if name in ("conv1d", "conv2d", "conv3d") else name


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _owner(node: Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("L['self'].").partition("@")[0] if stack else ""


def _foldable(layer: Node, norm: Any) -> bool:
    # Of [N, T, D] a BatchNorm takes the middle axis for the channels, and a linear layer the last.
    alike = _kind(layer) == "conv" or layer.meta["val"].ndim == 2
    return alike and isinstance(norm, _BatchNorm) and norm.running_var is not None


def swapped(module: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """The module with others in the place of some it holds, wherever they stand."""
    if module in new:
        return new[module]
    if isinstance(module, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0  # its fast path reads the weights of its layers, and does not call them
    for name, child in list(module._modules.items()):
        if child is not None and (made := swapped(child, new)) is not child:
            setattr(module, name, made)
    return module
