"""Which layers of a student and a teacher go together, from one forward of each.

Nothing is known of the models but what their layers put out for an example:

===========  =============  ===============================================  ===========================================
kind         shape          which layers                                     which go together
===========  =============  ===============================================  ===========================================
``maps``     [N, C, H, W]   the last output of each resolution               equal resolution; else equal share of the
                                                                             largest; else equal depth
``tokens``   [N, T, D]      the outputs of repeated blocks; else those of    equal depth: of 4 and 12 blocks the first
                            recurrent nets                                   goes with the third, the last with the last
``vectors``  [N, D]         what goes into each linear layer but the first   equal depth
===========  =============  ===============================================  ===========================================

A layer that runs several times in a forward, or whose output is changed in place afterwards, is never chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import nn

from understudy.batch import Call, call
from understudy.errors import InputError
from understudy.forward import Forward, Seen, weighs
from understudy.projectors import Conv1x1, Linear, Projector
from understudy.reading import unwrap

__all__ = ["Kind", "Pair", "pairs", "penultimate", "told"]

Kind = Literal["maps", "tokens", "vectors"]
KINDS: tuple[Kind, ...] = ("tokens", "maps", "vectors")

T = TypeVar("T")


@dataclass(frozen=True)
class Pair:
    """A layer of the student and one of the teacher.

    Attributes:
        student: what follows ``student.`` in an address: a submodule's path, ``layer2``; with a key where it puts out
            several tensors, ``gru/0``; with ``<`` where it is what goes into the submodule, ``head<``.
        teacher: the same of the teacher.
        student_shape: of what is there for the example, samples first; empty where the user named the layers.
        teacher_shape: the same of the teacher.
        why: what they have in common, in words.
    """

    student: str
    teacher: str
    student_shape: tuple[int, ...] = ()
    teacher_shape: tuple[int, ...] = ()
    why: str = "as given"

    def projector(self) -> Projector:
        """What makes the student's tensor as wide as the teacher's; a dry run fits it."""
        return Linear() if self.student_shape and len(self.student_shape) != 4 else Conv1x1()


def pairs(
    student: nn.Module,
    teacher: Any,
    example: Any,
    *,
    call: Call = call,
    count: int | None = None,
    kind: Kind | None = None,
    layers: Sequence[tuple[str, str]] | None = None,
) -> list[Pair]:
    """Choose layers that go together, in the order of the forward.

    Args:
        student: what learns.
        teacher: a module; what gives outputs only has no layers.
        example: a small batch, as the loader gives it.
        call: how a batch's inputs reach a model.
        count: how many pairs; they are spread evenly over those that there are, and the last is always among them.
        kind: of layers. If not given: tokens if both have them, of equal length; else maps; else vectors. What has repeated
            blocks of tokens is not asked for maps, since the only one is the picture cut into patches.
        layers: those that the user has named, (student's, teacher's). Nothing is chosen then; an example is not needed,
            but tells their shapes.

    Raises: InputError that names what was found in each model, if nothing goes together.
    """
    if layers is not None:
        return _named(student, teacher, example, call, layers)
    if example is None:
        raise InputError(
            "matching: to choose layers, the models must be seen at work: give example=, a small batch. "
            "Or name them: layers=[('layer2', 'layer3')], the student's and the teacher's."
        )
    if not isinstance(unwrap(teacher), nn.Module):
        raise InputError(
            f"matching: the teacher is a {type(teacher).__name__} that gives its last output only; "
            "it has no layers to choose from. Use a method that reads outputs, such as kd."
        )
    ours, theirs = (Found(Forward(model, example, call=call)) for model in (student, teacher))
    patches = any(len(found.maps()) == 1 and found.tokens() for found in (ours, theirs))
    for candidate in KINDS if kind is None else (kind,):
        if kind is None and candidate == "maps" and patches:
            continue
        if chosen := _matched(candidate, ours.of(candidate), theirs.of(candidate), wished=kind is not None):
            return _spread(chosen, count)
    raise InputError(
        f"matching: no {'layers' if kind is None else kind} of the two models go together.\n"
        f"  student: {ours.told()}.\n  teacher: {theirs.told()}.\n"
        "Name the layers: layers=[('layer2', 'layer3')], the student's and the teacher's; "
        "`understudy list layers my.yaml` prints all of a recipe's, with their shapes."
    )


def _named(student: nn.Module, teacher: Any, example: Any, call: Call, layers: Sequence[tuple[str, str]]) -> list[Pair]:
    if example is None or not isinstance(unwrap(teacher), nn.Module):
        return [Pair(*pair) for pair in layers]
    seen = [Forward(model, example, call=call) for model in (student, teacher)]
    ours, theirs = ({s.at: s.shape for s in (*forward.outs, *forward.ins)} for forward in seen)
    return [Pair(a, b, ours.get(a, ()), theirs.get(b, ())) for a, b in layers]


def penultimate(model: nn.Module, example: Any, *, call: Call = call) -> str:
    """What goes into the last linear layer, as what follows ``student.`` in an address: ``pool``, or ``head<``.

    The last linear layer is the one whose output the model returns; failing that, the last that runs.

    Raises: InputError if there is no example, or if the model has no such layer that runs once.
    """
    if example is None:
        raise InputError(
            "matching: to find the layer before the last, give example=, a small batch; or name the layer."
        )
    if not isinstance(unwrap(model), nn.Module):
        raise InputError(f"matching: a {type(model).__name__} gives its last output only; it has no layer before it.")
    found = Found(Forward(model, example, call=call))
    last = found.last()
    if last is None:
        raise InputError(
            f"matching: {type(model).__name__} has no linear layer that runs once in a forward; there is {found.told()}. "
            "Name the layer instead."
        )
    return found.named(last).at


class Found:
    """What there is to choose from in a model."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.outs = forward.once(forward.outs)
        self.ins = forward.once(forward.ins)
        self.began = min((s.order for s in forward.outs if weighs(s.module)), default=0)

    def of(self, kind: Kind) -> list[Seen]:
        """The layers of a kind, in the order of the forward."""
        return {"maps": self.maps, "tokens": self.tokens, "vectors": self.vectors}[kind]()

    def maps(self) -> list[Seen]:
        """The end of each stage: the last output of each resolution at which a convolution runs.

        The first resolution is left out if it is the stem's, where one convolution runs and two more stages follow.
        """
        convolutions = [s for s in self.forward.outs if _convolves(s.module) and len(s.shape) == 4]
        heads = {s.same for s in convolutions} & self.forward.output
        stages: dict[tuple[int, ...], list[Seen]] = {}
        for seen in self.outs:
            if len(seen.shape) == 4 and _area(seen) != (1, 1) and seen.same not in heads:
                stages.setdefault(_area(seen), []).append(seen)
        ends = []
        for area, stage in stages.items():
            working = [s.path for s in convolutions if _area(s) == area]
            halving = tuple(f"{path}." for path in self._halving(area, working))
            chosen = [s for s in stage if not s.path.startswith(halving)] or stage
            ends += [(len(working), self._plainest(chosen[-1], chosen))] if working else []
        return sorted(
            (end for _, end in (ends[1:] if len(ends) > 2 and ends[0][0] == 1 else ends)), key=lambda s: s.order
        )

    def _halving(self, area: tuple[int, ...], working: Sequence[str]) -> list[str]:
        """Blocks that take in maps of this area and put out others, with one convolution before that at most.

        What is inside of them is on the way to the next stage, though it has the resolution of the last.
        """
        found = [s.path for s in self.forward.outs if s.source[2:] == area and len(s.shape) == 4 and _area(s) != area]
        return [path for path in found if sum(w.startswith(f"{path}.") for w in working) <= 1]

    def tokens(self) -> list[Seen]:
        """The outputs of the most numerous repeated blocks; if there are none, of recurrent nets."""
        first: dict[str, Seen] = {}
        for seen in self.outs:
            if len(seen.shape) == 3 and not self._time_first(seen):
                first.setdefault(seen.path, seen)
        rows = [[first[path] for path in block if path in first] for block in self._blocks()]
        most = max(rows, key=len, default=[])
        return most or [s for s in first.values() if isinstance(s.module, nn.RNNBase)]

    def vectors(self) -> list[Seen]:
        """What goes into each linear layer, unless it is the data itself."""
        found: dict[tuple[int, int], Seen] = {}
        for seen in self.ins:
            if len(seen.shape) == 2 and seen.order > self.began > 0 and seen.same not in self.forward.given:
                found.setdefault(seen.same, self.named(seen))
        return list(found.values())

    def last(self) -> Seen | None:
        """What goes into the last linear layer; if there is none, into the last convolution."""
        for wanted in (_linear, weighs):
            within = [s for s in self.ins if wanted(s.module)]
            ending = {s.path for s in self.outs if s.same in self.forward.output}
            if within:
                return next((s for s in reversed(within) if s.path in ending), within[-1])
        return None

    def named(self, entering: Seen) -> Seen:
        """The layer that puts out just what goes into another, if there is one."""
        before = [s for s in self.outs if s.same == entering.same and s.order < entering.order]
        return self._plainest(before[-1], before) if before else entering

    def told(self) -> str:
        """What was found, in words."""
        kinds: list[tuple[Kind, list[Seen]]] = [(kind, self.of(kind)) for kind in KINDS]
        words = [f"{kind} {', '.join(f'{s.at}{_shown(s.shape)}' for s in _few(some))}" for kind, some in kinds if some]
        several = [path for path, calls in self.forward.calls.items() if calls > 1]
        if several:
            words.append(f"layers that run several times: {', '.join(_few(several))}")
        late = [s.path for s in self.forward.outs if len(s.shape) == 3 and self._time_first(s)]
        if late:
            words.append(
                f"layers whose first axis is time, for want of batch_first: {', '.join(_few([*dict.fromkeys(late)]))}"
            )
        return "; ".join(words) or "nothing with a row for each sample"

    def _plainest(self, chosen: Seen, among: Sequence[Seen]) -> Seen:
        """The outermost layer that passes the same tensor on, without a key if there is one."""
        plain = [s for s in among if s.same == chosen.same and "/" not in s.at]
        return plain[-1] if plain else chosen

    def _blocks(self) -> Iterator[list[str]]:
        """Paths of the children of each list of modules that are all of one class, and more than a single layer."""
        modules = dict(self.forward.model.named_modules())
        for path, module in modules.items():
            children = list(module.children())
            if not isinstance(module, nn.ModuleList | nn.Sequential) or len({type(c) for c in children}) != 1:
                continue
            if isinstance(children[0], nn.RNNBase) or any(children[0].children()):
                yield [f"{path}.{name}" if path else name for name, _ in module.named_children()]

    def _time_first(self, seen: Seen) -> bool:
        """Whether [T, N, D] is what it puts out; it may have as many steps as there are samples, so that its shape tells nothing."""
        samples_second = seen.shape[1] == self.forward.rows
        return samples_second and any(getattr(m, "batch_first", True) is False for m in seen.module.modules())


