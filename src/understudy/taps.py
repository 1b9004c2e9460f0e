"""Taps: hooks that catch what a model's submodules put out or take in, in one forward and no longer."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from understudy.batch import Call, tensors
from understudy.errors import TapError, raise_all

__all__ = ["Caught", "Tapped", "bare", "compiled_in_place", "unwrap", "versions"]


def unwrap(model: Any) -> Any:
    """The model below ``torch.compile``; anything else as it is."""
    return getattr(model, "_orig_mod", model)


def compiled_in_place(module: nn.Module) -> bool:
    """Whether the module was compiled by its own ``compile()``."""
    return getattr(module, "_compiled_call_impl", None) is not None


class Tapped:
    """One model with taps on some of its submodules: ``layer2`` for what comes out of it, ``layer2<`` for what goes in.

    The hooks are the same objects at every call, put on before the forward and taken off after it. Compiled code has
    them inlined; it belongs to this object alone, since it hangs on a code object of its own: torch looks compiled
    code up by code object and by default does not ask whether the hooks are still the same.
    """

    def __init__(self, name: str, model: Any, taps: frozenset[str], compiled: bool) -> None:
        self.name = name
        self.model = model
        self.modules = list(model.modules()) if isinstance(model, nn.Module) else []
        self.caught: dict[str, list[Caught]] = {tap: [] for tap in sorted(taps)}
        self.taps = [
            (model.get_submodule(tap.removesuffix("<")), _entering(caught) if tap.endswith("<") else _hook(caught))
            for tap, caught in self.caught.items()
        ]
        self.compiled = compiled
        self.function = _own_code(model) if compiled else model

    def __call__(self, call: Call, inputs: Any, graded: Collection[str]) -> tuple[Any, dict[str, list[Caught]]]:
        """Run the model: its output, and what each tap caught. Those in ``graded`` must have run with gradient."""
        self._forget()
        try:
            with self._hooked(), bare(self.modules if self.taps else ()), _hook_guards(self.compiled):
                output = call(self.function, inputs)
            found = {tap: list(caught) for tap, caught in self.caught.items()}
        finally:
            self._forget()
        self._check(found, graded)
        return output, found

    def _forget(self) -> None:
        for caught in self.caught.values():
            caught.clear()

    @contextlib.contextmanager
    def _hooked(self) -> Iterator[None]:
        handles = [
            module.register_forward_pre_hook(hook) if tap.endswith("<") else module.register_forward_hook(hook)
            for tap, (module, hook) in zip(self.caught, self.taps, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check(self, found: Mapping[str, list[Caught]], graded: Collection[str]) -> None:
        compiled = (
            "Or has the forward graph breaks, and a model of the same class was compiled before? Then call "
            "torch.compiler.reset() before the first reading, or do not compile this one."
            if self.compiled
            else "If the model is compiled in parts, give it uncompiled and say `compile=True`."
        )
        problems = [
            f"{self.name}.{tap} did not run in this forward of {self.name}, so that there is nothing to read. "
            f"Is it a container that only holds other layers (ModuleList), skipped by the forward, or called as a function? {compiled}"
            for tap, calls in found.items()
            if not calls
        ]
        problems += [
            f"{self.name}.{tap} {'took in' if tap.endswith('<') else 'put out'} a tensor that the forward changed in place afterwards, "
            "so that it is gone. Fix: inplace=False in the layer that follows it, or read that layer."
            for tap, calls in found.items()
            if any(call.changed() for call in calls)
        ]
        if torch.is_grad_enabled():
            problems += [
                f"{self.name}.{tap} ran without gradient inside a forward that has one (reentrant activation checkpointing, "
                "or no_grad). Fix: checkpoint(..., use_reentrant=False), or read 'stop " + f"{self.name}.{tap}'."
                for tap, calls in found.items()
                if tap in graded and any(not call.graded for call in calls)
            ]
        raise_all(TapError, problems)


class Caught(NamedTuple):
    """What was caught in one call, whether a gradient was recorded, and the version counters of its tensors."""

    output: Any
    graded: bool
    versions: tuple[int, ...]

    def changed(self) -> bool:
        """Whether one of its tensors was written to since."""
        return any(v != now for v, now in zip(self.versions, versions(self.output), strict=False))


def versions(output: Any) -> tuple[int, ...]:
    """How often each of its tensors was written to."""
    return tuple(0 if t.is_inference() else t._version for t in tensors(output))


def _hook(caught: list[Caught]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        keep(output)

    keep = _keep(caught)
    return hook


def _entering(caught: list[Caught]) -> Callable[[nn.Module, Any], None]:
    def hook(module: nn.Module, args: Any) -> None:
        keep(args[0] if args else None)

    keep = _keep(caught)
    return hook


def _keep(caught: list[Caught]) -> Callable[[Any], None]:
    def keep(output: Any) -> None:
        if torch.compiler.is_compiling():  # compiled code keeps no version counters: only a copy is safe
            output = output.clone() if isinstance(output, Tensor) else output
            caught.append(Caught(output, torch.is_grad_enabled(), ()))
        else:
            caught.append(Caught(output, torch.is_grad_enabled(), versions(output)))

    return keep


def _own_code(model: Any) -> Callable[..., Any]:
    """The model through ``torch.compile``, as a function whose code object nothing else shares."""
    target = model._call_impl if isinstance(model, nn.Module) else model

    def forward(*args: Any, **kwargs: Any) -> Any:
        return target(*args, **kwargs)

    code = forward.__code__.replace(co_name=f"forward_{id(model):x}")
    own = types.FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)
    compiled = torch.compile(own)
    compiled.forward = getattr(model, "forward", model)  # type: ignore[attr-defined]  # whose signature `call` asks
    return compiled


@contextlib.contextmanager
def bare(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Run those of the modules that were compiled in place without their compiled code, which knows no hooks."""
    found = [(module, module._compiled_call_impl) for module in modules if compiled_in_place(module)]
    for module, _ in found:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, code in found:
            module._compiled_call_impl = code


def _hook_guards(compiled: bool) -> contextlib.AbstractContextManager[None]:
    """Make compiled code ask whether the hooks are still the same.

    Where the graph breaks, torch compiles a submodule's own code object, which all models of its class share.
    """
    if not compiled:
        return contextlib.nullcontext()
    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)  # type: ignore[no-any-return]
