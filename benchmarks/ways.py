"""How long a frozen teacher takes in each way that it can run, and how far off its answers then are.

    python benchmarks/ways.py                        resnet32x4, batch 64, some minutes on one core
    python benchmarks/ways.py --model wrn-40-2
    python benchmarks/ways.py --only int8,bf16

Pictures and weights are random, but BatchNorm has seen a few batches, so that activations are of the sizes that it makes them. Ways that
are made from samples are made from other ones than those on which they are compared. One thread; the ways take turns; a figure is the
median over the rounds of process CPU time, divided by that of the model as it is, in float32. First is the wall time until the first
answer, with export or compilation. Errors are relative: of the logits, and of the gradient of KL at T = 4 for a student that has yet to learn.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from importlib import metadata

import torch
from cifar import CLASSES, resnet_x4, wrn
from torch import Tensor, nn

from store import machine
from understudy.batch import call
from understudy.errors import UnderstudyError
from understudy.inference import WAYS, Inference

BATCH, TEMPERATURE = 64, 4.0
MODELS = {"resnet32x4": lambda: resnet_x4(32), "wrn-40-2": lambda: wrn(40, 2)}


def warmed(model: nn.Module) -> nn.Module:
    """With the statistics of BatchNorm that these pictures give."""
    with torch.no_grad():
        for _ in range(10):
            model.train()(torch.randn(BATCH, 3, 32, 32))
    return model.eval()


def first(asked: Inference, inputs: Tensor) -> tuple[Tensor, float]:
    began = time.perf_counter()
    with torch.no_grad():
        answer, _ = asked.read(call, inputs, frozenset())
    return answer, time.perf_counter() - began


def once(asked: Inference, inputs: Tensor) -> float:
    began = time.process_time()
    with torch.no_grad():
        asked.read(call, inputs, frozenset())
    return time.process_time() - began


def gradient_error(found: Tensor, wanted: Tensor, student: Tensor) -> float:
    q, p, s = ((logits / TEMPERATURE).softmax(-1) for logits in (found, wanted, student))
    return float((q - p).norm() / (s - p).norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet32x4", choices=sorted(MODELS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default=",".join(WAYS), help="ways, by their names, with commas between")
    told = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = warmed(MODELS[told.model]())
    inputs, *samples = (torch.randn(BATCH, 3, 32, 32) for _ in range(3))
    student = torch.randn(BATCH, CLASSES)
    asked: dict[str, Inference] = {}
    answers: dict[str, tuple[Tensor, float]] = {}
    for way in ["fp32", *(name for name in told.only.split(",") if name != "fp32")]:
        try:
            asked[way] = Inference(model, way, samples)
            answers[way] = first(asked[way], inputs)
        except UnderstudyError as error:
            asked.pop(way, None)
            print(f"{way} is not measured: {error}")
    seconds: dict[str, list[float]] = {way: [] for way in asked}
    for _ in range(told.rounds):
        for way, inference in asked.items():
            seconds[way].append(once(inference, inputs))
    packages = ("torch", "onnxruntime", "torchao")
    versions = [f"{name} {metadata.version(name)}" for name in packages if importlib.util.find_spec(name)]
    print(f"{machine()}; {', '.join(versions)}")
    print(f"{told.model}, batch {BATCH}, one thread; medians of {told.rounds} rounds\n")
    print(
        f"{'way':16}{'CPU ms':>10}{'of fp32':>10}{'first, s':>10}{'logits off':>12}{'gradient off':>14}{'other class':>13}"
    )
    wanted, base = answers["fp32"][0], statistics.median(seconds["fp32"])
    for way in asked:
        answer, began = answers[way]
        ms, off = statistics.median(seconds[way]), float((answer - wanted).norm() / wanted.norm())
        other = float((answer.argmax(-1) != wanted.argmax(-1)).float().mean())
        print(
            f"{way:16}{1e3 * ms:10.1f}{ms / base:10.3f}{began:10.1f}{100 * off:11.2f}%"
            f"{100 * gradient_error(answer, wanted, student):13.2f}%{100 * other:12.1f}%"
        )


if __name__ == "__main__":
    main()
