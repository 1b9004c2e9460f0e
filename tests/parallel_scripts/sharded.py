"""``sharded.py FOLDER KIND``: a student spread over the ranks by ``fully_shard`` (sharded, hybrid), or not (whole);
or a run of "sharded" resumed on other ranks (other)."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from material import Network, keep, sequences, settings
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial

from understudy import Callback, Distillation, Optim, Progress, Term, optimize, parallel, play, reading, train
from understudy.errors import Interrupted
from understudy.feed import Feed
from understudy.losses import kl, mse
from understudy.projectors import Linear

torch.set_num_threads(1)
folder, kind = Path(sys.argv[1]), sys.argv[2]
parallel.start(torch.device("cpu"))


def scored(hidden: Tensor, weight: Tensor, teacher: Tensor) -> Tensor:
    """The divergence of logits that are computed here, from the last layer's weight: its gradient comes this way too."""
    return kl(hidden @ weight.T, teacher, temperature=2)


def build() -> Distillation:
    """Clipped; a tap on an inner layer; a parameter that is read; a projector that is not sharded."""
    student = Network(8, seed=1)
    if kind != "whole":
        sizes = {"hybrid": (2, 2), "copies": (2, 1)}.get(kind)
        mesh = sizes and init_device_mesh("cpu", sizes, mesh_dim_names=("copies", "parts"))
        for block in (student.body, student):
            fully_shard(block, mesh=mesh)
    torch.manual_seed(4)
    return Distillation(
        Term(partial(kl, temperature=2), "student", "teacher", mask="batch.mask"),
        Term(scored, "student.body", "student:head.weight", "teacher", mask="batch.mask", weight=0.5, name="scored"),
        Term(mse, "student.body", "teacher.body", project=Linear(), weight=0.3),
        student=student,
        teacher=Network(12, seed=2),
    )


def validate(model: nn.Module) -> dict[str, float]:
    with torch.no_grad():
        return {"accuracy": float(model(sequences()["input"]).double().std())}


class Stop(Callback):
    """A signal from outside, in the midst of the run."""

    def stepped(self, progress: Progress) -> None:
        if progress.step == 23:
            os.kill(os.getpid(), signal.SIGTERM)


def run(name: str, steps: int, run_folder: str | None = None, **options: object) -> None:
    """Train, and keep all weights in whole."""
    method = build()
    given = settings(
        steps,
        batch_size=5,
        accumulate=2 if kind == "copies" else 1,
        drop_last=True,
        optimizer=Optim("AdamW", lr=1e-2, clip=0.05, foreach=True),
        validate_every=20,
        save_every=20,
        log_every=10,
    )
    where = folder / run_folder if run_folder else None
    train(method, sequences(), given, validate=validate if where else None, folder=where, **options)
    state = method.state_dict()
    keep(folder, {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}, name)


def counts(rank: int, ranks: int) -> list[int]:
    """How many tokens a rank counts in each of the fifty steps."""
    feed, mask = Feed(sequences(), settings(50, batch_size=5, drop_last=True), rank, ranks), sequences()["mask"]
    return [int(mask[[sample for _, sample in feed.keys(step)[0]]].sum()) for step in range(50)]


if kind == "other":
    run("other", 50, "other", resume=True)
    sys.exit()
run(kind, 50, kind)
if kind != "whole":
    ranks = parallel.ranks()
    assert 0 in [n for rank in range(ranks) for n in counts(rank, ranks)], "a rank that counts nothing must take part"
    run("short", 10)
if kind == "sharded":
    with contextlib.suppress(Interrupted):
        run("interrupted", 50, "broken", callbacks=[Stop()])
    if parallel.rank() == 0:
        shutil.copytree(folder / "broken", folder / "other")
    run("resumed", 50, "broken", resume=True)
    kind = "copies"  # nothing is sharded, and torch takes the mean while each micro-batch's backward runs
    run("copies", 50, "copies")
    kind = "sharded"
    # Two controls. A plain full_tensor() hands each rank its own samples' gradient as if it were everybody's:
    reading.Partial = lambda how: Partial("sum")
    run("gradient", 10)
    reading.Partial = Partial
    # and after a forward without backward the model shows parameters whose gradient never comes.
    play.reshard = lambda model: None
    run("shown", 10)
if kind == "hybrid":
    # The control: parts that several ranks hold, counted by each of them in the norm that clips.
    optimize._holders = lambda grad: int(isinstance(grad, DTensor))
    run("norm", 10)
