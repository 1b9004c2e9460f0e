"""``equality.py FOLDER STEPS PARTS ...``: two players on ragged masks; every rank writes all weights.

PARTS is the number of micro-batches into which a rank splits its part. With ``4-local`` each of the four takes its own
mean and then the parts' mean is taken: the mistake to be told apart.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from material import adversarial, keep, sequences, settings

from understudy import engine, parallel, train

torch.set_num_threads(1)
folder, steps, *runs = sys.argv[1:]
right = engine.prepare


def mean_of_means(method, batches, progress, asked):
    prepared = [method.prepare(batch, progress) for batch in batches]
    parts = len(batches) * parallel.ranks()
    return [dataclasses.replace(b, totals=b.counts * parts, ranks=parallel.ranks()) for b in prepared], False


for run in runs:
    accumulate, _, local = run.partition("-")
    engine.prepare = mean_of_means if local else right
    method = adversarial()
    train(method, sequences(), settings(int(steps), accumulate=int(accumulate)))
    keep(Path(folder), method.state_dict(), f"weights-{run}")
