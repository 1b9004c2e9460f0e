"""``understudy store build|verify|info``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from understudy.cli.given import (
    Count,
    as_json,
    console,
    document,
    examples,
    folders,
    json_option,
    laid_over,
    recipe_argument,
)

__all__ = ["store"]

place_argument = click.argument("folder", type=click.Path(path_type=Path), shell_complete=folders)


@click.group(
    subcommand_metavar="build|verify|info ...",
    epilog=examples(
        "understudy store build my.yaml said",
        "understudy store verify said",
        "understudy store info said",
    ),
)
def store() -> None:
    """Keep what a teacher says of every sample.

    `understudy run` does it by itself where that spares asking the teacher again. A store of its own serves several
    runs: name its folder in the recipe, as teacher: {store: FOLDER}.
    """


@store.command(
    epilog=examples(
        "understudy store build my.yaml said",
        "understudy store build my.yaml said --encoding uint8",
        "understudy store build my.yaml said --set draws=8   eight augmented views of each picture",
        "torchrun --nproc-per-node 4 -m understudy store build my.yaml said",
    )
)
@recipe_argument
@place_argument
@click.option(
    "--encoding",
    metavar="NAME",
    help="fp32, fp16, bf16, uint8, or topk:K; by default fp32 up to a gigabyte, and fp16 above.",
)
@laid_over
@json_option
def build(
    recipe: str, folder: Path, encoding: str | None, settings: Sequence[str], plugin: Sequence[str], json_: bool
) -> None:
    """Ask a recipe's teacher about every training sample, and write what it says.

    The teacher must have been trained: give its weights. A run with teacher.store fills a store with one that it trains. A build that was broken off goes on; one that is whole does nothing. An encoding that would change what students
    learn by more than 1 % is refused, with its error. FOLDER is the store's.
    """
    answers, screen = _answers(recipe, folder, settings, plugin, json_)
    built = answers.build(folder, encoding)

    from understudy import parallel

    if parallel.rank() == 0:  # of those that torchrun started
        _tell(built.info(), screen, json_)


@store.command(epilog=examples("understudy store verify said", "understudy store verify said --recipe my.yaml"))
@place_argument
@click.option("--recipe", metavar="RECIPE", help="Ask its teacher about some of the samples anew, and compare.")
@click.option("--rows", type=Count(min=1), default=256, show_default=True, metavar="N", help="How many of them.")
@laid_over
@json_option
def verify(
    folder: Path, recipe: str | None, rows: int, settings: Sequence[str], plugin: Sequence[str], json_: bool
) -> None:
    """Read every byte of a store, and tell what is damaged."""
    from understudy.store import Store

    held = Store.open(folder)
    asked = None
    if recipe is not None:
        answers, _ = _answers(recipe, folder, settings, plugin, json_)
        held = Store.open(folder, answers.facts())
        asked = answers.ask
    told = held.verify(asked, rows=rows)
    if json_:
        as_json(told)
        return
    click.echo(f"{folder}: whole, {_counted(told['shards'], 'shard')}.")
    if asked is not None:
        worst = "; ".join(_errors(by) for by in told["errors"].values())
        click.echo(f"{_counted(told['rows'], 'row')} asked anew: off by {worst}.")


@store.command(epilog=examples("understudy store info said", "understudy store info said --json"))
@place_argument
@json_option
def info(folder: Path, json_: bool) -> None:
    """Tell what a store is of, how far it is, and what it costs."""
    from understudy.store import Store

    _tell(Store.open(folder).info(), console(), json_)


def _answers(recipe: str, folder: Path, settings: Sequence[str], plugin: Sequence[str], json_: bool) -> tuple[Any, Any]:
    """A recipe's teacher, ready to be asked; and where to tell about it."""
    given = document(recipe, settings, plugin)

    import dataclasses

    from understudy.answers import BATCH, Answers
    from understudy.choices import Choices
    from understudy.errors import InputError
    from understudy.preflight import check_store, check_teacher
    from understudy.recipe.examine import examine

    screen = console(stderr=json_)
    material = examine(given, progress=True, console=screen).material
    if "teacher" in material.stages:
        raise InputError(
            f"{recipe}: trains its teacher first, and a store is of one that is trained. Give its weights: "
            "--set teacher.epochs=0 --set teacher.weights=FILE. A run leaves them in its folder, as teacher.safetensors."
        )
    check_teacher(material)
    material.plan = dataclasses.replace(material.plan, store=folder)
    check_store(material)
    method = material.method(material.student(), material.teacher)
    answers = Answers(material, material.teacher, method)
    if not answers.addresses:
        raise InputError(
            f"{recipe}: its method asks the teacher about more than the samples as they are, so that nothing can be stored."
        )
    asked = Choices(material, screen.print).teacher(
        material.teacher, method, answers.passes, rows=BATCH, way=answers.way()
    )
    answers.ask_as(asked)
    return answers, screen


def _tell(told: dict[str, Any], screen: Any, json_: bool) -> None:
    if json_:
        as_json(told)
        return
    missing = f"{told['rows_missing']:,} rows missing" if told["rows_missing"] else "complete"
    sizes = (
        f"{_counted(told['samples'], 'sample')}, {_counted(told['draws'], 'draw')}, {_counted(told['shards'], 'shard')}"
    )
    screen.print(f"{told['folder']}: {sizes}, {missing}", soft_wrap=True)
    screen.print(f"{told['sample_bytes']:,} bytes a sample, {told['disk_bytes']:,} bytes on the disk", soft_wrap=True)
    for name, field in told["fields"].items():
        errors = _errors(field["errors"]) if field["errors"] else "not known yet"
        shape = "x".join(map(str, field["shape"]))
        screen.print(f"  {name or 'the output'}: {shape}, {field['encoding']}; off by {errors}", soft_wrap=True)
    for name, fact in told["facts"].items():
        screen.print(f"  {name}: {fact}", soft_wrap=True)
    for line in told["damaged"]:
        screen.print(line, soft_wrap=True)


def _counted(number: int, what: str) -> str:
    """A number of things.

    >>> _counted(1, "shard"), _counted(2000, "row")
    ('1 shard', '2,000 rows')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _errors(by: Mapping[str, float]) -> str:
    """How far what is stored is off, of each measure that it is judged by.

    >>> _errors({"relative": 0.0, "T=4": 0.0012})
    '0.00% of the values, 0.12% of the gradient of the student at T=4'
    """
    return ", ".join(
        f"{error:.2%} of {'the values' if which == 'relative' else f'the gradient of the student at {which}'}"
        for which, error in by.items()
    )
