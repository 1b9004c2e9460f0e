"""Reading models at addresses.

A :class:`Reader` runs each (model, view) at most once, catches what its submodules put out on the way, and says which
layer did not run. Models stay as they are: hooks exist only while a forward runs, modes and ``requires_grad`` are put
back after it.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial

from understudy.address import BATCH, Address
from understudy.batch import Batch, Call, call, tensors
from understudy.errors import AddressError, InputError, TapError, choices, raise_all

__all__ = ["Reader", "read_batch", "reshard", "unwrap"]


def unwrap(model: Any) -> Any:
    """The model below ``torch.compile``; anything else as it is."""
    return getattr(model, "_orig_mod", model)


def reshard(model: Any) -> None:
    """Show a ``fully_shard``ed model's parameters as its optimizer knows them.

    After a forward without backward the outermost module's parameters are still those that were put together for it:
    other objects, whose gradient never comes.
    """
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, FSDPModule):
            module.reshard()


def _compiled_in_place(module: nn.Module) -> bool:
    return getattr(module, "_compiled_call_impl", None) is not None


class Reader:
    """Reads named models at addresses.

    Args:
        models: by the name that addresses use: modules, or callables that have a last output only.
        trained: the names of those that train; all others are frozen. ``student`` names the first of them, unless
            another model is called so.
        call: how a batch's inputs reach a model.
        compile: run the models through ``torch.compile``. A model that the user compiled is unwrapped and compiled
            anew, since code compiled before the hooks were there would never run them.
    """

    def __init__(
        self, models: Mapping[str, Any], trained: Sequence[str], *, call: Call = call, compile: bool = False
    ) -> None:
        self.models = {name: unwrap(model) for name, model in models.items()}
        self.trained = tuple(trained)
        self.call = call
        self._compiled = {name for name, model in models.items() if compile or _user_compiled(model)}
        self._tapped: dict[tuple[str, frozenset[str]], _Tapped] = {}
        _refuse_wrappers(self.models)

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes hooks of its own: a copied one would write into the original's lists.
        return {**self.__dict__, "_tapped": {}}

    def check(self, addresses: Iterable[Address]) -> None:
        """Raise :class:`AddressError` with every address that can never be read from these models."""
        raise_all(AddressError, [p for p in map(self._problem, addresses) if p])

    def read(self, batch: Batch, addresses: Iterable[Address]) -> dict[Address, Tensor]:
        """The tensor at each address.

        Frozen models run in eval mode and without gradient, unless their input requires one: then it flows through
        them, and still not into them.

        Raises: TapError if a submodule did not run, or ran several times where no call was picked; AddressError if
            what is found there is not a tensor.
        """
        values: dict[Address, Tensor] = {}
        runs: dict[tuple[str, str | None], list[Address]] = {}
        for address in addresses:
            if address.of_batch:
                value = read_batch(batch, address)
                values[address] = value.detach() if address.stop else value
            elif address.parameter is not None:
                values[address] = self._parameter(address)
            else:
                runs.setdefault((self._name(address), address.view), []).append(address)
        for (name, view), asked in runs.items():
            output, caught = self._run(name, asked, batch.view(view))
            for address in asked:
                found = output if address.module is None else _one_call(address, caught[address.module])
                tensor = _tensor(_drill(found, address), address)
                if tensor.is_inference():
                    tensor = tensor.clone()  # a copy is a constant to autograd; an inference_mode tensor is an error
                values[address] = tensor.detach() if address.stop else tensor
        return values

    def _run(self, name: str, asked: Sequence[Address], inputs: Any) -> tuple[Any, dict[str, list[_Caught]]]:
        model = self.models[name]
        taps = frozenset(a.module for a in asked if a.module)
        graded = frozenset(a.module for a in asked if a.module and not a.stop)
        tapped = self._tapped.get((name, taps))
        if tapped is None:
            tapped = self._tapped[name, taps] = _Tapped(name, model, taps, name in self._compiled)
        if name in self.trained:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not all(a.stop for a in asked)):
                return tapped(self.call, inputs, graded)
        through = torch.is_grad_enabled() and any(t.requires_grad for t in tensors(inputs))
        with _frozen(model, through), torch.set_grad_enabled(through):
            return tapped(self.call, inputs, graded)

    def _parameter(self, address: Address) -> Tensor:
        name = self._name(address)
        reshard(self.models[name])
        value: Tensor = self.models[name].get_parameter(address.parameter)
        if address.stop or name not in self.trained:
            value = value.detach()
        if isinstance(value, DTensor):
            # Each rank adds the gradient of its own samples; fully_shard takes the mean over ranks, and so must this.
            value = value.full_tensor(grad_placements=[Partial("avg")] * value.device_mesh.ndim)
        return _tensor(_drill(value, address), address)

    def _name(self, address: Address) -> str:
        first = address.model == "student" and "student" not in self.models and self.trained
        return self.trained[0] if first else address.model

    def _problem(self, address: Address) -> str | None:
        if address.of_batch:
            return None
        name = self._name(address)
        if name not in self.models:
            return f"address '{address}': there is no model {address.model!r}. {choices(address.model, [*self.models, BATCH])}"
        part = address.module if address.module is not None else address.parameter
        if part is None:
            return None
        model = self.models[name]
        if not isinstance(model, nn.Module):
            return (
                f"address '{address}': {address.model} is a {type(model).__name__} that gives its last output only; "
                f"submodules and parameters can be read from an nn.Module alone. Use '{address.model}'."
            )
        named = model.named_modules if address.module is not None else model.named_parameters
        names = [n for n, _ in named(remove_duplicate=False) if n]
        if part in names:
            return None
        kind = "submodule" if address.module is not None else "parameter"
        return f"address '{address}': {address.model} has no {kind} {part!r}. {choices(part, names)}"


def _user_compiled(model: Any) -> bool:
    return unwrap(model) is not model or (isinstance(model, nn.Module) and _compiled_in_place(model))


def _refuse_wrappers(models: Mapping[str, Any]) -> None:
    raise_all(
        InputError,
        [
            f"model {name!r} is a {type(model).__name__}. Give the bare module: several processes are the engine's work."
            for name, model in models.items()
            if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
        ],
    )


@contextlib.contextmanager
def _frozen(model: Any, through: bool) -> Iterator[None]:
    """Eval mode, and no gradient into the parameters where one flows through; both put back on leaving."""
    if not isinstance(model, nn.Module):
        yield
        return
    training = [m for m in model.modules() if m.training]
    learning = [p for p in model.parameters() if p.requires_grad] if through else []
    for module in training:
        module.training = False
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)


class _Tapped:
    """One model with taps on some of its submodules.

    The hooks are the same objects at every call, put on before the forward and taken off after it. Compiled code has
    them inlined; it belongs to this object alone, since it hangs on a code object of its own: torch looks compiled
    code up by code object and by default does not ask whether the hooks are still the same.
    """

    def __init__(self, name: str, model: Any, taps: frozenset[str], compiled: bool) -> None:
        self.name = name
        self.model = model
        self.caught: dict[str, list[_Caught]] = {tap: [] for tap in sorted(taps)}
        self.taps = [(tap, model.get_submodule(tap), _hook(caught)) for tap, caught in self.caught.items()]
        self.compiled = compiled
        self.function = _own_code(model) if compiled else model

    def __call__(self, call: Call, inputs: Any, graded: Collection[str]) -> tuple[Any, dict[str, list[_Caught]]]:
        self._forget()
        try:
            with self._hooked(), _bare(self.model), _hook_guards(self.compiled):
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
        handles = [module.register_forward_hook(hook) for _, module, hook in self.taps]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _check(self, found: Mapping[str, list[_Caught]], graded: Collection[str]) -> None:
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
            f"{self.name}.{tap} put out a tensor that the forward changed in place afterwards, so that its output is gone. "
            "Fix: inplace=False in the layer that follows it, or read that layer."
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


class _Caught(NamedTuple):
    """What a submodule put out in one call, whether a gradient was recorded, and its tensors' version counters."""

    output: Any
    graded: bool
    versions: tuple[int, ...]

    def changed(self) -> bool:
        """Whether one of its tensors was written to since."""
        return any(v != now for v, now in zip(self.versions, _versions(self.output), strict=False))


