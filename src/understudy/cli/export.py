"""``understudy export RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from understudy.cli.given import as_json, examples, folders, json_option, laid_over, run_argument, run_document

__all__ = ["export"]


@click.command(
    epilog=examples(
        "understudy export runs/my                       writes runs/my/deploy",
        "understudy export runs/my --to student.onnx",
        "understudy export runs/my --target onnx-int8    in runs/my/deploy-onnx-int8",
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
@laid_over
@json_option
def export(
    run: Path, to: Path | None, target: Sequence[str], settings: Sequence[str], plugin: Sequence[str], json_: bool
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
    finished, told = Finished.open(run, given), list[dict[str, Any]]()
    for wanted, place in _places(run, to, target):
        figures = finished.export(place, wanted)
        told.append({"path": str(place), **strict(figures)})
        if not json_:
            _show(place, figures)
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
