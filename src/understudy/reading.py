"""Reading models at addresses.

A :class:`Reader` runs each (model, view) at most once, catches what its submodules put out on the way, and says which
layer did not run. Models stay as they are: hooks exist only while a forward runs, modes and ``requires_grad`` are put
back after it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Partial

from understudy.address import BATCH, Address
from understudy.batch import Batch, Call, call, tensors
from understudy.errors import AddressError, InputError, TapError, choices, raise_all
from understudy.inference import Inference
from understudy.lookup import named_tensor, read_batch
from understudy.modes import evaluating
from understudy.taps import Caught, Tapped, compiled_in_place, unwrap, versions
from understudy.teachers.stored import Stored

__all__ = ["Reader", "reshard", "unwrap"]


def reshard(model: Any) -> None:
    """Show a ``fully_shard``ed model's parameters as its optimizer knows them.

    After a forward without backward the outermost module's parameters are still those that were put together for it:
    other objects, whose gradient never comes.
    """
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, FSDPModule):
            module.reshard()


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
        self._asked = {name: model for name, model in models.items() if isinstance(model, Inference)}
        self._compiled = {name for name, model in models.items() if compile or _user_compiled(model)}
        self._tapped: dict[tuple[str, frozenset[str]], Tapped] = {}
        _refuse_wrappers(self.models)

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes hooks of its own: a copied one would write into the original's lists.
        return {**self.__dict__, "_tapped": {}}

    def supply(self, name: str, model: Any) -> None:
        """Read another model under a name from now on, such as a table of what the first one puts out."""
        self.models[name] = unwrap(model)
        self._asked.pop(name, None)
        if isinstance(model, Inference):
            self._asked[name] = model
        self._tapped = {key: tapped for key, tapped in self._tapped.items() if key[0] != name}

    def run_of(self, address: Address) -> tuple[str, str | None] | None:
        """Which run of which model gives what is at an address: (model, view); None if it needs none."""
        none = address.of_batch or address.parameter is not None
        return None if none else (self._name(address), address.view)

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
        asked_for = list(addresses)
        for address in asked_for:
            if address.of_batch:
                value = read_batch(batch, address)
                values[address] = value.detach() if address.stop else value
            elif address.parameter is not None:
                values[address] = self._parameter(address)
            else:
                runs.setdefault((self._name(address), address.view), []).append(address)
        # Frozen models first: what a student keeps for its backward is then used again at once, while it is near.
        for (name, view), asked in sorted(runs.items(), key=lambda run: run[0][0] in self.trained):
            model = self.models[name]
            if isinstance(model, Stored):
                values |= model.at(batch, asked)
                continue
            inputs = batch.view(view)
            before = versions(inputs)
            output, caught = self._run(name, asked, inputs)
            if len(runs) > 1 and versions(inputs) != before:
                raise InputError(
                    f"{name}: its forward changes its input in place, and other models are given it too. Fix: inplace=False in its "
                    "first layer, or x = x.clone() at its beginning."
                )
            for address in asked:
                found = output if address.tap is None else _one_call(address, caught[address.tap])
                tensor = named_tensor(found, address)
                if tensor.is_inference():
                    tensor = tensor.clone()  # a copy is a constant to autograd; an inference_mode tensor is an error
                values[address] = tensor.detach() if address.stop else tensor
        return {address: values[address] for address in asked_for}

    def _run(self, name: str, asked: Sequence[Address], inputs: Any) -> tuple[Any, dict[str, list[Caught]]]:
        model = self.models[name]
        taps = frozenset(a.tap for a in asked if a.tap)
        graded = frozenset(a.tap for a in asked if a.tap and not a.stop)
        through = torch.is_grad_enabled() and any(t.requires_grad for t in tensors(inputs))
        if name in self._asked and name not in self.trained and not through:
            with torch.no_grad():
                return self._asked[name].read(self.call, inputs, taps, name=name)
        tapped = self._tapped.get((name, taps))
        if tapped is None:
            tapped = self._tapped[name, taps] = Tapped(name, model, taps, name in self._compiled)
        if name in self.trained:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not all(a.stop for a in asked)):
                return tapped(self.call, inputs, graded)
        with _frozen(model, tapped.modules, through), torch.set_grad_enabled(through):
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
        return named_tensor(value, address)

    def _name(self, address: Address) -> str:
        first = address.model == "student" and "student" not in self.models and self.trained
        return self.trained[0] if first else address.model

    def _problem(self, address: Address) -> str | None:
        if address.of_batch:
            return None
        name = self._name(address)
        if name not in self.models:
            return f"address '{address}': there is no model {address.model!r}. {choices(address.model, [*self.models, BATCH])}"
        model = self.models[name]
        if isinstance(model, Stored):
            return model.lacks(address)
        part = address.module if address.module is not None else address.parameter
        if part is None:
            return None
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
    if isinstance(model, Inference):
        return False
    return unwrap(model) is not model or (isinstance(model, nn.Module) and compiled_in_place(model))


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
def _frozen(model: Any, modules: Sequence[nn.Module], through: bool) -> Iterator[None]:
    """Eval mode, and no gradient into the parameters where one flows through; both put back on leaving."""
    if not isinstance(model, nn.Module):
        yield
        return
    learning = [p for p in model.parameters() if p.requires_grad] if through else []
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        with evaluating(model, modules):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _one_call(address: Address, calls: list[Caught]) -> Any:
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
