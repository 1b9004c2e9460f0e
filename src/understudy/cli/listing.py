"""``understudy list WHAT``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

import understudy
from understudy.cli.given import (
    Name,
    as_json,
    console,
    document,
    examples,
    json_option,
    laid_over,
    load_plugins,
    recipes,
)
from understudy.errors import InputError, choices
from understudy.recipe.ready import ready

if TYPE_CHECKING:
    from understudy.registry import Option

__all__ = ["listing"]

KINDS = {
    "methods": "method", "losses": "loss", "models": "model", "data": "data", "teachers": "teacher", "optimizers": "optimizer",
    "projectors": "projector", "curves": "curve", "compressions": "compression",
}  # fmt: skip

ORIGIN = {"methods": ["family", "paper"], "losses": ["family", "paper"], "compressions": ["paper"]}
"""Columns of what comes from the literature, for which the screen has room where the options are."""

WIDE = 110
"""Columns from which on a screen has room for a summary beside family and paper."""

HOMES = {
    "methods": "methods/__init__.py", "losses": "losses/__init__.py", "models": "zoo/__init__.py", "data": "data/sets/__init__.py",
    "compressions": "compress/__init__.py",
}  # fmt: skip
"""Where the names of the larger kinds stand, as ``__all__``."""


def _which(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell: recipes, or names of the registry."""
    what = ctx.params.get("what")
    if what in ("recipes", "layers"):
        return recipes(ctx, param, incomplete)
    return [CompletionItem(name) for name in _names(str(what)) if name.startswith(incomplete)]


def _names(what: str) -> list[str]:
    """Read off the source: the registry itself would take as long as importing torch does."""
    if what not in HOMES:
        return []
    text = (Path(understudy.__file__).parent / HOMES[what]).read_text(encoding="utf-8")
    return re.findall(r'"(\w+)"', text[text.index("\n__all__ = ") :])


@click.command(
    "list",
    epilog=examples(
        "understudy list methods",
        "understudy list losses --family relation",
        "understudy list models CNN             its options",
        "understudy list layers my.yaml         what addresses can name",
        "understudy list recipes digits         a ready recipe as it is written",
        "understudy list losses --json",
    ),
)
@click.argument("what", type=Name([*KINDS, "targets", "recipes", "layers"]), metavar="WHAT")
@click.argument("which", required=False, metavar="[NAME]", shell_complete=_which)
@click.option("--family", metavar="NAME", help="Methods or losses of this family, such as response or feature.")
@laid_over
@json_option
def listing(
    what: str, which: str | None, family: str | None, settings: Sequence[str], plugin: Sequence[str], json_: bool
) -> None:
    """List what a recipe can name, or the layers of its models.

    WHAT is methods, losses, models, data, teachers, optimizers, projectors, curves, compressions, targets (of an
    export), recipes or layers. With a NAME: the options of this one; of `recipes`, its text; of `layers`, the recipe whose models they are.
    """
    if settings and what != "layers":
        raise InputError(f"list {what}: --set changes a recipe, and none is read here. Leave it out.")
    if family is not None and ("family" not in ORIGIN.get(what, ()) or which is not None):
        raise InputError(f"list {what}: --family is for lists of methods and losses. Leave it out.")
    if what == "layers":
        if which is None:
            raise InputError("list layers: of which recipe? Write: understudy list layers my.yaml")
        _layers(which, settings, plugin, json_)
    elif what == "recipes":
        _recipes(which, json_)
    elif what == "targets":
        _targets(which, json_)
    else:
        load_plugins(plugin)
        if which is None:
            _entries(what, family, json_)
        else:
            _options(what, which, json_)


def _recipes(which: str | None, json_: bool) -> None:
    known = ready()
    if which is None:
        rows = [{"name": name, "told": recipe.told, "path": str(recipe.path)} for name, recipe in known.items()]
        _answer(rows, ["name", "told"], "Ready recipes: understudy run NAME", json_)
    elif which not in known:
        raise InputError(f"list recipes: there is none of the name {which!r}. {choices(which, known)}")
    else:
        text = known[which].path.read_text(encoding="utf-8")
        if json_:
            as_json({"name": which, "told": known[which].told, "path": str(known[which].path), "text": text})
        else:
            click.echo(text, nl=False)


