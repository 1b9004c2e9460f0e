"""``equality.py FOLDER ACCUMULATE STEPS [local]``: two players on ragged masks; every rank writes all weights.

With ``local`` each part of a step takes its own mean and then the parts' mean is taken: the mistake to be told apart.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from material import adversarial, keep, sequences, settings

from understudy import engine, parallel, train

torch.set_num_threads(1)
folder, accumulate, steps, *local = sys.argv[1:]


def mean_of_means(method, batches, progress, asked):
    prepared = [method.prepare(batch, progress) for batch in batches]
    parts = len(batches) * parallel.ranks()
    return [dataclasses.replace(b, totals=b.counts * parts, ranks=parallel.ranks()) for b in prepared], False


if local:
    engine.prepare = mean_of_means
method = adversarial()
train(method, sequences(), settings(int(steps), accumulate=int(accumulate)))
keep(Path(folder), method.state_dict())
