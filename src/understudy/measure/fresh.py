"""Models that run in a process of their own, which :mod:`understudy.measure.worker` is; a module that cannot be sent there, in this one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy.measure import worker
from understudy.measure.worker import Refused, Running
from understudy.modes import evaluating

__all__ = ["Fresh", "Here"]

SCRIPT = Path(worker.__file__)
PATIENCE_S = 10
"""For a process that was told to end."""


class Fresh:
    """A process that has loaded a model and waits.

    Attributes:
        ready: ``load_ms``, ``first_ms``, ``shapes``, ``baseline_memory_mb``, ``peak_memory_mb``.

    Args:
        job: see :class:`understudy.measure.worker.Running`.

    Raises: Refused, of kind memory where a limit is set and the process dies of it.
    """

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.limited = job.get("limit") is not None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        # -P: a numpy.py in the folder in which the user works is not numpy.
        command = [sys.executable, "-P", str(SCRIPT), json.dumps(job)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        try:
            self.ready = self._answer()
        except BaseException:
            self.close()
            raise

    def block(self, runs: int, seconds: float) -> dict[str, Any]:
        """Time some calls: ``times_ms`` of each, and ``cpu_s`` of all of them."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended; why, its answer says
            self.process.stdin.write(json.dumps({"runs": runs, "seconds": seconds}) + "\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").strip().splitlines()
            why = f"its process ended with {code}{': ' + said[-1] if said else ''}"
            raise Refused("memory" if self.limited else "run", why)
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise Refused(answer["refused"], answer["told"])
        return answer

    def close(self) -> None:
        """End the process."""
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # it has ended already
                assert pipe is not None
                pipe.close()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


class Here:
    """A module in this process, of which the memory cannot be told."""

    def __init__(
        self, model: nn.Module, names: Sequence[str] | None, dtypes: Mapping[str, torch.dtype], job: Mapping[str, Any]
    ) -> None:
        self.model, self.threads = model, int(job["threads"])
        with _still(self.model, self.threads):
            self.running = Running(job, worker.loaded_module(model, names, dtypes))
        self.ready = {**self.running.ready(), "load_ms": None, "baseline_memory_mb": None, "peak_memory_mb": None}

    def block(self, runs: int, seconds: float) -> dict[str, Any]:
        """As :meth:`Fresh.block`."""
        with _still(self.model, self.threads):
            return self.running.block(runs, seconds)

    def close(self) -> None:
        """Nothing is to be ended."""


@contextmanager
def _still(model: nn.Module, threads: int) -> Iterator[None]:
    """So many threads, and the model in eval mode; both as before at the end."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with evaluating(model):
            yield
    finally:
        torch.set_num_threads(before)
