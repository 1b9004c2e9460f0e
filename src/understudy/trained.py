"""The run of one student in a comparison, in a folder of its own, and the record that it leaves there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.status import Status

from understudy.errors import CorruptError, NonFiniteError
from understudy.job import train_stage
from understudy.material import Material
from understudy.method import Method
from understudy.progress import Progress
from understudy.rehearsal import Clock
from understudy.state import compare
from understudy.writing import read_json, write_json

__all__ = ["WEIGHTS", "Shown", "Trained", "held", "trained"]

RUN, WEIGHTS = "run.json", "student.safetensors"
SAVES = 4  # checkpoints of a run: those of one in every epoch would take longer than small students do


class Trained(NamedTuple):
    """What a run has left. ``failed`` is the reason, if it did not reach its end."""

    valid: float
    seconds: float
    step_ms: float | None
    failed: str | None = None


def trained(
    material: Material, stage: str, method: Method, seed: int, folder: Path, facts: Mapping[str, str], shown: Shown
) -> Trained:
    """Train one, going on with what is there, and note in its folder what came of it."""
    every = max(1, -(-material.stages[stage].steps // SAVES))
    try:
        result = train_stage(
            material, stage, method, seed, folder=folder, resume=True, callbacks=[shown], save_every=every
        )
        valid = float(result.best["valid"][material.task.metric]) if result.best else float("nan")
        step_ms = 1e3 * shown.seconds if len(shown.times) > 1 else None
        told = Trained(valid, result.seconds, step_ms)
    except NonFiniteError as error:
        if stage != "distilled":
            raise NonFiniteError(f"{stage}: {error}") from error
        told = Trained(float("nan"), 0.0, None, str(error))
    write_json(folder / RUN, {"told": _strict(told), "facts": dict(facts)})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return told


class Shown(Clock):
    """The clock of a run, which says what runs."""

    def __init__(self, status: Status, told: str) -> None:
        super().__init__()
        self.status, self.told = status, told

    def stepped(self, progress: Progress) -> None:
        """Note the time first: what is shown takes some."""
        super().stepped(progress)
        if progress.step % 10 == 0:
            self.status.update(f"{self.told}: step {progress.step} of {progress.steps}")


def _strict(trained: Trained) -> dict[str, Any]:
    told = trained._asdict()
    return {**told, "valid": None if told["valid"] != told["valid"] else told["valid"]}


def held(folder: Path, facts: Mapping[str, str]) -> Trained | None:
    """What a run that is done has left; None if there is none.

    Raises: InputError if it is of another method, CorruptError if it is damaged.
    """
    if not (folder / RUN).exists():
        return None
    found = read_json(folder / RUN)
    try:
        told, then = found["told"], found["facts"]
        left = Trained(**{**told, "valid": float("nan") if told["valid"] is None else told["valid"]})
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{folder / RUN}: is damaged: it is not what a comparison writes.") from error
    compare(then, facts, folder)
    return left
