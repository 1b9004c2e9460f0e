"""The loop. It knows methods by what :class:`~understudy.method.Method` promises, and nothing of what they do.

For each move of a step: zero the player's gradients, run every micro-batch forward and backward, take the mean over
ranks, stop if anything is not finite, clip, and make that player's step. Then ``after``, the log, validation and the
checkpoint, in this order, so that a checkpoint holds all that its step has done.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from understudy import parallel
from understudy.batch import Batch
from understudy.callbacks import Callback
from understudy.checkpoint import Checkpoints, freeze, thaw
from understudy.data.order import preserved, seed_all
from understudy.environment import differences, environment
from understudy.errors import InputError, Interrupted
from understudy.feed import Feed, workers_watched
from understudy.folder import Journal, Lock
from understudy.method import Method, Progress
from understudy.modes import as_found
from understudy.play import Outcome, Undo, build_players, play, prepare
from understudy.settings import Settings
from understudy.signals import Interrupts
from understudy.state import check_arguments, compare, identity, level, load_module, load_player, pace, whole
from understudy.teachers.ema import Ema
from understudy.validation import Validate, Validation
from understudy.writing import save_tensors, sweep

__all__ = ["Result", "train"]


@dataclass(frozen=True)
class Result:
    """What a run came to.

    Attributes:
        steps: steps that were made.
        history: every validation: ``{"step": ..., "epoch": ..., "valid": {...}}``; the first is before training.
        best: the record of the weights that were kept; None without validation.
        last: the record of the last weights; None without validation.
        stopped_early: whether patience ended it.
        seconds: of training, validation and saving, over all processes that took part, one after another.
    """

    steps: int
    history: list[dict[str, Any]]
    best: dict[str, Any] | None
    last: dict[str, Any] | None
    stopped_early: bool
    seconds: float


def train(
    method: Method,
    data: Any,
    settings: Settings,
    *,
    validate: Validate | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train a method. At the end its student holds the best weights by validation, or the last ones without.

    Args:
        method: what is trained; its models come back in the mode they had.
        data: tensors, a tuple or a mapping of them, a Dataset, a DataLoader, or an iterable of batches.
        settings: how long, in what portions, with which optimizer.
        validate: figures of the student, once before training and then every ``settings.validate_every`` steps.
        folder: where checkpoints, ``metrics.jsonl`` and ``student.safetensors`` go; None writes nothing.
        resume: go on from the folder's last checkpoint, if it has one.
        callbacks: progress bars and trackers.

    Raises: InputError before the first step for what cannot work; NonFiniteError before the step that would have spoilt
        the weights; Interrupted after Ctrl-C or SIGTERM, once the step is done and saved; CorruptError, MachineError.
    """
    check_arguments(method, settings)
    device = settings.on()
    parallel.start(device)
    # Signals outermost: torchrun sends one when another rank has died, and this one may have to say so first.
    with Interrupts() as interrupts, parallel.first_to_fail(), workers_watched(), preserved():
        run = _Run(method, data, settings, device, validate, None if folder is None else Path(folder), callbacks)
        with contextlib.closing(run):
            run.open(resume)
            return run.go(interrupts)


