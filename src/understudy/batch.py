"""A batch in its normal form, whatever the user's loader yields, and how it reaches a model."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from understudy.errors import AddressError, InputError, choices

__all__ = ["Batch", "Call", "ModelInputs", "call", "innermost", "mapped", "tensors"]

Call = Callable[[Callable[..., Any], Any], Any]
"""Gives a batch's inputs to a model: ``call(model, inputs) -> output``. Replace it with ``Distillation(call=...)``."""

NOT_INPUTS = frozenset({"label", "labels", "index", "draw", "mask"})
"""Fields of a mapping that no model is called with: a model that sees the label may compute a loss of its own."""


@dataclass(frozen=True)
class ModelInputs:
    """A batch that says itself what a model is called with: ``model(*args, **kwargs)``.

    ``fields`` is what terms may read besides: labels, masks, the samples' index.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Batch(Mapping[str, Any]):
    """The fields that terms read, the inputs that models are called with, and how many elements each term counts.

    A tensor becomes the field ``input``; a tuple becomes ``input``, ``label``, ``2``, ``3``, ...; a mapping and
    :class:`ModelInputs` keep their names.

    Attributes:
        fields: by name.
        inputs: as the loader gave them, for :data:`Call`.
        counts: per term, how many elements count in this batch, then its samples: int64 ``[terms + 1]``; None before
            ``prepare``.
        totals: the same over all micro-batches and ranks of the step; ``counts`` if this batch is the whole step.
        ranks: the number of processes over which gradients are averaged.
    """

    fields: Mapping[str, Any]
    inputs: Any
    counts: Tensor | None = None
    totals: Tensor | None = None
    ranks: int = 1

    @classmethod
    def of(cls, raw: Any, **more: Any) -> Batch:
        """Any batch in its normal form, with ``more`` fields laid over it."""
        if isinstance(raw, Batch):
            return dataclasses.replace(raw, fields={**raw.fields, **more}) if more else raw
        return cls(fields={**_fields(raw), **more}, inputs=raw)

    def __getitem__(self, name: str) -> Any:
        try:
            return self.fields[name]
        except KeyError:
            raise AddressError(f"batch has no field {name!r}. {choices(name, self.fields)}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """A field, or the default where there is none."""
        return self.fields.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def rows(self) -> int:
        """The number of samples: the length of the first tensor with an axis."""
        for tensor in tensors(self.fields.get("index", self.fields)):
            if tensor.ndim:
                return tensor.shape[0]
        raise InputError(
            f"batch with fields {list(self.fields)} holds no tensor, so that its samples cannot be counted."
        )

    def counted(self, counts: Sequence[Tensor]) -> Batch:
        """The same batch with these counts, as if it were the whole step."""
        device = next((c.device for c in counts if c.device.type != "cpu"), torch.device("cpu"))
        stacked = torch.stack([c.to(device) for c in counts])
        return dataclasses.replace(self, counts=stacked, totals=stacked)

    def share(self, term: int | slice) -> tuple[Tensor, Tensor]:
        """How many elements a term counts here, and how many in the whole step; several terms by a slice."""
        if self.counts is None or self.totals is None:
            raise InputError("batch: is not counted yet. Call method.prepare(batch, progress) first.")
        return self.counts[term], self.totals[term]

    def mean(self, values: Tensor) -> Tensor:
        """This batch's share of the mean over the step's samples, of one value for each sample ``[N]``."""
        samples = values.shape[0] if self.totals is None else self.totals[-1]
        return values.sum() * self.ranks / samples

    def view(self, name: str | None) -> Any:
        """What a model is called with: the whole batch's inputs, or those of ``model@name``."""
        return self.inputs if name is None else self[name]

    def to(self, device: torch.device | str, *, channels_last: bool = False) -> Batch:
        """The same batch with its tensors on that device; images ``[N, C, H, W]`` with the channels innermost, if so wished."""
        place = torch.device(device)
        moved: dict[int, Tensor] = {}  # what models are called with is mostly among the fields: moved once

        def to(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                found = tensor.to(place, non_blocking=True)
                moved[id(tensor)] = innermost(found) if channels_last else found
            return moved[id(tensor)]

        def other(leaf: Any) -> Any:
            return leaf.to(place) if callable(getattr(leaf, "to", None)) else leaf  # a packed sequence, a graph

        fields, inputs = (mapped(to, part, other=other) for part in (self.fields, self.inputs))
        return dataclasses.replace(self, fields=fields, inputs=inputs)


def innermost(tensor: Tensor) -> Tensor:
    """Images ``[N, C, H, W]`` of floats with the channels innermost in memory; any other tensor as it is."""
    images = tensor.ndim == 4 and tensor.is_floating_point()
    return tensor.contiguous(memory_format=torch.channels_last) if images else tensor


def _fields(raw: Any) -> dict[str, Any]:
    if isinstance(raw, Tensor):
        return {"input": raw}
    if isinstance(raw, ModelInputs):
        named = {"input" if i == 0 else str(i): value for i, value in enumerate(raw.args)}
        return {**named, **raw.kwargs, **raw.fields}
    if isinstance(raw, Mapping):
        return dict(raw)
    if isinstance(raw, (tuple, list)):
        names = ["input", "label"]
        return {names[i] if i < len(names) else str(i): value for i, value in enumerate(raw)}
    raise InputError(
        f"batch: a {type(raw).__name__} is not a batch; allowed: a tensor, a tuple (input, label, ...), a mapping, or ModelInputs."
    )


def mapped(function: Callable[[Tensor], Tensor], value: Any, *, other: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The same nest of tuples, lists, mappings and ModelInputs, with ``function`` of each tensor and ``other`` of what else it holds."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, ModelInputs):
        return ModelInputs(*(mapped(function, part, other=other) for part in (value.args, value.kwargs, value.fields)))
    if isinstance(value, Mapping):
        return {k: mapped(function, v, other=other) for k, v in value.items()}
    if isinstance(value, (tuple, list)) and not callable(getattr(value, "to", None)):
        items = [mapped(function, v, other=other) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # a namedtuple's is its own
    return other(value)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and ModelInputs, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, ModelInputs):
        yield from tensors((value.args, value.kwargs, value.fields))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)


def call(model: Callable[..., Any], inputs: Any) -> Any:
    """How a batch reaches a model, unless you replace it.

    ============  ==========================================================================================
    inputs        call
    ============  ==========================================================================================
    tensor        ``model(inputs)``
    tuple, list   ``model(inputs[0])``
    ModelInputs   ``model(*inputs.args, **inputs.kwargs)``
    mapping       by name those fields that the model's forward takes (never ``label``, ``labels``, ``index``,
                  ``draw`` or ``mask``); failing that ``model(inputs["input"])``, or the only field that is left
    ============  ==========================================================================================
    """
    if isinstance(inputs, ModelInputs):
        return model(*inputs.args, **inputs.kwargs)
    if isinstance(inputs, Batch):
        inputs = inputs.fields
    if isinstance(inputs, Mapping):
        return _call_by_name(model, inputs)
    if isinstance(inputs, (tuple, list)):
        return model(inputs[0])
    return model(inputs)


def _call_by_name(model: Callable[..., Any], inputs: Mapping[str, Any]) -> Any:
    offered = {k: v for k, v in inputs.items() if k not in NOT_INPUTS}
    names, takes_all = _parameters(getattr(model, "forward", model))
    taken = offered if takes_all and "input" not in offered else {k: v for k, v in offered.items() if k in names}
    if taken:
        return model(**taken)
    if "input" in offered:
        return model(offered["input"])
    if len(offered) == 1:
        return model(next(iter(offered.values())))
    raise InputError(
        f"batch with fields {list(inputs)}: none is named as a parameter of the model's forward ({', '.join(names) or 'it has none'}), "
        "and none is called 'input'. Rename a field, or give `call=lambda model, batch: model(batch['...'])`."
    )


@functools.lru_cache(maxsize=256)
def _signature(function: Any) -> tuple[tuple[str, ...], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # written in C, which says no names
        return (), False
    names = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return names, any(p.kind is p.VAR_KEYWORD for p in parameters)


def _parameters(forward: Any) -> tuple[tuple[str, ...], bool]:
    # Only the function below a bound method is cached: the cache keeps no model alive, and not every callable hashes.
    if hasattr(forward, "__func__"):
        names, takes_all = _signature(forward.__func__)
        return names[1:], takes_all
    return _signature.__wrapped__(forward)
