"""``dying.py FOLDER FAULT``: thirty steps, in the midst of which a rank dies; started again, it goes on.

An error of ours ends the process as the command line would: one line, and the error's exit code.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from pathlib import Path

import torch
from material import Adversarial, adversarial, keep, sequences, settings
from torch import nn

from understudy import Progress, train
from understudy.callbacks import Callback
from understudy.errors import InputError, UnderstudyError

torch.set_num_threads(1)
folder, fault = Path(sys.argv[1]), sys.argv[2]
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
multiprocessing.set_start_method("fork")  # of the workers, so that they inherit what a killed rank leaves open
again = (folder / "death").exists()  # it dies once


def last_words() -> None:
    (folder / "death").write_text(str(time.time()))


def die() -> None:
    last_words()
    match fault.partition("-")[0]:
        case "raise":
            raise ValueError("something of the user's is broken")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(0)
        case "disk":
            # More than the log of metrics will have, less than a checkpoint.
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, resource.RLIM_INFINITY))
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)


class Doomed(Adversarial):
    """Its ``after`` is where a rank dies: between two exchanges."""

    def after(self, progress: Progress) -> None:
        super().after(progress)
        if progress.step == 13 and fault.endswith(f"-{rank}") and not again:
            die()


def validate(model: nn.Module) -> dict[str, float]:
    if fault == "validation" and rank == 0 and (folder / "half").exists() and not again:
        last_words()
        sys.exit(3)
    return {"accuracy": float(model(sequences()["input"]).mean())}


class Half(Callback):
    """Notes when half of the run is over."""

    def stepped(self, progress: Progress) -> None:
        if progress.step == 15:
            (folder / "half").touch()


class Bad(torch.utils.data.Dataset):
    """Sequences, one of which one rank cannot read for a while."""

    data = sequences()

    def __len__(self) -> int:
        return len(self.data["input"])

    def __getitem__(self, sample: int) -> dict[str, torch.Tensor]:
        if fault == "sample" and sample == 40 and rank == 1 and not again:
            last_words()
            raise OSError("this file is damaged")
        return {name: column[sample] for name, column in self.data.items()}


with contextlib.suppress(InputError):  # an error that somebody caught must not silence the next one
    train(adversarial(), sequences(), settings(1, batch_size=1))
method = adversarial()
method.__class__ = Doomed
given = {"workers": 1 if fault.startswith("kill") else 0, "accumulate": 2 if ranks == 2 else 1}
try:
    train(
        method,
        Bad(),
        settings(30, save_every=3, validate_every=10, log_every=5, **given),
        validate=validate,
        folder=folder / "run",
        resume=again,
        callbacks=[Half()],
    )
except UnderstudyError as error:
    print(f"understudy: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
keep(folder, method.state_dict())
