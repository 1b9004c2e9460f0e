"""Methods of several teachers."""

from __future__ import annotations

import torch
from torch import nn

from understudy import methods
from understudy.teachers import Ensemble

from .method_case import Case, teacher

PLAIN = {"weight": 0, "label_weight": 1}
KNOWN = [[0, 1, 4], [2, 3, 4]]


def two(seed: int = 2, batch_norm: bool = True) -> Ensemble:
    """Teachers of all classes."""
    return Ensemble(teacher(seed, batch_norm=batch_norm), teacher(seed + 10, batch_norm=batch_norm)).train()


def three(seed: int = 2, batch_norm: bool = True) -> Ensemble:
    return Ensemble(*(teacher(seed + 10 * i, batch_norm=batch_norm) for i in range(3))).train()


def partial_teachers(seed: int = 2, batch_norm: bool = True) -> Ensemble:
    """Teachers of three classes each."""
    several = [teacher(seed + 10 * i, batch_norm=batch_norm) for i in range(2)]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for model in several:
            model.head = nn.Linear(16, 3)
        nn.init.trunc_normal_(model.head.weight, std=0.3)
    return Ensemble(*several, classes=KNOWN).train()


CASES = {
    "multi_teacher": Case(methods.multi_teacher, plain=PLAIN, teacher=three),
    "ebkd": Case(methods.ebkd, plain=PLAIN, teacher=two),
    "aekd": Case(methods.aekd, plain=PLAIN, teacher=two, per_sample=False),
    "ca_mkd": Case(
        lambda student, teacher, **options: methods.ca_mkd(
            student, teacher, heads=["head"] * (1 + len(teacher)), **options
        ),
        plain={**PLAIN, "feature_weight": 0},
        teacher=two,
    ),
    "specialists": Case(methods.specialists, plain=PLAIN, teacher=partial_teachers),
}
