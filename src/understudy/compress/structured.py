"""Whole channels, neurons and attention heads taken out, so that the shapes shrink, and the model with them.

Which axes of which layers go together is torch-pruning's dependency graph; which of them go is decided here.
"""

from __future__ import annotations

import importlib
import itertools
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from understudy.compress.finish import bare, copied, finished
from understudy.compress.layers import batches, few, kept, output_shapes, parameters, share, tensors, whole
from understudy.errors import InputError, MissingExtra, choices
from understudy.inputs import Inputs, run
from understudy.modes import evaluating

__all__ = ["Thinner", "channels"]

IMPORTANCES = ("magnitude", "taylor")
HEAD_SIZES = ("head_dim", "attention_head_size")
"""What an attention calls the width of one head."""

HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads")

MIXES = re.compile("Bmm|ScaledDotProduct")
"""Operations of attention, in which a channel belongs to a head."""

SCORED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def channels(
    model: nn.Module,
    example: Inputs,
    *,
    amount: float = 0.5,
    importance: str = "magnitude",
    round_to: int = 8,
    keep: Sequence[str] = (),
) -> nn.Module:
    """Take the least important channels out of every layer, so that the model really shrinks.

    Layers that are added to each other lose the same channels, and an attention loses whole heads. The inputs and the
    outputs stay. Where channels cannot be followed through the model (grouped convolutions, shortcuts that are padded),
    they stay too.

    Args:
        model: what is pruned. It is not changed; masks in it are written into the weights first.
        example: samples as the model takes them: a few to find out what goes together; all of them are run for "taylor".
        amount: share of the channels that go, in (0, 1). Parameters shrink by about its double: at 0.5 to a quarter.
        importance: "magnitude", the mean size of all weights of a channel; "taylor", how much the squared outputs on
            the example would change, to first order. No labels are used.
        round_to: what is left of each layer's channels is a multiple of it, which runtimes like. Layers of as few stay.
        keep: names of modules whose outputs lose no channel, or patterns.

    Returns: a model of the same class with smaller layers, which can be trained. Its ``state_dict`` goes into what the same
        call makes of the same model.
    Raises: InputError where the numbers leave a layer no channel, nothing would be taken out, or the channels of no layer
        can be followed; MissingExtra without torch-pruning.
    Source: Fang et al. 2023, arXiv:2301.12900; Molchanov et al. 2019, arXiv:1906.10771 for "taylor".
    Differs: "taylor" takes the squared outputs in place of the loss, and so needs no labels.
    """
    gone = share("channels", "amount", amount)
    thinner = Thinner("channels", model, example, importance, round_to, keep)
    thinner.refuse_empty(gone)
    if all(thinner.left(unit, gone) >= unit.size for unit in thinner.units):
        raise InputError(
            f"channels: amount={amount} with round_to={round_to} takes nothing out of {thinner.told()}. "
            "Take a smaller round_to or a larger amount."
        )
    return thinner.make(gone)


@dataclass(frozen=True)
class Unit:
    """Channels that go together across layers.

    Attributes:
        root: name of the layer that puts them out.
        size: how many there are.
        step: how many go at once: 1, or the width of a head.
        attention: name of the module whose heads they are; None if they are none.
    """

    root: str
    size: int
    step: int = 1
    attention: str | None = None


