"""Where samples come from: whatever the user's data is, it becomes a :class:`Source`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from understudy.batch import Batch, mapped, tensors
from understudy.data.order import preserved, seed_all
from understudy.errors import CorruptError, InputError

__all__ = ["Batched", "Fetched", "Key", "Keyed", "Source", "Stream", "sized", "source_of"]

Key = tuple[int, int]
"""(draw, sample): which sample, and which draw of what is random in it."""


class Batched(Protocol):
    """A data set that makes whole batches itself, which is faster: any class with a length and these two.

    Attributes:
        random: whether a sample may look different at another draw or with another seed.
    """

    random: bool

    def batch(self, ids: Tensor, draw: int, seed: int) -> Any:
        """The raw batch of the samples ``ids`` (int64 ``[N]``), in this order: a nest of tensors, one row a sample.

        A sample's row must be a pure function of (seed, its id, draw): the same in any batch, process and order.
        """


@dataclass(frozen=True)
class Source:
    """Samples that have a number and ids 0, 1, 2, ...

    Attributes:
        samples: their number.
        dataset: a sample by its id.
        collate: makes a batch of samples.
        batch_size: the user's own, where a DataLoader was given.
    """

    samples: int
    dataset: Any
    collate: Callable[[list[Any]], Any] = default_collate
    batch_size: int | None = None

    @functools.cached_property
    def _own(self) -> Batched | None:
        """The data set if it makes the batches: not where a user's collate function does, which is given single samples."""
        return _batched(self.dataset) if self.collate is default_collate else None

    def fetch(self, keys: Sequence[Key], seed: int) -> Any:
        """The raw batch of these samples; the generators of random numbers are left as they were."""
        draws = {draw for draw, _ in keys}
        if len(draws) == 1 and (own := self._own) is not None:
            return _read(own, torch.tensor([sample for _, sample in keys]), draws.pop(), seed)
        keyed = Keyed(self.dataset, seed)
        with preserved():
            return self.collate([keyed[key] for key in keys])

    def rows(self, ids: Tensor, draw: int, seed: int) -> Any:
        """The raw batch of these samples at one draw; by the data set's own ``batch`` where it is :class:`Batched`."""
        if (own := self._own) is not None:
            return _read(own, ids, draw, seed)
        return self.fetch([(draw, sample) for sample in ids.tolist()], seed)

    def in_order(self, batch_size: int = 256, *, draw: int = 0, seed: int = 0) -> Iterator[Batch]:
        """All samples at one draw from the first to the last, each with its ``index``."""
        for start in range(0, self.samples, batch_size):
            ids = torch.arange(start, min(start + batch_size, self.samples))
            yield Batch.of(self.rows(ids, draw, seed), index=ids)

    def subset(self, ids: Tensor) -> Source:
        """Some of the samples, under new ids from 0.

        What is random in them goes by the new ids; in a :class:`Batched` set by those that they have in it, so that a
        sample keeps the views that it has in the whole.
        """
        if isinstance(self.dataset, _Columns):
            return dataclasses.replace(self, samples=len(ids), dataset=self.dataset.subset(ids))
        own = _batched(self.dataset)
        some = Subset(self.dataset, ids.tolist()) if own is None else _Some(own, ids)
        return dataclasses.replace(self, samples=len(ids), dataset=some)

    @property
    def may_vary(self) -> bool:
        """Whether a sample may look different at another draw: not where that is known not to be so."""
        own = self._own
        return own is None or own.random

    def is_fixed(self) -> bool:
        """Whether a sample is the same at every draw: what a :class:`Batched` set says; of others, what a few draws show."""
        if (own := self._own) is not None:
            return not own.random
        # From the first to the last: a data set may be put together from several, of which one is random.
        few = torch.linspace(0, self.samples - 1, min(64, self.samples), dtype=torch.float64).long().tolist()
        draws = [list(tensors(self.fetch([(draw, i) for i in few], 0))) for draw in range(3)]
        return all(torch.equal(a, b) for other in draws[1:] for a, b in zip(draws[0], other, strict=True))


@dataclass(frozen=True)
class Stream:
    """Batches in the order in which they come: neither order nor ids of ours."""

    batches: Iterable[Any]


def source_of(data: Any) -> Source | Stream:
    """A source from what a user has.

    Tensors and numpy arrays, a tuple or a mapping of them, a Dataset, a DataLoader, or anything that iterates over
    batches. A DataLoader is rebuilt from its dataset, batch size and collate function: its own order cannot be resumed.
    Arrays of float64 become float32, which is what models are made of.
    """
    if isinstance(data, (Source, Stream)):
        return data
    columns = _columns(data)
    if columns is not None:
        return Source(len(columns), columns)
    if isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset):
        if data.batch_sampler is None:
            raise InputError(
                "data: a DataLoader with batch_size=None makes no batches; give its dataset, or a batch_size."
            )
        return _mapped(data.dataset, data.collate_fn, getattr(data.batch_sampler, "batch_size", None))
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return _mapped(data, default_collate, None)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _mapped(data, default_collate, None)
    if hasattr(data, "__iter__"):
        return Stream(data)
    raise InputError(
        f"data: a {type(data).__name__} cannot be fed; allowed: tensors, a tuple or a mapping of tensors, a Dataset, a DataLoader, or an iterable of batches."
    )


