"""From a user's data to the micro-batches of each step."""

from __future__ import annotations

import ctypes
import itertools
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from understudy.batch import Batch
from understudy.data.order import permutation
from understudy.errors import CorruptError, InputError, MachineError, raise_all
from understudy.settings import Settings
from understudy.source import Fetched, Key, Source, Stream, source_of

__all__ = ["Feed", "workers_watched"]

WORKER_TIMEOUT_S = 120
PR_SET_PDEATHSIG = 1  # of Linux's prctl


class Feed:
    """The micro-batches of each step, for one rank.

    The samples of a step are a pure function of (seed, step). They are dealt out to ranks and then to micro-batches in
    equal contiguous parts, so that the whole step's batch does not depend on their number.

    Args:
        data: anything that :func:`source_of` takes.
        settings: batch size, accumulation, seed, length of the run, workers.
        rank: of this process.
        ranks: their number.
    Raises: InputError before the first batch if the sizes do not work out.

    Attributes:
        samples: their number; None for a stream.
        batch_size: samples of one step.
        steps_per_epoch: 0 for a stream.
        steps: of the whole run.
    """

    def __init__(self, data: Any, settings: Settings, rank: int = 0, ranks: int = 1) -> None:
        source = source_of(data)
        self.settings, self.rank, self.ranks = settings, rank, ranks
        self._source = source if isinstance(source, Source) else None
        self._stream = iter(source.batches) if isinstance(source, Stream) else None
        self.samples = None if self._source is None else self._source.samples
        self.batch_size = settings.batch_size or (self._source and self._source.batch_size) or 128
        if self.samples is None:
            if ranks > 1:
                raise InputError(
                    "data: an iterable cannot be dealt out to several processes; give a Dataset with a length."
                )
            if settings.steps is None:
                raise InputError("settings: epochs need data with a length; an iterable needs steps=.")
            self.steps_per_epoch, self.steps = 0, settings.steps
            return
        full, rest = divmod(self.samples, self.batch_size)
        self.steps_per_epoch = full + (1 if rest and not settings.drop_last else 0)
        self.steps = settings.steps or (settings.epochs or 0) * self.steps_per_epoch
        self._check(full, rest)

    def _check(self, full: int, rest: int) -> None:
        accumulate, drop_last = self.settings.accumulate, self.settings.drop_last
        smallest = self.batch_size if full and (drop_last or not rest) else rest
        problems = []
        if not self.samples:
            problems.append("data: has no sample.")
        elif not self.steps_per_epoch:
            problems.append(
                f"data: {self.samples} samples make no batch of {self.batch_size} with drop_last=True. Lower batch_size to {self.samples} or less."
            )
        elif smallest < accumulate * self.ranks:
            kind = "an epoch's last batch has" if smallest == rest else "batch_size is"
            problems.append(
                f"data: {kind} {smallest} samples for {accumulate} micro-batches on {self.ranks} ranks, each of which needs one. "
                "Set drop_last=True, or another batch_size or accumulate."
            )
        raise_all(InputError, problems)

    def first(self) -> Batch:
        """The first micro-batch, for a dry run; a stream gives it once more when it is its turn."""
        if self._stream is None:
            ids = self._parts(0)[0]
            return self._batch(self._fetch(ids, 0), ids, 0)
        raw = next(self._stream, None)
        if raw is None:
            raise InputError("data: the iterable is empty.")
        self._stream = itertools.chain([raw], self._stream)
        return Batch.of(raw)

    def keys(self, step: int) -> list[list[Key]]:
        """This rank's (draw, sample) keys of a step, for each micro-batch."""
        draw = self._draw(step)
        return [[(draw, i) for i in part.tolist()] for part in self._parts(step)]

    def _draw(self, step: int) -> int:
        """Which draw of what is random in its samples a step sees."""
        epoch = step // self.steps_per_epoch
        return epoch if self.settings.draws is None else epoch % self.settings.draws

    def _parts(self, step: int) -> tuple[Tensor, ...]:
        """This rank's sample ids of a step, for each micro-batch."""
        assert self.samples is not None
        epoch, at = divmod(step, self.steps_per_epoch)
        order = permutation(self.samples, self.settings.seed, epoch)[at * self.batch_size : (at + 1) * self.batch_size]
        mine = order.tensor_split(self.ranks)[self.rank]
        parts: tuple[Tensor, ...] = mine.tensor_split(self.settings.accumulate)
        return parts

    def batches(self, start: int, stop: int) -> Generator[list[Batch]]:
        """The micro-batches of steps ``start`` to ``stop - 1``.

        Each has its samples' ids in the field ``index`` and, where samples may be random, their draw in ``draw``: int64 ``[]``.
        """
        if self._stream is not None:
            yield from self._streamed(self._stream, stop - start)
            return
        loaded = self._loaded(start, stop) if self.settings.workers else None
        try:
            for step in range(start, stop):
                micro, draw = self._parts(step), self._draw(step)
                raws = [_next(loaded) if loaded else self._fetch(ids, draw) for ids in micro]
                yield [self._batch(raw, ids, draw) for raw, ids in zip(raws, micro, strict=True)]
        finally:
            if loaded is not None:  # an error's traceback would keep the workers alive as long as someone looks at it
                loaded._shutdown_workers()
                for worker in loaded._workers:
                    worker.kill()
                    worker.join()

    def _fetch(self, ids: Tensor, draw: int) -> Any:
        assert self._source is not None
        return self._source.rows(ids, draw, self.settings.seed_of_samples)

    def _batch(self, raw: Any, ids: Tensor, draw: int) -> Batch:
        drawn = {"draw": torch.tensor(draw)} if self._source is not None and self._source.may_vary else {}
        return Batch.of(raw, index=ids, **drawn)

    def _loaded(self, start: int, stop: int) -> Any:
        assert self._source is not None
        loader = DataLoader(
            Fetched(self._source, self.settings.seed_of_samples),
            batch_size=None,
            sampler=_Plan(self, start, stop),
            num_workers=self.settings.workers,
            collate_fn=_as_it_is,
            timeout=WORKER_TIMEOUT_S,
            worker_init_fn=_quiet_worker,
            generator=torch.Generator(),  # its own, so that it takes nothing from the global one
        )
        return iter(loader)

    def _streamed(self, stream: Iterator[Any], steps: int) -> Iterator[list[Batch]]:
        for step in range(steps):
            micro = []
            for _ in range(self.settings.accumulate):
                raw = next(stream, None)
                if raw is None:
                    raise InputError(
                        f"data: the iterable ended after {step} steps of {steps}; give steps={step}, or data with a length."
                    )
                micro.append(Batch.of(raw))
            yield micro


