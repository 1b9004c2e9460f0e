"""What a teacher says of every sample, asked once, and then read by every student that wants to know.

A method's terms read the teacher at addresses. Where these are plain outputs of a frozen teacher, and so depend on the sample and
its draw alone, they are written to a :class:`~understudy.store.Store` and the method is given that in the teacher's place; it does
not notice. Seeds and students of one job share it, and so can other jobs, if it has a folder of its own.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Collection
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from understudy import losses, parallel
from understudy.address import Address
from understudy.batch import Batch, tensors
from understudy.callbacks import counting
from understudy.errors import InputError
from understudy.examples import device_of
from understudy.inference import Inference
from understudy.material import Material
from understudy.method import Distillation, Method
from understudy.preflight import is_known
from understudy.reading import Reader, unwrap
from understudy.state import digest
from understudy.store import MANIFEST, Field, Store
from understudy.teachers.stored import InMemory, Stored, field_of
from understudy.term import Term
from understudy.writing import bytes_of

__all__ = ["BATCH", "Answers", "asked_of", "reads"]

TEACHER = "teacher"
BATCH = 256
IN_MEMORY = 256 * 2**20
"""Bytes up to which a job without a folder keeps what the teacher says."""

EXACT = 2**30
"""Bytes up to which a store that nobody asked for keeps float32; above, half of that."""

SOFTENING = (losses.kl, losses.soft_cross_entropy, losses.dkd)
"""Losses that need of the teacher's logits their distribution at a temperature, and nothing else."""

SPOT, APART = 32, 0.05
"""Rows of a store that was there before that are asked anew, and how far they may be off: what a teacher says depends on more
than its weights, such as its code."""

MOST = 16 * 2**30
"""Bytes from which on nothing is stored unless it is asked for."""


def reads(method: Method, teacher: Any) -> bool:
    """Whether it is this teacher that a method reads: one may have put it into a model of its own, and asks that."""
    return method.frozen.get(TEACHER) is unwrap(teacher)


def asked_of(method: Method) -> list[Address]:
    """The addresses of the teacher that a method reads, if all of them depend on a sample alone; else none.

    Only of methods made of terms and nothing else: others may ask the teacher about inputs of their own making.
    """
    if type(method) is not Distillation or TEACHER not in method.frozen:
        return []
    terms = [a for term in method.terms for a in term.addresses if term.weight != 0]  # type: ignore[union-attr]
    found = [a for a in [*terms, *(a for _, at in method.watch.values() for a in at)] if a.model == TEACHER]
    plain = all(a.view is None and a.parameter is None for a in found)
    return list({field_of(a): a for a in found}.values()) if plain else []


def _temperatures(method: Method) -> tuple[float, ...]:
    """At which the losses of a method soften what they compare; 1 if none says so."""
    told = [_option(term.loss, "temperature") for term in _reading(method)]
    return tuple(sorted({float(t) for t in told if isinstance(t, (int, float))})) or (1.0,)


def _reading(method: Method) -> list[Term]:
    """The terms that read the teacher's output."""
    terms = [term for term in method.terms if isinstance(term, Term)] if isinstance(method, Distillation) else []
    return [t for t in terms if t.weight != 0 and any(a.model == TEACHER and not field_of(a) for a in t.addresses)]


def _option(loss: Any, name: str) -> Any:
    """What a loss was given under a name, or takes by default; None if it has no such option."""
    function, given = getattr(loss, "func", loss), getattr(loss, "keywords", {})
    known = getattr(inspect.unwrap(function), "__kwdefaults__", None) or {}
    return given.get(name, known.get(name, getattr(function, name, None)))


def _unsoftened(method: Method) -> list[str]:
    """The terms that read of the teacher's output more than its distribution at one temperature."""
    return [term.name for term in _reading(method) if getattr(term.loss, "func", term.loss) not in SOFTENING]


