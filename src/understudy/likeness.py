"""How like the layers of teacher, student alone and distilled student are, in figures and on a few samples to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from understudy.address import Address
from understudy.batch import Batch
from understudy.data.order import preserved
from understudy.errors import UnderstudyError
from understudy.evaluate import STAGES, Evidence
from understudy.examples import Examples, device_of
from understudy.measure import interval
from understudy.reading import Reader, unwrap
from understudy.views import View, heat, relations

__all__ = ["LIMIT", "RELATED", "SHOWN", "VIEWS", "likenesses"]

SHOWN, RELATED, VIEWS = 6, 30, 4
"""Samples that are shown one by one, samples of a matrix, and views that are shown at all."""

LIMIT = 1024
"""Samples that the figures are of, spread over the data, so that they cost seconds."""

WORDS = ("words", "tokens", "text", "input_ids", "input")
"""Fields of the batch in which a token's word is looked for, in this order."""


@torch.no_grad()
def likenesses(evidence: Evidence) -> list[dict[str, Any]]:
    """Of each view, as plain data: the figures, and the samples or matrices to look at; nothing where the method has no view.

    The figure is, for what is seen at positions, the cosine of the student's with the teacher's, in the mean over samples; for what is
    seen of samples together, the correlation of the student's likenesses with the teacher's, in the mean over groups of
    :data:`RELATED`. It is made for every seed; what is to be looked at is of the first seed's students.
    """
    chosen = _spread(evidence.views, VIEWS)
    if not chosen:
        return []
    with preserved():
        return [_told(evidence, view) for view in chosen]


