"""``understudy demo``."""

from __future__ import annotations

from pathlib import Path

import click

from understudy.cli.given import Count, console, examples, folders, resumable

__all__ = ["demo"]


@click.command(epilog=examples("understudy demo", "understudy demo --seeds 2 --out runs/quick"))
@click.option(
    "--seeds", type=Count(1, 100), default=5, show_default=True, metavar="N", help="Students to train of each kind."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    metavar="FOLDER",
    shell_complete=folders,
    help="Where everything goes; an earlier demo there is replaced.",
)
def demo(seeds: int, out: Path) -> None:
    """Do the main job on real images, in about two minutes.

    Offline: it is the ready recipe `digits`, of a teacher that labels what nobody has labelled.
    """
    from understudy.demo import run

    with resumable(out):
        run(seeds, out=out, console=console())
