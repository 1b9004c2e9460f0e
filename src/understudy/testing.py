"""Fakes for your own tests: a model that says what you tell it to, and counts how often it was asked.

>>> import torch
>>> teacher = Says(torch.tensor([[0.0, 1.0]]))
>>> teacher(torch.zeros(1, 4)).tolist()
[[0.0, 1.0]]
>>> teacher.calls
1
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Says"]


class Says(nn.Module):
    """A model whose output is given: a tensor, or any structure of them, the same at every call.

    Args:
        output: what it returns. A tensor becomes a parameter, so that the fake can stand for a student too.

    Attributes:
        calls: how often it ran.
        inputs: what it was called with last: positional and named arguments.
    """

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.says = (
            nn.Parameter(output.detach().clone())
            if isinstance(output, Tensor) and output.is_floating_point()
            else output
        )
        self.calls = 0
        self.inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The given output."""
        self.calls += 1
        self.inputs = (args, kwargs)
        # A new tensor each time, as from a real model: what a caller does to it in place must not reach the next call.
        return self.says.clone() if isinstance(self.says, torch.Tensor) else self.says
