"""What several verbs are given: a recipe, or a run's folder; values laid over it; plugins; how to answer."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from understudy.errors import InputError, Interrupted, choices
from understudy.recipe.ready import ready

if TYPE_CHECKING:
    from rich.console import Console

    from understudy.recipe.text import Document

__all__ = [
    "Count",
    "Name",
    "as_json",
    "console",
    "document",
    "examples",
    "folders",
    "is_run",
    "json_option",
    "laid_over",
    "load_plugins",
    "out_option",
    "own_folder",
    "plugins",
    "recipe_argument",
    "recipes",
    "resumable",
    "run_argument",
    "run_document",
]

Command = TypeVar("Command", bound=Callable[..., Any])

RESOLVED = "recipe.yaml"
"""The resolved recipe in a run's folder."""

BEST = "best.yaml"
"""That of the student that is handed on, where several recipes were tried: see :mod:`understudy.search.attempts`."""


class Name(click.Choice[str]):
    """One of some names; the nearest is told where it is none of them."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """As a sentence."""
        return f"{value!r} is none of them. {choices(value, self.choices)}"


class Count(click.IntRange):
    """A whole number in a range."""

    name = "whole number"


def examples(*lines: str) -> str:
    """The end of a verb's help."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])


def recipes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: names of ready recipes, and files."""
    names = [CompletionItem(name, help=recipe.told) for name, recipe in ready().items() if name.startswith(incomplete)]
    return [*names, CompletionItem(incomplete, type="file")]


def folders(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: folders."""
    return [CompletionItem(incomplete, type="dir")]


def _answers(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:  # whatever else is printed, by a plugin or a library, is not the answer
        ctx.meta["answers"] = sys.stdout
        ctx.with_resource(contextlib.redirect_stdout(sys.stderr))
    return value


recipe_argument = click.argument("recipe", shell_complete=recipes)
run_argument = click.argument("run", type=click.Path(path_type=Path), shell_complete=folders)
plugins = click.option(
    "--plugin",
    "plugin",
    multiple=True,
    type=click.Path(),
    metavar="FILE.py",
    help="Run this file of yours first; it registers models, data, losses, ...",
)
json_option = click.option(
    "--json", "json_", is_flag=True, callback=_answers, help="Answer in JSON, on one line; all else goes to stderr."
)


def out_option(told: str) -> Callable[[Command], Command]:
    """The folder of a verb that makes one."""
    return click.option("--out", type=click.Path(path_type=Path), metavar="FOLDER", shell_complete=folders, help=told)


def own_folder(recipe: str, out: Path | None, like: str, kind: str = "") -> Path:
    """Where a verb leaves what it makes: ``out``, or the folder that is gone on with, or one in runs/ by the recipe's name and ``kind``.

    Raises: InputError for what is the name of no folder; ``like`` is one that would do.
    """
    made = Path("runs") / "-".join(filter(None, [Path(recipe).stem, kind]))
    folder = out if out is not None else Path(recipe) if is_run(recipe) else made
    if not folder.name:
        raise InputError(f"--out {folder}: is not the name of a folder of its own, such as runs/{like}.")
    return folder


def laid_over(command: Command) -> Command:
    """Options that change the recipe."""
    told = "Lay a value over the recipe's: --set method.temperature=2. Can be given again."
    return click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help=told)(plugins(command))


def document(
    recipe: str, settings: Sequence[str] = (), plugin: Sequence[str] = (), seed: int | None = None
) -> Document:
    """A recipe's file, the name of a ready one, or a run's folder; with the values that are laid over it."""
    from understudy.recipe.text import Place, read, shown

    path, own = _path(recipe)
    load_plugins(plugin)
    made = read(path)
    if own:  # its data is the user's, and not beside the recipes of the package
        if lacks := ready()[recipe].lacks:
            raise InputError(f"{recipe}: its data is not here yet. Write it first: {lacks}")
        here = {where: dataclasses.replace(place, folder=Path()) for where, place in made.places.items()}
        made = dataclasses.replace(made, places=here, top=dataclasses.replace(made.top, folder=Path()))
    _lay_over(made, settings)
    if seed is not None:
        if seed >= 2**63:
            raise InputError(f"--seed {shown(seed)}: is no number that a recipe can hold; give a smaller one.")
        made.set(("seed",), seed, Place(f"--seed {seed}", 0, Path()))
    return made


def run_document(run: Path, settings: Sequence[str], plugin: Sequence[str]) -> Document:
    """The resolved recipe in a run's folder, with the values that are laid over it."""
    from understudy.recipe.text import read

    if not is_run(run):
        known = sorted(str(file.parent) for file in Path("runs").glob(f"*/{RESOLVED}"))
        near = choices(run, known) if known else "`understudy run RECIPE` makes one."
        raise InputError(f"{run}: is not the folder of a run: there is no {RESOLVED} in it. {near}")
    load_plugins(plugin)
    made = read(run / (BEST if (run / BEST).is_file() else RESOLVED))
    _lay_over(made, settings)
    return made


def is_run(folder: str | Path) -> bool:
    """Whether it is a run's folder."""
    return (Path(folder) / RESOLVED).is_file()


def load_plugins(files: Sequence[str]) -> None:
    """Run the user's files, in their order."""
    if files:
        from understudy.registry import load_plugin

        for file in files:
            load_plugin(Path(file))


def _lay_over(made: Document, settings: Sequence[str]) -> None:
    from understudy.recipe.text import read_setting

    for where, value, place in map(read_setting, settings):
        made.set(where, value, place)


def _path(recipe: str) -> tuple[Path, bool]:
    """The recipe's file, and whether it is one of ours. What is in the user's folder goes before a ready recipe of this name."""
    path, known = Path(recipe), ready()
    if is_run(path):
        return path / RESOLVED, False
    if recipe in known and not path.is_file():
        return known[recipe].path, True
    if path.is_dir():
        raise InputError(f"{path}: is a folder, and holds no run. Name a recipe's file.")
    if not path.exists():
        files = sorted(str(f) for f in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise InputError(
            f"{recipe}: there is no such file, and no ready recipe of this name. {choices(recipe, [*files, *known])}"
        )
    return path, False


@contextlib.contextmanager
def resumable(folder: Path, plugin: Sequence[str] = (), verb: str = "run", also: Sequence[str] = ()) -> Iterator[None]:
    """Tell how to go on, if the run in this folder is stopped."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt, BrokenPipeError) as error:
        if not is_run(folder):
            raise
        words = [
            "understudy",
            verb,
            str(folder),
            *also,
            "--resume",
            *(w for file in plugin for w in ("--plugin", file)),
        ]
        raise Interrupted(f"stopped; {folder} holds what is done. Go on: {shlex.join(words)}") from error


def console(*, stderr: bool = False) -> Console:
    """The screen; by the error stream where the answer is for a program."""
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError, for which rich would end the program

    return Screen(highlight=False, markup=False, emoji=False, stderr=stderr)


def as_json(answer: Any) -> None:
    """An answer for programs: strict JSON on one line; :func:`understudy.writing.strict` makes it so."""
    click.echo(json.dumps(answer, allow_nan=False), file=click.get_current_context().meta["answers"])
