"""What models cost where they run: size, speed, memory and energy of files and modules, side by side."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError, MachineError, MissingExtra, UnderstudyError, raise_all
from understudy.inputs import Inputs
from understudy.measure.budget import DEADLINE_RUNS, EMULATED, Budget, budget_of, missed_share, verdict
from understudy.measure.energy import Meter, meter
from understudy.measure.flops import flops
from understudy.measure.fresh import Fresh, Here
from understudy.measure.memory import empty_onnx
from understudy.measure.processor import busy, cores, load_average, low_precision, processor
from understudy.measure.quality import parameters
from understudy.measure.weight import (
    COMPRESSED_BY,
    SUFFIXES,
    files_of,
    holds_int8,
    model_file,
    size_bytes,
    size_compressed_bytes,
)
from understudy.measure.worker import Refused
from understudy.modes import evaluating
from understudy.writing import save_tensors, strict

__all__ = ["Bench", "bench"]

RUNS, SECONDS = 100, 0.5
MOST_THREADS, MOST_SAMPLES = 1024, 1_000_000
"""As in a recipe. A runtime starts as many threads as it is told to, each with a stack, and takes the machine with it."""
ROUNDS = 5
"""Models take turns so often, so that what else the machine does meets all of them alike."""
EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino", "executorch": "executorch"}


@dataclass(frozen=True)
class Bench:
    """What was measured.

    Attributes:
        machine: ``processor``, ``cores``, ``load_average``, ``low_precision``.
        models: for each model what does not depend on how it runs: ``size_bytes``, ``parameters``, ...
        rows: for each model, batch and number of threads: latencies, throughput, memory, energy. A model that does not run
            in a setting has no row there.
        notes: what is worth knowing, in words.
        budget: the name of the budget that was applied.
    """

    machine: dict[str, Any]
    models: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    notes: list[str]
    budget: str | None = None

    def results(self) -> dict[str, Any]:
        """As strict JSON can hold it."""
        plain: dict[str, Any] = strict({name: getattr(self, name) for name in self.__dataclass_fields__})
        return plain


@dataclass
class _Model:
    """One of those that are measured, and its figures so far."""

    name: str
    facts: dict[str, Any]
    job: dict[str, Any]
    module: nn.Module | None = None
    names: Sequence[str] | None = None
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)
    refused: Refused | None = None

    def open(self, **more: Any) -> Fresh | Here:
        """Load it, in a process of its own if it can be sent there."""
        job = {**self.job, **more}
        if self.module is None:
            return Fresh(job)
        if self.job["file"] is not None:
            try:
                return Fresh(job)
            except Refused as error:
                if error.kind != "load" or more.get("limit") is not None:
                    raise
                self.job["file"] = None  # its class is not to be found there, as that of a script's own
        return Here(self.module, self.names, self.dtypes, {**job, "limit": None})


def bench(
    models: Mapping[str, str | Path | nn.Module] | Sequence[str | Path],
    inputs: Inputs | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | Sequence[int] | None = None,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] | None = None,
    runs: int = RUNS,
    seconds: float = SECONDS,
    deadline_ms: float | None = None,
    budget: str | None = None,
    tell: Callable[[str], None] | None = None,
) -> Bench:
    """Measure models side by side, each in a fresh process; the first one is what the others are compared with.

    Every model is loaded, run once, and warmed up; then they take turns until each has made ``runs`` calls and worked for
    ``seconds``, for every batch and number of threads. A call is one of the runtime with arrays or tensors that are there already, without gradients,
    on the CPU.

    Args:
        models: by name: files that end in .onnx, .xml (OpenVINO), .pte (ExecuTorch) or .pt2 (torch.export), folders that
            an export wrote, and torch modules. Of a list, the paths are the names.
        inputs: samples as the models take them; normal noise, or zeros for whole numbers, if not given. Modules need them, or shapes.
        shapes: of a sample, without the batch's axis, for a file that does not say it; by input if there are several. By
            default from preprocessing.json beside the file.
        batches: sizes of batches.
        threads: numbers of threads; 1 and all cores if not given.
        runs: calls that are timed, at least.
        seconds: for which calls are timed, at least.
        deadline_ms: adds ``missed_share``, of 1,000 calls with a batch of 1 or more. It takes the place of a budget's own.
        budget: phone, edge or microcontroller: see :data:`understudy.measure.budget.BUDGETS`. With it there is one batch of 1 on one thread.
        tell: is called with a sentence for each step.

    Returns: figures with their units in their names; see docs/bench.md.
    Raises: InputError that lists what is wrong with the arguments, or for a model that does not take such samples; CorruptError
        for a file that its runtime cannot read; MissingExtra where the runtime is not installed.
    """
    allowed = None if budget is None else budget_of(budget)
    if allowed is not None:
        batches, threads = (1,), (allowed.threads,)
        if deadline_ms is not None:
            allowed = replace(allowed, deadline_ms=deadline_ms)
        deadline_ms = allowed.deadline_ms
    threads = sorted({1, cores()}) if threads is None else list(dict.fromkeys(threads))
    batches = list(dict.fromkeys(batches))
    named = models if isinstance(models, Mapping) else {str(path): path for path in models}
    _check(named, inputs, batches, threads, runs, seconds, deadline_ms)
    tell = tell or _quiet
    with tempfile.TemporaryDirectory() as folder:
        found = [_model(n, m, inputs, shapes, Path(folder) / str(i)) for i, (n, m) in enumerate(named.items())]
        gauge = meter()
        rows = []
        for batch in batches:
            for count in threads:
                tell(f"batch {batch}, {_threads(count)}")
                rows += _setting(found, batch, count, runs, seconds, deadline_ms, gauge)
        lost = [f"{m.name}: {m.refused}" for m in found if m.name not in {row["model"] for row in rows}]
        raise_all(InputError, lost)
        notes = [f"{m.name}: {m.refused}" for m in found if m.refused]
        if allowed is not None:
            tell(f"memory of the {allowed.name} budget")
            notes += _apply(allowed, found, rows)
    facts = [m.facts for m in found]
    _compare(facts, rows)
    machine = {
        "processor": processor(),
        "cores": cores(),
        "load_average": rows[0]["load_average"],
        "low_precision": low_precision(),
    }
    return Bench(machine, facts, rows, [*notes, *_notes(facts, rows, machine, gauge, found)], budget)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _quiet(told: str) -> None:
    pass


def _check(
    models: Mapping[str, Any],
    inputs: Inputs | None,
    batches: Sequence[int],
    threads: Sequence[int],
    runs: int,
    seconds: float,
    deadline_ms: float | None,
) -> None:
    problems = []
    if not models:
        problems.append("bench: there is no model; give at least one.")
    counts = (("batches", batches, MOST_SAMPLES), ("threads", threads, MOST_THREADS), ("runs", [runs], math.inf))
    for name, values, most in counts:
        if not values or any(n < 1 for n in values):
            problems.append(f"bench: {name} is {values!r}; at least 1 is needed.")
        elif max(values) > most:
            problems.append(f"bench: {name} is {values!r}; {most:,} at most.")
    if not 0 <= seconds < math.inf:
        problems.append(f"bench: seconds is {seconds!r}; allowed: a number from 0.")
    if deadline_ms is not None and not 0 < deadline_ms < math.inf:
        problems.append(f"bench: deadline_ms is {deadline_ms!r}; allowed: a number of milliseconds above 0.")
    given = _by_name(inputs)
    if any(not x.ndim or not len(x) for x in given.values()):
        problems.append("bench: the inputs hold no sample; give at least one.")
    raise_all(InputError, problems)


def _model(
    name: str,
    model: str | Path | nn.Module,
    inputs: Inputs | None,
    shapes: Mapping[str, Sequence[int]] | Sequence[int] | None,
    folder: Path,
) -> _Model:
    """Its facts, and what a process is told that loads it."""
    folder.mkdir()
    samples = None if inputs is None else _saved(inputs, folder / "samples.npz")
    job: dict[str, Any] = {"samples": samples, "shapes": _shapes(shapes)}
    if isinstance(model, nn.Module):
        return _of_module(name, model, inputs, job, folder)
    file = model_file(model)
    job |= {"runtime": SUFFIXES[file.suffix], "file": str(file), "hints": _described(file)}
    facts = {"model": name, "runtime": job["runtime"], "path": str(file), "int8": holds_int8(file)}
    return _Model(name, {**facts, **_weight(files_of(file))}, {**job, "empty": _empty(job["runtime"], folder)})


def _empty(runtime: str, folder: Path) -> str | None:
    """A file that does nothing, of which the runtime's own memory is told; None where the runtime needs none for that."""
    file = folder / "empty"
    if runtime == "onnxruntime":
        file.write_bytes(empty_onnx())
    elif runtime == "torch.export":
        file = file.with_suffix(".pt2")
        torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(1, 1),)), file)
    else:
        return None
    return str(file)