def _targets(which: str | None, json_: bool) -> None:
    from understudy.export import TARGETS, targets

    if which is not None:
        targets.target(which)
    rows = [
        {
            "name": name,
            "file": form.file,
            "runtime": form.runtime,
            "runs_here": form.load is not None,
            "extra": form.extra,
            "told": form.about,
        }
        for name, form in TARGETS.items()
        if which in (None, name)
    ]
    _answer(rows, ["name", "file", "told"], "Targets: understudy export RUN --target NAME", json_)


def _entries(what: str, family: str | None, json_: bool) -> None:
    from understudy.registry import entries

    known = [e for e in entries(KINDS[what]).values() if e.kind == KINDS[what]]
    if family is not None and family not in (families := sorted({e.family for e in known if e.family})):
        raise InputError(f"list {what}: there is no family {family!r}. {choices(family, families)}")
    rows = [
        {
            "name": e.name,
            **{key: getattr(e, key) for key in ORIGIN.get(what, ())},
            "options": ", ".join(e.options),
            "told": e.summary,
            "source": e.source,
        }
        for e in known
        if family in (None, e.family)
    ]
    title = f"{what.capitalize()}: understudy list {what} NAME tells more"
    shown = [*ORIGIN.get(what, ["options"]), "told"]
    if what in ORIGIN and console().width < WIDE:  # whose a method is says more than a line on it; of a loss, less
        shown.remove("told" if what == "methods" else "paper")
    _answer(rows, ["name", *shown], title, json_)


def _options(what: str, name: str, json_: bool) -> None:
    from rich.table import Table

    from understudy.recipe.complaints import words
    from understudy.recipe.forms import form
    from understudy.registry import entry

    chosen = entry(KINDS[what], name)
    origin = {key: getattr(chosen, key) for key in ORIGIN.get(what, ())}
    forms = {option.name: form(option.annotation) for option in chosen.options.values()}
    rows: list[dict[str, Any]] = [
        {
            "option": option.name,
            "is": words(made),
            "required": option.required,
            "default": None if option.required else _plain(option.default),
            "told": option.told,
        }
        for option in chosen.options.values()
        if (made := forms[option.name]) not in (None, {"type": "null"})  # what only Python can give
    ]
    if json_:
        as_json({"name": name, **origin, "told": chosen.summary, "source": chosen.source, "options": rows})
        return
    screen = console()
    screen.print(f"{name}: {chosen.summary}")
    screen.print("".join(f"{line}\n" for line in ["; ".join(filter(None, origin.values()))] if line))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(f"  {row['option']}", _sentence(row, chosen.options[row["option"]]))
    screen.print(table if rows else "  It has no options.")


def _sentence(row: Mapping[str, Any], option: Option) -> str:
    """What an option is."""
    from understudy.registry import FROM_DATA

    default = "" if row["default"] is None else f"{json.dumps(row['default'], ensure_ascii=False)} if not given"
    if row["required"]:
        default = "needed"
    elif option.name in FROM_DATA and row["default"] is None:
        default = "from the data if not given"
    return ": ".join(filter(None, [", ".join(filter(None, [row["is"], default])), option.told]))


def _plain(default: Any) -> Any:
    if default is None or isinstance(default, bool | int | float | str):
        return default
    return list(default) if isinstance(default, tuple | list) else str(default)


def _layers(recipe: str, settings: Sequence[str], plugin: Sequence[str], json_: bool) -> None:
    given = document(recipe, settings, plugin)

    from understudy.recipe.layers import layers_of

    rows = layers_of(given)
    told = "What addresses can name, with the shapes for 4 samples"
    _answer(rows, ["address", "is", "shape", "parameters"], told, json_, whole=True)


def _answer(rows: list[dict[str, Any]], shown: list[str], title: str, json_: bool, *, whole: bool = False) -> None:
    """A table; ``whole`` folds no cell where there is no screen, so that each can be searched for."""
    if json_:
        as_json(rows)
        return
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in shown:
        table.add_column(
            {"told": ""}.get(name, name),
            overflow="fold",
            justify="right" if name == "parameters" else "left",
            no_wrap=name in ("name", "family"),
        )
    for row in rows:
        cells = (
            "" if row[name] is None else f"{row[name]:,}" if isinstance(row[name], int) else str(row[name])
            for name in shown
        )
        table.add_row(*cells)
    screen = console()
    if whole and not screen.is_terminal:
        screen.width = max(screen.width, screen.measure(table, options=screen.options.update(max_width=10_000)).maximum)
    screen.print(table)
