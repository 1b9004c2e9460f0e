"""``understudy report RUN``."""

from __future__ import annotations

from pathlib import Path

import click

from understudy.cli.given import examples, run_argument

__all__ = ["report"]


@click.command(epilog=examples("understudy report runs/digits", "understudy report runs/digits --out digits.html"))
@run_argument
@click.option("--out", type=click.Path(path_type=Path), help="The page's name; RUN/report.html by default.")
def report(run: Path, out: Path | None) -> None:
    """Make the page of a run again, from what is in its folder.

    RUN is the run's folder. Nothing is computed, and no data or model is read.
    """
    from understudy.pages import page_of, write_page

    click.echo(write_page(out or run / "report.html", page_of(run)))
