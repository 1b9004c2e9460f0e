"""A small generator, for methods that make their own samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from understudy.batch import Batch
from understudy.errors import InputError

__all__ = ["Generator", "shape_of"]


class Generator(nn.Module):
    """From noise ``[N, latent]`` to samples of one shape, each channel with mean 0 and variance 1 over a batch.

    For pictures ``[C, H, W]`` maps of a quarter of the size, twice as large and convolved, twice as large and convolved, as in DAFL
    (Chen et al. 2019, arXiv:1904.01186); for vectors ``[D]`` two linear layers.

    Args:
        shape: of a sample, without the axis of the samples.
        latent: of the noise.
        width: channels or units of the first layer.
    """

    def __init__(self, shape: Sequence[int], *, latent: int = 100, width: int = 128) -> None:
        super().__init__()
        shape = tuple(shape)
        if len(shape) not in (1, 3) or min(shape, default=0) < 1 or latent < 1 or width < 2:
            raise InputError(
                f"Generator: shape={list(shape)}, latent={latent!r} and width={width!r}: makes pictures [C, H, W] and vectors [D]. "
                "Give a generator of your own for samples of another shape."
            )
        self.latent = latent
        if len(shape) == 1:
            hidden = [nn.Linear(latent, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2)]
            self.layers = nn.Sequential(*hidden, nn.Linear(width, shape[0]), nn.BatchNorm1d(shape[0], affine=False))
            return
        channels, *area = shape
        quarter, half = ([math.ceil(side / n) for side in area] for n in (4, 2))
        self.layers = nn.Sequential(
            nn.Linear(latent, width * math.prod(quarter)),
            nn.Unflatten(1, (width, *quarter)),
            nn.BatchNorm2d(width),
            nn.Upsample(size=tuple(half)),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width, eps=0.8),
            nn.LeakyReLU(0.2),
            nn.Upsample(size=tuple(area)),
            nn.Conv2d(width, width // 2, 3, padding=1),
            nn.BatchNorm2d(width // 2, eps=0.8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, noise: Tensor) -> Tensor:
        """The samples."""
        made: Tensor = self.layers(noise)
        return made


def shape_of(method: str, shape: Sequence[int] | None, example: object) -> tuple[int, ...]:
    """Of a sample: as given, or the example's."""
    if shape is not None:
        return tuple(shape)
    inputs = None if example is None else Batch.of(example).get("input")
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InputError(
            f"{method}: give shape=, that of an input without the samples' axis, such as (3, 32, 32); or example=, a small batch "
            "whose inputs are one tensor of real numbers."
        )
    return tuple(inputs.shape[1:])