class Answers:
    """A teacher's answers to everything that a job's students will be asked.

    Args:
        material: of the job.
        teacher: who is asked.
        method: one that students will learn by; see :func:`asked_of`.

    Attributes:
        addresses: where the teacher is asked; none if it cannot be asked beforehand.
        fixed: whether samples are the same at every draw.
        draws: of each sample that students will see.
    """

    def __init__(self, material: Material, teacher: Any, method: Method) -> None:
        self.material, self.plan, self.addresses = material, material.plan, []
        if reads(method, teacher):
            self.addresses = asked_of(method)
        self.temperatures = _temperatures(method) if material.task.name == "classification" else ()
        self.unsoftened = _unsoftened(method)
        self.data, self.seed = material.data["train"], self.plan.seed
        self.asked = 0  # rows of what was stored, of this process
        self.fixed = self.data.source.is_fixed()
        self.draws = 1 if self.fixed else min(self.plan.draws or self.plan.epochs, self.plan.epochs)
        self.ask_as(teacher)

    def ask_as(self, teacher: Any) -> None:
        """Ask it so from now on."""
        self.teacher, self.device = teacher, device_of(teacher)
        self.reader = Reader({TEACHER: teacher}, (), call=self.plan.call)

    @property
    def passes(self) -> int:
        """How often the teacher runs for all of them, in batches of :data:`BATCH`."""
        return self.draws * math.ceil(self.data.samples / BATCH)

    def bytes(self, itemsize: int = 4, fields: Collection[str] | None = None) -> int:
        """What they take, or those of some fields."""
        values = sum(math.prod(shape) for name, shape in self._shapes.items() if fields is None or name in fields)
        return values * itemsize * self.data.samples * self.draws

    @property
    def wanted(self) -> bool:
        """Whether they are to be asked beforehand: where students would ask more often than once, and there is room."""
        if not self.addresses or self.plan.store is None:
            return False
        repeated = self.plan.seeds * self.plan.epochs > self.draws
        room = IN_MEMORY if self._in_memory else MOST
        return self.plan.store != "auto" or (repeated and self.bytes(2) <= room)

    @property
    def _in_memory(self) -> bool:
        """Whether they are kept for this job alone: where there is no folder, or nothing to know a teacher again by."""
        return self.plan.store == "auto" and (self.plan.path is None or not is_known(self.teacher))

    def told(self) -> str:
        """Of what they are, who was asked for them, and where they are; after :meth:`stored`."""
        views = "" if self.draws == 1 else f" in {self.draws} views each"
        of, place = f"{self.data.samples:,} samples{views}", "in memory" if self._in_memory else f"in {self._place}"
        if not self.asked:
            return f"{of}, read from {self._place}, which was filled before"
        if self.asked < self.draws * self.data.samples:
            return f"{of}, read from {self._place}, which lacked {self.asked:,} rows: the teacher was asked for these"
        return f"the teacher was asked about {of}, once for all seeds; kept {place}"

    def stored(self) -> Stored:
        """All of them: from the store, if they are there, else asked now."""
        if self._in_memory:
            return Stored(self.in_memory(), fixed=self.fixed)
        store = self.build(self._place)
        temperature = self.temperatures[0] if len(self.temperatures) == 1 else None
        return Stored(
            store.reader(temperature=temperature),
            facts=json.dumps(store.manifest.facts, sort_keys=True),
            fixed=self.fixed,
        )

    def in_memory(self) -> InMemory:
        """All of them, asked now."""
        parts = [self.ask(ids, draw) for draw in range(self.draws) for ids in self._batches()]
        self.asked = self.draws * self.data.samples
        return InMemory({name: torch.cat([p[name] for p in parts]) for name in parts[0]}, self.draws)

    def build(self, place: Path, encoding: str | None = None) -> Store:
        """Fill a store with what it lacks of them.

        Args:
            place: its folder.
            encoding: see :data:`understudy.store.ENCODINGS`; that of the store if it is there, else the shortest exact enough.
        """
        parallel.start(self.device)
        store, shown = self._store(place, encoding), self.plan.progress and parallel.rank() == 0
        with counting("soft labels", self.plan.console or Console(), shown) as told:
            made = store.fill(self.ask, batch=BATCH, rank=parallel.rank(), ranks=parallel.ranks(), progress=told)
        self.asked = made * parallel.ranks()
        parallel.meet(self.device)
        if made < store.manifest.rows_in_all and parallel.ranks() == 1:
            store.spot(self.ask, rows=SPOT, tolerance=APART)
        return store

    def way(self) -> str | None:
        """How the teacher ran that filled the store, if there is one: its rows go on so."""
        known = not self._in_memory and (self._place / MANIFEST).exists()
        return Store.open(self._place).manifest.facts.get("run") if known else None

    @property
    def _place(self) -> Path:
        if self.plan.store == "auto" and self.plan.path is not None:
            return self.plan.path / "store"
        return Path(str(self.plan.store))

    @torch.no_grad()
    def ask(self, ids: Tensor, draw: int) -> dict[str, Tensor]:
        """The teacher's answers to these samples at a draw, by field."""
        read = self.reader.read(self._batch(ids, draw), self.addresses)
        return {field_of(a): read[a].float().cpu() for a in self.addresses}

    def _batch(self, ids: Tensor, draw: int) -> Batch:
        return Batch.of(self.data.source.rows(ids, draw, self.seed), index=ids).to(self.device)

    def _batches(self) -> tuple[Tensor, ...]:
        parts: tuple[Tensor, ...] = torch.arange(self.data.samples).split(BATCH)
        return parts

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample's answers, from the teacher as it is: one that compiles does it for the first batch that it sees."""
        plain = Reader({TEACHER: unwrap(self.teacher)}, (), call=self.plan.call)
        few = torch.arange(min(2, self.data.samples))
        with torch.no_grad():
            read = plain.read(self._batch(few, 0), self.addresses)
        return {field_of(address): tuple(tensor.shape[1:]) for address, tensor in read.items()}

    def _store(self, place: Path, encoding: str | None) -> Store:
        chosen = encoding or ("fp32" if self.bytes(4) <= EXACT else "fp16")
        fields = {name: Field(shape, chosen, self._softened(name)) for name, shape in self._shapes.items()}
        if (place / MANIFEST).exists() and encoding is None:
            held = Store.open(place).manifest.fields
            fields = {n: held[n] if n in held and held[n].shape == f.shape else f for n, f in fields.items()}
        if any(field.top is not None for field in fields.values()) and self.unsoftened:
            raise InputError(
                f"store: topk:K keeps logits for losses that soften them, at one temperature ({', '.join(f.__name__ for f in SOFTENING)}), "
                f"and {', '.join(self.unsoftened)} reads them otherwise. Take another encoding, such as fp16, in a folder of its own."
            )
        opened = partial(Store.create, place, self.facts(), self.data.samples, self.draws, fields)
        if parallel.rank() == 0:  # before the others look: of two that begin a store at once each would write it
            opened()
        parallel.meet(self.device)
        return opened()

    def _softened(self, field: str) -> tuple[float, ...]:
        """The temperatures at which what is stored in a field is softened; features are not."""
        return self.temperatures if not field else ()

    def facts(self) -> dict[str, str]:
        """What made them, by name: where one is another, the store is of something else."""
        teacher = self.teacher
        told = {"teacher": digest(unwrap(teacher)), "data": self.data.digest}
        told["run"] = teacher.name if isinstance(teacher, Inference) else "fp32"
        if not self.fixed:  # what augments is known by what it makes
            told["seed of the samples"] = str(self.seed)
            sha = hashlib.sha256()
            for tensor in tensors(self.data.source.rows(torch.arange(min(8, self.data.samples)), 1, self.seed)):
                sha.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
                sha.update(bytes_of(tensor))
            told["augmentation"] = sha.hexdigest()
        return told
