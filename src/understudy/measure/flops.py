"""How much a model computes for one sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from understudy.errors import InputError
from understudy.modes import evaluating

__all__ = ["COUNTED", "flops"]

COUNTED = "2 for each multiply-add of convolutions, matrix products and attention; nothing else"


def flops(model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Any]:
    """Floating-point operations and multiply-adds of one forward of one sample.

    Counted are convolutions, matrix products and attention, 2 for each multiply-add, as torch dispatches them; not additions,
    activations, norms or pooling. Other tools count other things, and often multiply-adds under the name of FLOPs: two
    figures compare only if they count the same.

    Args:
        inputs: samples as the model takes them, of which the first is run.

    Returns: ``flops``; ``macs``, half of it; ``flops_counted``, what is counted, in words; ``flops_left_out``, the kinds
        of layers that hold matrices and of which nothing was counted, such as LSTM.
    Raises: InputError if the model does not run on the sample.

    >>> flops(nn.Linear(4, 3), torch.zeros(1, 4))["flops"]
    24
    """
    one: Any = inputs[:1] if isinstance(inputs, Tensor) else {name: x[:1] for name, x in inputs.items()}
    counter = FlopCounterMode(display=False)
    try:
        with evaluating(model), torch.no_grad(), counter:
            model(one) if isinstance(one, Tensor) else model(**one)
    except Exception as error:
        raise InputError(f"flops: {type(model).__name__} does not run on the first sample: {error}") from error
    total = int(counter.get_total_flops())
    return {"flops": total, "macs": total // 2, "flops_counted": COUNTED, "flops_left_out": _left_out(model, counter)}


def _left_out(model: nn.Module, counter: FlopCounterMode) -> list[str]:
    counted = {name for name, counts in counter.get_flop_counts().items() if sum(counts.values())}
    top = type(model).__name__
    kinds = {
        type(module).__name__
        for name, module in model.named_modules()
        if not isinstance(module, (nn.Embedding, nn.EmbeddingBag))  # which look up, and compute nothing
        and any(p.ndim > 1 for p in module.parameters(recurse=False))
        and not counted & {name, f"{top}.{name}", top if not name else ""}
    }
    return sorted(kinds)
