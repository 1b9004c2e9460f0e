"""``understudy compare RECIPE``: ways to a small model, or methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from understudy.cli.given import (
    Count,
    Name,
    as_json,
    console,
    document,
    examples,
    is_run,
    json_option,
    laid_over,
    out_option,
    own_folder,
    recipe_argument,
    resumable,
)
from understudy.errors import InputError

__all__ = ["compare"]

BUDGETS = ("phone", "edge", "microcontroller")
LADDER_SEEDS = 3


@click.command(
    epilog=examples(
        "understudy compare digits                      all ways to a small model",
        "understudy compare my.yaml --ways distilled,distilled-int8,low-rank",
        "understudy compare my.yaml --ladder            1/2 to 1/50 of the teacher",
        "understudy compare my.yaml --price-per-hour 0.5",
        "understudy compare my.yaml --resume            go on, or with other ways",
        "understudy compare my.yaml --methods all       rank methods in place of ways",
        "understudy compare my.yaml --methods kd,dkd,fitnets --seeds 10",
        "understudy compare my.yaml --methods kd,dkd --tune",
    )
)
@recipe_argument
@click.option(
    "--ways",
    metavar="NAMES",
    help="Of rows, with commas between them; -NAME leaves one out. A wrong name is answered with those that there are.",
)
@click.option(
    "--ladder", is_flag=True, help="Students of 1/2, 1/5, 1/10, 1/20 and 1/50 of the teacher, alone and distilled."
)
@click.option(
    "--price-per-hour",
    "price",
    type=float,
    metavar="X",
    help="Of this machine, in any currency: adds what a million inferences cost.",
)
@click.option(
    "--budget", type=Name(BUDGETS), metavar="NAME", help="That the winner keeps to: phone, edge or microcontroller."
)
@click.option(
    "--methods",
    "names",
    metavar="NAMES",
    help="Rank methods in place of ways: names with commas between them, or all; -NAME leaves one out. `understudy list methods` prints them.",
)
@click.option("--tune", is_flag=True, help="With --methods: choose each one's weight by validation, with other seeds.")
@click.option("--seeds", type=Count(1, 100), metavar="N", help="Students of each kind; the recipe's by default.")
@click.option("--epochs", type=Count(min=1), metavar="N", help="Of every student; the recipe's by default.")
@laid_over
@out_option("The table's folder; runs/ and the recipe's name and -compare, -ladder or -methods by default.")
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the table in the folder. Rows that --ways names are added; --methods names all.",
)
@json_option
def compare(
    recipe: str,
    ways: str | None,
    ladder: bool,
    price: float | None,
    budget: str | None,
    names: str | None,
    tune: bool,
    seeds: int | None,
    epochs: int | None,
    settings: Sequence[str],
    plugin: Sequence[str],
    out: Path | None,
    resume: bool,
    json_: bool,
) -> None:
    """Put all ways to make a teacher small in one table.

    Alone, distilled, pruned, quantized, factorized, combined.

    Each is trained as the recipe says, exported, scored from its file and measured. The smallest file that the recipe
    accepts, by default with 97 % of the teacher's figure, is in the folder's deploy/. With --methods, methods of distillation are ranked
    in place of it, with the same teacher, data, steps, seeds and starts. RECIPE is a file, the name of a ready recipe, or the folder of a table.
    """
    _check_asked(names, tune, {"--ways": ways, "--ladder": ladder, "--price-per-hour": price, "--budget": budget})
    kind = "methods" if names is not None else "ladder" if ladder else "compare"
    folder = own_folder(recipe, out, "small", kind)
    given = document(recipe, settings, plugin)

    from understudy.recipe.text import Place

    if ladder and seeds is None and not is_run(recipe):
        seeds = LADDER_SEEDS
    for name, value in (("seeds", seeds), ("epochs", epochs)):
        if value is not None:
            given.set((name,), value, Place(f"--{name} {value}", 0, Path()))
    screen = console(stderr=json_)
    command = () if is_run(recipe) else _command(recipe, {"--seeds": seeds, "--epochs": epochs}, settings, plugin)
    told: Mapping[str, Any]
    if names is None:
        asked = {"--ways": ways, "--price-per-hour": None if price is None else f"{price:g}", "--budget": budget}
        words = [*(["--ladder"] if ladder else []), *(w for k, v in asked.items() if v is not None for w in (k, v))]
        with resumable(folder, plugin, "compare", words):
            from understudy.contest.contest import DEPLOY, HTML, PAGE, contest

            board = contest(
                given,
                folder,
                names=None if ways is None else _split(ways),
                steps=ladder,
                price=price,
                budget=budget,
                command=command,
                resume=resume,
                console=screen,
            )
            screen.print()
            board.show(screen)
            screen.print(f"\nThe table: {folder / PAGE}", soft_wrap=True)
            if (folder / HTML).exists():  # its package is optional
                screen.print(f"The page:  {folder / HTML}", soft_wrap=True)
            if board.winner is not None:
                screen.print(f"To deploy: {folder / DEPLOY}", soft_wrap=True)
        told = board.results()
    else:
        chosen = _split(names)
        words = ["--methods", ",".join(chosen), *(["--tune"] if tune else [])]
        with resumable(folder, plugin, "compare", words):
            from understudy.ranking.compare import compare as compare_methods

            made = compare_methods(
                given, folder, names=chosen, tune=tune, command=command, resume=resume, console=screen
            )
            screen.print()
            made.ranking.show(screen)
            screen.print(f"\nThe table: {made.page}", soft_wrap=True)
        told = made.ranking.results()
    if json_:
        as_json({"folder": str(folder), **told})


def _check_asked(names: str | None, tune: bool, of_ways: Mapping[str, Any]) -> None:
    """Raise InputError for options of one table with those of the other."""
    if names is None and tune:
        raise InputError("--tune: weighs methods; say which: --methods all --tune.")
    wrong = [option for option, value in of_ways.items() if value is not None and value is not False]
    if names is not None and wrong:
        raise InputError(f"--methods: ranks methods, and {', '.join(wrong)} is about ways. Leave one of them out.")


def _split(names: str) -> list[str]:
    return [name for part in names.split(",") if (name := part.strip())]


def _command(
    recipe: str, numbers: Mapping[str, int | None], settings: Sequence[str], plugin: Sequence[str]
) -> list[str]:
    """What was typed, but for ways and methods."""
    words = ["understudy", "compare", recipe]
    words += [word for name, value in numbers.items() if value is not None for word in (name, str(value))]
    words += [word for value in settings for word in ("--set", value)]
    return [*words, *(word for file in plugin for word in ("--plugin", file))]
