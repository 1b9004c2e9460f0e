"""Small models of every shape that a compression has to deal with, and samples for each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy.inputs import Inputs, run
from understudy.zoo import CNN, MLP, ResNet


class Flattened(nn.Module):
    """Convolutions, and a linear layer that sees every pixel of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.deep = nn.Sequential(nn.Conv2d(16, 24, 3, padding="same", padding_mode="reflect"), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(24 * 16, 32), nn.ReLU(), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.deep(self.conv(x)))


class Dealt(nn.Module):
    """Channels that are dealt out in groups, and some that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3)
        self.grouped = nn.Sequential(nn.Conv2d(16, 16, 3, groups=4), nn.GroupNorm(4, 16), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.grouped(self.first(x)).mean((2, 3)))


class Attending(nn.Module):
    """Attention whose code knows the number of heads, and not their width."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        q, k, v = (f(x).view(len(x), x.shape[1], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(seen)
        return self.head((x + self.down(self.up(x).relu())).mean(1))


def bert(**more: Any) -> nn.Module:
    library = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 16}  # fmt: skip
    model: nn.Module = library.BertForSequenceClassification(library.BertConfig(**sizes, num_labels=3, **more)).eval()
    return model


def vit() -> nn.Module:
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 8, "patch_size": 4, "num_channels": 1}  # fmt: skip
    model: nn.Module = library.ViTForImageClassification(library.ViTConfig(**sizes, num_labels=3)).eval()
    return model


SMALL: dict[str, tuple[Any, tuple[int, ...]]] = {
    "cnn": (lambda: CNN(16), (1, 8, 8)),
    "resnet": (lambda: ResNet(16, (2, 2, 2)), (3, 8, 8)),
    "mlp": (lambda: MLP(64, 10), (64,)),
    "flattened": (Flattened, (1, 8, 8)),
}


def small(name: str) -> tuple[nn.Module, Tensor]:
    """A model in eval mode, with statistics of its own in the normalizations, and 40 samples."""
    torch.manual_seed(0)
    make, shape = SMALL[name]
    model, x = make(), torch.randn(40, *shape)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.eval(), x


def words(samples: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return {"input_ids": torch.randint(0, 50, (samples, 8)), "attention_mask": torch.ones(samples, 8, dtype=torch.long)}


def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        given = run(model, inputs)
    return given if isinstance(given, Tensor) else given.logits


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[name]) for name, t in a.items())
