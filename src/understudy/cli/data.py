"""``understudy data NAME FOLDER``."""

from __future__ import annotations

from pathlib import Path

import click

from understudy.cli.given import Name, examples, folders

__all__ = ["NAMES", "data"]

NAMES = ("breast-cancer", "diabetes", "digits", "digits-attributes")
"""Those of :data:`understudy.data.written.EXAMPLES`, here because importing that takes as long as torch does."""


@click.command(
    epilog=examples(
        "understudy data breast-cancer data/breast-cancer  a table, two classes",
        "understudy data diabetes data/diabetes            a table, values to predict",
        "understudy data digits data/digits                pictures, ten classes",
        "understudy data digits-attributes data/attributes    arrays, several labels",
    )
)
@click.argument("name", type=Name(NAMES), metavar="NAME")
@click.argument("folder", type=click.Path(path_type=Path), shell_complete=folders)
def data(name: str, folder: Path) -> None:
    """Write real data as files, to try recipes on.

    It also shows how files of your own have to look. NAME is breast-cancer, diabetes, digits or digits-attributes;
    FOLDER must be new or empty.
    """
    from understudy.data.written import write_example

    files = write_example(name, folder)
    for path in files[:3]:
        click.echo(path)
    if len(files) > 3:
        click.echo(f"... {len(files):,} files in {folder}")
