"""Numbers that the original authors' code gave for logits, and these logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

_VALUES = json.loads((Path(__file__).parents[1] / "reference" / "response.json").read_text())["values"]
LABEL = torch.tensor([0, 2, 4, 1])


def golden(name: str, rel: float = 1e-9) -> object:
    """The number, to compare with ``==``."""
    return pytest.approx(_VALUES[name]["value"], rel=rel)


def golden_logits() -> tuple[Tensor, Tensor]:
    """Student's and teacher's."""
    i, j = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(5.0, dtype=torch.float64)
    return 3 * torch.sin(0.7 * i + 1.3 * j + 0.1), 4 * torch.cos(0.5 * i - 0.9 * j + 0.2)


def logits(*shape: int, seed: int = 0) -> Tensor:
    """Random ones."""
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
