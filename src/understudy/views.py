"""Which layers of teacher and student a method compares, and what of them can be looked at.

Nothing is known of methods but their terms: a term that reads a layer of the student and one of the teacher compares them.
What there is to see follows from the shapes of what the layers put out, and from whether the loss is one of the batch as a whole.

===========  ======================================  ===================================================================
kind         of                                      what is seen
===========  ======================================  ===================================================================
``heat``     maps [N, C, H, W]                       the mean of squares over channels, at each position
``heat``     tokens [N, T, D]                        the same, at each token; of a picture's patches, at each position
``heat``     attentions [N, H, T, T], or queries     how much each token is attended to, in the mean over heads and
             and keys [N, T, D]                      tokens
``samples``  vectors [N, D]; anything, by a loss of  how like each sample is to each other: the cosine of what the layer
             the batch as a whole                    puts out for them
===========  ======================================  ===================================================================

Models are read through :class:`~understudy.reading.Reader`; nothing is changed in them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.address import Address
from understudy.batch import Batch
from understudy.data.order import preserved
from understudy.errors import UnderstudyError
from understudy.method import Distillation, Method
from understudy.modes import evaluating
from understudy.progress import START
from understudy.projectors import Projector
from understudy.reading import Reader, unwrap
from understudy.term import Term

__all__ = ["View", "heat", "relations", "views"]

Kind = Literal["heat", "samples"]


@dataclass(frozen=True)
class View:
    """What a term compares.

    Attributes:
        term: its name.
        student: addresses that the student is read at, all under the name ``model``: one, or a query's and a key's.
        teacher: the teacher's, likewise.
        kind: of what can be seen.
        heads: of the student's and the teacher's attention, where queries and keys are read.
        mask: address of the batch that says which tokens there are, if the term has one.
    """

    term: str
    student: tuple[Address, ...]
    teacher: tuple[Address, ...]
    kind: Kind
    heads: tuple[int, int] | None = None
    mask: Address | None = None

    @property
    def layers(self) -> tuple[str, str]:
        """The student's and the teacher's, in words."""
        ours, theirs = (", ".join(str(a).removeprefix("model.") for a in side) for side in (self.student, self.teacher))
        return ours, theirs


def views(method: Method, teacher: Any, example: Batch) -> tuple[View, ...]:
    """What the terms of a method compare, each pair of layers once; nothing for a method that compares no layers.

    Args:
        method: after its dry run.
        teacher: the model whose layers are meant; other teachers that a method may have are left out.
        example: a few samples, by which shapes are seen.
    """
    if not isinstance(method, Distillation):
        return ()
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    found: dict[Any, View] = {}
    with preserved(), torch.no_grad(), evaluating(method):
        for term in cast("list[Term]", list(method.terms)):
            for view in _of_term(method, term, unwrap(teacher), example.to(device)):
                found.setdefault((view.student, view.teacher, view.kind), view)
    return tuple(found.values())


def _of_term(method: Distillation, term: Term, teacher: Any, batch: Batch) -> list[View]:
    own = next(iter(method.trained))
    names = {own} | ({"student"} - set(method.reader.models))
    sides = [_read_at(term, names), _read_at(term, {n for n, model in method.frozen.items() if model is teacher})]
    if term.weight == 0 or not sides[0] or len(sides[0]) != len(sides[1]):
        return []
    try:
        # A reader of its own, which does not compile the models for taps that no step has.
        reader = Reader(method.reader.models, method.reader.trained, call=method.reader.call)
        read = reader.read(batch, [*sides[0], *sides[1]])
        whole = any(t.ndim > 2 for t in read.values()) and _of_the_batch(method, reader, term, batch)
    except (UnderstudyError, RuntimeError):  # what only a step's own batch has; a picture is not worth a run
        return []
    heads = _heads(term) if len(sides[0]) == 2 else None
    together = 1 if heads is None else 2
    pairs = [(sides[0][i : i + together], sides[1][i : i + together]) for i in range(0, len(sides[0]), together)]
    shown = []
    for ours, theirs in pairs:
        view = View(term.name, _bare(ours), _bare(theirs), "heat", heads, _mask(term, batch, read[ours[0]]))
        kind: Kind = "samples" if whole else _kind(view, [read[a] for a in (*ours, *theirs)], batch)
        shown.append(dataclasses.replace(view, kind=kind))
    return shown


def _read_at(term: Term, names: set[str]) -> list[Address]:
    """The layers of these models that a term reads, in the models' usual view."""
    return [a for a in term.addresses if a.model in names and a.module is not None and a.view is None]


def _bare(addresses: Sequence[Address]) -> tuple[Address, ...]:
    return tuple(dataclasses.replace(a, model="model", stop=False) for a in addresses)


