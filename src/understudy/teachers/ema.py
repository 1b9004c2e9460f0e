"""The moving average of a model that trains."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from understudy.errors import InputError
from understudy.progress import Progress
from understudy.taps import unwrap

__all__ = ["Ema"]


class Ema(nn.Module):
    """An exponential moving average of a model's weights: a teacher that follows its student, or what is evaluated.

    ``average = decay * average + (1 - decay) * weights`` after every step. Floating-point buffers (BatchNorm) are
    averaged like weights, others are copied. Its state is in the method's ``state_dict``; its weights are not among
    the method's parameters.

    Args:
        source: the model to follow; it is copied.
        decay: in [0, 1). The average looks back over about ``1 / (1 - decay)`` steps.
    Source: Tarvainen & Valpola 2017 (Mean Teacher), arXiv:1703.01780, equation 1.
    Differs: the paper does not say what becomes of buffers.
    """

    def __init__(self, source: nn.Module, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise InputError(f"Ema: decay {decay!r} is not allowed; it must be in [0, 1), and .99 to .9999 is usual.")
        source = unwrap(source)
        if isinstance(source, FSDPModule):
            raise InputError(
                "Ema: a model that fully_shard has spread over ranks cannot be copied. Make the Ema before fully_shard, and leave settings.ema out."
            )
        self.decay = decay
        # In plain dictionaries, so that neither is a submodule: the source has its owner, the average no gradient.
        self._held = {"source": source, "model": copy.deepcopy(source).requires_grad_(False).eval()}

    @property
    def source(self) -> nn.Module:
        """The model that is followed."""
        return self._held["source"]

    @property
    def model(self) -> nn.Module:
        """The average, frozen and in eval mode."""
        return self._held["model"]

    @torch.no_grad()
    def after(self, progress: Progress) -> None:
        """Take in the source's weights, once after each step."""
        for mine, theirs in zip(_state(self.model), _state(self.source), strict=True):
            theirs = theirs.full_tensor() if isinstance(theirs, DTensor) else theirs
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - self.decay)
            else:
                mine.copy_(theirs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The average's output."""
        return self.model(*args, **kwargs)

    def _apply(self, fn: Any, recurse: bool = True) -> Ema:
        self.model._apply(fn, recurse)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.model.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        mine = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
        missing, unexpected = self.model.load_state_dict(mine, strict=False)
        missing_keys.extend(prefix + key for key in missing)
        unexpected_keys.extend(prefix + key for key in unexpected)


def _state(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