def _convolves(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd) or any(p.ndim == 4 for p in module.parameters(recurse=False))


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _few(some: Sequence[T], most: int = 8) -> Sequence[T]:
    return some if len(some) <= most else some[-most:]


def _matched(kind: Kind, ours: list[Seen], theirs: list[Seen], *, wished: bool) -> list[Pair]:
    if not ours or not theirs:
        return []
    if kind == "maps":
        for why, keys in (("equal resolution", _areas), ("equal share of the largest", _shares)):
            left, right = (dict(zip(keys(some), some, strict=True)) for some in (ours, theirs))
            both = [key for key in left if key in right]
            vague = len(left) < len(ours) or len(right) < len(theirs)
            if not vague and len(both) > (why != "equal resolution"):  # the largest of both are always alike
                return [_pair(left[key], right[key], why) for key in both]
    if kind == "tokens" and not wished and any(o.shape[1] != t.shape[1] for o, t in _uniform(ours, theirs)):
        return []
    return [_pair(o, t, "equal depth") for o, t in _uniform(ours, theirs)]


def _area(seen: Seen) -> tuple[int, ...]:
    return seen.shape[2:]


def _areas(some: Sequence[Seen]) -> list[tuple[int, ...]]:
    return [_area(s) for s in some]


def _shares(some: Sequence[Seen]) -> list[tuple[int, ...]]:
    """By how many halvings each is smaller than the largest."""
    largest = max(map(_area, some))
    return [tuple(round(math.log2(w / side)) for side, w in zip(_area(s), largest, strict=True)) for s in some]


