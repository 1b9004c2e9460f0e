"""``understudy bench RUN|FILE ...``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.given import (
    Count,
    as_json,
    console,
    examples,
    is_run,
    json_option,
    load_plugins,
    plugins,
    run_document,
)
from understudy.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from understudy.measure import Bench
    from understudy.report import Column

__all__ = ["bench"]

BATCH = 32


@click.command(
    epilog=examples(
        "understudy bench runs/my                teacher, student, exported file",
        "understudy bench a.onnx b-int8.onnx     the second against the first",
        "understudy bench runs/my/deploy --budget phone",
        "understudy bench a.onnx --deadline 5 --shape 3,224,224",
    )
)
@click.argument("what", nargs=-1, required=True, metavar="RUN|FILE...", type=click.Path(path_type=Path))
@click.option(
    "--batch", type=Count(min=1), default=BATCH, show_default=True, metavar="N", help="Measured beside a batch of 1."
)
@click.option(
    "--threads", metavar="N,...", help="Numbers of threads, with commas between them; 1 and all cores by default."
)
@click.option(
    "--runs", type=Count(min=1), default=100, show_default=True, metavar="N", help="Calls that are timed, at least."
)
@click.option(
    "--deadline", type=float, metavar="MS", help="Tell the share of 1,000 calls with one sample that take longer."
)
@click.option(
    "--budget", metavar="NAME", help="Hold the models to what a device allows: phone, edge or microcontroller."
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="[INPUT=]N,...",
    help="Of a sample, for a file that does not say it. Can be given again.",
)
@plugins
@json_option
def bench(
    what: Sequence[Path],
    batch: int,
    threads: str | None,
    runs: int,
    deadline: float | None,
    budget: str | None,
    shapes: Sequence[str],
    plugin: Sequence[str],
    json_: bool,
) -> None:
    """Measure size, speed, memory and energy of models.

    Each in a fresh process, taking turns; the first one is what the others are compared with. FILE ends in .onnx, .xml
    (OpenVINO), .pte (ExecuTorch) or .pt2 (torch.export), or is a folder that an export wrote. docs/bench.md says what
    each figure means.
    """
    if deadline is not None and not deadline > 0:
        raise InputError(f"--deadline {deadline:g}: allowed: a number of milliseconds above 0.")
    counts = None if threads is None else _numbers("--threads", threads)
    given = dict(map(_shape, shapes))
    load_plugins(plugin)

    from understudy.measure import bench as measure
    from understudy.measure.budget import budget_of

    if budget is not None:
        budget_of(budget)
    models, inputs = _models(what, batch)
    screen = console(stderr=json_)
    made = measure(
        models,
        inputs,
        shapes=given or None,
        batches=(1, batch),
        threads=counts,
        runs=runs,
        deadline_ms=deadline,
        budget=budget,
        tell=lambda told: console(stderr=True).print(f"measuring: {told}", soft_wrap=True),
    )
    if json_:
        as_json(made.results())
    else:
        show(made, screen)


def _numbers(option: str, text: str, least: int = 1) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise InputError(f"{option} {text}: allowed: whole numbers from {least}, with commas between them.")
    return found


def _shape(text: str) -> tuple[str, list[int]]:
    name, _, numbers = text.rpartition("=")
    return name, _numbers("--shape", numbers)


def _models(what: Sequence[Path], batch: int) -> tuple[dict[str, Any], Tensor | None]:
    """By name; with samples of the run, if there is one."""
    found: dict[str, Any] = {}
    inputs = None
    for path in what:
        if is_run(path):
            from understudy.recipe.models import models

            mine, samples = models(path, run_document(path, (), ()), batch)
            if inputs is not None and samples.shape[1:] != inputs.shape[1:]:
                raise InputError(
                    f"{path}: its samples have the shape {list(samples.shape[1:])}, and those of another run {list(inputs.shape[1:])}. Measure them one by one."
                )
            if alike := found.keys() & mine.keys():
                raise InputError(f"{path}: there is a {min(alike)!r} already. Measure runs of one name one by one.")
            found, inputs = {**found, **mine}, samples
        else:
            from understudy.measure.weight import model_file

            model_file(path)
            found[str(path)] = path
    return found, inputs


def show(made: Bench, screen: Console) -> None:
    """The tables, and what is worth knowing."""
    from understudy.report import Column, render

    files = [
        Column("model", "model"),
        Column("size_bytes", "bytes", "{:,}"),
        Column("size_compressed_bytes", "zlib 9", "{:,}"),
        Column("times_smaller", "times\nsmaller", "{:.2f}"),
        Column("parameters", "parameters", "{:,}"),
        Column("flops", "FLOPs", "{:,}"),
    ]
    screen.print(render(made.models, files, title="On the disk"))
    settings = list(dict.fromkeys((row["batch"], row["threads"]) for row in made.rows))
    of = {setting: [row for row in made.rows if (row["batch"], row["threads"]) == setting] for setting in settings}
    runtimes = {fact["model"]: fact["runtime"] for fact in made.models}
    starts = [
        Column("model", "model"),
        Column("runtime", "runs in"),
        Column("load_ms", "ms to load", "{:.1f}"),
        Column("first_ms", "ms for the\nfirst call", "{:.2f}"),
        Column("peak_memory_mb", "peak MB", "{:.1f}"),
        Column("own_memory_mb", "of it\nits own", "{:.1f}"),
    ]
    screen.print(
        render([_shown(row, runtimes) for row in of[settings[0]]], starts, title=f"To start: {_called(*settings[0])}")
    )
    for setting, rows in of.items():
        calls = f"at least {min(row['runs'] for row in rows):,} calls"
        screen.print(render(rows, _columns(rows), title=f"{_called(*setting).capitalize()}: {calls}"))
    for note in made.notes:
        screen.print(note)


def _called(batch: int, threads: int) -> str:
    return f"batch of {batch}, {threads} thread{'s' if threads > 1 else ''}"


def _shown(row: Mapping[str, Any], runtimes: Mapping[str, str]) -> dict[str, Any]:
    peak, idle = row["peak_memory_mb"], row["baseline_memory_mb"]
    return {
        **row,
        "runtime": runtimes[row["model"]],
        "own_memory_mb": None if peak is None or idle is None else max(peak - idle, 0.0),
    }


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    from understudy.report import Column

    missed = [Column("missed_share", "misses\ndeadline", "{:.1%}")] if "missed_share" in rows[0] else []
    return [
        Column("model", "model"),
        Column("latency_ms_p50", "ms p50", "{:.3f}"),
        Column("latency_ms_p90", "p90", "{:.3f}"),
        Column("latency_ms_p99", "p99", "{:.3f}"),
        Column("times_faster", "times\nfaster", "{:.2f}"),
        Column("throughput_per_s", "samples\na second", "{:,.0f}"),
        Column("energy_mj", "mJ a\nsample", "{:.3f}"),
        *missed,
    ]