class _Plan:
    """What a DataLoader calls a sampler: the keys of all micro-batches, step after step."""

    def __init__(self, feed: Feed, start: int, stop: int) -> None:
        self.feed, self.start, self.stop = feed, start, stop

    def __iter__(self) -> Iterator[list[Key]]:
        for step in range(self.start, self.stop):
            yield from self.feed.keys(step)

    def __len__(self) -> int:
        return (self.stop - self.start) * self.feed.settings.accumulate


def _as_it_is(raw: Any) -> Any:
    return raw


@contextmanager
def workers_watched() -> Iterator[None]:
    """Say in our words what torch raises about worker processes, wherever the run happens to be."""
    try:
        yield
    except (InputError, CorruptError) as error:
        text = str(error)
        if not text.startswith("Caught "):
            raise
        raise type(error)(text[text.rindex("data: sample") :].strip()) from error  # without the worker's traceback
    except RuntimeError as error:
        if not str(error).startswith("DataLoader "):
            raise
        raise _worker_lost(error) from error


def _next(loaded: Iterator[Any]) -> Any:
    try:
        return next(loaded)
    except (OSError, EOFError) as error:  # the worker was killed while it handed a batch over
        raise _worker_lost(f"DataLoader worker exited unexpectedly ({error})") from error


def _worker_lost(what: object) -> MachineError:
    return MachineError(
        f"data: {str(what).strip().rstrip('.')}. Was it out of memory, or does a sample take longer than {WORKER_TIMEOUT_S} s? "
        "resume=True goes on from the last checkpoint; workers=0 reads the samples here and says more."
    )


def _quiet_worker(worker: int) -> None:
    # Both may reach every process of the run at once; the engine finishes its step, and needs its workers until then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A killed process takes its workers along. They hold its connections open, so that the other ranks would not notice
    # for seconds. Linux only; elsewhere a worker sees for itself, in five seconds.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
