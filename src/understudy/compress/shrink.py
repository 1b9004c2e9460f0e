"""A student made from its teacher: fewer blocks, or narrower ones, and the teacher's weights in what is left."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from understudy.compress.finish import copied, finished
from understudy.compress.layers import output_shapes, parameters, share, whole
from understudy.compress.structured import Thinner
from understudy.errors import InputError
from understudy.inputs import Inputs

__all__ = ["narrower", "shallower"]


def narrower(
    model: nn.Module,
    example: Inputs,
    *,
    ratio: float = 0.25,
    importance: str = "magnitude",
    round_to: int = 8,
    keep: Sequence[str] = (),
) -> nn.Module:
    """A student of the teacher's shape with a wished-for share of its parameters: the most important channels of each layer.

    ``channels``, with the share of the channels found by bisection; what is left of the parameters then goes to layers of one
    size at a time.

    Args:
        model: the teacher. It is not changed.
        example: samples as the model takes them; all of them are run for "taylor".
        ratio: the student's parameters over the teacher's, at most; in (0, 1).
        importance: "magnitude" or "taylor"; see ``channels``.
        round_to: what is left of each layer's channels is a multiple of it.
        keep: names of modules whose outputs lose no channel, or patterns.

    Returns: a student that starts from the teacher's weights and is to be trained.
    Raises: InputError where even ``round_to`` channels a layer are too many, with the smallest share that can be had;
        MissingExtra without torch-pruning.
    """
    most = share("narrower", "ratio", ratio) * parameters(model)
    thinner = Thinner("narrower", model, example, importance, round_to, keep)
    made = thinner.make(1.0)
    if parameters(made) > most:
        raise InputError(
            f"narrower: ratio={ratio} cannot be reached with round_to={round_to}: the narrowest has {parameters(made):,} of "
            f"{parameters(model):,} parameters, {parameters(made) / parameters(model):.3f}. Take a smaller round_to, keep less, or drop blocks first (shallower)."
        )
    fits, wide = 1.0, 0.0
    for _ in range(10):
        middle = (fits + wide) / 2
        if parameters(thinner.make(middle)) <= most:
            fits = middle
        else:
            wide = middle
    return thinner.filled(fits, most)


@dataclass(frozen=True)
class Run:
    """Blocks of one class in a row.

    Attributes:
        home: name of the list that holds them.
        first: where in it they begin.
        blocks: how many.
        size: parameters of the most of them that are equal; 0 if no two are.
        kind: their class.
    """

    home: str
    first: int
    blocks: int
    size: int
    kind: type[nn.Module]


def shallower(model: nn.Module, example: Inputs, *, every: int = 2, blocks: Sequence[int] | None = None) -> nn.Module:
    """A student of the teacher's width with every k-th of its blocks, and their weights, as DistilBERT was begun.

    The blocks are found: the longest row of modules of one class and equal shapes in a list (``nn.ModuleList``,
    ``nn.Sequential``), and the other rows of that class, as the stages of a residual network have them. The first of each
    row stays, so that one which changes the shape does.

    Args:
        model: the teacher. It is not changed.
        example: samples as the model takes them; that the student runs on them is checked.
        every: the first of each row, and then every so many-th, is kept; from 2.
        blocks: which blocks of the longest row are kept, from 0, in place of ``every``; other rows stay whole.

    Returns: a student that starts from the teacher's weights and is to be trained. A configuration is told how many layers
        are left.
    Raises: InputError where there is no such row, or numbers are not allowed, or the student does not run.
    Source: Sanh et al. 2019 (DistilBERT), arXiv:1910.01108, section 3.
    """
    whole("shallower", "every", every, least=2)
    shapes = output_shapes("shallower", model, example)
    made = copied(finished(model))
    runs = _runs(made)
    if not runs:
        raise InputError(
            f"shallower: {type(made).__name__} has no list with two equal blocks in a row. Make it narrower instead."
        )
    longest = max(runs, key=lambda found: found.size)
    if blocks is None:
        stay = {
            run: list(range(0, run.blocks, every)) for run in runs if run.kind is longest.kind
        }  # the first of a row is the one that may change the shape
    else:
        stay = {longest: _chosen(blocks, longest)}
    _note_layers(made, stay)
    for run, chosen in reversed(stay.items()):
        home: Any = made.get_submodule(run.home)
        for at in reversed(range(run.blocks)):
            if at not in chosen:
                del home[run.first + at]
        _renumber(home, run, chosen)
    if output_shapes("shallower: without the blocks", made, example) != shapes:
        raise InputError(f"shallower: without these blocks of {longest.home} the model's outputs have another shape.")
    return made


def _chosen(blocks: Sequence[int], run: Run) -> list[int]:
    chosen = sorted({whole("shallower", "blocks", at, least=0) for at in blocks})
    if not chosen or chosen[-1] >= run.blocks or len(chosen) == run.blocks:
        raise InputError(
            f"shallower: blocks={list(blocks)} is not allowed; {run.home} has {run.blocks} blocks: name some of 0 to {run.blocks - 1}, and not all."
        )
    return chosen


def _runs(model: nn.Module) -> list[Run]:
    """Rows of blocks of one class, of a class that has equal ones somewhere. What lies within such a block is not looked at."""
    rows = [
        row
        for name, home in model.named_modules()
        if isinstance(home, nn.ModuleList | nn.Sequential)
        for row in _rows(name, list(home))
    ]
    outer: list[Run] = []
    for row in sorted(rows, key=lambda row: row.home.count(".")):
        if row.size and not any(row.home.startswith(f"{of.home}.") for of in outer):
            outer.append(row)
    kinds = {row.kind for row in outer}
    return [
        row
        for row in rows
        if row in outer or (row.kind in kinds and not any(row.home.startswith(f"{of.home}.") for of in outer))
    ]


def _rows(name: str, children: Sequence[nn.Module]) -> Iterator[Run]:
    first = 0
    for kind, row in itertools.groupby(children, key=type):
        blocks = list(row)
        equal = [list(same) for _, same in itertools.groupby(blocks, key=_shape)]
        size = max((sum(map(parameters, same)) for same in equal if len(same) > 1), default=0)
        yield Run(name, first, len(blocks), size, kind)
        first += len(blocks)


def _shape(block: nn.Module) -> tuple[Any, ...]:
    held = {name: (t.shape, t.dtype) for name, t in block.state_dict().items()}
    return type(block), tuple(held.items()), tuple(type(m) for m in block.modules())


def _note_layers(model: nn.Module, stay: dict[Run, list[int]]) -> None:
    """Let a configuration say how many layers are left."""
    config = getattr(model, "config", None)
    depths = getattr(config, "depths", None)
    gone = {run.home: run.blocks - len(chosen) for run, chosen in stay.items()}
    if isinstance(depths, list | tuple) and len(stay) > 0:
        kind = next(iter(stay)).kind
        homes = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) and type(m[-1]) is kind]  # fmt: skip
        held = [len(model.get_submodule(home)) for home in homes]  # type: ignore[arg-type]
        if held == list(depths):
            config.depths = [count - gone.get(home, 0) for count, home in zip(held, homes, strict=True)]  # type: ignore[union-attr]
    if len(stay) != 1 or config is None:
        return
    ((run, chosen),) = stay.items()
    for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"):
        if getattr(config, name, None) == run.blocks:
            kinds = getattr(config, "layer_types", None)
            if isinstance(kinds, list) and len(kinds) == run.blocks:
                config.layer_types = [kinds[at] for at in chosen]
            setattr(config, name, len(chosen))
            break


def _renumber(home: Sequence[nn.Module], run: Run, chosen: Sequence[int]) -> None:
    """Blocks that know their place are told the new one; a part of a block may count something else."""
    places = [*range(run.first), *(run.first + at for at in chosen)]
    places += range(run.first + run.blocks, run.first + run.blocks + len(home) - len(places))
    for now, (then, block) in enumerate(zip(places, home, strict=True)):
        for module in block.modules():
            if getattr(module, "layer_idx", None) == then:
                module.__dict__["layer_idx"] = now
