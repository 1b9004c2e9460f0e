"""Methods of inner layers and of attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from understudy import Method, methods

from .method_case import Case

WEIGHTLESS = {"weight": 0}


def seeing(method: Callable[..., Method], data: Callable[..., Any] | None = None) -> Callable[..., Method]:
    """The method as a job makes it, with an example."""

    def make(student: nn.Module, teacher: nn.Module, **options: Any) -> Method:
        example = (data or pictures)(4)[0]
        return method(student, teacher, **{"example": example.to(next(student.parameters()).dtype), **options})

    return make


def pictures(rows: int = 12) -> tuple[Tensor, Tensor]:
    """What Case takes if not told otherwise."""
    return Case(methods.kd).data(rows)


class Transformer(nn.Module):
    """Nine patches of a picture of 6x6, and blocks of attention with a layer each for queries, keys and values."""

    def __init__(self, width: int, depth: int, seed: int, batch_norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(1, width, 2, stride=2)
            self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
            self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
            self.drop = nn.Dropout(0.3 if batch_norm else 0.0)
            self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x).flatten(2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x.mean(1)))


class Block(nn.Module):
    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        attended = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + torch.tanh(self.out(attended))


def small(**more: bool) -> nn.Module:
    return Transformer(4, 2, seed=1, **more)


def large(seed: int = 2, **more: bool) -> nn.Module:
    return Transformer(8, 3, seed=seed, **more).train()


def of_tokens(method: Callable[..., Method], **more: Any) -> Case:
    return Case(seeing(method), student=small, teacher=large, **more)


# In the first of two stages what comes in the second has no gradient yet, nor has the last layer.
CASES = {
    "attention_transfer": Case(seeing(methods.attention_transfer), plain=WEIGHTLESS),
    "pkd": Case(seeing(methods.pkd), plain=WEIGHTLESS, per_sample=False),
    "nst": Case(seeing(methods.nst), plain=WEIGHTLESS),
    "cwd": Case(seeing(methods.cwd), plain=WEIGHTLESS),
    "fsp": Case(seeing(methods.fsp), plain=WEIGHTLESS),
    "kdsvd": Case(seeing(methods.kdsvd), plain=WEIGHTLESS),
    # BatchNorm of their own, which looks at the batch.
    "ab": Case(seeing(methods.ab), plain=WEIGHTLESS, per_sample=False, idle=("models.student.head",)),
    "ofd": Case(seeing(methods.ofd), plain=WEIGHTLESS, per_sample=False),
    "review_kd": Case(seeing(methods.review_kd), plain=WEIGHTLESS, per_sample=False),
    # Without its first stage, in which the student has the labels alone; tests/test_methods_feature.py has that stage.
    "factor_transfer": Case(seeing(partial(methods.factor_transfer, share=0)), plain=WEIGHTLESS, per_sample=False),
    "mgd": Case(seeing(methods.mgd), plain=WEIGHTLESS, per_sample=False),  # it draws
    "vid": Case(seeing(methods.vid), plain=WEIGHTLESS),
    "srd": Case(seeing(methods.srd), plain={"weight": 0, "soft_weight": 0}, per_sample=False),
    "hint_stages": Case(
        seeing(methods.hint_stages),
        plain={"weight": 0, "soft_weight": 0},
        idle=("models.student.head", "models.student.layer2", "models.student.layer3"),
    ),
    "residual_hint": Case(seeing(methods.residual_hint), plain=WEIGHTLESS),
    "vitkd": of_tokens(methods.vitkd, plain={"weight": 0, "generation_weight": 0}, per_sample=False),  # it draws
    "tinybert": of_tokens(methods.tinybert, plain={"weight": 0, "soft_weight": 0, "label_weight": 1}),
    "minilm": Case(methods.minilm, plain=WEIGHTLESS, student=small, teacher=large),
    "minilmv2": Case(methods.minilmv2, plain=WEIGHTLESS, student=small, teacher=large),
}
