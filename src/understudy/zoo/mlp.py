"""A network of linear layers for vectors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from understudy.errors import InputError
from understudy.zoo.limits import check_layers, check_parameters, check_sizes

__all__ = ["MLP"]


class MLP(nn.Module):
    """Linear layers with ReLU, for vectors such as the rows of a table.

    The layers are ``layer1``, ``layer2``, ..., each with its ReLU, and ``head``.

    Args:
        inputs: features of a vector.
        classes: outputs; 1 for a single value.
        hidden: features of each hidden layer. Without any the model is linear.
        dropout: share of the hidden features that is dropped while training, from 0 to below 1.
    """

    def __init__(self, inputs: int, classes: int, hidden: Sequence[int] = (64, 64), dropout: float = 0.0) -> None:
        super().__init__()
        check_sizes("MLP", {"inputs": inputs, "classes": classes}, {"hidden": hidden})
        if not 0 <= dropout < 1:
            raise InputError(f"MLP: dropout={dropout!r} is not allowed; give a share from 0 to below 1.")
        check_layers("MLP", len(hidden))
        widths = [inputs, *hidden, classes]
        check_parameters("MLP", sum((a + 1) * b for a, b in itertools.pairwise(widths)))
        self.layers = [f"layer{i}" for i in range(1, len(widths) - 1)]
        for name, a, b in zip(self.layers, widths, widths[1:], strict=False):
            self.add_module(name, nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)))
        self.head = nn.Linear(widths[-2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits or values ``[N, classes]`` of vectors ``[N, inputs]``."""
        for name in self.layers:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.head(x)
        return logits
