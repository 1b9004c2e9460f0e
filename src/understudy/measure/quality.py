"""How good a model is, and how big."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from understudy.losses.response import UNLABELLED
from understudy.modes import evaluating

__all__ = ["accuracy", "agreement", "parameters", "size_mb"]


def agreement(student: Tensor, teacher: Tensor) -> Tensor:
    """Whether both models rank the same class first: 1 or 0 for each sample, the mean over any further axes.

    Args:
        student: logits ``[N, *, C]``.
        teacher: logits ``[N, *, C]``.
    """
    same = (student.argmax(-1) == teacher.argmax(-1)).float()
    return same if same.ndim < 2 else same.flatten(1).mean(1)


@torch.no_grad()
def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, *, batch_size: int = 1000) -> float:
    """Share of the labelled samples whose class the model ranks first, in [0, 1]. The model's mode is put back."""
    with evaluating(model):
        logits = torch.cat([model(part) for part in inputs.split(batch_size)])
    known = labels != UNLABELLED
    return float((logits.argmax(-1)[known] == labels[known]).double().mean())


def parameters(model: nn.Module) -> int:
    """The number of parameters, each tensor once; of weights that are packed several to a byte, each weight."""
    packed = sum(int(getattr(module, "packed_weights", 0)) for module in model.modules())
    return sum(p.numel() for p in model.parameters()) + packed


def size_mb(model: nn.Module) -> float:
    """Bytes of parameters and buffers over 10^6, each tensor once; of a quantized tensor, those of what it is made of."""
    held = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    return sum(map(_bytes, held.values())) / 1e6


def _bytes(tensor: Tensor) -> int:
    # A tensor of a subclass, as torchao's, tells the shape and dtype that it stands for. A sharded one counts as a whole.
    flatten = None if hasattr(tensor, "device_mesh") else getattr(tensor, "__tensor_flatten__", None)
    if callable(flatten):
        return sum(_bytes(getattr(tensor, name)) for name in flatten()[0])
    return tensor.numel() * tensor.element_size()
