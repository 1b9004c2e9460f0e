"""Trials that are not worth going on with: watched while their student learns, and ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from understudy.callbacks import Callback
from understudy.errors import UnderstudyError
from understudy.progress import Progress
from understudy.tasks import Task

__all__ = ["Pruned", "Watching"]


class Pruned(UnderstudyError):
    """A trial that is not worth going on with."""


class Watching(Callback):
    """Reports the best figure so far to a trial, and ends one that is worse than the median of the others."""

    def __init__(self, trial: Any, task: Task, known: Mapping[int, float]) -> None:
        self.trial, self.task = trial, task
        self.steps, self.trainings, self.best = 0, 0, float("nan")
        self.reported: set[int] = set()
        for step, value in known.items():
            self._report(step, value)

    def started(self, progress: Progress) -> None:
        """The first training is that of the distilled student."""
        self.trainings += 1
        self.steps = progress.steps

    def logged(self, record: Mapping[str, Any]) -> None:
        """Look at a validation."""
        value = record.get("valid", {}).get(self.task.metric)
        if value is None or not self.steps or self.trainings > 1:
            return
        if self.best != self.best or self.task.better(value, self.best):
            self.best = value
        at = round(100 * record["step"] / self.steps)
        self._report(at, self.best)
        if self.trial.should_prune():
            raise Pruned(
                f"at {at} % of its steps its {self.task.metric} {self.best:.3f} is behind the median of the others"
            )

    def _report(self, at: int, value: float) -> None:
        if at not in self.reported:
            self.reported.add(at)
            self.trial.report(value, at)
        if self.best != self.best or self.task.better(value, self.best):
            self.best = value
