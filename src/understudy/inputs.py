"""Samples as a model takes them, for what compresses, exports and measures a model of any kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["Inputs", "run"]

Inputs = Tensor | Mapping[str, Tensor]
"""Samples as a model takes them, the batch's axis first: a tensor, or several by the names in the model's forward."""


def run(model: nn.Module, inputs: Inputs) -> Any:
    """What the model gives for them."""
    return model(inputs) if isinstance(inputs, Tensor) else model(**inputs)
