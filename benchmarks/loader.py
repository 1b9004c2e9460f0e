"""Images a second and core that are fed to a model: ours against a DataLoader of torch with Pillow's transforms.

    python benchmarks/loader.py                   about two minutes
    python benchmarks/loader.py --rounds 3

The images are 50,000 of 32x32x3 random bytes, as many as CIFAR-10 has. Every way pads each by 4 pixels of black, cuts 32x32
out of that at random, flips half of them, turns them into float32 and normalises them, in batches of 128 in random order.
The transforms of the DataLoader are written out with Pillow and numpy, one image at a time, because a torchvision that goes
with every torch is not at hand. "Pillow" takes torchvision's steps one by one: its random numbers are torch's, and normalising
copies the image, makes tensors of mean and deviation, and checks them. "Pillow, lean" leaves out what can be left out.

"ours" is what training uses: a Feed of Pictures. The ways take turns; what is counted is the CPU time of this process and of
its workers, with their start; the figure is the median over the rounds, and ratios are medians of each round's. One thread.
"""

from __future__ import annotations

import argparse
import platform
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from understudy import Settings
from understudy.data import Augment, Pictures
from understudy.feed import Feed

IMAGES, BATCH, PAD, SIDE = 50_000, 128, 4, 32
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
GOAL = 15
"""Times as many images a second and core as the DataLoader, for batches made in this process."""


class Lean(Dataset[tuple[Tensor, int]]):
    """One image at a time, with as little around Pillow as there can be."""

    def __init__(self, images: np.ndarray[Any, Any], labels: list[int]) -> None:
        self.images, self.labels = images, labels
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.normalised(self.cut(Image.fromarray(self.images[i]))), self.labels[i]

    def cut(self, image: Image.Image) -> Image.Image:
        left, top = random.randint(0, 2 * PAD), random.randint(0, 2 * PAD)
        image = ImageOps.expand(image, border=PAD, fill=0).crop((left, top, left + SIDE, top + SIDE))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else image

    def normalised(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
        return pixels.sub_(self.mean).div_(self.std)


class Pillow(Lean):
    """In torchvision's steps."""

    def cut(self, image: Image.Image) -> Image.Image:
        image = ImageOps.expand(image, border=PAD, fill=0)
        top = int(torch.randint(0, image.height - SIDE + 1, size=(1,)).item())
        left = int(torch.randint(0, image.width - SIDE + 1, size=(1,)).item())
        image = image.crop((left, top, left + SIDE, top + SIDE))
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(1) < 0.5 else image

    def normalised(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image, np.uint8, copy=True)).view(SIDE, SIDE, 3).permute(2, 0, 1)
        pixels = pixels.contiguous().to(torch.float32).div(255).clone()
        mean, std = (torch.as_tensor(values, dtype=pixels.dtype, device=pixels.device) for values in (MEAN, STD))
        if (std == 0).any():
            raise ValueError
        return pixels.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def pillow(data: Lean, workers: int) -> Iterable[Tensor]:
    for batch, _ in DataLoader(data, batch_size=BATCH, shuffle=True, num_workers=workers):
        yield batch


def ours(pictures: Pictures, workers: int) -> Iterable[Tensor]:
    feed = Feed(pictures, Settings(epochs=1, batch_size=BATCH, workers=workers))
    for (batch,) in feed.batches(0, feed.steps):
        yield batch["input"]


def used() -> float:
    """CPU seconds of this process, and of its workers that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def seconds(way: Callable[[], Iterable[Tensor]]) -> float:
    """For each image."""
    before, seen = used(), 0
    for batch in way():
        assert batch.shape[1:] == (3, SIDE, SIDE)
        assert batch.dtype is torch.float32
        seen += len(batch)
    return (used() - before) / seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
    labels = torch.arange(IMAGES) % 10
    few = images[: IMAGES // 5], labels[: IMAGES // 5].tolist()  # what an image costs does not depend on their number
    steps, lean = Pillow(*few), Lean(*few)
    options: Any = {"augment": Augment(crop=PAD, flip=True), "mean": MEAN, "std": STD}
    plain, last = (Pictures((images, labels), layout=layout, **options) for layout in ("contiguous", "channels_last"))
    ways: dict[str, Callable[[], Iterable[Tensor]]] = {
        "DataLoader, Pillow": lambda: pillow(steps, 0),
        "DataLoader, Pillow, 2 workers": lambda: pillow(steps, 2),
        "DataLoader, Pillow, lean": lambda: pillow(lean, 0),
        "ours, contiguous": lambda: ours(plain, 0),
        "ours, channels_last": lambda: ours(last, 0),
        "ours, contiguous, 2 workers": lambda: ours(plain, 2),
        "ours, channels_last, 2 workers": lambda: ours(last, 2),
    }
    times = {name: list[float]() for name in ways}
    for turn in range(given.rounds + 1):
        for name, way in ways.items():
            found = seconds(way)
            if turn:  # the first is to warm up
                times[name].append(found)
    print(
        f"PyTorch {torch.__version__}, Pillow {PIL.__version__}, {platform.machine()}, one thread, medians of {given.rounds} interleaved rounds"
    )
    print(
        f"{IMAGES:,} images of {SIDE}x{SIDE}x3 bytes, batches of {BATCH}; ours keeps {plain.stored.nbytes / IMAGES / 1e3:.1f} kB an image"
    )
    print(f"{'':34}{'images/s a core':>18}{'microseconds':>15}{'times':>9}")
    base, kept = times["DataLoader, Pillow"], True
    for name, each in times.items():
        ratio = statistics.median(a / b for a, b in zip(base, each, strict=True))
        own = statistics.median(each)
        missed = name.startswith("ours") and "workers" not in name and ratio < GOAL
        kept &= not missed
        print(f"{name:34}{1 / own:18,.0f}{own * 1e6:15.2f}{ratio:8.1f}x{'  NOT KEPT' if missed else ''}")
    print(f"promised: {GOAL}x for batches that are made in this process")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