@dataclass
class Thinner:
    """Makes thinner copies of one model.

    Args:
        where: who asks, for messages.
        model: what is copied; its finished form.
        example: samples as it takes them.
        importance: one of IMPORTANCES.
        round_to: what is left is a multiple of it.
        keep: modules whose outputs stay.

    Raises: InputError where something is not allowed, or no channels can be followed; MissingExtra without torch-pruning.
    """

    where: str
    model: nn.Module
    example: Inputs
    importance: str
    round_to: int
    keep: Sequence[str]
    units: list[Unit] = field(init=False)

    def __post_init__(self) -> None:
        if self.importance not in IMPORTANCES:
            raise InputError(
                f"{self.where}: there is no importance {self.importance!r}. {choices(self.importance, IMPORTANCES)}"
            )
        whole(self.where, "round_to", self.round_to)
        self.library = _library(self.where)
        self.model = finished(bare(self.model))
        out = kept(self.where, self.model, self.keep)
        shapes = output_shapes(self.where, self.model, self.example)
        self.gradients = _gradients(self.model, self.example) if self.importance == "taylor" else {}
        order = {name: at for at, (name, _) in enumerate(self.model.named_modules())}
        self.units = sorted(self._candidates(out), key=lambda unit: order[unit.root])
        if not self._works(self.units, shapes):
            self.units = [unit for unit in self.units if self._works([unit], shapes)]
        if not self.units:
            raise InputError(
                f"{self.where}: the channels of no layer of {type(self.model).__name__} can be followed to where they go"
                + (", but for those kept." if out else ". Prune its weights (magnitude) or factorize them (low_rank).")
            )

    def told(self) -> str:
        """Layers and their channels, for a message."""
        more = f" and {len(self.units) - 6} more" if len(self.units) > 6 else ""
        return ", ".join(f"{unit.root} ({unit.size})" for unit in self.units[:6]) + more

    def left(self, unit: Unit, gone: float) -> int:
        """How many channels stay, before it is seen to that some do."""
        to = self._least(unit)
        return unit.size if unit.size <= to else to * int((1 - gone) * unit.size / to + 0.5)

    def _least(self, unit: Unit) -> int:
        return self.round_to if unit.attention is None else unit.step

    def refuse_empty(self, gone: float) -> None:
        """Raises: InputError where a layer would have no channel left."""
        empty = [f"{unit.root} ({unit.size} channels)" for unit in self.units if self.left(unit, gone) == 0]
        if empty:
            raise InputError(
                f"{self.where}: amount={gone} with round_to={self.round_to} leaves no channel in {', '.join(empty[:8])}. "
                "Take a smaller amount or round_to, or name the layers in keep."
            )

    def make(self, gone: float) -> nn.Module:
        """A copy that lacks this share of its channels; each layer keeps ``round_to`` of them, or one head."""
        return self._pruned(self._stays(gone))

    def filled(self, gone: float, most: float) -> nn.Module:
        """The same, and wider again where that is within so many parameters: layers of one size together."""
        left = self._stays(gone)
        made = self._pruned(left)
        kinds = itertools.groupby(sorted(self.units, key=_kind), key=_kind)
        for units in [list(alike) for _, alike in kinds]:
            while all(left[unit] < unit.size for unit in units):
                wider = left | {unit: min(left[unit] + self._least(unit), unit.size) for unit in units}
                tried = self._pruned(wider)
                if parameters(tried) > most:
                    break
                left, made = wider, tried
        return made

    def _stays(self, gone: float) -> dict[Unit, int]:
        return {unit: max(self.left(unit, gone), min(self._least(unit), unit.size)) for unit in self.units}

    def _pruned(self, left: Mapping[Unit, int]) -> nn.Module:
        made = copied(self.model)
        trains = {name: p.requires_grad for name, p in made.named_parameters()}
        shared = _shared(made)
        graph = self._graph(made)
        for name, p in made.named_parameters():
            p.grad = self.gradients.get(name)  # there it is pruned along with its weight
        for unit, stay in left.items():
            if stay < unit.size:
                layer = made.get_submodule(unit.root)
                cut = graph.get_pruner_of_module(layer).prune_out_channels
                scores = _scores(graph.get_pruning_group(layer, cut, list(range(unit.size)))).view(-1, unit.step)
                gone = scores.mean(1).argsort(stable=True)[: (unit.size - stay) // unit.step]
                indices = (gone[:, None] * unit.step + torch.arange(unit.step)).flatten().sort().values
                graph.get_pruning_group(layer, cut, indices.tolist()).prune()
                _note_heads(made, unit, stay)
        for first, second in shared:
            holder, _, name = second.rpartition(".")
            setattr(made.get_submodule(holder), name, made.get_parameter(first))
        for name, p in made.named_parameters():
            p.requires_grad_(trains[name])
            p.grad = None
        _note_sizes(made, left)
        return made

    def _graph(self, model: nn.Module) -> Any:
        """The dependency graph of a copy, of which all parameters then have a gradient: it is read off autograd's."""
        for p in model.parameters():
            p.requires_grad_(p.is_floating_point())
        with evaluating(model), warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # of parameters outside of layers, of which it takes the last axis
            try:
                return self.library.DependencyGraph().build_dependency(
                    model,
                    example_inputs=few(self.example),
                    forward_fn=run,
                    output_transform=lambda given: list(tensors(given)),
                    verbose=False,
                )
            except Exception as error:
                told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                raise InputError(
                    f"{self.where}: torch-pruning cannot follow the channels of {type(model).__name__}: {told}"
                ) from error

    def _candidates(self, out: set[str]) -> Iterator[Unit]:
        """What could go, by the graph: not the outputs, not what is kept, and nothing of which the graph's word is not enough."""
        made = copied(self.model)
        names = {module: name for name, module in made.named_modules()}
        graph = self._graph(made)
        if any(_reordered(node, names) for node in graph.module2node.values()):
            raise InputError(
                f"{self.where}: torch-pruning cannot follow the channels of {type(made).__name__}: parts of a tensor are cut out and put "
                "together in another order, as rotary embeddings do. Drop blocks (shallower), factorize (low_rank) or prune weights (magnitude)."
            )
        for group in graph.get_all_groups(root_module_types=[nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear]):
            nodes = [dep.target for dep, _ in group]
            outward = [graph.is_out_channel_pruning_fn(dep.handler) for dep, _ in group]
            puts_out = [n.module for n, out_ in zip(nodes, outward, strict=True) if out_ and n.module in names]
            if all(outward) or any(names[module] in out for module in puts_out) or any(map(_in_groups, nodes)):
                continue
            heads = _heads(names, puts_out, any(MIXES.search(node.name) for node in nodes))
            root, size = group[0].dep.target.module, len(group[0].idxs)
            if heads is not None and size >= max(4, 2 * heads[0]):  # from 4 on, half of them is no axis that broadcasts
                yield Unit(names[root], size, *heads)

    def _works(self, units: Sequence[Unit], shapes: list[tuple[int, ...]]) -> bool:
        """Whether a copy without half of these channels runs, and puts out as much as before."""
        try:
            made = self._pruned({unit: unit.size // unit.step // 2 * unit.step for unit in units})
            return output_shapes(self.where, made, self.example) == shapes
        except (InputError, IndexError, RuntimeError, ValueError, AssertionError):
            return False


def _kind(unit: Unit) -> tuple[int, int]:
    return unit.size, unit.step


def _library(where: str) -> Any:
    try:
        return importlib.import_module("torch_pruning")
    except ImportError as error:
        raise MissingExtra(f"{where}: taking out channels", "compress") from error


def _gradients(model: nn.Module, example: Inputs) -> dict[str, Tensor]:
    """Of half of the squared outputs, by each parameter."""
    made = copied(model)
    for p in made.parameters():
        p.requires_grad_(p.is_floating_point())
    with evaluating(made), torch.enable_grad():
        for batch in batches(example):
            outputs = [x for x in tensors(run(made, batch)) if x.is_floating_point() and x.requires_grad]
            torch.stack([x.float().square().sum() for x in outputs]).sum().div(2).backward()
    return {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def _scores(group: Any) -> Tensor:
    """One number for each channel: in each layer its share of all the weights there, and the mean of that over layers."""
    size = len(group[0].idxs)
    total, layers = torch.zeros(size), 0
    for item in group:
        layer, inward = item.dep.target.module, item.dep.handler.__name__ == "prune_in_channels"
        if not isinstance(layer, SCORED) or (weight := layer.weight) is None:
            continue
        values = weight.detach().square() if weight.grad is None else (weight.detach() * weight.grad).abs()
        each = values.movedim(1 if inward else 0, 0).flatten(1).sum(1) if values.ndim > 1 else values
        taken = each[torch.as_tensor(item.idxs)].float().cpu()
        folded = torch.zeros(size).index_add_(0, torch.as_tensor(item.root_idxs), taken)
        total, layers = total + folded / folded.mean().clamp_min(1e-30), layers + 1
    return total / max(layers, 1)


def _reordered(node: Any, names: Mapping[nn.Module, str]) -> bool:
    """Whether slices are put together there: torch-pruning takes each for the whole, and would never come to an end."""
    if node.type.name != "CONCAT":
        return False
    ahead, seen = list(node.inputs), set()
    while ahead:
        before = ahead.pop()
        if id(before) not in seen and before.module not in names:
            seen.add(id(before))
            if before.type.name == "SLICE":
                return True
            ahead += before.inputs
    return False


def _in_groups(node: Any) -> bool:
    """Whether channels are dealt out in groups there, in which others would move up, or cut into parts."""
    module = node.module
    groups = getattr(module, "groups", 1) if isinstance(module, nn.modules.conv._ConvNd) else 1
    dealt = groups > 1 and groups != getattr(module, "out_channels", None)
    dealt = dealt or isinstance(module, (nn.GroupNorm, nn.MultiheadAttention))
    return dealt or node.type.name in ("SPLIT", "UNBIND", "CUSTOMIZED")


def _heads(names: Mapping[nn.Module, str], puts_out: Sequence[nn.Module], mixes: bool) -> tuple[int, str | None] | None:
    """The width of a head and the name of its attention; (1, None) for plain channels, None where heads cannot be told."""
    if not mixes:
        return 1, None
    modules = {name: module for module, name in names.items()}
    linear = [m for m in puts_out if isinstance(m, nn.Linear)]
    homes = {names[m].rpartition(".")[0] for m in linear}
    if len(homes) != 1 or len(linear) != 3 or len({m.out_features for m in linear}) != 1:
        return None
    home = homes.pop()
    width = next((w for name in HEAD_SIZES if isinstance(w := getattr(modules[home], name, None), int)), None)
    return None if width is None or linear[0].out_features % width else (width, home)


def _note_heads(model: nn.Module, unit: Unit, left: int) -> None:
    if unit.attention is not None:
        home = model.get_submodule(unit.attention)
        now = {**dict.fromkeys(HEAD_COUNTS, left // unit.step), "all_head_size": left}
        for name, value in now.items():
            if isinstance(getattr(home, name, None), int):
                setattr(home, name, value)


def _note_sizes(model: nn.Module, left: Mapping[Unit, int]) -> None:
    """Let a configuration say what the model has, where it is the same in all layers."""
    config = getattr(model, "config", None)
    if config is None:
        return
    plain = {unit: stay for unit, stay in left.items() if unit.attention is None}
    for name in ("hidden_size", "intermediate_size"):
        found = {stay for unit, stay in plain.items() if unit.size == getattr(config, name, None)}
        if len(found) == 1:
            setattr(config, name, found.pop())
    heads = {(stay // unit.step, unit.step) for unit, stay in left.items() if unit.attention is not None}
    if len(heads) == 1 and hasattr(config, "num_attention_heads"):
        config.num_attention_heads, config.head_dim = heads.pop()


def _shared(model: nn.Module) -> list[tuple[str, str]]:
    """Pairs of names of one parameter."""
    first: dict[int, str] = {}
    found = [(first.setdefault(id(p), name), name) for name, p in model.named_parameters(remove_duplicate=False)]
    return [(a, b) for a, b in found if a != b]
