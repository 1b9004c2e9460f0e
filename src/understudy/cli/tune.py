"""``understudy tune RECIPE``."""

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

__all__ = ["tune"]


@click.command(
    epilog=examples(
        "understudy tune digits --trials 20",
        "understudy tune my.yaml --budget 30m --over temperature=1:20:log",
        "understudy tune my.yaml --objective accuracy --objective size_mb",
        "understudy tune my.yaml --resume --trials 40",
    )
)
@recipe_argument
@click.option(
    "--trials", type=Count(min=1), default=20, show_default=True, metavar="N", help="Those that are pruned count."
)
@click.option(
    "--budget", metavar="TIME", help="For all trials and the teacher, such as 30m; a trial under way is stopped then."
)
@click.option(
    "--over",
    multiple=True,
    metavar="KEY=RANGE",
    help="What is tried: KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B; temperature, alpha and lr by default. Can be given again.",
)
@click.option(
    "--objective",
    "objectives",
    multiple=True,
    metavar="FIGURE",
    help="Of the student; the task's metric by default. Given again: the Pareto front of them.",
)
@laid_over
@out_option("The folder; runs/ and the recipe's name and -tune by default.")
@click.option("--resume", is_flag=True, help="Go on with what is in the folder.")
@json_option
def tune(
    recipe: str,
    trials: int,
    budget: str | None,
    over: Sequence[str],
    objectives: Sequence[str],
    settings: Sequence[str],
    plugin: Sequence[str],
    out: Path | None,
    resume: bool,
    json_: bool,
) -> None:
    """Find the values with which a recipe's student is best.

    Trials have one student each and are judged on the validation data; the best is measured on the test data once, and its
    recipe is best.yaml. RECIPE is a file, the name of a ready recipe, or the folder of a tuning.
    """
    folder = own_folder(recipe, out, "tune", "tune")
    given = document(recipe, settings, plugin)

    from understudy.recipe.tries import read_budget
    from understudy.search.ranges import read_range

    limit = None if budget is None else read_budget(budget, "--budget")
    if limit is not None and limit.seconds is None:
        raise InputError(f"--budget {budget}: is no time, such as 30m; how many there are is --trials.")
    ranges = [read_range(text) for text in over]
    words = [w for text in over for w in ("--over", text)] + [w for name in objectives for w in ("--objective", name)]
    also = [*words, "--trials", str(trials), *(["--budget", budget] if budget else [])]
    with resumable(folder, plugin, "tune", also):
        from understudy.search.tune import tune as tune_recipe

        screen = console(stderr=json_)
        made = tune_recipe(
            given,
            folder,
            trials=trials,
            budget=limit,
            over=ranges,
            objectives=objectives,
            resume=resume,
            console=screen,
        )
    if json_:
        as_json({"folder": str(folder), **made.results()})
