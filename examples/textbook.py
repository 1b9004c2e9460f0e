"""Does distillation help where every label is there?

Three ways to train a small network on the same 1,000 labelled digits, in the same number of optimizer steps: on the hard
labels alone; on the teacher's soft labels and the hard ones together; on the soft ones first and then on the hard ones.
All start from the same weights and see the images in the same order, so that a seed's students can be compared in pairs.
"""

from collections.abc import Callable, Sequence

import torch
from rich.console import Console
from torch import nn

import understudy as us
from understudy.data.digits import digits
from understudy.measure import accuracy, gap_closed, interval, paired, parameters
from understudy.report import Column, render
from understudy.zoo import CNN

DATA = digits()
WAYS = ("alone", "together", "soft, then hard")
COLUMNS = (
    Column("student", "student"),
    Column("parameters", "parameters", "{:,}"),
    Column("way", "labels"),
    Column("accuracy", "test accuracy"),
    Column("change", "against hard alone"),
    Column("p", "p", "{:.3f}"),
)


def fit(method: us.Method, data: object, steps: int, seed: int, lr: float = 3e-3) -> None:
    optimizer = us.Optim("AdamW", lr=lr, schedule=us.cosine(1, 0), warmup=0.05)
    every = max(1, steps // 10)
    settings = us.Settings(steps=steps, batch_size=64, optimizer=optimizer, seed=seed, validate_every=every, device="cpu")
    us.train(method, data, settings, validate=lambda model: {"accuracy": accuracy(model, *DATA.valid)})
