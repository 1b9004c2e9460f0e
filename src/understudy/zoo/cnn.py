"""A small convolutional network for small images."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from understudy.zoo.limits import check_parameters, check_sizes

__all__ = ["CNN"]


class CNN(nn.Module):
    """Three 3x3 convolutions with BatchNorm, the second with stride 2, then a mean over the area and a linear layer.

    Args:
        channels: of the first layer; the other two have twice as many. With 32 it has 56,554 parameters, with 8 it has 3,778.
        classes: outputs.
        inputs: channels of the image.
    """

    def __init__(self, channels: int, classes: int = 10, inputs: int = 1) -> None:
        super().__init__()
        check_sizes("CNN", {"channels": channels, "classes": classes, "inputs": inputs})
        check_parameters("CNN", 54 * channels**2 + 9 * inputs * channels + 2 * channels * classes)
        self.layer1 = _layer(inputs, channels)
        self.layer2 = _layer(channels, 2 * channels, stride=2)
        self.layer3 = _layer(2 * channels, 2 * channels)
        self.head = nn.Linear(2 * channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, inputs, H, W]``."""
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
