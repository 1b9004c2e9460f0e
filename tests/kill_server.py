"""Runs that are killed: a process with torch loaded that forks a child for each run, as starting anew would take seconds.

The child tells what it does as it does it, one line for each event; this process sends a signal right after the event
that a request names. Requests and answers are lines of JSON on stdin and stdout.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from examples_methods import Adversarial, Critic, Net, contrastive
from understudy import (
    Callback,
    Distillation,
    Ema,
    Optim,
    Progress,
    Settings,
    Term,
    checkpoint,
    cosine,
    engine,
    feed,
    linear,
    source,
    writing,
)
from understudy.checkpoint import Checkpoints, freeze, thaw
from understudy.errors import UnderstudyError
from understudy.folder import Journal
from understudy.losses import cross_entropy, kl, mse
from understudy.measure.quality import agreement
from understudy.method import Method
from understudy.projectors import Linear
from understudy.signals import Interrupts
from understudy.validation import Validation

torch.set_num_threads(1)

SAMPLES, SILENCE_S = 46, 120.0


# -- the runs ----------------------------------------------------------------------------------------------------------


def material(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 12, generator=g)
    return x, x[:, :5].argmax(1)


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Samples that all three generators of random numbers shake."""

    def __init__(self) -> None:
        self.x, self.y = material(SAMPLES, 1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, sample: int) -> tuple[Tensor, Tensor]:
        scale = 1 + 0.1 * random.random() + 0.1 * float(np.random.rand())
        return self.x[sample] * scale + 0.1 * torch.randn(12), self.y[sample]


def everything() -> Distillation:
    student = Net(6)
    return Distillation(
        Term(cross_entropy, "student", "batch.label", weight=linear(0.5, 0.1)),
        Term(partial(kl, temperature=2.0), "student", "teacher"),
        Term(mse, "student.body", "teacher.body", project=Linear(), weight=0.1),
        Term(partial(kl, temperature=3.0), "student", "mean", weight=0.2),
        student=student,
        teacher=Net(10),
        mean=Ema(student, 0.9),
        watch={"agreement": (agreement, "student", "teacher")},
    )


def labels() -> Distillation:
    return Distillation(Term(cross_entropy, "student", "batch.label"), student=Net(6))


COMMON: dict[str, Any] = {
    "steps": 42,
    "batch_size": 8,
    "log_every": 2,
    "save_every": 9,
    "validate_every": 5,
    "patience": 5,
}
ADAMW = Optim("AdamW", lr=0.02, schedule=cosine(1, 0), warmup=4, clip=1.0, groups={"*.bias": {"weight_decay": 0.0}})
RUNS: dict[str, tuple[Any, Any, Settings]] = {
    "everything": (everything, Augmented, Settings(**COMMON, ema=0.8, optimizer=ADAMW, accumulate=2)),
    "momentum": (
        labels,
        lambda: material(SAMPLES, 1),
        Settings(
            **COMMON | {"save_every": 4}, drop_last=True, optimizer=Optim("SGD", lr=0.1, momentum=0.9, nesterov=True)
        ),
    ),
    "adversarial": (
        lambda: Adversarial(Net(6), Net(10), Critic()),
        Augmented,
        Settings(**COMMON, optimizer={"critic": Optim("RMSprop", lr=0.01), "student": ADAMW}),
    ),
    "bank": (
        lambda: contrastive(Net(6), Net(10), SAMPLES),
        Augmented,
        Settings(**COMMON, precision="bf16", ema=0.9, optimizer=Optim("NAdam", lr=0.01)),
    ),
    "workers": (everything, Augmented, Settings(**COMMON, ema=0.8, optimizer=ADAMW, workers=2)),
}


def validate(model: nn.Module) -> dict[str, float]:
    x, y = material(200, 2)
    return {"accuracy": float((model(x).argmax(1) == y).float().mean())}


# -- engines in which one thing is left out ----------------------------------------------------------------------------


def without_seeds(stream: str, real: Any) -> Any:
    return lambda seed, name, *parts: None if name == stream else real(seed, name, *parts)


def break_engine(what: str) -> None:
    match what:
        case "dropout":
            engine.seed_all = without_seeds("step", engine.seed_all)
        case "augmentation":
            source.seed_all = without_seeds("sample", source.seed_all)
        case "order":
            feed.permutation = lambda samples, seed, epoch: torch.randperm(samples)
        case "optimizer":
            engine.load_player = lambda player, state: None
        case "average":
            real = engine.load_module
            engine.load_module = lambda module, state: None if isinstance(module, Ema) else real(module, state)
        case "validation":
            Validation.load = lambda self, state, model: None
        case "journal":
            opened = Journal.open
            Journal.open = lambda self, at: opened(self, self.path.stat().st_size if at else 0)
        case "signals":
            Interrupts._handle = lambda self, number, frame: setattr(self, "asked", True)


# -- the child ---------------------------------------------------------------------------------------------------------


class Reports(Callback):
    """Says each step; waits for ever after one of them if asked to."""

    def __init__(self, say: Any, block: int | None) -> None:
        self.say, self.block = say, block

    def started(self, progress: Progress) -> None:
        self.say(f"started {progress.step}")

    def stepped(self, progress: Progress) -> None:
        self.say(f"step {progress.step + 1}")
        if progress.step + 1 == self.block:
            self.say("blocked")
            while True:
                time.sleep(0.01)

    def logged(self, record: Any) -> None:
        if "valid" in record:
            self.say(f"validated {record['step']}")