def _uniform(ours: Sequence[Seen], theirs: Sequence[Seen]) -> list[tuple[Seen, Seen]]:
    """Each of the fewer with the one at its depth among the more; the last with the last."""
    n, m = len(ours), len(theirs)
    if n <= m:
        return list(zip(ours, _evenly(theirs, n), strict=True))
    return list(zip(_evenly(ours, m), theirs, strict=True))


def _evenly(some: Sequence[T], count: int) -> list[T]:
    """So many of them, at equal distances; the last is always among them.

    >>> _evenly(range(1, 13), 4), _evenly(range(1, 6), 2)
    ([3, 6, 9, 12], [3, 5])
    """
    return [some[(2 * i * len(some) + count) // (2 * count) - 1] for i in range(1, count + 1)]


def _spread(chosen: list[Pair], count: int | None) -> list[Pair]:
    return chosen if count is None or count >= len(chosen) else _evenly(chosen, count)


def _pair(ours: Seen, theirs: Seen, why: str) -> Pair:
    return Pair(ours.at, theirs.at, ours.shape, theirs.shape, why)


def told(pairs: Sequence[Pair]) -> str:
    """The choice in words, for the log.

    >>> told([Pair("layer1", "stages.0", (4, 8, 8, 8), (4, 32, 8, 8), "equal resolution")])
    'student.layer1 [8, 8, 8] with teacher.stages.0 [32, 8, 8]: equal resolution'
    """
    return "\n".join(
        f"student.{p.student}{_shown(p.student_shape)} with teacher.{p.teacher}{_shown(p.teacher_shape)}: {p.why}"
        for p in pairs
    )


def _shown(shape: Sequence[int]) -> str:
    return f" {list(shape[1:])}" if shape else ""
