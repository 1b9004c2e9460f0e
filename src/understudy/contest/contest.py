"""All ways to make a teacher small, in one table: what ``understudy compare`` does with a recipe.

Every model is trained as the recipe says, exported, and measured as the file that a user gets. The folder holds the runs (see
:mod:`understudy.contest.entrants`), and::

    OUT/models/NAME/seed-0/     an exported folder each
    OUT/results.json            the rows
    OUT/compression.md          the tables, how they came about, and the command
    OUT/compare.html            the same to look at, where it can be made
    OUT/deploy/                 the row that won
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from understudy import parallel
from understudy.contest.board import Board
from understudy.contest.entrants import Entrants
from understudy.contest.standings import BASE
from understudy.contest.tryout import Tryout
from understudy.contest.ways import Model, Way, chosen, ladder, ways
from understudy.errors import InputError, MissingExtra
from understudy.export import TARGETS, to_file
from understudy.export.staging import publish_folder, staged
from understudy.export.targets import FACTS
from understudy.material import Material
from understudy.measure import parameters
from understudy.measure.budget import budget_of
from understudy.recipe.examine import Examined, examine
from understudy.recipe.running import FREE, claim
from understudy.recipe.text import Document
from understudy.report.card import card
from understudy.report.pareto import pareto_page
from understudy.writing import read_json, write_json, write_text

__all__ = ["DEPLOY", "HTML", "PAGE", "contest"]

RESULTS, PAGE, HTML, COMMAND, ROWS, DEPLOY, CARD = (
    "results.json", "compression.md", "compare.html", "command.txt", "rows.json", "deploy", "README.md",
)  # fmt: skip


def contest(
    document: Document,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    steps: bool = False,
    price: float | None = None,
    budget: str | None = None,
    command: Sequence[str] = (),
    resume: bool = False,
    console: Console | None = None,
) -> Board:
    """Make the teacher small in every way, and measure what comes of it as the file that is handed on.

    Args:
        document: the recipe. Its method teaches the student, and what was pruned or factorized; it is not fine-tuned.
        out: the folder.
        names: of ways, "all" for all there are, "-NAME" for all but this one; all if not given.
        steps: in their place a ladder of students with fewer and fewer parameters, alone and distilled; with names both.
        price: of an hour of this machine, in any currency.
        budget: phone, edge or microcontroller: what the winner must keep to; see :mod:`understudy.measure.budget`.
        command: the words that say what the recipe is, for the page; on a resume those of the first time, if there are none.
        resume: go on with the table in ``out``; other ways may be added to it.
        console: where progress is shown.

    Raises: InputError for what cannot work, before any training; MissingExtra without onnxruntime.
    """
    parallel.one_process("compare")
    if price is not None and not 0 < price < float("inf"):
        raise InputError(f"--price-per-hour {price:g}: must be a number above 0.")
    if budget is not None:
        budget_of(budget)
    console = console or Console(highlight=False)
    examined = examine(document, folder=out, resume=resume, progress=False, console=console)
    material = examined.material
    entrants = Entrants(material, out, console)
    names, steps = asked = _asked(out, names, steps, resume)
    entered = _entered(material, names, steps)
    with console.status("Exporting the teacher and the student as they begin"):
        _try_export(material)
        entered, left_out = _checked(entrants, entered, explicit=names is not None)
    for note in [*claim(out, examined, resume, (*FREE, "fine_tune")), *examined.parts.notes]:
        console.print(note, soft_wrap=True)
    with material.plan.locked():
        digests = {f"data {name!r}": examples.digest for name, examples in material.data.items()}
        material.plan.claim({"what": "a table of ways", **digests})
        write_json(out / ROWS, asked)
        words = shlex.join(_command(out, command, names, steps, price, budget))
        board = Tryout(entrants, entered, left_out, examined.parts.raw, budget).run(price, words)
        name = Path(shlex.split(words)[2]).stem  # of the recipe
        title = f"Ways to a small model on {name}"
        write_json(out / RESULTS, board.results())
        write_text(out / PAGE, board.markdown(title))
        _hand_on(out, board, name, examined)
        try:
            write_text(out / HTML, _page(board, title))
        except MissingExtra as error:
            console.print(f"{error} Until then there is no page.", soft_wrap=True)
    return board


def _asked(out: Path, names: Sequence[str] | None, steps: bool, resume: bool) -> tuple[list[str] | None, bool]:
    """Names of ways, or None for all, and whether there is a ladder; on a resume with those of before, or a row would be lost."""
    now = None if names is None else list(names)
    if not resume or not (out / ROWS).exists():
        return now, steps
    then, laddered = read_json(out / ROWS)
    if now is None and not steps:
        return then, laddered
    if then is None and not laddered:
        then = ["all"]
    known = [name for name in then or [] if name.removeprefix("-") not in (now or [])]
    return [*known, *(now or [])] or None, steps or laddered


def _entered(material: Material, names: Sequence[str] | None, steps: bool) -> list[Way]:
    """The rows that are asked for, if the models can be handed on at all."""
    if not isinstance(material.teacher, nn.Module):
        raise InputError(
            f"compare: a teacher that is a {type(material.teacher).__name__} cannot be made smaller or exported. "
            "Methods can be compared with it: --methods all."
        )
    if material.data["valid"].inputs() is None:
        raise InputError(
            "compare: a model of several inputs is not exported here. Methods can be compared: --methods all."
        )
    known = ways(parameters(material.student()), parameters(material.teacher))
    rungs = ladder() if steps else []
    if steps and names is None:
        return [known[0], *rungs]  # the teacher, against whom all are held
    return [*chosen(known, names), *rungs]


def _try_export(material: Material) -> None:
    """Raise what exporting raises, for models that are not trained yet."""
    with tempfile.TemporaryDirectory() as folder:
        for who, model in (("teacher", material.teacher), ("student", material.student())):
            inputs = material.data["train"].few(8).inputs()
            assert inputs is not None  # checked before
            try:
                to_file(model, inputs, Path(folder) / f"{who}.onnx")
            except InputError as error:
                raise InputError(f"{who}: {error}") from error


def _checked(entrants: Entrants, entered: Sequence[Way], explicit: bool) -> tuple[list[Way], list[dict[str, str]]]:
    """The ways that can be gone, with the chain that can be done; and the others with their reasons."""
    found, left_out, known = list[Way](), list[dict[str, str]](), dict[str, Model]()
    for way in entered:
        try:
            if way.model.name not in known:
                known[way.model.name] = entrants.checked(way.model)
        except (InputError, MissingExtra) as error:
            if explicit and way.family != "ladder" and way.model.learns != "alone":
                if isinstance(error, MissingExtra):
                    raise
                raise InputError(f"--ways: {way.name}: {error}") from error
            left_out.append({"way": way.name, "reason": " ".join(str(error).split())})
        else:
            found.append(dataclasses.replace(way, model=known[way.model.name]))
    if {way.name for way in found} <= {"teacher"}:
        raise InputError("\n".join(["compare: no way can be gone here.", *(one["reason"] for one in left_out)]))
    return found, left_out


def _command(
    out: Path,
    command: Sequence[str],
    names: Sequence[str] | None,
    steps: bool,
    price: float | None,
    budget: str | None,
) -> list[str]:
    """The command that makes this table. Kept is what was typed at first, but for what may differ on a resume."""
    file = out / COMMAND
    first = list(command) or (shlex.split(file.read_text()) if file.exists() else ["understudy", "compare", str(out)])
    write_text(file, f"{shlex.join(first)}\n")
    first += ["--ladder"] if steps else []
    first += ["--ways", ",".join(names)] if names is not None else []
    first += ["--price-per-hour", f"{price:g}"] if price is not None else []
    return [*first, *(["--budget", budget] if budget is not None else [])]


# -- what is handed on -----------------------------------------------------------------------------------------------------


def _page(board: Board, title: str) -> str:
    left_out = {f"left out: {one['way']}": one["reason"] for one in board.left_out}
    rows = [{**row, "command": _alone(board.command, row)} for row in board.rows]
    return pareto_page(
        rows,
        metric=board.metric,
        title=title,
        facts={**board.protocol, **board.measured, **left_out, "command": board.command},
        verdict=board.told,
        chosen=board.winner,
        better=board.better,
    )


def _alone(command: str, row: Mapping[str, Any]) -> str:
    """The command that makes a row, and no more than it needs."""
    words = [word for word in shlex.split(command) if word != "--ladder"]
    if "--ways" in words:
        del words[(at := words.index("--ways")) : at + 2]
    which = {"ladder": ["--ladder"], "teacher": []}.get(row["family"], ["--ways", row["name"]])
    return shlex.join([*words, *which])


def _hand_on(out: Path, board: Board, name: str, examined: Examined) -> None:
    """The very folder that was measured, with a card; that of an earlier time goes."""
    place = out / DEPLOY
    if board.winner is None:
        shutil.rmtree(place, ignore_errors=True)
        return
    row = board.row(board.winner)
    with staged(place) as new:
        shutil.copytree(out / row["path"], new, dirs_exist_ok=True)
        write_text(new / CARD, card(_told(new, board, row, f"{name}-{row['name'].replace('/', '-')}", examined)))
        publish_folder(new, place)


def _told(place: Path, board: Board, row: dict[str, Any], name: str, examined: Examined) -> dict[str, Any]:
    """What a card says of a row."""
    material, facts = examined.material, json.loads((place / FACTS).read_text(encoding="utf-8"))
    data = material.data[board.measured_on]
    return {
        "name": name,
        "about": board.told[0],
        "task": board.protocol["task"],
        "classes": facts["classes"],
        "metric": board.metric,
        "row": row,
        "teacher": board.row(BASE),
        "others": [one for one in (board.row("teacher"), board.row("alone")) if one],
        "lineage": _lineage(board, row, facts),
        "data": {"name": examined.resolved.value["data"]["name"], "split": board.measured_on, "samples": data.samples},
        "recipe": board.protocol,
        "target": facts["target"],
        "runtime": facts["runtime"],
        "file": facts["file"],
        "raw": "raw" in facts,
        "checked": facts["checked"],
        "measured": board.measured,
        "command": board.command,
    }


def _lineage(board: Board, row: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """From the teacher to the file."""
    protocol, lines = board.protocol, [f"teacher: {board.protocol['teacher']}"]
    if row["start"] in ("student", "distilled"):
        lines.append(f"student: {protocol['student']}, {'alone' if row['family'] == 'alone' else protocol['method']}")
    if row["start"] == "shape":
        lines.append("in the teacher's shape, with weights made anew")
    lines += [f"compressed: {step}" for step in row["chain"]]
    if row["recovered"]:
        lines.append(f"taught by the teacher after that: {protocol['method']}, half the epochs")
    return [*lines, f"exported: {facts['target']}, {TARGETS[facts['target']].about}"]