def report_saving(say: Any) -> None:
    """Say each stage of a save, so that a kill can fall between any two of them."""
    now: dict[str, Any] = {}
    real = {name: getattr(checkpoint, name) for name in ("publish", "sync", "write_text")}

    def publish(folder: Path, *args: Any) -> None:
        now.update(step=int(folder.name.removeprefix("step-")), syncs=0)
        say(f"saving {now['step']}")
        real["publish"](folder, *args)
        say(f"published {now['step']}")

    def sync(path: Path) -> None:
        now["syncs"] = now.get("syncs", 0) + 1
        say(f"syncing {now.get('step', 'student')}.{now['syncs']}")
        real["sync"](path)

    def write_text(path: Path, text: str) -> None:
        real["write_text"](path, text)
        say(f"saved {now['step']}")

    checkpoint.publish, checkpoint.sync, checkpoint.write_text = publish, sync, write_text
    writing.sync = sync
    handle = Interrupts._handle

    def handled(self: Interrupts, number: int, frame: Any) -> None:
        handle(self, number, frame)
        say("signalled")

    Interrupts._handle = handled


def sha(value: Any) -> str:
    tree, tensors = freeze(value)
    digest = hashlib.sha256(json.dumps(tree).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprints(method: Method, folder: Path, result: Any) -> dict[str, str]:
    """A hash of each thing that a run leaves behind."""
    found = Checkpoints(folder / "checkpoints").load()
    assert found is not None
    state = thaw(*found)
    return {
        "student": sha(method.student.state_dict()),
        "student's file": hashlib.sha256((folder / "student.safetensors").read_bytes()).hexdigest(),
        "method": sha(state["method"]),
        "optimizer": sha(state["players"]),
        "average": sha(state["ema"]),
        "validation": sha(state["validation"]),
        "metrics": hashlib.sha256((folder / "metrics.jsonl").read_bytes()).hexdigest(),
        "result": sha({k: v for k, v in dataclasses.asdict(result).items() if k != "seconds"}),
        "files": " ".join(sorted(p.name for p in folder.iterdir())),
    }


def run(asked: dict[str, Any], say: Any) -> int:
    torch.set_num_threads(asked.get("threads", 1))
    if asked.get("broken"):
        break_engine(asked["broken"])
    report_saving(say)
    make, data, settings = RUNS[asked["run"]]
    torch.manual_seed(0)
    method = make()
    folder = Path(asked["folder"])
    answer: dict[str, Any] = {"error": ""}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = engine.train(
                method,
                data(),
                settings,
                validate=validate,
                folder=folder,
                resume=asked.get("resume", True),
                callbacks=[Reports(say, asked.get("block"))],
            )
            code, answer["parts"] = 0, fingerprints(method, folder, result)
        except UnderstudyError as error:
            code, answer["error"] = error.exit_code, f"{type(error).__name__}: {error}"
        except BaseException:
            code, answer["error"] = 1, traceback.format_exc()
    answer["warnings"] = [str(w.message) for w in caught]
    say("answer " + json.dumps(answer))
    return code


# -- the parent --------------------------------------------------------------------------------------------------------


def serve(asked: dict[str, Any]) -> dict[str, Any]:
    """Fork a child for a run; send each signal that was asked for right after its event."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        code = 1
        try:
            code = run(asked, lambda text: os.write(writer, f"{text}\n".encode()))
        finally:
            os._exit(code)
    os.setpgid(child, child)
    os.close(writer)
    try:
        return follow(child, reader, asked)
    finally:
        os.close(reader)


def follow(child: int, reader: int, asked: dict[str, Any]) -> dict[str, Any]:
    signals = list(asked.get("signals", []))
    events: list[str] = []
    rest, status, heard = b"", None, time.monotonic()
    while True:
        if select.select([reader], [], [], 0.01)[0]:
            data = os.read(reader, 65536)
            rest += data
            heard = time.monotonic()
        else:
            data = b""
        *lines, rest = rest.split(b"\n")
        for line in lines:
            events.append(line.decode())
            if signals and events[-1] == signals[0]["after"]:
                wanted = signals.pop(0)
                time.sleep(wanted.get("delay", 0.0))
                (os.killpg if asked.get("group") else os.kill)(child, wanted["signal"])
        if status is None:
            done, status = os.waitpid(child, os.WNOHANG)
            status = status if done else None
        elif not data:
            break
        if time.monotonic() - heard > SILENCE_S:
            os.killpg(child, signal.SIGKILL)
    said = [e for e in events if e.startswith("answer ")]
    answer = json.loads(said[0].removeprefix("answer ")) if said else {}
    told = {"status": os.waitstatus_to_exitcode(status), "events": [e for e in events if e not in said], **answer}
    return {**told, "left": left(child) if asked.get("group") else False, "unsent": len(signals)}


def left(group: int) -> bool:
    """Whether any process of the group outlives it."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return True


def warm_up() -> None:
    """Let torch import now what it imports at the first step, and not anew in each child."""
    make, data, settings = RUNS["everything"]
    with tempfile.TemporaryDirectory() as folder:
        engine.train(make(), data(), dataclasses.replace(settings, steps=2), validate=validate, folder=Path(folder))
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a thread was started: what is forked now could hang"


if __name__ == "__main__":
    warm_up()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line))), flush=True)