def _told(evidence: Evidence, view: View) -> dict[str, Any]:
    ours, theirs = view.layers
    told = {"kind": view.kind, "term": view.term, "student": ours, "teacher": theirs}
    try:
        sample = _every(evidence.data, LIMIT)
        figures = _figures(evidence, view, sample)
        looked = _heats(evidence, view) if view.kind == "heat" else _matrices(evidence, view)
    except (UnderstudyError, RuntimeError) as error:
        # The training is done: the rest of the page must not be lost for this.
        return {**told, "failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {**told, "measured": sample.samples, "figures": figures, **looked}


def _spread(views: Sequence[View], most: int) -> list[View]:
    """As many as are shown, the last among them."""
    if len(views) <= most:
        return list(views)
    return [views[(i + 1) * len(views) // most - 1] for i in range(most)]


def _every(data: Examples, most: int) -> Examples:
    """As many samples, spread evenly over the data."""
    step = -(-data.samples // most)
    return data if step == 1 else data.only(torch.arange(0, data.samples, step))


# -- models ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """One model at a view's layers.

    Attributes:
        name: of the model, as the table has it.
        side: 0 for a student, 1 for the teacher.
    """

    name: str
    model: Any
    side: int
    view: View
    reader: Reader

    @classmethod
    def of(cls, evidence: Evidence, view: View, stage: str, at: int = 0) -> Seen:
        """A stage's model, of the trial at this place."""
        model = evidence.model(stage, at)
        reader = Reader({"model": unwrap(model)}, (), call=evidence.give)  # to compile it anew costs more than it saves
        return cls(STAGES[stage], model, int(stage == "teacher"), view, reader)

    def look(self, batch: Batch) -> Tensor:
        """What is seen of each sample, on the CPU: heat, or features."""
        batch = batch.to(device_of(self.model))
        addresses: tuple[Address, ...] = self.view.teacher if self.side else self.view.student
        read = self.reader.read(batch, addresses)
        tensors = [read[a] for a in addresses]
        seen = heat(self.view, self.side, tensors, batch) if self.view.kind == "heat" else tensors[0].flatten(1)
        return seen.float().cpu()


def _students(evidence: Evidence) -> list[str]:
    return [stage for stage in ("alone", "distilled") if stage in evidence.trials[0].students]


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures(evidence: Evidence, view: View, data: Examples) -> dict[str, dict[str, Any]]:
    """For each kind of student the mean over its seeds."""
    teacher = Seen.of(evidence, view, "teacher")
    places = range(len(evidence.trials))
    seen = {stage: [Seen.of(evidence, view, stage, at) for at in places] for stage in _students(evidence)}
    found: dict[str, list[list[float]]] = {stage: [[] for _ in places] for stage in seen}
    compare = _cosines if view.kind == "heat" else _correlations
    for batch in data.source.in_order():
        taught = teacher.look(batch)
        for stage, students in seen.items():
            for values, student in zip(found[stage], students, strict=True):
                values += compare(student.look(batch), taught)
    told = {}
    for stage, seeds in found.items():
        mean = interval([sum(values) / len(values) for values in seeds if values] or [float("nan")])
        told[STAGES[stage]] = {"mean": mean.mean, "half": mean.half}
    return told


def _cosines(student: Tensor, teacher: Tensor) -> list[float]:
    """Of the heat of each sample; where one is finer, in the means over the coarser's positions."""
    pool: Callable[[Tensor, Any], Tensor] = F.adaptive_avg_pool2d if student.ndim == 3 else F.adaptive_avg_pool1d
    least = [min(a, b) for a, b in zip(student.shape[1:], teacher.shape[1:], strict=True)]
    a, b = (pool(x[:, None], least if len(least) > 1 else least[0]).flatten(1) for x in (student, teacher))
    values: list[float] = F.cosine_similarity(a, b, dim=1).tolist()
    return values


def _correlations(student: Tensor, teacher: Tensor) -> list[float]:
    """Of the samples' likenesses, each group by itself; a rest of three samples or fewer says nothing."""
    groups = zip(student.split(RELATED), teacher.split(RELATED), strict=True)
    return [_correlation(relations(a), relations(b)) for a, b in groups if len(a) > 3]


def _correlation(a: Tensor, b: Tensor) -> float:
    """Of the entries above the diagonal; 0 where those of one are all the same."""
    above = torch.ones_like(a, dtype=torch.bool).triu(1)
    x, y = (m[above].double() - m[above].double().mean() for m in (a, b))
    return float((x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-12))


# -- to look at --------------------------------------------------------------------------------------------------------


def _heats(evidence: Evidence, view: View) -> dict[str, Any]:
    ids = _first_of_each(evidence, SHOWN)
    data = evidence.data.only(torch.tensor(ids))
    found: dict[str, list[Tensor]] = {}
    called: list[tuple[list[int] | None, list[list[str]]]] = []
    for batch in data.source.in_order():
        for stage in ("teacher", *_students(evidence)):
            found.setdefault(stage, []).extend(Seen.of(evidence, view, stage).look(batch).unbind(0))
        called += _words(batch, view)
    samples = []
    for at, sample in enumerate(ids):
        taught = found["teacher"][at]
        there, named = called[at] if taught.ndim == 1 else (None, [])
        maps = {
            STAGES[stage]: {
                "values": _rounded(heats[at] if there is None else heats[at][there]),
                "likeness": None if stage == "teacher" else _cosines(heats[at][None], taught[None])[0],
            }
            for stage, heats in found.items()
        }
        samples.append({"sample": sample, "words": _fitting(named, len(taught), there), "maps": maps})
    return {"samples": samples}


def _rounded(values: Tensor) -> Any:
    """As exactly as it is shown."""
    return values.double().mul(10_000).round().div(10_000).tolist()


def _words(batch: Batch, view: View) -> list[tuple[list[int] | None, list[list[str]]]]:
    """Of each sample which tokens are there, None for all, and what the batch's fields may call them."""
    mask = None if view.mask is None else batch.get(str(view.mask.module))
    there = [row.nonzero().flatten().tolist() for row in mask] if isinstance(mask, Tensor) else [None] * batch.rows
    fields = [found for name in WORDS if (found := _named(batch.get(name))) is not None]
    return [(there[i], [field[i] for field in fields if i < len(field)]) for i in range(batch.rows)]


def _fitting(named: Sequence[list[str]], tokens: int, there: list[int] | None) -> list[str] | None:
    """The first names of which there is one for each token; None if no field has so many."""
    for words in named:
        if there is not None and len(words) == len(there):
            return words
        if len(words) == tokens:
            return words if there is None else [words[i] for i in there]
    return None


def _named(field: Any) -> list[list[str]] | None:
    """A list of texts, or of lists of words, or whole numbers ``[N, T]``."""
    if isinstance(field, Tensor):
        return [list(map(str, row)) for row in field.tolist()] if field.ndim == 2 and not _fractions(field) else None
    if not isinstance(field, Sequence) or isinstance(field, str) or not all(map(_is_text, field)):
        return None
    return [sample.split() if isinstance(sample, str) else list(sample) for sample in field]


def _fractions(field: Tensor) -> bool:
    return field.is_floating_point() or field.dtype == torch.bool


def _is_text(sample: Any) -> bool:
    listed = isinstance(sample, Sequence) and all(isinstance(word, str) for word in sample)
    return isinstance(sample, str) or listed


def _matrices(evidence: Evidence, view: View) -> dict[str, Any]:
    ids = _in_classes(evidence, RELATED)
    data = evidence.data.only(torch.tensor(ids))
    looked = {
        stage: relations(torch.cat([Seen.of(evidence, view, stage).look(b) for b in data.source.in_order()]))
        for stage in ("teacher", *_students(evidence))
    }
    label = _classes(evidence)
    own = None if label is None else label[ids]
    matrices = {
        STAGES[stage]: {
            "values": _rounded(found),
            "likeness": None if stage == "teacher" else _correlation(found, looked["teacher"]),
            **_within(found, own),
        }
        for stage, found in looked.items()
    }
    return {"of": ids, "matrices": matrices}


def _within(found: Tensor, label: Tensor | None) -> dict[str, float]:
    """The mean likeness of two samples of one class, and of two classes."""
    if label is None:
        return {}
    same = label[:, None] == label
    pairs = {"within": same & ~torch.eye(len(label), dtype=torch.bool), "between": ~same}
    return {name: float(found[pair].mean()) for name, pair in pairs.items() if pair.any()}


# -- which samples -----------------------------------------------------------------------------------------------------


def _classes(evidence: Evidence) -> Tensor | None:
    """The class of each sample, below 0 where it has none; None where labels are no classes."""
    labels = evidence.data.labels
    return labels if labels is not None and labels.ndim == 1 and not labels.is_floating_point() else None


def _first_of_each(evidence: Evidence, count: int) -> list[int]:
    """The first sample of each class, then the second of each, until there are enough; without classes the first ones."""
    ordered = [i for turn in _turns(_classes(evidence)) for i in turn]
    return (ordered or list(range(evidence.data.samples)))[:count]


def _in_classes(evidence: Evidence, count: int) -> list[int]:
    """The same, put side by side with the others of their class."""
    label = _classes(evidence)
    ids = _first_of_each(evidence, count)
    return ids if label is None else sorted(ids, key=lambda i: (int(label[i]), i))


def _turns(label: Tensor | None) -> Iterator[list[int]]:
    if label is None:
        return
    of_class: Mapping[int, list[int]] = {
        c: (label == c).nonzero().flatten().tolist() for c in label.unique().tolist() if c >= 0
    }
    for turn in range(max(map(len, of_class.values()), default=0)):
        yield [ids[turn] for ids in of_class.values() if turn < len(ids)]
