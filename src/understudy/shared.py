"""What a comparison's methods read of their teacher, asked once for all of them.

Methods read it at different layers, and most of them at some that others read too. Their students are given one table of it all,
in memory or, where it is large, in stores::

    OUT/store/0/     what was asked for first
    OUT/store/1/     layers that methods read which were added later

A method that asks more of its teacher than plain outputs and layers has the teacher itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from understudy import answers
from understudy.address import Address
from understudy.answers import BATCH, Answers, asked_of, reads
from understudy.choices import Choices
from understudy.inference import WAYS
from understudy.material import Material
from understudy.method import Distillation, Method
from understudy.preflight import addresses_of, beyond, is_known
from understudy.store import MANIFEST, Store
from understudy.teachers.stored import InMemory, Joined, Stored, Table, address_of, field_of
from understudy.term import Term

__all__ = ["Shared"]

FOLDER = "store"  # in that of the comparison
NOTE = "soft labels"  # in its choices


@dataclass(frozen=True)
class _Held:
    """Fields that are there, and what reads some of them."""

    fields: Collection[str]
    only: Callable[[list[str]], Table]


class Shared:
    """Where the students of a comparison read the teacher. Nothing is asked before the first of them is to be trained.

    Args:
        material: of the comparison.
        teacher: who is asked, trained by now.
        choices: of the comparison, which keep how the teacher runs and what is stored of it.
    """

    def __init__(self, material: Material, teacher: Any, choices: Choices) -> None:
        self.material, self.plan, self.teacher, self.choices = material, material.plan, teacher, choices
        self._asked: list[dict[str, Address]] = []  # of each method, by field; empty where a table cannot have it
        self._read: dict[str, Address] = {}  # by any method that can be told beforehand

    def add(self, method: Method) -> None:
        """Take in what a method reads."""
        if type(method) is not Distillation or not reads(method, self.teacher):
            return
        self._asked.append({field_of(a): a for a in asked_of(method)})
        self._read |= {str(a): a for a in addresses_of(method)}

    def teach(self, method: Method) -> None:
        """Let a method read the teacher in the table; or, if what it asks is not in it, as the teacher runs best."""
        if not isinstance(method, Distillation) or not reads(method, self.teacher):
            return
        wanted = [field_of(a) for a in asked_of(method)]
        if self._is_in(wanted):
            parts = [(held, [name for name in wanted if name in held.fields]) for held in self._held]
            table = Joined(*(held.only(names) for held, names in parts if names))
            method.supply("teacher", Stored(table, facts=self._facts, fixed=self._whole.fixed))
        elif self._shows(addresses_of(method)) and (type(method) is Distillation or self.plan.teacher_run != "auto"):
            method.supply("teacher", self.running)

    def told(self) -> str:
        """How it is asked, in words."""
        read, others = sum(map(self._is_in, self._asked)), "it runs in every step"
        return f"asked once about every sample for {read} methods; for others {others}" if read else others

    # -- what is asked -------------------------------------------------------------------------------------------------

    @cached_property
    def fields(self) -> dict[str, Address]:
        """What the table has: all that methods read of it, as far as there is room."""
        if self.plan.store is None:
            return {}
        every = {name: address for asked in self._asked for name, address in asked.items()}
        # First those of before: a run that was broken off goes on with what it read.
        chosen, room = {*self._noted} & {*every}, answers.MOST if is_known(self.teacher) else answers.IN_MEMORY
        for asked in sorted(self._asked, key=lambda asked: self._bytes(asked)):
            if self._shows(asked.values()) and self._bytes(chosen | {*asked}) <= room:
                chosen |= {*asked}
        return {name: address for name, address in every.items() if name in chosen}

    @property
    def _noted(self) -> list[str]:
        return list(self.choices.made.get(NOTE, {}).get("fields", ()))

    @cached_property
    def running(self) -> Any:
        """The teacher as it runs here: one way for the table and for all who do not read it."""
        alive = sum(not self._is_in(asked) for asked in self._asked)
        passes = self._whole.passes if self.fields else 0
        times, rows = passes, BATCH
        if alive:
            rows = self.material.batch_size
            times = passes * BATCH // rows + alive * self.plan.seeds * self.material.stages["distilled"].steps
        given = self._given
        way = Store.open(given).manifest.facts.get("run") if given is not None and _is_there(given) else None
        return self.choices.teacher(self.teacher, self._asking(self._read.values()), times, rows=rows, way=way)

    def _shows(self, addresses: Iterable[Address]) -> bool:
        """Whether all of them can be read in the way that was settled before methods were added that read layers."""
        way = self.choices.made.get("teacher", {}).get("way")
        return way not in WAYS or WAYS[way].form is None or not any(a.tap or beyond(a) for a in addresses)

    def _is_in(self, fields: Collection[str]) -> bool:
        """Whether a method that asks for these reads the table."""
        return bool(fields) and {*fields} <= {*self.fields}

    def _bytes(self, fields: Collection[str]) -> int:
        return self._whole.bytes(fields=fields) if fields else 0

    @cached_property
    def _whole(self) -> Answers:
        """To all that any method asks."""
        return Answers(self.material, self.teacher, self._asking([a for asked in self._asked for a in asked.values()]))

    @cached_property
    def _facts(self) -> str:
        """Of the table, whatever fields it has and wherever it is: methods may be added to a comparison."""
        self._whole.ask_as(self.running)
        return json.dumps(self._whole.facts(), sort_keys=True)

    def _answers(self, fields: Mapping[str, Address]) -> Answers:
        made = Answers(self.material, self.teacher, self._asking(fields.values()))
        made.ask_as(self.running)
        return made

    def _asking(self, addresses: Collection[Address]) -> Distillation:
        """A method that reads the teacher there, and does nothing with it."""
        terms = [Term(_unread, "student"), *(Term(_unread, str(a)) for a in addresses)]
        return Distillation(*terms, student=nn.Identity(), teacher=self.teacher, call=self.plan.call)

    # -- where it is ---------------------------------------------------------------------------------------------------

    @cached_property
    def _held(self) -> list[_Held]:
        """The table: what was stored before, and what that lacks."""
        found, lacking = [], dict(self.fields)
        for place in self._places:
            fields = Store.open(place).manifest.fields
            mine = [name for name in fields if name in lacking]
            if mine and not any(field.top is not None for field in fields.values()):  # which are of one temperature
                # A store that was broken off is filled with all that it is of.
                found.append(self._stored(place, {name: address_of(name) for name in fields}, mine))
                lacking = {name: address for name, address in lacking.items() if name not in mine}
        if lacking:
            found.append(self._new(lacking))
        self.choices.note(NOTE, {"way": "stored", "told": self.told(), "fields": sorted({*self._noted, *self.fields})})
        return found

    def _new(self, lacking: Mapping[str, Address]) -> _Held:
        given = self._given
        if given is not None and not _is_there(given):
            return self._stored(given, lacking, [*lacking])
        if self._bytes({*lacking}) > answers.IN_MEMORY and is_known(self.teacher):
            # In float32, whatever its size: the same bits as in memory, where it might have been without another method.
            place = self._folder / str(len(self._own))
            return self._stored(place, lacking, [*lacking], "fp32")
        table = self._answers(lacking).in_memory()
        return _Held(lacking, lambda names: InMemory({n: table.fields[n] for n in names}, self._whole.draws))

    def _stored(
        self, place: Path, fields: Mapping[str, Address], mine: list[str], encoding: str | None = None
    ) -> _Held:
        store = self._answers(fields).build(place, encoding)
        return _Held(mine, lambda names: store.reader(names))

    @property
    def _places(self) -> list[Path]:
        """Stores that are there: that of the recipe, and those that were made before."""
        given = self._given
        return [*([given] if given is not None and _is_there(given) else []), *self._own]

    @property
    def _own(self) -> list[Path]:
        found = [path for path in self._folder.glob("*") if path.name.isdecimal() and _is_there(path)]
        return sorted(found, key=lambda path: int(path.name))

    @property
    def _given(self) -> Path | None:
        """The folder that the recipe names."""
        return None if self.plan.store in ("auto", None) else Path(str(self.plan.store))

    @property
    def _folder(self) -> Path:
        assert self.plan.path is not None  # a comparison has one
        return self.plan.path / FOLDER


def _is_there(place: Path) -> bool:
    return (place / MANIFEST).exists()


def _unread(output: Tensor) -> Tensor:
    return output