class _Run:
    """One call of :func:`train`."""

    def __init__(
        self,
        method: Method,
        data: Any,
        settings: Settings,
        device: torch.device,
        validate: Validate | None,
        folder: Path | None,
        callbacks: Sequence[Callback],
    ) -> None:
        self.method, self.settings, self.device, self.folder = method, settings, device, folder
        self.rank = parallel.rank()
        self.main = self.rank == 0
        self.callbacks = callbacks if self.main else ()
        self.feed = Feed(data, settings, self.rank, parallel.ranks())
        self.validation = None if validate is None else Validation(validate, settings)
        self.lock = Lock(folder if self.main else None)
        self.checkpoints = None if folder is None else Checkpoints(folder / "checkpoints", settings.keep, device)
        self.journal = Journal(folder / "metrics.jsonl" if folder is not None and self.main else None)
        self.put_back: Callable[[], None] = lambda: None
        self.identity: dict[str, str] = {}
        self.step, self.steps, self.saved_at = 0, self.feed.steps, -1
        self.seconds, self.began = 0.0, time.perf_counter()

    # -- before and after ----------------------------------------------------------------------------------------------

    def open(self, resume: bool) -> None:
        """Check everything, fit what the dry run fits, and take up the folder's run if there is one."""
        self.lock.take()
        parallel.agree({"folder": str(self.folder is not None)}, self.device)
        found = self.checkpoints.load() if self.checkpoints is not None else None
        if found is not None and not resume:
            raise InputError(
                f"{self.folder}: already holds a run. Say resume=True to go on with it, or choose another folder."
            )
        if resume and self.feed.samples is None:
            raise InputError(
                "data: an iterable cannot be resumed, since its place is lost; give a Dataset with a length."
            )
        self.put_back = as_found(self.method)
        self.method.to(self.device)
        if self.settings.channels_last:
            self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        seed_all(self.settings.seed, "dry run")
        self.method.dry_run(self.feed.first().to(self.device, channels_last=self.settings.channels_last))
        self.players = build_players(self.method, self.settings.optim_for, scaled=self.settings.precision == "fp16")
        self.undo = Undo(self.method)
        state = None if found is None else thaw(*found)
        if self.folder is not None or parallel.ranks() > 1:
            self.identity = identity(self.method, self.settings.identity(), self.feed.samples)
            rhythm = pace(self.settings, self.folder, self.validation, state)
            level(self.method, {**self.identity, **rhythm}, self.device)
        self.ema = None if self.settings.ema is None else Ema(self.method.student, self.settings.ema)
        if state is None:
            self.journal.open(0)
            self._validate()
        else:
            self._restore(state)

    def close(self) -> None:
        """Leave modes, files and bars as they should be, however the run ended."""
        with contextlib.ExitStack() as stack:  # all of these, whichever of them fails
            stack.callback(self.put_back)
            stack.callback(self.lock.release)
            stack.callback(self.journal.close)
            for callback in reversed(self.callbacks):
                stack.callback(callback.finished)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def go(self, interrupts: Interrupts) -> Result:
        """Every step that is left, then the weights that are kept."""
        self.method.train()
        for callback in self.callbacks:
            callback.started(self._progress(self.step))
        with contextlib.closing(self.feed.batches(self.step, self.steps)) as steps:
            while not self._stopped_early and (batches := next(steps, None)) is not None:
                self._step([b.to(self.device, channels_last=self.settings.channels_last) for b in batches], interrupts)
        self._save()
        self._keep_best()
        history = [] if self.validation is None else self.validation.history
        best = None if self.validation is None else self.validation.best
        return Result(self.step, history, best, history[-1] if history else None, self._stopped_early, self._seconds())

    @property
    def _stopped_early(self) -> bool:
        return self.validation is not None and self.validation.enough

    def _step(self, batches: list[Batch], interrupts: Interrupts) -> None:
        progress = self._progress(self.step)
        seed_all(self.settings.seed, "step", self.step, self.rank)
        prepared, stop = prepare(self.method, batches, progress, interrupts.asked)
        if stop:
            self._interrupted()
        outcome = play(self.method, prepared, progress, self.players, self.settings.autocast, self.undo)
        with torch.no_grad():
            parallel.sync_batch_norm(self.method)
            self.method.after(progress)
            if self.ema is not None:
                self.ema.after(progress)
        self.step += 1
        for callback in self.callbacks:
            callback.stepped(progress)
        last = self.step == self.steps
        if last or self.step % self.settings.log_every == 0:
            self._log(progress, outcome)
        if last or self._due(self.settings.validate_every):
            self._validate()
        if last or self._due(self.settings.save_every):
            self._save()

    def _progress(self, step: int) -> Progress:
        return Progress(step, self.steps, step // self.feed.steps_per_epoch if self.feed.steps_per_epoch else 0)

    def _due(self, every: int | None) -> bool:
        every = every or self.feed.steps_per_epoch
        return bool(every) and self.step % every == 0

    def _log(self, progress: Progress, outcome: Outcome) -> None:
        lr = {name: player.lr for name, player in self.players.items()}
        self._record({"step": self.step, "epoch": progress.epoch, **outcome.record(self.device), "lr": lr})

    def _record(self, record: dict[str, Any]) -> None:
        self.journal.write(record)
        for callback in self.callbacks:
            callback.logged(record)

    @property
    def _kept(self) -> nn.Module:
        """What is validated and kept: the student, or its moving average."""
        return self.method.student if self.ema is None else self.ema.model

    def _validate(self) -> None:
        if self.validation is not None:
            epoch = self.step // (self.feed.steps_per_epoch or 1)
            self._record(self.validation.run(self._kept, self.step, epoch, self.device))

    # -- state ---------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.checkpoints is None or self.saved_at == self.step:
            return
        tree, tensors = freeze(
            {
                "step": self.step,
                "method": self.method.state_dict(),
                "players": {name: player.state() for name, player in self.players.items()},
                "ema": None if self.ema is None else self.ema.state_dict(),
                "validation": None if self.validation is None else self.validation.state(),
                "seconds": self._seconds(),
                "journal": self.journal.sync(),
                "identity": self.identity,
                "environment": environment(self.device),
            }
        )
        self.checkpoints.save(self.step, tree, tensors)
        parallel.meet(self.device)
        self.saved_at = self.step

    def _restore(self, state: Mapping[str, Any]) -> None:
        compare(state["identity"], self.identity, self.folder)
        changed = differences(state["environment"], environment(self.device))
        if changed:
            warnings.warn(
                f"{self.folder}: resumed where {'; '.join(changed)}: the result will not be equal to the last bit.",
                stacklevel=4,
            )
        load_module(self.method, state["method"])
        for name, player in self.players.items():
            load_player(player, state["players"][name])
        if self.ema is not None:
            load_module(self.ema, state["ema"])
        self.step = self.saved_at = state["step"]
        self.seconds = state["seconds"]
        if self.validation is not None and state["validation"] is not None:
            self.validation.load(state["validation"], self._kept)
        self.journal.open(state["journal"])

    def _keep_best(self) -> None:
        if self.validation is not None and self.validation.weights is not None:
            load_module(self.method.student, self.validation.weights)
        elif self.ema is not None:
            load_module(self.method.student, self.ema.model.state_dict())
        if self.folder is not None:
            student = whole(self.method.student)
            if self.main:
                save_tensors(self.folder / "student.safetensors", student)
                sweep(self.folder)
            parallel.meet(self.device)

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.began

    def _interrupted(self) -> None:
        self._save()
        none = self.folder is None
        kept = "Nothing was saved: no folder was given." if none else f"{self.folder} holds it; resume=True goes on."
        raise Interrupted(f"stopped after step {self.step} of {self.steps}. {kept}")
