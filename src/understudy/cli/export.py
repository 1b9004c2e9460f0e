"""``understudy export RUN``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from understudy.cli.given import as_json, examples, folders, json_option, laid_over, run_argument, run_document
from understudy.errors import InputError

__all__ = ["export"]


@click.command(
    epilog=examples(
        "understudy export runs/my                       writes runs/my/deploy",
        "understudy export runs/my --to student.onnx",
        "understudy export runs/my --target onnx-int8    in runs/my/deploy-onnx-int8",
        "understudy export runs/my --target web          a page for browsers",
        "understudy list targets",
    )
)
@run_argument
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help="A folder, or a file with the target's ending, such as .onnx; RUN/deploy by default. Of several targets: a folder for all.",
)
@click.option(
    "--target",
    multiple=True,
    metavar="NAME",
    help="What to write: onnx, onnx-int8, executorch, ... (understudy list targets); onnx by default. Can be given several times.",
)
@click.option(
    "--vendor",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="For web: a folder, or the package as npm packs it, with onnxruntime-web, which npm fetches otherwise.",
)
@laid_over
@json_option
def export(
    run: Path,
    to: Path | None,
    target: Sequence[str],
    vendor: Path | None,
    settings: Sequence[str],
    plugin: Sequence[str],
    json_: bool,
) -> None:
    """Write a run's student for deployment.

    A folder with the model, preprocessing.json and predict.py, or the file alone; checked against the model and scored from
    the file. Targets in 8 bits are calibrated on training data.
    """
    given = run_document(run, settings, plugin)

    from understudy.export import targets
    from understudy.recipe.finished import Finished
    from understudy.writing import strict

    for name in target:
        targets.target(name)
    if vendor is not None and not any(targets.target(name).brings for name in target):
        raise InputError("--vendor: is for --target web.")
    finished, told = Finished.open(run, given), list[dict[str, Any]]()
    for wanted, place in _places(run, to, target):
        figures = finished.export(place, wanted, vendor if wanted and targets.target(wanted).brings else None)
        told.append({"path": str(place), **strict(figures)})
        if not json_:
            _show(place, figures)
            if wanted and targets.target(wanted).brings:
                click.echo(
                    f"to look at it: python -m http.server --directory {shlex.quote(str(place))}, and open http://localhost:8000"
                )
    if json_:
        as_json(told[0] if len(target) < 2 else told)


def _places(run: Path, to: Path | None, target: Sequence[str]) -> list[tuple[str | None, Path]]:
    if len(target) > 1:
        return [(name, to / name if to else _own(run, name)) for name in target]
    if not target:
        return [(None, to or run / "deploy")]
    return [(target[0], to or _own(run, target[0]))]


def _own(run: Path, name: str) -> Path:
    return run / ("deploy" if name == "onnx" else f"deploy-{name}")


def _show(place: Path, figures: dict[str, float]) -> None:
    click.echo(place)
    for name, value in figures.items():
        click.echo(f"{name:<18} {value:.4g}")
    if not figures["samples"]:
        click.echo("not run: its runtime does not exist on this system")
