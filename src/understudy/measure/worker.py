"""A process that runs one model and nothing else, and says how it fares: see :mod:`understudy.measure.fresh`.

Run as a script, so that it imports numpy, the model's runtime, and nothing of understudy: its memory is that of a deployment.
It is given one JSON object, says ready, and then times a block of calls for each line that it reads.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

__all__ = ["RUNTIMES", "Refused", "Running", "Taken"]

WARMUP, REWARM = 10, 2
"""Calls that are not timed: before the first block, and before those after it, when others have had their turn."""
LEAST_RUNS = 3
"""Before the memory is looked at: the second call may still allocate."""
MB = 1e6


class Refused(Exception):
    """Why a model cannot be measured: ``kind`` is import, load, shape, batch, run, memory or limit."""

    def __init__(self, kind: str, told: str) -> None:
        super().__init__(told)
        self.kind = kind


@dataclass(frozen=True)
class Taken:
    """An input of a model: its name, its axes (None for one of any length; None where nobody knows) and its dtype."""

    name: str
    shape: tuple[int | None, ...] | None
    dtype: Any


@dataclass(frozen=True)
class Loaded:
    """A model that can be called with arrays by name."""

    takes: Sequence[Taken]
    prepare: Callable[[dict[str, Any]], Any]
    run: Callable[[Any], object]


def _onnx(file: str, threads: int, tight: bool) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = not tight  # which takes memory in advance
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    takes = [Taken(i.name, _axes(i.shape), _numpy(i.type[7:-1])) for i in session.get_inputs()]
    return Loaded(takes, dict, lambda given: session.run(None, given))


def _openvino(file: str, threads: int, tight: bool) -> Loaded:
    import openvino

    asked = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(file, "CPU", asked).create_infer_request()
    inputs = request.get_compiled_model().inputs
    axes = [tuple(d.get_length() if d.is_static else None for d in i.partial_shape) for i in inputs]
    takes = [Taken(i.any_name, a, i.element_type.to_dtype()) for i, a in zip(inputs, axes, strict=True)]
    return Loaded(takes, dict, request.infer)


def _openvino_idle(threads: int) -> None:
    import openvino
    from openvino import opset13

    nothing = opset13.relu(opset13.parameter([1], np.float32))
    openvino.Core().compile_model(
        openvino.Model([nothing], [nothing.input_value(0).get_node()]), "CPU"
    ).create_infer_request().infer()


def _executorch(file: str, threads: int, tight: bool) -> Loaded:
    import torch
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    torch.set_num_threads(threads)
    portable_lib._unsafe_reset_threadpool(threads)
    method = Runtime.get().load_program(file).load_method("forward")
    metas = [method.metadata.input_tensor_meta(i) for i in range(method.metadata.num_inputs())]
    # What it tells of the batch's axis is its greatest length.
    takes = [
        Taken(f"input{i}", (None, *m.sizes()[1:]), _TORCH_CODES.get(m.dtype(), "float32")) for i, m in enumerate(metas)
    ]
    return Loaded(takes, lambda given: [_tensor(torch, x) for x in given.values()], method.execute)


def _exported(file: str, threads: int, tight: bool) -> Loaded:
    import torch

    torch.set_num_threads(threads)
    with contextlib.suppress(ImportError):  # operators of quantized models, by their registration
        import torch.ao.quantization.fx._decomposed
    program = torch.export.load(file)
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in _user(program)]
    takes = [
        Taken(name, _axes(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in zip(program.graph_signature.user_inputs, values, strict=True)
    ]
    positional, named = program.call_spec.in_spec.children()
    module = program.module()

    def prepare(given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        tensors = [_tensor(torch, x) for x in given.values()]
        at = positional.num_children
        return tensors[:at], dict(zip(named.context, tensors[at:], strict=True))

    return Loaded(takes, prepare, _without_gradients(torch, lambda given: module(*given[0], **given[1])))


def _module(file: str, threads: int, tight: bool) -> Loaded:
    """What the process that started this one wrote a moment ago: the arguments of :func:`loaded_module`."""
    import torch

    torch.set_num_threads(threads)
    return loaded_module(*torch.load(file, weights_only=False))


def loaded_module(module: Any, names: Sequence[str] | None, dtypes: Mapping[str, Any]) -> Loaded:
    """A torch module, of which nobody knows what it takes.

    Args:
        names: of its inputs, where it is called with names.
        dtypes: of its inputs, for numpy does not have all of them.
    """
    import torch

    def prepare(given: dict[str, Any]) -> Any:
        return {name: _tensor(torch, x).to(dtypes.get(name, torch.float32)) for name, x in given.items()}

    def run(given: Any) -> object:
        return module(**given) if names else module(*given.values())

    takes = [Taken(name, None, None) for name in names or ("input",)]
    return Loaded(takes, prepare, _without_gradients(torch, run))


RUNTIMES: Mapping[str, Callable[[str, int, bool], Loaded]] = {
    "onnxruntime": _onnx,
    "openvino": _openvino,
    "executorch": _executorch,
    "torch.export": _exported,
    "torch": _module,
}
_IMPORTS = {
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "executorch": ("torch", "executorch.runtime"),
    "torch.export": ("torch.export",),
    "torch": ("torch",),
}
_TORCH_CODES = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool"}  # fmt: skip
_ONNX_NAMES = {"float": "float32", "double": "float64"}


def _user(program: Any) -> set[str]:
    return set(program.graph_signature.user_inputs)


def _tensor(torch: Any, x: Any) -> Any:
    return torch.from_numpy(x) if isinstance(x, np.ndarray) else x


def _without_gradients(torch: Any, run: Callable[[Any], object]) -> Callable[[Any], object]:
    def inner(given: Any) -> object:
        with torch.no_grad():
            return run(given)

    return inner


def _axes(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(n if isinstance(n, int) else None for n in shape)


def _numpy(name: str) -> Any:
    return np.dtype(_ONNX_NAMES.get(name, name))


class Running:
    """A loaded model and what it is called with.

    Args:
        job: ``runtime``, ``file``, ``threads``, ``batch``; ``samples``, an .npz of what the model takes, or ``shapes``, a
            sample's shape by input, "" for an only one, or ``hints``, such shapes for where the file does not say them; ``empty``, a file of the same runtime that does nothing; ``limit``,
            in bytes, for what is allocated from here on; ``path``, where modules are to be found beside the usual places.
        loaded: the model, where it is in this process already.
    """

    def __init__(self, job: Mapping[str, Any], loaded: Loaded | None = None) -> None:
        sys.path.extend(place for place in job.get("path", ()) if place not in sys.path)
        with _told("import"):
            for module in _IMPORTS[job["runtime"]]:
                __import__(module)
        if loaded is None:
            self._settle(job)
        self.baseline_memory_mb = peak_mb()
        if job.get("limit") is not None:
            _limit(job["limit"])
        start = time.perf_counter_ns()
        with _told("load"):
            loaded = loaded or RUNTIMES[job["runtime"]](job["file"], job["threads"], job.get("limit") is not None)
        self.load_ms = (time.perf_counter_ns() - start) / 1e6
        made = inputs(
            loaded.takes, job["batch"], job.get("shapes") or {}, _read(job.get("samples")), job.get("hints") or {}
        )
        self.shapes = {name: list(x.shape) for name, x in made.items()}
        with _told("run", f"does not run on {', '.join(f'{n} {s}' for n, s in self.shapes.items())}: "):
            given = loaded.prepare(made)
            start = time.perf_counter_ns()
            loaded.run(given)
            self.first_ms = (time.perf_counter_ns() - start) / 1e6
            for _ in range(LEAST_RUNS - 1):
                loaded.run(given)
        self.call: Callable[[], object] = lambda: loaded.run(given)
        self.warmup = WARMUP

    def _settle(self, job: Mapping[str, Any]) -> None:
        """Let the runtime allocate what it needs for any model."""
        if job.get("empty"):
            nothing = RUNTIMES[job["runtime"]](job["empty"], job["threads"], job.get("limit") is not None)
            nothing.run(nothing.prepare(inputs(nothing.takes, 1, {}, None)))
        elif job["runtime"] == "openvino":
            _openvino_idle(job["threads"])
        elif "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(job["threads"])
            _ = sys.modules["torch"].ones(1, 8) @ sys.modules["torch"].ones(8, 8)

    def block(self, runs: int, seconds: float) -> dict[str, Any]:
        """Time at least so many calls, for at least so long: ``times_ms`` of each, and ``cpu_s`` of all of them."""
        times: list[float] = []
        with _told("run", "failed while it was timed: "), _still():
            for _ in range(self.warmup):
                self.call()
            self.warmup = REWARM
            begun, cpu = time.perf_counter_ns(), time.process_time()
            while len(times) < runs or time.perf_counter_ns() - begun < seconds * 1e9:
                start = time.perf_counter_ns()
                self.call()
                times.append((time.perf_counter_ns() - start) / 1e6)
            cpu = time.process_time() - cpu
        return {"times_ms": times, "cpu_s": cpu}

    def ready(self) -> dict[str, Any]:
        """What is known before the first block."""
        names = ("load_ms", "first_ms", "shapes", "baseline_memory_mb")
        return {**{name: getattr(self, name) for name in names}, "peak_memory_mb": peak_mb()}


def inputs(
    takes: Sequence[Taken],
    batch: int,
    shapes: Mapping[str, Sequence[int]],
    samples: Mapping[str, Any] | None,
    hints: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Arrays of this many samples: those that were given, from the first again where they are too few; else normal noise, or zeros.

    Raises: Refused where the model takes something else, or nobody knows what it takes.
    """
    found = {}
    for taken in takes:
        if samples is not None:
            only = len(samples) == len(takes) == 1
            own = next(iter(samples.values())) if only else samples.get(taken.name)
            if own is None:
                raise Refused("shape", f"takes {taken.name}, but was given {', '.join(samples)}.")
            _agree(taken, own.shape[1:], batch)
            fit = own.dtype if taken.dtype is None else np.dtype(taken.dtype)
            # A file may have narrower whole numbers than the model that it was made of.
            found[taken.name] = own[np.arange(batch) % len(own)].astype(fit, casting="same_kind")
            continue
        shape = _shape(taken, shapes, hints)
        _agree(taken, shape, batch)
        dtype, whole = np.dtype(taken.dtype or np.float32), (batch, *shape)
        noise = np.random.default_rng(0).standard_normal(whole) if dtype.kind == "f" else np.zeros(whole)
        found[taken.name] = noise.astype(dtype)
    return found