def _of_the_batch(method: Distillation, reader: Reader, term: Term, batch: Batch) -> bool:
    """Whether the loss has one value for all samples together."""
    read = reader.read(method.prepare(batch, START), term.addresses)
    first, *others = (read[a] for a in term.addresses)
    if isinstance(term.project, Projector):
        first = term.project(first, others[0].shape)
    elif term.project is not None:
        first = term.project(first)
    return bool(term.loss(first, *others).ndim == 0)


def _kind(view: View, tensors: Sequence[Tensor], batch: Batch) -> Kind:
    if min(t.ndim for t in tensors) < 3 or max(t.ndim for t in tensors) > 4:
        return "samples"
    half = len(tensors) // 2
    ours, theirs = (heat(view, side, tensors[half * side : half * (side + 1)], batch) for side in (0, 1))
    alike = ours.ndim == theirs.ndim and min(ours[0].numel(), theirs[0].numel()) > 1
    return "heat" if alike else "samples"


def _heads(term: Term) -> tuple[int, int] | None:
    """How many heads the student's and the teacher's attention have, if this is a loss of queries and keys."""
    loss: Any = term.loss
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial):
        loss, options = loss.func, {**loss.keywords, **options}
    names = list(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters)
    if not any(name.endswith("_query") for name in names):
        return None
    both = options.get("heads")
    ours, theirs = (options.get(f"{who}_heads", both) for who in ("student", "teacher"))
    return (ours, theirs) if isinstance(ours, int) and isinstance(theirs, int) else None


def _mask(term: Term, batch: Batch, tensor: Tensor) -> Address | None:
    """What says which tokens there are: the term's mask, or what else of the batch it reads in the tokens' shape."""
    named = [a for a in (term.mask, *term.addresses) if a is not None and a.of_batch and a.module is not None]
    named.append(Address.parse("batch.attention_mask"))
    return next((a for a in named if _fits(batch.get(str(a.module)), tensor)), None)


def _fits(mask: Any, tensor: Tensor) -> bool:
    return isinstance(mask, Tensor) and mask.ndim == 2 and tensor.ndim == 3 and mask.shape == tensor.shape[:2]


# -- what is seen ------------------------------------------------------------------------------------------------------


def heat(view: View, side: int, tensors: Sequence[Tensor], batch: Batch) -> Tensor:
    """What there is at each position: ``[N, H, W]`` over a picture, else ``[N, T]`` over tokens, of length 1 for each sample.

    Args:
        view: of kind ``heat``.
        side: 0 for the student, 1 for the teacher.
        tensors: what was read at the view's addresses of that side.
        batch: that they were read for.
    """
    first = tensors[0].float()
    mask = None if view.mask is None else batch.get(str(view.mask.module))
    present = mask.to(first.device) != 0 if isinstance(mask, Tensor) and _fits(mask, first) else None
    if view.heads is not None:
        found = _attended(first, tensors[1].float(), view.heads[side], present)
    elif first.ndim == 4 and _are_attentions(first):
        found = first.mean((1, 2))
    else:
        found = first.square().mean(1 if first.ndim == 4 else 2)
    if found.ndim == 2:
        found = found if present is None else found * present
        found = _over_the_picture(found, batch)
    length: Tensor = found.flatten(1).norm(dim=1).clamp(min=1e-12)
    return found / length.view(-1, *[1] * (found.ndim - 1))


def _attended(query: Tensor, key: Tensor, heads: int, present: Tensor | None) -> Tensor:
    """How much each token is attended to ``[N, T]``."""
    q, k = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key))
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if present is not None:
        scores = scores.masked_fill(~present[:, None, None], -torch.inf)
    shares: Tensor = scores.softmax(-1).mean(1).nan_to_num()
    return shares.mean(1) if present is None else (shares * present[:, :, None]).sum(1)


def _are_attentions(x: Tensor) -> bool:
    rows = x.sum(-1)
    return x.shape[2] == x.shape[3] and bool((x >= 0).all()) and torch.allclose(rows, torch.ones_like(rows), atol=1e-3)


def _over_the_picture(tokens: Tensor, batch: Batch) -> Tensor:
    """Where the input is a picture and the tokens are its patches, after one or two tokens of another kind: their grid."""
    picture = batch.get("input")
    if not isinstance(picture, Tensor) or picture.ndim != 4 or not picture.is_floating_point():
        return tokens
    height, width = picture.shape[2:]
    for others in range(3):
        patches = tokens.shape[1] - others
        rows = round(math.sqrt(max(patches, 0) * height / width))
        if patches > 1 and rows and patches % rows == 0 and rows * width == patches // rows * height:
            return tokens[:, others:].reshape(len(tokens), rows, -1)
    return tokens


def relations(features: Tensor) -> Tensor:
    """How like each sample is to each other ``[N, N]``: the cosine of their features ``[N, ...]``."""
    unit: Tensor = F.normalize(features.float().flatten(1), dim=1, eps=1e-12)
    return unit @ unit.T
