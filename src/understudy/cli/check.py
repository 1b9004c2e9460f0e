"""``understudy check RECIPE``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from understudy.cli.given import as_json, console, document, examples, json_option, laid_over, recipe_argument
from understudy.errors import UnderstudyError

if TYPE_CHECKING:
    from understudy.recipe.examine import Examined
    from understudy.rehearsal import Model, Rehearsal

__all__ = ["check"]


@click.command(
    epilog=examples(
        "understudy check my.yaml",
        "understudy check my.yaml --set method.temperature=8",
        "understudy check my.yaml --json | jq .problems",
    )
)
@recipe_argument
@laid_over
@json_option
def check(recipe: str, settings: Sequence[str], plugin: Sequence[str], json_: bool) -> int:
    """Try one batch on everything; train nothing.

    Tells shapes, each term's value and share of the gradient, and what the run will cost in time, memory and disk; or all
    that is wrong, with the lines. RECIPE is a file, the name of a ready recipe, or the folder of a run.
    """
    try:
        given = document(recipe, settings, plugin)

        from understudy.recipe.examine import examine
        from understudy.recipe.running import tried, wished
        from understudy.rehearsal import rehearse

        examined = examine(given, progress=False)
        wishes, missing = wished(given, examined)
        tried(given, examined, wishes)
        seen = rehearse(examined.material)
    except UnderstudyError as error:
        if not json_:
            raise
        as_json({"sound": False, "problems": str(error).split("\n")})
        return error.exit_code
    if json_:
        from understudy.writing import strict

        told = {"sound": True, "problems": [], "warnings": seen.warnings, "missing": missing, "data": _counts(examined)}
        as_json(strict({**told, **dataclasses.asdict(seen)}))
    else:
        _show(recipe, examined, seen, missing)
    return 0


def _counts(examined: Examined) -> dict[str, dict[str, int]]:
    """Samples of each part, and how many of them have a label."""
    task, told = examined.material.task, {}
    for name, part in examined.material.data.items():
        labelled = part.labelled(task)
        told[name] = {"samples": part.samples, "labelled": 0 if labelled is None else labelled.samples}
    return told


def _show(recipe: str, examined: Examined, seen: Rehearsal, missing: Sequence[str]) -> None:
    from understudy.report import Column, render

    screen = console()
    warned = f"sound, with {len(seen.warnings)} warning{'s' * (len(seen.warnings) > 1)}" if seen.warnings else "sound"
    screen.print(f"{recipe}: {warned}. The task is {examined.material.task.name}.", soft_wrap=True)
    for note in [*(f"Warning: {told}" for told in seen.warnings), *missing, *examined.notes]:
        screen.print(note, soft_wrap=True)
    data: list[dict[str, Any]] = [{"part": name, **counts} for name, counts in _counts(examined).items()]
    columns = [Column("part", "part"), Column("samples", "samples", "{:,}"), Column("labelled", "labelled", "{:,}")]
    screen.print(render(data, columns, title="Data"))
    columns = [
        Column("name", "model"),
        Column("kind", "is a"),
        Column("parameters", "parameters", "{:,}"),
        Column("size_mb", "MB", "{:.3f}"),
        Column("output", "gives for one sample"),
    ]
    screen.print(render([dataclasses.asdict(m) for m in seen.models], columns, title="Models"))
    if (told := _ratios(*seen.models)) is not None:
        screen.print(told)
    if seen.terms:
        columns = [
            Column("address", "term, and what is at its addresses"),
            Column("weight", "weight", "{:.3g}"),
            Column("value", "value", "{:.4g}"),
            Column("share", "share of the\ngradient", "{:.0%}"),
        ]
        screen.print(render(_term_rows(seen), columns, title="Terms, on one batch before any training"))
    cost = seen.cost
    told = ", ".join(f"{stage} {_time(seconds)}" for stage, seconds in cost.seconds.items())
    screen.print(f"Time, about: {_time(sum(cost.seconds.values()))}")
    screen.print(f"  {told}")
    screen.print(f"Memory, about: {cost.memory_mb:,.0f} MB beside what Python and torch need.")
    screen.print(f"Disk, about: {cost.disk_mb:,.0f} MB.")


def _ratios(student: Model, teacher: Model) -> str | None:
    """How much smaller and faster the student is."""
    if not (student.parameters and teacher.parameters and student.latency_ms and teacher.latency_ms):
        return None
    return (
        f"The student is {teacher.parameters / student.parameters:.1f} times smaller, and for one sample "
        f"{teacher.latency_ms / student.latency_ms:.1f} times faster here: "
        f"{student.latency_ms:.3g} ms, the teacher {teacher.latency_ms:.3g} ms."
    )


def _term_rows(seen: Rehearsal) -> list[dict[str, Any]]:
    """A line for each term with its figures, and below it one for each of its addresses."""
    rows: list[dict[str, Any]] = []
    for term in seen.terms:
        rows.append({"address": term.name, "weight": term.weight, "value": term.value, "share": term.share})
        rows += [{"address": f"  {address} {shape}"} for address, shape in term.shapes.items()]
        rows += [{"address": f"  projected by {term.project}"}] if term.project else []
        if not term.shapes:
            rows.append({"address": f"  not read: {'its weight is 0' if term.weight == 0 else 'no label here'}"})
    return rows


def _time(seconds: float) -> str:
    """In words.

    >>> _time(0.23), _time(75), _time(4000), _time(200000)
    ('0.2 s', '1 min', '1.1 h', '2.3 days')
    """
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:,.1f} days"
