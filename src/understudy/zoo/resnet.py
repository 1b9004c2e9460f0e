"""A small residual network for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from understudy.zoo.limits import check_layers, check_parameters, check_sizes

__all__ = ["ResNet"]


class ResNet(nn.Module):
    """A residual network for images of any size, as those for CIFAR-10.

    A 3x3 convolution, ``stem``; stages ``layer1``, ``layer2``, ... of blocks of two 3x3 convolutions with BatchNorm; a mean
    over the area; and ``head``. From the second stage on each halves rows and columns and doubles the channels. With
    ``channels=16, blocks=(3, 3, 3)`` it is ResNet-20, of 269,722 parameters for 10 classes; as it stands, 75,290.

    Args:
        channels: of the first stage.
        blocks: of each stage.
        inputs: channels of the image.
        classes: outputs.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2, with shortcuts of kind A, which have no parameters.
    """

    def __init__(
        self, channels: int = 16, blocks: Sequence[int] = (1, 1, 1), inputs: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "inputs": inputs, "classes": classes}
        check_sizes("ResNet", sizes, {"blocks": blocks or "none"})
        check_layers("ResNet", 2 * sum(blocks))
        widths = [channels * 2**stage for stage in range(len(blocks))]
        convolutions = sum(18 * width**2 * count for width, count in zip(widths, blocks, strict=True))
        check_parameters("ResNet", convolutions + 9 * inputs * channels + widths[-1] * classes)
        self.stem = nn.Sequential(_convolution(inputs, channels), nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.stages = [f"layer{stage}" for stage in range(1, len(blocks) + 1)]
        before = channels
        for name, width, count in zip(self.stages, widths, blocks, strict=True):
            first = Block(before, width, stride=1 if name == "layer1" else 2)
            self.add_module(name, nn.Sequential(first, *(Block(width, width) for _ in range(count - 1))))
            before = width
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, inputs, H, W]``."""
        x = self.stem(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Block(nn.Module):
    """Two convolutions beside a shortcut.

    Args:
        inputs: channels that come in.
        outputs: channels that go out, as many or more.
        stride: of the first convolution, and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.more = stride, outputs - inputs
        self.conv1, self.norm1 = _convolution(inputs, outputs, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _convolution(outputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[N, outputs, H / stride, W / stride]``, rounded up."""
        found = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride] if self.stride > 1 else x
        if self.more:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(found + shortcut)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