def _versions(output: Any) -> tuple[int, ...]:
    return tuple(0 if t.is_inference() else t._version for t in tensors(output))


def _hook(caught: list[_Caught]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling():  # compiled code keeps no version counters: only a copy is safe
            output = output.clone() if isinstance(output, Tensor) else output
            caught.append(_Caught(output, torch.is_grad_enabled(), ()))
        else:
            caught.append(_Caught(output, torch.is_grad_enabled(), _versions(output)))

    return hook


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
def _bare(model: Any) -> Iterator[None]:
    """Run modules that were compiled in place without their compiled code, which knows no hooks."""
    modules = [m for m in model.modules() if _compiled_in_place(m)] if isinstance(model, nn.Module) else []
    compiled = [m._compiled_call_impl for m in modules]
    for module in modules:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, code in zip(modules, compiled, strict=True):
            module._compiled_call_impl = code


def _hook_guards(compiled: bool) -> contextlib.AbstractContextManager[None]:
    """Make compiled code ask whether the hooks are still the same.

    Where the graph breaks, torch compiles a submodule's own code object, which all models of its class share.
    """
    if not compiled:
        return contextlib.nullcontext()
    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)  # type: ignore[no-any-return]


def _one_call(address: Address, calls: list[_Caught]) -> Any:
    if address.call is None and len(calls) > 1:
        raise TapError(
            f"address '{address}': {address.module!r} ran {len(calls)} times in one forward. "
            f"Pick a call: {address.module}#0 to {address.module}#{len(calls) - 1}."
        )
    at = address.call or 0
    if at >= len(calls):
        raise TapError(
            f"address '{address}': {address.module!r} ran {len(calls)} times; allowed: #0 to #{len(calls) - 1}."
        )
    return calls[at].output


