"""A teacher's outputs that were asked for before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from understudy.address import Address
from understudy.batch import Batch
from understudy.errors import InputError

__all__ = ["InMemory", "Joined", "Stored", "Table", "address_of", "field_of"]


def field_of(address: Address) -> str:
    """What a table calls what is at an address: the address after its model's name.

    >>> field_of(Address.parse("teacher")), field_of(Address.parse("teacher.layer3/logits"))
    ('', 'layer3/logits')
    """
    return str(address).removeprefix("stop ").removeprefix(address.model).removeprefix(".")


def address_of(field: str) -> Address:
    """Where the teacher has what a table calls so.

    >>> [str(address_of(field)) for field in ("", "/logits", "layer3#0/logits")]
    ['teacher', 'teacher/logits', 'teacher.layer3#0/logits']
    """
    return Address.parse(f"teacher{'' if field[:1] in ('', '/') else '.'}{field}")


class Table(Protocol):
    """Rows by a sample's id and draw, as :class:`understudy.store.Reader` has them."""

    @property
    def fields(self) -> Collection[str]:
        """Their names; see :func:`field_of`."""

    def rows(self, ids: Tensor, draw: int = 0) -> Mapping[str, Tensor]:
        """Of each field ``[N, ...]``, in the order of the ids."""


class InMemory:
    """A table of tensors.

    Args:
        tensors: by field, ``[draws * samples, ...]``: all samples of draw 0, then those of draw 1, ...
        draws: of each sample.
    """

    def __init__(self, tensors: Mapping[str, Tensor], draws: int = 1) -> None:
        self.fields = dict(tensors)
        self.samples = len(next(iter(self.fields.values()))) // draws

    def rows(self, ids: Tensor, draw: int = 0) -> dict[str, Tensor]:
        """Of each field ``[N, ...]``."""
        if len(ids) and int(ids.max()) >= self.samples:
            raise InputError(
                f"stored outputs: sample {int(ids.max())} is not among the {self.samples} that were stored."
            )
        return {name: table[ids.to(table.device) + draw * self.samples] for name, table in self.fields.items()}


class Joined:
    """Tables of the same samples, each with some of the fields."""

    def __init__(self, *tables: Table) -> None:
        self.tables = tables

    @property
    def fields(self) -> list[str]:
        """Those of all of them."""
        return [name for table in self.tables for name in table.fields]

    def rows(self, ids: Tensor, draw: int = 0) -> dict[str, Tensor]:
        """Of each field ``[N, ...]``."""
        return {name: rows for table in self.tables for name, rows in table.rows(ids, draw).items()}


class Stored:
    """A teacher that is a table: what stands there of each sample, by the batch's ``index`` and ``draw``.

    Args:
        outputs: ``[samples, ...]``, in the order of the samples' ids; or a table of several fields.
        facts: what the table is of: a run that is resumed must have the same. Of a table in memory that is not told so,
            what stands in it.
        fixed: samples are the same at every draw, and stand there once.
    """

    def __init__(self, outputs: Tensor | Table, *, facts: str = "", fixed: bool = True) -> None:
        self.table = InMemory({"": outputs}) if isinstance(outputs, Tensor) else outputs
        self.facts, self.fixed = facts, fixed

    def state_dict(self) -> dict[str, Tensor]:
        """What identifies it."""
        if isinstance(self.table, InMemory) and not self.facts:
            return {name or "outputs": tensor for name, tensor in self.table.fields.items()}
        return {"facts": torch.frombuffer(bytearray(self.facts.encode()), dtype=torch.uint8)}

    def lacks(self, address: Address) -> str | None:
        """Why it does not have what is at an address; None if it has."""
        if field_of(address) in self.table.fields:
            return None
        held = ", ".join(repr(name) if name else "the last output" for name in self.table.fields)
        return f"address '{address}': {address.model} is a table of stored outputs, and this is not among them: {held}."

    def at(self, batch: Batch, addresses: Iterable[Address]) -> dict[Address, Tensor]:
        """The rows of the batch's samples, at each address."""
        index = batch["index"]
        rows = self.table.rows(index, 0 if self.fixed else int(batch["draw"]))
        return {address: rows[field_of(address)].to(index.device, non_blocking=True) for address in addresses}

    def __call__(self, batch: Batch) -> Tensor:
        """The last output of the batch's samples."""
        last = Address.parse("teacher")
        return self.at(batch, [last])[last]
