"""The networks for 32x32 images on which published distillation is measured: resnet-d x 4 and wide residual networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

CLASSES = 100


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.down(x))


class Wide(nn.Module):
    """The same with normalization before each convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(first))))
        return out + (x if self.down is None else self.down(first))


class Net(nn.Module):
    """A stem, three stages, the mean over the area, and a linear layer."""

    def __init__(self, block: type[Basic] | type[Wide], blocks: int, stem: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[-1] if block is Wide else stem)
        self.last = block is Wide
        sizes = [stem, *widths]
        for i, (before, width) in enumerate(zip(sizes, widths, strict=False)):
            stage = [block(before if j == 0 else width, width, 2 if i and j == 0 else 1) for j in range(blocks)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*stage))
        self.fc = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if not self.last:
            x = F.relu(self.bn(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        if self.last:
            x = F.relu(self.bn(x))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def resnet_x4(depth: int) -> Net:
    return Net(Basic, (depth - 2) // 6, 32, (64, 128, 256))


def wrn(depth: int, widen: int) -> Net:
    return Net(Wide, (depth - 4) // 6, 16, (16 * widen, 32 * widen, 64 * widen))


PAIRS = {
    "resnet32x4 -> resnet8x4": (lambda: resnet_x4(32), lambda: resnet_x4(8)),
    "wrn-40-2 -> wrn-16-2": (lambda: wrn(40, 2), lambda: wrn(16, 2)),
}