def read_batch(batch: Batch, address: Address) -> Tensor:
    """The batch's tensor at an address; AddressError if there is none."""
    value: Any = batch.fields
    for name in address.module.split(".") if address.module else ():
        value = _step(value, name, address)
    return _tensor(_drill(value, address), address)


def _drill(value: Any, address: Address) -> Any:
    return functools.reduce(lambda v, key: _step(v, key, address), address.keys, value)


def _step(value: Any, key: str | int, address: Address) -> Any:
    """One key deeper: a mapping's field or its n-th, a sequence's n-th, an object's attribute."""
    if isinstance(value, Mapping):
        for name in (key, str(key)):
            if name in value:
                return value[name]
        if isinstance(key, int) and -len(value) <= key < len(value):
            return list(value.values())[key]
        what = "batch" if address.of_batch else str(address)
        raise AddressError(f"address '{address}': {what} has no field {key!r}. {choices(key, value)}")
    if isinstance(key, int) and isinstance(value, (tuple, list)):
        if -len(value) <= key < len(value):
            return value[key]
        raise AddressError(f"address '{address}': there is no item {key} among {len(value)}.")
    if isinstance(key, str) and not isinstance(value, Tensor) and hasattr(value, key):
        return getattr(value, key)
    raise AddressError(f"address '{address}': a {type(value).__name__} has no {key!r}.")


def _tensor(value: Any, address: Address) -> Tensor:
    """The value if it is a tensor; of a container its ``logits``, or the only tensor in it."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("logits"), Tensor):
        return value["logits"]  # type: ignore[no-any-return]
    found = (
        [item for item in (value.values() if isinstance(value, Mapping) else value) if isinstance(item, Tensor)]
        if (isinstance(value, (Mapping, tuple, list)))
        else []
    )
    if len(found) == 1:
        return found[0]
    keys = (
        list(value)
        if isinstance(value, Mapping)
        else list(range(len(value)))
        if isinstance(value, (tuple, list))
        else []
    )
    hint = f"pick one: {', '.join(f'{address}/{k}' for k in keys)}." if keys else "an address names a tensor."
    raise AddressError(f"address '{address}': found a {type(value).__name__}, not a tensor; {hint}")