def _shape(taken: Taken, shapes: Mapping[str, Sequence[int]], hints: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    """Of a sample: what was given, else what the file says, else the hint."""
    known = (None,) if taken.shape is None else taken.shape[1:]
    own = tuple(n for n in known if n is not None)
    said = own if len(own) == len(known) else hints.get(taken.name, hints.get(""))
    shape = shapes.get(taken.name, shapes.get("", said))
    if shape is None:
        axes = "?" if taken.shape is None else ", ".join("?" if n is None else str(n) for n in taken.shape)
        raise Refused(
            "shape", f"does not say the shape of {taken.name} [{axes}]. Give that of a sample: --shape 1,8,8."
        )
    return tuple(shape)


def _agree(taken: Taken, shape: Sequence[int], batch: int) -> None:
    if taken.shape is None:
        return
    if not taken.shape:
        raise Refused("shape", f"takes {taken.name} without a batch's axis, which is not supported here.")
    axes = ", ".join("N" if n is None else str(n) for n in taken.shape)
    if taken.shape[0] not in (None, batch):
        raise Refused("batch", f"takes {taken.name} [{axes}], and no batch of {batch}. Give --batch {taken.shape[0]}.")
    whole = (batch, *shape)
    if len(whole) != len(taken.shape) or any(n not in (None, m) for n, m in zip(taken.shape, whole, strict=True)):
        raise Refused("shape", f"takes {taken.name} [{axes}], but samples of {list(shape)} were given.")


def _read(samples: str | None) -> dict[str, Any] | None:
    if samples is None:
        return None
    with np.load(samples) as stored:
        return dict(stored)


@contextlib.contextmanager
def _told(kind: str, before: str = "") -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        short = isinstance(error, MemoryError) or any(sign in str(error) for sign in ("bad_alloc", "t allocate memory"))
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = next(iter(lines), "")
        raise Refused("memory" if short else kind, f"{before}{type(error).__name__}: {said}"[:400]) from error


@contextlib.contextmanager
def _still() -> Iterator[None]:
    """No garbage is collected meanwhile."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _status(name: str) -> int | None:
    """A line of the kernel's account of this process, in bytes."""
    try:
        with open("/proc/self/status") as status:  # noqa: PTH123  pathlib is one more import
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None


def peak_mb() -> float | None:
    """The most memory that this process ever had; None where the system does not tell."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak / MB
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / MB


def _limit(more: int) -> None:
    """Let this process allocate so many bytes more than it has, and not one beyond."""
    import resource

    gc.collect()
    has = _status("VmData")
    if has is None:
        raise Refused("limit", "this system does not tell what a process has allocated, so that no limit can be set.")
    resource.setrlimit(resource.RLIMIT_DATA, (has + more, has + more))


def main() -> None:
    """Answer on standard output; whatever a runtime prints there goes to the error stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: Mapping[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        running = Running(json.loads(sys.argv[1]))
        say(running.ready())
        for line in sys.stdin:
            say(running.block(**json.loads(line)))
    except Refused as error:
        say({"refused": error.kind, "told": str(error)})
    except MemoryError:
        say({"refused": "memory", "told": "MemoryError"})


if __name__ == "__main__":
    main()
