"""From a compressed model that can be trained to the one that runs, and several ways in a row.

Some ways leave something in the model that is there for training only: a mask that keeps weights at zero, a layer that
rounds as it will be rounded. It is one of two things, and :func:`finished` makes an end of both:

- a parametrization of the class :class:`Baked`: what it gives is written into the weight;
- a module with a method ``finished()``, which returns the module to be put in its place. The outermost is asked, and sees
  to what it holds itself.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from torch import nn
from torch.nn.utils import parametrize

from understudy.errors import InputError, choices, raise_all
from understudy.inputs import Inputs

__all__ = ["Baked", "Step", "bare", "chain", "check_steps", "copied", "described", "finished", "unparametrized"]

Step = str | tuple[str, Mapping[str, Any]]
"""A way by its name, or with its options."""


class Baked(nn.Module):
    """A parametrization that is there while a model trains; :func:`finished` writes what it gives into the weight."""


def bare(model: nn.Module) -> nn.Module:
    """What torch.compile was given."""
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


def copied(model: nn.Module) -> nn.Module:
    """A copy to be changed: not compiled, and trainable, for a frozen teacher's copy is to become a student.

    What is frozen in part stays so.
    """
    made = copy.deepcopy(bare(model))
    weights = [p for p in made.parameters() if p.is_floating_point()]
    if not any(p.requires_grad for p in weights):
        for p in weights:
            p.requires_grad_(True)
    return made


def finished(model: nn.Module) -> nn.Module:
    """The model as it runs, without what is there for training only: masks are written into the weights, and layers that
    rehearse quantization become what they rehearse.

    Args:
        model: what a compression has made, trained or not. It is not changed.

    Returns: a new module; the model itself where nothing is unfinished.

    >>> from understudy import compress
    >>> pruned = compress.magnitude(nn.Linear(4, 4), torch.zeros(1, 4), amount=0.5)
    >>> list(pruned.state_dict())
    ['bias', 'parametrizations.weight.original', 'parametrizations.weight.0.mask']
    >>> list(finished(pruned).state_dict())
    ['bias', 'weight']
    """
    if not any(_unfinished(module) for module in model.modules()):
        return model
    return _settled(copy.deepcopy(bare(model)), {})


def _unfinished(module: nn.Module) -> bool:
    return callable(getattr(module, "finished", None)) or isinstance(module, Baked)


def _settled(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    """What takes a module's place; a layer that stands in two places is replaced by one layer."""
    if module not in known:
        known[module] = module
        ask = getattr(module, "finished", None)
        known[module] = cast("Callable[[], nn.Module]", ask)() if callable(ask) else _bake(module, known)
    return known[module]


def unparametrized(module: nn.Module, tensor: str) -> None:
    """Write what a tensor's parametrizations give into it, and take them away."""
    kind = type(module)
    # torch takes the attribute from the class, which a model shares with its copies; those would lose it too.
    module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
    parametrize.remove_parametrizations(module, tensor)


def _bake(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    if parametrize.is_parametrized(module):
        for tensor, chain in list(cast("nn.ModuleDict", module.parametrizations).items()):
            if any(isinstance(part, Baked) for part in cast("Iterable[nn.Module]", chain)):
                unparametrized(module, tensor)
    for name, child in list(module._modules.items()):  # children() names a layer that stands twice only once
        if child is not None and (made := _settled(child, known)) is not child:
            setattr(module, name, made)
    return module


def chain(model: nn.Module, example: Inputs, steps: Sequence[Step]) -> nn.Module:
    """Several ways in a row, each on what the one before has made.

    What changes shapes (``shallower``, ``narrower``, ``channels``, ``low_rank``) starts from the finished form of what it
    is given: a mask from before is written into the weights, and no longer held. So shapes first, then masks, then numbers.

    Args:
        model: what is compressed. It is not changed.
        example: samples as the model takes them.
        steps: names, or pairs of a name and options.

    Returns: a new module, which can be trained if each way's can.
    Raises: InputError for names and options that there are not, all at once and before any work; what a way raises, with
        its place in the row.

    >>> made = chain(nn.Linear(64, 64), torch.zeros(1, 64), [("low_rank", {"ratio": 0.5}), ("magnitude", {"amount": 0.9})])
    """
    raise_all(InputError, check_steps(steps))
    rooms = importlib.import_module("understudy.compress")
    made = model
    for i, (name, options) in enumerate(map(_pair, steps)):
        try:
            made = getattr(rooms, name)(made, example, **options)
        except InputError as error:
            raise type(error)(f"compress[{i}] {error}") from error
    return made if made is not model else copied(model)


def check_steps(steps: Sequence[Step]) -> list[str]:
    """What is wrong with the names and the options of several ways in a row."""
    rooms = importlib.import_module("understudy.compress")
    return list(itertools.chain(*(_problems(rooms, i, *_pair(step)) for i, step in enumerate(steps))))


def described(step: Step) -> str:
    """A way in a row as it is said.

    >>> described(("narrower", {"ratio": 0.25})), described("qat")
    ('narrower(ratio=0.25)', 'qat')
    """
    name, options = _pair(step)
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})" if options else name


def _pair(step: Step) -> tuple[str, dict[str, Any]]:
    return (step, {}) if isinstance(step, str) else (step[0], dict(step[1]))


def _problems(rooms: Any, at: int, name: str, options: Mapping[str, Any]) -> Iterator[str]:
    if name not in rooms.__all__:
        yield f"compress[{at}]: there is no compression {name!r}. {choices(name, rooms.__all__)}"
        return
    known = [p.name for p in inspect.signature(getattr(rooms, name)).parameters.values() if p.kind == p.KEYWORD_ONLY]
    for option in options:
        if option not in known:
            yield f"compress[{at}]: {name} has no option {option!r}. {choices(option, known)}"
