"""``understudy run RECIPE``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from understudy.cli.given import (
    Count,
    as_json,
    console,
    document,
    examples,
    json_option,
    laid_over,
    out_option,
    own_folder,
    recipe_argument,
    resumable,
)
from understudy.errors import InputError

__all__ = ["NOT_ACCEPTED", "run"]

NOT_ACCEPTED = 6
"""The exit code of a run that is done, of which more was required."""


@click.command(
    epilog=examples(
        "understudy run digits                          a ready recipe",
        "understudy run my.yaml --set epochs=40 --out runs/longer",
        "understudy run my.yaml --resume                go on after a stop",
        "understudy run my.yaml --plugin my_models.py",
        "understudy run my.yaml --require               for CI: 6 if not accepted",
    )
)
@recipe_argument
@laid_over
@click.option("--seed", type=Count(min=0), metavar="N", help="Of the first student; the others count on.")
@out_option("The run's folder; runs/ and the recipe's name by default.")
@click.option("--resume", is_flag=True, help="Go on with the run in the folder, to the same bits.")
@click.option(
    "--require", is_flag=True, help="Answer with exit code 6 if the student does not meet what the recipe accepts."
)
@json_option
def run(
    recipe: str,
    settings: Sequence[str],
    plugin: Sequence[str],
    seed: int | None,
    out: Path | None,
    resume: bool,
    require: bool,
    json_: bool,
) -> int:
    """Do the whole job of a recipe.

    Teacher, soft labels, students, table, page, and a folder to deploy. RECIPE is a file, the name of a ready recipe, or
    the folder of a run.
    """
    folder = own_folder(recipe, out, "first")
    given = document(recipe, settings, plugin, seed)
    if require and not given.value.get("accept"):
        raise InputError(f"--require: {recipe} says nothing of what to accept, such as --set 'accept.accuracy=>= 0.9'.")
    with resumable(folder, plugin, also=["--require"] if require else []):
        from understudy.search.search import run as run_recipe

        ran = run_recipe(given, folder, resume=resume, console=console(stderr=json_))
    if json_:
        as_json({"folder": str(folder), **ran.result.results()})
    return NOT_ACCEPTED if require and not ran.result.accepted else 0
