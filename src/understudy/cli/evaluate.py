"""``understudy eval RUN``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from understudy.cli.given import as_json, examples, json_option, laid_over, run_argument, run_document

__all__ = ["evaluate"]


@click.command(
    "eval",
    epilog=examples(
        "understudy eval runs/my",
        "understudy eval runs/my --file runs/my/deploy",
        "understudy eval runs/my --set data.test=new.csv",
    ),
)
@run_argument
@click.option(
    "--on",
    type=click.Choice(["train", "valid", "test"]),
    metavar="PART",
    help="Of the data: train, valid or test; test if there is one, else valid.",
)
@click.option(
    "--file", type=click.Path(path_type=Path, exists=True), help="Score this exported file or folder instead."
)
@laid_over
@json_option
def evaluate(
    run: Path, on: str | None, file: Path | None, settings: Sequence[str], plugin: Sequence[str], json_: bool
) -> None:
    """Score a run's student, or its exported file.

    RUN is the run's folder. The student is the kept one of the best seed by validation.
    """
    given = run_document(run, settings, plugin)

    from understudy.recipe.finished import Finished
    from understudy.writing import strict

    figures = Finished.open(run, given, on).figures(file)
    if json_:
        as_json(strict(figures))
        return
    for name, value in figures.items():
        click.echo(f"{name:<18} {value:.4f}" if isinstance(value, float) else f"{name:<18} {value}")
