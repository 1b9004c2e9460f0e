"""What each target of an export makes of three small models: bytes, error and agreement, and accuracy scored from the file.

A CNN of 56,554 parameters, one of 3,778 and a residual network learn the handwritten digits for a few seconds each. Each is then
written for every target whose packages are here, compared with the model on the 400 test images, and scored on them. Targets in
8 bits see 256 training images. A target without a runtime on this system is marked "not run".

    python examples/exports.py          two minutes on one core with all packages
    python examples/exports.py onnx onnx-int8
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import understudy as us
from understudy.data.digits import digits
from understudy.errors import UnderstudyError
from understudy.export import TARGETS, load, write_folder
from understudy.measure import accuracy
from understudy.report import Column, render
from understudy.zoo import CNN, ResNet

FILES = [name for name, form in TARGETS.items() if not form.brings]  # a page's file is that of ONNX
COLUMNS = (
    Column("model", "model"),
    Column("target", "target"),
    Column("size", "kB", "{:.1f}"),
    Column("max_error", "largest error", "{:.1g}"),
    Column("agreement", "agreement", "{:.4f}"),
    Column("accuracy", "accuracy", "{:.4f}"),
)


def models(steps: int) -> dict[str, nn.Module]:
    data = digits()
    made: dict[str, nn.Module] = {}
    for name, model in (("CNN(32)", CNN(32)), ("CNN(8)", CNN(8)), ("ResNet(8)", ResNet(8, inputs=1))):
        settings = us.Settings(steps=steps, batch_size=64, optimizer=us.Optim("AdamW", lr=0.01, schedule=us.cosine(1, 0)), device="cpu")  # fmt: skip
        us.train(us.methods.alone(model), data.train, settings)
        made[name] = model.eval()
    return made


def row(model: nn.Module, target: str, x: Tensor, y: Tensor, seen: Tensor) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        found = write_folder(Path(folder) / "deploy", model, x[:1], x, task_name="classification", target=target, calibration=seen)  # fmt: skip
        told: dict[str, Any] = {"size": found["size_mb"] * 1000, **found}
        if found["samples"]:
            said = load(Path(folder) / "deploy")(x)
            told["accuracy"] = float((said.argmax(1) == y).double().mean())
        return told


def main(targets: Iterable[str] = FILES, steps: int = 480) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    data, rows = digits(), []
    (x, y), seen = data.test, data.train[0][:256]
    for name, model in models(steps).items():
        rows.append({"model": name, "target": "the model itself", "accuracy": accuracy(model, x, y)})
        for target in targets:
            if not all(importlib.util.find_spec(package) for package in TARGETS[target].packages):
                continue
            try:
                told = row(model, target, x, y, seen)
            except UnderstudyError as error:
                print(f"{name}, {target}: {error}")
                continue
            rows.append({"model": name, "target": target if told["samples"] else f"{target} (not run)", **told})
    Console(width=100).print(render(rows, COLUMNS, title=f"Digits, {len(x)} test images"))
    return rows


if __name__ == "__main__":
    main(sys.argv[1:] or FILES)
