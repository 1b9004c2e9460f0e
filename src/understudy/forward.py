"""One forward of a model, and what each of its layers took in and put out: shapes and names, no contents."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from understudy.batch import Batch, Call, call, tensors
from understudy.modes import evaluating
from understudy.reading import unwrap
from understudy.taps import bare

__all__ = ["Forward", "Seen", "weighs"]


@dataclass(frozen=True, eq=False)
class Seen:
    """A tensor at a layer.

    Attributes:
        order: in which it was seen.
        at: the layer's path as an address has it: with ``/key`` inside of what it puts out, with ``<`` for what goes in.
        path: of the layer alone.
        module: the layer.
        shape: of the tensor.
        source: the shape of the layer's first argument; empty if that is no tensor.
        same: which tensor it is, and which state of it: equal for two layers that pass one tensor on as it is.
    """

    order: int
    at: str
    path: str
    module: nn.Module
    shape: tuple[int, ...]
    source: tuple[int, ...]
    same: tuple[int, int]
    version: Tensor | None

    @property
    def changed(self) -> bool:
        """Whether it was written to since."""
        return self.version is not None and self.version._version != self.same[1]


class Forward:
    """A model's forward on an example, in eval mode and without gradient. The model is left as it was.

    Attributes:
        model: bare.
        rows: samples of the example.
        outs: what came out of layers, in the order in which they ended.
        ins: what went into layers that have weights, in the order in which they began.
        calls: how often each layer ran.
        given: which tensors the example is, by :attr:`Seen.same`.
        output: which tensors the model's own output is, likewise.
    """

    def __init__(self, model: nn.Module, example: Any, *, call: Call = call) -> None:
        self.model: nn.Module = unwrap(model)
        self.outs: list[Seen] = []
        self.ins: list[Seen] = []
        self.calls: dict[str, int] = {}
        self._known: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._numbers, self._order = itertools.count(), 0
        batch = Batch.of(example)
        device = next((t.device for t in (*self.model.parameters(), *self.model.buffers())), None)
        batch = batch if device is None else batch.to(device)
        self.rows = batch.rows
        self.given = {self._same(t) for t in tensors((batch.fields, batch.inputs))}
        with torch.no_grad(), evaluating(self.model), self._watching(), bare(self.model.modules()):
            found = call(self.model, batch.inputs)
        self.output = {self._same(t) for _, t in _tensors(found)}

    def once(self, seen: list[Seen]) -> list[Seen]:
        """Those of them that can be read: the layer ran once, each sample has its row, and nothing wrote to it since."""
        return [s for s in seen if self.calls[s.path] == 1 and s.shape[:1] == (self.rows,) and not s.changed]

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        handles = []
        for path, module in self.model.named_modules():
            if path:
                handles.append(module.register_forward_hook(self._leaving(path)))
            if path and weighs(module):
                handles.append(module.register_forward_pre_hook(self._entering(path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leaving(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self.calls[path] = self.calls.get(path, 0) + 1
            for keys, tensor in _tensors(output):
                self.outs.append(self._see(path + keys, path, module, tensor, args))

        return hook

    def _entering(self, path: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
                self.ins.append(self._see(f"{path}<", path, module, args[0], args))

        return hook

    def _see(self, at: str, path: str, module: nn.Module, tensor: Tensor, args: Any) -> Seen:
        self._order += 1
        shape, source = tuple(tensor.shape), tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ()
        return Seen(self._order, at, path, module, shape, source, self._same(tensor), _version(tensor))

    def _same(self, tensor: Tensor) -> tuple[int, int]:
        reference, number = self._known.get(id(tensor), (None, 0))
        if reference is None or reference() is not tensor:  # the place in memory of one that is gone
            number = next(self._numbers)
            self._known[id(tensor)] = (weakref.ref(tensor), number)
        return number, 0 if tensor.is_inference() else tensor._version


def weighs(module: nn.Module) -> bool:
    """Whether it is itself a layer with a matrix or a kernel: not a norm, and not a container of such."""
    known = isinstance(module, nn.Linear | nn.modules.conv._ConvNd)
    return known or any(p.ndim > 1 for p in module.parameters(recurse=False))


def _version(tensor: Tensor) -> Tensor | None:
    """The tensor's version counter without its memory: an empty tensor that shares it."""
    if tensor.is_inference() or type(tensor) not in (Tensor, nn.Parameter):
        return None
    counter = tensor.detach()
    counter.data = tensor.new_empty(0)
    return counter


def _tensors(value: Any, keys: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of numbers with a fraction, with the keys that lead to it."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield keys, value
        return
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if _listed(value) else ()
    for key, item in items:
        yield from _tensors(item, f"{keys}/{key}")


def _listed(value: Any) -> bool:
    """A packed sequence is a tuple too, but none whose parts have the samples first."""
    return isinstance(value, tuple | list) and not isinstance(value, nn.utils.rnn.PackedSequence)