def sized(data: Any, where: str, *, lack: str) -> Source:
    """A source that has samples, and their number; else InputError that begins with ``where``.

    ``lack`` is what an iterable cannot do here, in words.
    """
    try:
        source = source_of(data)
    except InputError as error:
        raise InputError(f"{where}: {str(error).removeprefix('data: ')}") from error
    if not isinstance(source, Source):
        raise InputError(f"{where}: an iterable {lack}; give tensors, arrays, a Dataset or a DataLoader.")
    if not source.samples:
        raise InputError(f"{where}: has no sample.")
    return source


class _Columns(Dataset[Any]):
    """Tensors in memory, one row a sample: a tuple of them, or named ones."""

    random = False

    def __init__(self, columns: tuple[Tensor, ...] | dict[str, Tensor]) -> None:
        self.columns = columns
        self.tensors = list(columns.values()) if isinstance(columns, dict) else list(columns)
        sizes = {t.shape[0] if t.ndim else 0 for t in self.tensors}
        if len(sizes) > 1:
            raise InputError(f"data: tensors of {sorted(sizes)} samples; they must have equally many.")
        self.samples = sizes.pop()

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, sample: int) -> Any:
        return self._like([t[sample] for t in self.tensors])

    def batch(self, ids: Tensor, draw: int = 0, seed: int = 0) -> Any:
        """A batch of samples, of which nothing is random."""
        return self._like([t[ids] for t in self.tensors])

    def subset(self, ids: Tensor) -> _Columns:
        """Some of the samples."""
        return _Columns(self.batch(ids))

    def _like(self, values: list[Tensor]) -> Any:
        return dict(zip(self.columns, values, strict=True)) if isinstance(self.columns, dict) else tuple(values)


def _columns(data: Any) -> _Columns | None:
    """The data's columns, if it is made of tensors and arrays."""
    if isinstance(data, (Tensor, np.ndarray)):
        data = (data,)
    if isinstance(data, TensorDataset):
        data = data.tensors
    whole = (Tensor, np.ndarray)
    if isinstance(data, (tuple, list)) and data and all(isinstance(t, whole) for t in data):
        return _Columns(tuple(map(_tensor, data)))
    if isinstance(data, Mapping) and data and all(isinstance(t, whole) for t in data.values()):
        return _Columns({name: _tensor(t) for name, t in data.items()})
    return None


def _tensor(value: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if value.dtype.kind not in "biuf":
        raise InputError(f"data: an array of {value.dtype} holds no numbers; turn it into numbers first.")
    wanted = np.dtype(np.float32) if value.dtype.kind == "f" and value.itemsize == 8 else value.dtype.newbyteorder("=")
    return torch.as_tensor(np.ascontiguousarray(value, dtype=wanted))


def _mapped(dataset: Any, collate: Callable[[list[Any]], Any], batch_size: int | None) -> Source:
    try:
        samples = len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"data: {type(dataset).__name__} has no length. Give it __len__, or give an iterable of batches."
        ) from error
    return Source(samples, dataset, collate, batch_size)


class _Some(Dataset[Any]):
    """Some samples of a set that makes its batches itself."""

    def __init__(self, dataset: Batched, ids: Tensor) -> None:
        self.dataset, self.ids, self.random = dataset, ids, dataset.random

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, ids: Tensor, draw: int, seed: int) -> Any:
        """Those of the whole set."""
        return self.dataset.batch(self.ids[ids], draw, seed)


def _batched(dataset: Any) -> Batched | None:
    """The data set if it makes its batches itself. Other libraries' sets have a ``batch`` too, which is something else."""
    own = callable(getattr(dataset, "batch", None)) and isinstance(getattr(dataset, "random", None), bool)
    return cast("Batched", dataset) if own else None


def _read(dataset: Batched, ids: Tensor, draw: int, seed: int) -> Any:
    """A batch; where it cannot be made, an error that names the sample."""
    try:
        return dataset.batch(ids, draw, seed)
    except Exception as error:
        for sample in ids.tolist() if len(ids) > 1 else ():
            _read(dataset, torch.tensor([sample]), draw, seed)
        told = f"data: sample {', '.join(map(str, ids.tolist()[:5]))}{', ...' * (len(ids) > 5)}"
        if isinstance(error, CorruptError):
            raise CorruptError(f"{told}: {error}") from error
        raise InputError(f"{told} could not be read: {type(error).__name__}: {error}") from error


class Fetched(Dataset[Any]):
    """Raw batches by the keys of their samples: what worker processes are given."""

    def __init__(self, source: Source, seed: int) -> None:
        self.source, self.seed = source, seed

    def __getitem__(self, keys: Sequence[Key]) -> Any:
        return self.source.fetch(keys, self.seed)


class Keyed(Dataset[Any]):
    """A dataset whose randomness depends on (seed, draw, sample) only: not on workers, order or resuming."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: Key) -> Any:
        draw, sample = key
        seed_all(self.seed, "sample", draw, sample)  # a collate function may draw too
        if (own := _batched(self.dataset)) is not None:
            return mapped(lambda rows: rows[0], _read(own, torch.tensor([sample]), draw, self.seed))
        try:
            return self.dataset[sample]
        except CorruptError as error:
            raise CorruptError(f"data: sample {sample}: {error}") from error
        except Exception as error:
            raise InputError(f"data: sample {sample} could not be read: {type(error).__name__}: {error}") from error
