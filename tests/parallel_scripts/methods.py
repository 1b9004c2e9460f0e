"""``methods.py FOLDER ACCUMULATE``: every named method for a few steps; every rank writes all that each of them is at the end.

ACCUMULATE is the number of micro-batches into which a rank splits its part. Those of a value for each sample in float64, without BatchNorm and dropout, so that nothing but the method itself looks beyond
a sample. Behind them the mistakes to be told apart.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path
from unittest.mock import patch

import torch
from material import keep

from understudy import Optim, Settings, parallel, train

sys.path.insert(0, str(Path(__file__).parents[1]))
from conformance.method_case import merged

SETTINGS = Settings(
    steps=4,
    batch_size=6,
    accumulate=int(sys.argv[2]),
    optimizer=Optim("SGD", lr=0.01, momentum=0.9),
    log_every=4,
    device="cpu",
)
"""Two epochs, in which a rank sees other samples each time."""


def mean_of_means(method, batches, progress, asked):
    prepared = [method.prepare(batch, progress) for batch in batches]
    parts = len(batches) * parallel.ranks()
    return [dataclasses.replace(b, totals=b.counts * parts, ranks=parallel.ranks()) for b in prepared], False


def double(tensors):
    return {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}


def trained(case):
    torch.manual_seed(0)
    if not case.per_sample:
        method = case.of()
        train(method, case.data(), SETTINGS)
        return method
    method = case.of(case.student(batch_norm=False), case.teacher(batch_norm=False)).double()
    for model in method.frozen.values():
        model.double()
    batch = double(case.batch())
    method.dry_run(batch)
    train(method.double(), {n: t for n, t in batch.items() if n != "index"}, SETTINGS)
    return method


torch.set_num_threads(1)
cases, weights = merged(), {}
mistakes = {
    "kd by means of means": patch("understudy.engine.prepare", mean_of_means),
    "ps_kd with a bank on each rank": patch("understudy.losses.pskd.of_all", lambda rows: rows),
}
for run, mistake in {**dict.fromkeys(cases, contextlib.nullcontext()), **mistakes}.items():
    with mistake:
        state = trained(cases[run.partition(" ")[0]]).state_dict()
    weights |= {f"{run}/{n}": v for n, v in state.items() if isinstance(v, torch.Tensor)}
keep(Path(sys.argv[1]), weights)
