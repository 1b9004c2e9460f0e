"""Models and samples of the tests of export."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import torch
from torch import Tensor, nn

from understudy.zoo import CNN

Named = namedtuple("Named", ["loss", "logits"])


def digits_model(classes: int = 10, channels: int = 1) -> nn.Module:
    """A CNN in train mode whose BatchNorm has seen something and that tells classes apart."""
    torch.manual_seed(0)
    model = CNN(4, classes=classes, inputs=channels)
    for _ in range(3):
        model(torch.randn(16, channels, 8, 8) * 2 + 1)
    nn.init.normal_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    return model


def varied(samples: int) -> Tensor:
    """Images of which the model above sees several classes."""
    generator = torch.Generator().manual_seed(0)
    shade = torch.randn(samples, 1, 1, 8, generator=generator) * 4
    return shade + torch.randn(samples, 1, 8, 8, generator=generator)


class Text(nn.Module):
    """Token ids and a mask to logits, as language models give them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head, self.dropout = nn.Embedding(50, 8), nn.Linear(8, 3), nn.Dropout(0.5)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        shown = self.embedding(ids) * mask[..., None]
        return OrderedDict(loss=None, logits=self.head(self.dropout(shown.sum(1) / mask.sum(1, keepdim=True))))


def text(samples: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(50, (samples, 6), generator=generator)
    return {"ids": ids, "mask": (torch.arange(6) <= ids[:, :1] % 6).float()}


class Gives(nn.Module):
    """A linear layer whose output is wrapped by a function."""

    def __init__(self, wrap: Any, outputs: int = 3) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(4, outputs), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.layer(x))


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x[:, :, None] * x[:, None]).real


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0] > 0:
            return x
        return x + 1e-7


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(int(x.shape[0]), 1) * x if x.shape[0] < 10 else x


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Mixes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)
