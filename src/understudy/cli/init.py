"""``understudy init TASK``."""

from __future__ import annotations

import click

from understudy.cli.given import Name, examples
from understudy.recipe.ready import templates

__all__ = ["init"]


@click.command(
    epilog=examples(
        "understudy init image-classification > my.yaml", "understudy init tabular-classification > my.yaml"
    )
)
@click.argument("task", type=Name(list(templates())), metavar="TASK")
def init(task: str) -> None:
    """Print a commented recipe to start from.

    TASK is image-classification, tabular-classification, tabular-regression or multi-label.
    """
    click.echo(templates()[task].path.read_text(encoding="utf-8"), nl=False)
