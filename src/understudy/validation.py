"""Which weights are kept: the best by validation. And when to stop early."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from understudy import parallel
from understudy.data.order import seed_all
from understudy.errors import InputError, choices
from understudy.modes import evaluating
from understudy.settings import Settings
from understudy.state import dealt, snapshot

__all__ = ["Validate", "Validation"]

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Figures of a model in eval mode, on data that is not trained on: ``{"accuracy": 0.93}``."""

Record = dict[str, Any]


class Validation:
    """The validations of one run. Every rank makes each of them; rank 0's figures count.

    Attributes:
        history: a record for each: ``{"step": ..., "epoch": ..., "valid": {...}}``. The one before training is there to
            be compared with, and is never the best.
        best: the record of the best weights.
        weights: their state.
        stale: how many validations were made since without a better one.
    """

    def __init__(self, validate: Validate, settings: Settings) -> None:
        self.validate, self.settings = validate, settings
        self.history: list[Record] = []
        self.best: Record | None = None
        self.weights: dict[str, Any] | None = None
        self.stale = 0

    def run(self, model: nn.Module, step: int, epoch: int, device: torch.device) -> Record:
        """Validate a model, which comes back in the mode it had; raise InputError if the figure to judge by is missing."""
        seed_all(self.settings.seed, "validate", step)
        with evaluating(model), torch.no_grad():
            told = self.validate(model)
        if not isinstance(told, Mapping):
            raise InputError(
                f"validate: gave a {type(told).__name__}; give a mapping of figures, such as {{'accuracy': 0.9}}."
            )
        figures = {k: float(v) for k, v in told.items()}
        figures = json.loads(parallel.gather_text(json.dumps(figures), device)[0])
        best = self.settings.best
        if best not in figures:
            raise InputError(f"settings: best={best!r} is not among the validated figures. {choices(best, figures)}")
        record = {"step": step, "epoch": epoch, "valid": figures}
        self.history.append(record)
        if step:
            self._judge(model, record)
        return record

    def _judge(self, model: nn.Module, record: Record) -> None:
        if self.best is None or self._worth(record) > self._worth(self.best):
            self.best, self.weights, self.stale = record, snapshot(model), 0
        else:
            self.stale += 1

    def _worth(self, record: Record) -> float:
        value = float(record["valid"][self.settings.best])
        return -math.inf if math.isnan(value) else value if self.settings.best_is == "max" else -value

    @property
    def enough(self) -> bool:
        """Whether patience has run out."""
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {"history": self.history, "best": self.best, "weights": self.weights, "stale": self.stale}

    def load(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """Go on from :meth:`state`, with the weights spread over ranks as this model's are."""
        self.history, self.best = state["history"], state["best"]
        self.weights = None if state["weights"] is None else dealt(model, state["weights"])
        self.stale = state["stale"]
