"""Data as a whole job needs it: every label at hand, and what a model says of every sample."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.batch import Batch, Call, call, tensors
from understudy.errors import InputError, UnderstudyError
from understudy.reading import Reader
from understudy.source import Source, sized
from understudy.tasks import Task
from understudy.writing import bytes_of

__all__ = ["Examples", "device_of", "outputs"]

_MODEL = Address.parse("model")


@dataclass(frozen=True)
class Examples:
    """Samples, with their labels where they have any.

    Attributes:
        name: "train", "valid", ..., for errors.
        source: the samples.
        labels: of all samples ``[N]`` or ``[N, L]``; None where the data has none.
        digest: of every tensor in it.
    """

    name: str
    source: Source
    labels: Tensor | None
    digest: str = ""

    @classmethod
    def read(cls, data: Any, name: str) -> Examples:
        """Go through the data once; raise InputError if it is empty, only iterates, or holds NaN or infinity."""
        source = sized(data, name, lack="cannot be read twice")
        labels, sha = [], hashlib.sha256()
        for batch in source.in_order():
            _refuse_non_finite(name, batch)
            labels.append(_label(name, batch))
            for tensor in tensors(batch.fields):
                sha.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
                sha.update(bytes_of(tensor))
        found = [label for label in labels if label is not None]
        return cls(name, source, torch.cat(found) if len(found) == len(labels) else None, sha.hexdigest())

    @property
    def samples(self) -> int:
        """Their number."""
        return self.source.samples

    def labelled(self, task: Task) -> Examples | None:
        """Those that have a label; None if none has."""
        if self.labels is None:
            return None
        known = task.labelled(self.labels)
        if bool(known.all()):
            return self
        ids = known.nonzero().flatten()
        return self.only(ids) if len(ids) else None

    def few(self, count: int) -> Examples:
        """The first samples."""
        return self.only(torch.arange(min(count, self.samples)))

    def only(self, ids: Tensor) -> Examples:
        """The samples of these ids, in this order."""
        return Examples(self.name, self.source.subset(ids), None if self.labels is None else self.labels[ids])

    def inputs(self) -> Tensor | None:
        """What a model is given of all samples, where that is one tensor; else None."""
        parts = []
        for batch in self.source.in_order():
            raw = batch.inputs[0] if isinstance(batch.inputs, (tuple, list)) else batch.fields.get("input")
            if not isinstance(raw, Tensor):
                return None
            parts.append(raw)
        return torch.cat(parts)


def _label(name: str, batch: Batch) -> Tensor | None:
    label = batch.fields.get("label")
    if label is not None and not isinstance(label, Tensor):
        raise InputError(f"{name}: its labels are of {type(label).__name__}; give a tensor or an array of numbers.")
    alike = [other for other in ("labels", "target", "targets", "y") if other in batch]
    if label is None and alike:
        raise InputError(f"{name}: has no field 'label' among {', '.join(batch)}. Rename {alike[0]!r} to 'label'.")
    return label


def _refuse_non_finite(name: str, batch: Batch) -> None:
    for key, value in batch.fields.items():
        if key == "label" or not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        bad = ~value.isfinite().reshape(value.shape[0], -1).all(1)
        if bad.any():
            raise InputError(
                f"{name}: {key!r} is NaN or infinite in {told(batch['index'][bad])}. Repair or leave out these samples."
            )


def device_of(model: Any) -> torch.device:
    """Where a model's tensors are; the CPU for what has none."""
    held = itertools.chain(model.parameters(), model.buffers()) if isinstance(model, nn.Module) else iter(())
    first = next(held, None)
    return torch.device("cpu") if first is None else first.device


def told(ids: Tensor) -> str:
    """Ids of samples, the first few of them.

    >>> told(torch.arange(7))
    'samples 0, 1, 2, 3, 4, ... (7 in all)'
    """
    few = ", ".join(str(int(i)) for i in ids[:5])
    return (
        f"sample {few}" if len(ids) == 1 else f"samples {few}" + (f", ... ({len(ids)} in all)" if len(ids) > 5 else "")
    )


@torch.no_grad()
def outputs(model: Any, examples: Examples, *, give: Call = call, who: str = "model") -> Tensor:
    """What a model gives for every sample, in order, in eval mode, where the model is: ``[N, ...]`` on the CPU.

    ``who`` is what the model is called in errors.

    Raises: InputError if the model cannot take the samples, or if an output is NaN, naming the samples.
    """
    try:
        return _outputs(model, examples, give, who)
    except UnderstudyError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        (batch,) = examples.few(1).source.in_order()
        given = ", ".join(f"{k} {list(v.shape)} of {v.dtype}" for k, v in batch.fields.items() if isinstance(v, Tensor))
        raise InputError(
            f"{who}: cannot take a sample of {examples.name} ({given}): {type(error).__name__}: {str(error).splitlines()[0]} "
            "Look at the model by itself: model(inputs). Images are [N, C, H, W] of float32 for PyTorch's layers, and data is (inputs, labels)."
        ) from error


def _outputs(model: Any, examples: Examples, give: Call, who: str) -> Tensor:
    device = device_of(model)
    reader = Reader({"model": model}, (), call=give)
    parts = [reader.read(batch.to(device), [_MODEL])[_MODEL].cpu() for batch in examples.source.in_order()]
    whole = torch.cat(parts)
    bad = whole.isnan().reshape(len(whole), -1).any(1)
    if bad.any():
        raise InputError(f"{examples.name}: the {who}'s output is NaN for {told(bad.nonzero().flatten())}.")
    return whole
