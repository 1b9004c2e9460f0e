"""``understudy compare RECIPE``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from understudy.cli.given import (
    Count,
    as_json,
    console,
    document,
    examples,
    folders,
    is_run,
    json_option,
    laid_over,
    recipe_argument,
    resumable,
)
from understudy.errors import InputError

__all__ = ["compare"]


@click.command(
    epilog=examples(
        "understudy compare digits                      all methods",
        "understudy compare my.yaml --methods kd,dkd,fitnets --seeds 10",
        "understudy compare my.yaml --methods kd,dkd --tune",
        "understudy compare my.yaml --methods all,-deep_inversion",
        "understudy compare my.yaml --resume            go on, or add methods",
    )
)
@recipe_argument
@click.option(
    "--methods",
    "names",
    default="all",
    show_default=True,
    metavar="NAMES",
    help="Of methods, with commas between them, or all; -NAME leaves one out. `understudy list methods` prints them.",
)
@click.option("--tune", is_flag=True, help="Choose each method's weight by validation, with other seeds.")
@click.option("--seeds", type=Count(1, 100), metavar="N", help="Students of each method; the recipe's by default.")
@click.option("--epochs", type=Count(min=1), metavar="N", help="Of every student; the recipe's by default.")
@laid_over
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    shell_complete=folders,
    help="The comparison's folder; runs/ and the recipe's name and -methods by default.",
)
@click.option("--resume", is_flag=True, help="Go on with the comparison in the folder; methods may be added.")
@json_option
def compare(
    recipe: str,
    names: str,
    tune: bool,
    seeds: int | None,
    epochs: int | None,
    settings: Sequence[str],
    plugin: Sequence[str],
    out: Path | None,
    resume: bool,
    json_: bool,
) -> None:
    """Train all methods under one protocol, and rank them.

    The same teacher, data, steps, seeds and starts for all; the student alone is the baseline, paired over seeds. Each
    method has its paper's default weight, which on small maps can drown the labels: --tune. RECIPE is a file, the name of a ready recipe, or the folder of a comparison.
    """
    folder = out if out is not None else _folder(recipe)
    if not folder.name:
        raise InputError(f"--out {folder}: is not the name of a folder of its own, such as runs/methods.")
    given = document(recipe, settings, plugin)

    from understudy.recipe.text import Place

    for name, value in (("seeds", seeds), ("epochs", epochs)):
        if value is not None:
            given.set((name,), value, Place(f"--{name} {value}", 0, Path()))
    chosen = None if names == "all" else [name for part in names.split(",") if (name := part.strip())]
    words = [*(["--methods", ",".join(chosen)] if chosen else []), *(["--tune"] if tune else [])]
    with resumable(folder, plugin, "compare", words):
        from understudy.compare import compare as compare_methods

        screen = console(stderr=json_)
        command = () if is_run(recipe) else _command(recipe, {"--seeds": seeds, "--epochs": epochs}, settings, plugin)
        made = compare_methods(given, folder, names=chosen, tune=tune, command=command, resume=resume, console=screen)
        screen.print()
        made.ranking.show(screen)
        screen.print(f"\nThe table: {made.page}", soft_wrap=True)
    if json_:
        as_json({"folder": str(folder), **made.ranking.results()})


def _folder(recipe: str) -> Path:
    return Path(recipe) if is_run(recipe) else Path("runs") / f"{Path(recipe).stem}-methods"


def _command(
    recipe: str, numbers: Mapping[str, int | None], settings: Sequence[str], plugin: Sequence[str]
) -> list[str]:
    """What was typed, but for the methods."""
    words = ["understudy", "compare", recipe]
    words += [word for name, value in numbers.items() if value is not None for word in (name, str(value))]
    words += [word for value in settings for word in ("--set", value)]
    return [*words, *(word for file in plugin for word in ("--plugin", file))]
