"""``understudy export RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from understudy.cli.given import as_json, examples, folders, json_option, laid_over, run_argument, run_document

__all__ = ["export"]


@click.command(
    epilog=examples(
        "understudy export runs/my                       writes runs/my/deploy",
        "understudy export runs/my --to student.onnx",
    )
)
@run_argument
@click.option(
    "--to",
    type=click.Path(path_type=Path),
    shell_complete=folders,
    help="A folder, or a file that ends in .onnx; RUN/deploy by default.",
)
@laid_over
@json_option
def export(run: Path, to: Path | None, settings: Sequence[str], plugin: Sequence[str], json_: bool) -> None:
    """Write a run's student for deployment.

    A folder with model.onnx, preprocessing.json and predict.py, or the ONNX file alone; checked against the model and
    scored from the file.
    """
    given = run_document(run, settings, plugin)

    from understudy.recipe.finished import Finished
    from understudy.writing import strict

    target = to or run / "deploy"
    figures = Finished.open(run, given).export(target)
    if json_:
        as_json({"path": str(target), **strict(figures)})
        return
    click.echo(target)
    for name, value in figures.items():
        click.echo(f"{name:<18} {value:.4g}")
