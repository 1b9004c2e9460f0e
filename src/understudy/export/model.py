"""What is exported of a model: one tensor, in eval mode, computed on the CPU."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import InputError, ShapeError
from understudy.inputs import Inputs
from understudy.modes import evaluating

__all__ = ["Inputs", "OneOutput", "first", "kind", "named", "on_cpu", "outputs", "samples", "shapes"]


def named(inputs: Inputs) -> dict[str, Tensor]:
    """The inputs by name, on the CPU; a tensor is called ``input``.

    Raises: InputError where there is none, or no sample, or not equally many of each.
    """
    given = {"input": inputs} if isinstance(inputs, Tensor) else dict(inputs)
    lengths = {name: x.shape[0] if x.ndim else None for name, x in given.items()}
    if None in lengths.values() or len(set(lengths.values())) != 1:
        raise ShapeError(f"export: inputs need equally many samples along their first axis, but have {lengths}.")
    if not samples(given):
        raise InputError("export: the inputs hold no sample; give at least one.")
    return {name: x.detach().cpu() for name, x in given.items()}


def first(inputs: Inputs) -> Inputs:
    """The first sample by itself."""
    return inputs[:1] if isinstance(inputs, Tensor) else {name: x[:1] for name, x in inputs.items()}


def samples(given: Mapping[str, Tensor]) -> int:
    """How many samples inputs of equal length hold."""
    return len(next(iter(given.values())))


def shapes(given: Mapping[str, Any]) -> str:
    """Names, dtypes and shapes, for a message."""
    return ", ".join(f"{name} {str(x.dtype).removeprefix('torch.')} {list(x.shape)}" for name, x in given.items())


def kind(model: nn.Module) -> str:
    """The name of the model's class, for a message."""
    return type(_bare(model)).__name__


def _bare(model: nn.Module) -> nn.Module:
    original = getattr(model, "_orig_mod", model)  # what torch.compile was given
    return original if isinstance(original, nn.Module) else model


def on_cpu(model: nn.Module) -> nn.Module:
    """The model, not compiled; a copy if it is elsewhere, for a GPU's arithmetic is not exact enough to check a file by."""
    bare = _bare(model)
    held = itertools.chain(bare.parameters(), bare.buffers())
    return bare if all(t.device.type == "cpu" for t in held) else copy.deepcopy(bare).cpu()


class OneOutput(nn.Module):
    """The model as a function from tensors to one tensor."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.names = None if isinstance(inputs, Tensor) else tuple(inputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The tensor, or the logits, or the only entry of what the model gives."""
        if self.names is None:
            return _tensor(self.model(*inputs))
        return _tensor(self.model(**dict(zip(self.names, inputs, strict=True))))


def _tensor(output: Any) -> Tensor:
    found, of = output, ""
    if isinstance(output, Mapping):
        of = f" of {', '.join(map(str, output))}"
        found = output.get("logits", next(iter(output.values())) if len(output) == 1 else None)
    elif isinstance(output, (tuple, list)) and not hasattr(output, "logits"):
        of = f" of {len(output)}"
        found = output[0] if len(output) == 1 else None
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    raise InputError(
        f"export: the model's output is a {type(output).__name__}{of}; allowed: a tensor, a mapping or object with 'logits', "
        "or a tuple of one tensor. Wrap the model in a module that returns the tensor to be exported."
    )


def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """What the model says of these samples, in batches of 256.

    Raises: InputError where it does not run on them, or gives what cannot be exported.
    """
    given = named(inputs)
    run = OneOutput(model, inputs)
    with evaluating(model), torch.no_grad():
        try:
            parts = [run(*batch) for batch in zip(*(x.split(256) for x in given.values()), strict=True)]
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"export: {kind(model)} does not run on {shapes(given)}: {error}") from error
    if any(part.numel() == 0 or part.ndim == 0 for part in parts) or sum(map(len, parts)) != samples(given):
        raise ShapeError(
            f"export: {kind(model)} gives {list(parts[0].shape)} for {samples(given)} samples; the first axis must be theirs."
        )
    return torch.cat(parts)