def _weight(files: Sequence[Path]) -> dict[str, Any]:
    return {
        "size_bytes": size_bytes(files),
        "size_compressed_bytes": size_compressed_bytes(files),
        "compressed_by": COMPRESSED_BY,
    }


def _saved(inputs: Inputs, file: Path) -> str:
    arrays = {n: x.detach().cpu() for n, x in _by_name(inputs).items()}
    np.savez(file, **{n: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for n, x in arrays.items()})  # type: ignore[arg-type]
    return str(file)


def _by_name(inputs: Inputs | None) -> Mapping[str, Tensor]:
    if inputs is None:
        return {}
    return {"input": inputs} if isinstance(inputs, Tensor) else inputs


def _shapes(shapes: Mapping[str, Sequence[int]] | Sequence[int] | None) -> dict[str, list[int]]:
    if shapes is None:
        return {}
    return {n: list(s) for n, s in (shapes if isinstance(shapes, Mapping) else {"": shapes}).items()}


def _described(file: Path) -> dict[str, list[int]]:
    """A sample's shape by input, as preprocessing.json beside the file says it; nothing where there is none."""
    beside = file.with_name("preprocessing.json")
    if not beside.is_file():
        return {}
    try:
        told = json.loads(beside.read_text(encoding="utf-8"))["inputs"]
        shapes = {n: _first(list(map(int, facts["shape"])), facts.get("layout")) for n, facts in told.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptError(f"{beside}: does not say what the model takes: {type(error).__name__}: {error}.") from error
    return {**shapes, **({"": next(iter(shapes.values()))} if len(shapes) == 1 else {})}


def _first(shape: list[int], layout: str | None) -> list[int]:
    """The shape that the model takes, of one in a file."""
    return shape[-1:] + shape[:-1] if layout == "channels_last" else shape


def _of_module(name: str, module: nn.Module, inputs: Inputs | None, job: dict[str, Any], folder: Path) -> _Model:
    if inputs is None and not job["shapes"]:
        raise InputError(f"bench: {name} is a module, of which nobody knows what it takes; give inputs or shapes.")
    names = None if inputs is None or isinstance(inputs, Tensor) else list(inputs)
    dtypes = {n: x.dtype for n, x in _by_name(inputs).items()}
    weights, sent = folder / "weights.safetensors", folder / "module"
    try:
        save_tensors(weights, dict(module.state_dict()))
    except (
        UnderstudyError,
        RuntimeError,
        ValueError,
        AttributeError,
    ):  # what else than tensors it holds, as packed weights
        torch.save(module.state_dict(), weights)
    example: Inputs = inputs if inputs is not None else torch.zeros(1, *next(iter(job["shapes"].values())))
    facts = {"model": name, "runtime": "torch", "path": None, **_weight([weights]), "parameters": parameters(module)}
    with suppress(InputError):  # why it does not run, its process says
        facts |= flops(module, example)
    job |= {"runtime": "torch", "file": str(sent), "path": list(sys.path)}
    try:
        with evaluating(module):
            torch.save((module, names, dtypes), sent)
    except Exception:  # a function of a script's own, a hook, a lock: whatever pickle does not take
        job["file"] = None
    return _Model(name, facts, job, module, names, dtypes)


def _setting(
    models: Sequence[_Model],
    batch: int,
    threads: int,
    runs: int,
    seconds: float,
    deadline_ms: float | None,
    gauge: Meter,
) -> list[dict[str, Any]]:
    """A row of each model that runs with this batch and these threads."""
    needed = max(runs, DEADLINE_RUNS) if deadline_ms is not None and batch == 1 else runs
    load, opened = load_average(), list[tuple[_Model, Fresh | Here]]()
    with ExitStack() as stack:
        for model in models:
            try:
                opened.append((model, stack.enter_context(closing(model.open(batch=batch, threads=threads)))))
            except Refused as error:
                _refuse(model, error)
        blocks: dict[str, list[dict[str, Any]]] = {model.name: [] for model, _ in opened}
        for _ in range(ROUNDS):
            for model, running in [pair for pair in opened if pair[0].name in blocks]:
                before = gauge.now()
                try:
                    block = running.block(math.ceil(needed / ROUNDS), seconds / ROUNDS)
                except Refused as error:
                    _refuse(model, error)
                    del blocks[model.name]
                else:
                    blocks[model.name].append({**block, "energy_mj": gauge.spent(before, block["cpu_s"])})
        ready = {model.name: running.ready for model, running in opened}
    made = []
    for name, told in blocks.items():
        row = {"model": name, "batch": batch, "threads": threads, **_figures(told, batch)}
        row |= {key: ready[name][key] for key in ("load_ms", "first_ms", "peak_memory_mb", "baseline_memory_mb")}
        row |= {"energy_how": gauge.how, "load_average": load}
        if deadline_ms is not None and batch == 1:
            times = [time for block in told for time in block["times_ms"]]
            row |= {"deadline_ms": deadline_ms, "missed_share": missed_share(times, deadline_ms)}
        made.append(row)
    return made


def _figures(blocks: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any]:
    times = [time for block in blocks for time in block["times_ms"]]
    p50, p90, p99 = (float(p) for p in np.percentile(times, [50, 90, 99]))
    samples = batch * len(times)
    return {
        "latency_ms_p50": p50,
        "latency_ms_p90": p90,
        "latency_ms_p99": p99,
        "throughput_per_s": samples / (sum(times) / 1e3),
        "runs": len(times),
        "energy_mj": sum(block["energy_mj"] for block in blocks) / samples,
    }


def _refuse(model: _Model, error: Refused) -> None:
    """Keep why it does not run in a setting; raise what it would say in every one."""
    if error.kind in ("batch", "run"):
        model.refused = error
        return
    _raise(model, error)


def _raise(model: _Model, error: Refused) -> NoReturn:
    told, runtime = f"{model.name}: {error}", model.job["runtime"]
    if error.kind == "import" and runtime in EXTRAS:
        raise MissingExtra(f"{model.name}: {error}. Measuring it with {runtime}", EXTRAS[runtime]) from error
    kind: type[UnderstudyError] = {"shape": InputError, "load": CorruptError}.get(error.kind, MachineError)
    raise kind(f"{model.name}: {runtime} cannot load it: {error}" if error.kind == "load" else told) from error


def _apply(budget: Budget, models: Sequence[_Model], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Hold every model to the budget: its row says whether it is within; returns that in words."""
    notes = [f"The budget {budget.name} stands for {budget.told}. {EMULATED}"]
    for model, row in zip(models, rows, strict=True):
        row["memory_fits"] = _fits(model, budget)
        row["within_budget"], wrong = verdict(budget, {**model.facts, **row})
        notes.append(f"{model.name} is {'within it' if not wrong else 'not within it: ' + '; '.join(wrong)}.")
    return notes


def _fits(model: _Model, budget: Budget) -> bool | None:
    """Whether it runs where its process may allocate no more than that; None for a model that has no process."""
    try:
        running = model.open(batch=1, threads=budget.threads, limit=budget.limit(model.facts["size_bytes"]))
    except Refused as error:
        if error.kind in ("memory", "load", "run"):  # it runs without a limit
            return False
        raise MachineError(f"bench: the budget's memory: {error}") from error
    running.close()
    return None if isinstance(running, Here) else True


def _compare(facts: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    """Add how many times smaller and faster than the first model."""
    first = facts[0]
    for fact in facts:
        fact["times_smaller"] = first["size_bytes"] / fact["size_bytes"]
    fastest = {(r["batch"], r["threads"]): r["latency_ms_p50"] for r in rows if r["model"] == first["model"]}
    for row in rows:
        base = fastest.get((row["batch"], row["threads"]))
        row["times_faster"] = None if base is None else base / row["latency_ms_p50"]


def _notes(
    facts: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    machine: Mapping[str, Any],
    gauge: Meter,
    models: Sequence[_Model],
) -> list[str]:
    notes = [f"Energy is {gauge.how}: {gauge.model}."]
    has = machine["low_precision"]
    notes.append(
        "This system does not tell which low-precision instructions the processor has."
        if has is None
        else f"Low-precision instructions of the processor: {', '.join(has) or 'none'}."
    )
    notes += _slower(facts, rows)
    notes += [
        f"{m.name}: could not be sent to a process of its own; its times are of this one, and its memory is not known."
        for m in models
        if m.module is not None and m.job["file"] is None
    ]
    for fact in facts:
        if fact.get("flops_left_out"):
            notes.append(f"{fact['model']}: its FLOPs are without those of {', '.join(fact['flops_left_out'])}.")
    loaded = [row for row in rows if busy(row["load_average"], row["threads"])]
    if loaded:
        most = max(row["load_average"] for row in loaded)
        notes.append(
            f"The machine was busy (load {most:g} on {machine['cores']} cores): times say something of the other processes as well."
        )
    return notes


def _slower(facts: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for every int8 file that is slower than the first model of its runtime that is none, or else of any runtime."""
    plain = [fact for fact in facts if not fact.get("int8")]
    if not plain:
        return []
    against = {
        fact["model"]: next((p for p in plain if p["runtime"] == fact["runtime"]), plain[0])["model"]
        for fact in facts
        if fact.get("int8")
    }
    times = {(row["model"], row["batch"], row["threads"]): row["latency_ms_p50"] for row in rows}
    told = []
    for (model, batch, threads), own in times.items():
        base = times.get((against.get(model), batch, threads), math.inf)
        if own > base:
            told.append(
                f"{model} computes in int8 and is slower than {against[model]} with a batch of {batch} on "
                f"{_threads(threads)}: {own:.3g} ms against {base:.3g}."
            )
    return told
