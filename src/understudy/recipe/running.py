"""A recipe's run: its folder, the whole job, the page, and what is deployed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from understudy.cards import card_of
from understudy.data.order import preserved
from understudy.environment import environment
from understudy.errors import InputError, MissingExtra
from understudy.export import TARGETS, convertible
from understudy.job import perform
from understudy.outcome import Distilled
from understudy.parallel import one_process
from understudy.plan import FACTS
from understudy.recipe.examine import Examined, examine
from understudy.recipe.frame import deployment
from understudy.recipe.text import Document, read
from understudy.start import begun
from understudy.writing import make_folder, write_json, write_text

__all__ = ["ENVIRONMENT", "FREE", "RECIPE", "Ran", "claim", "fetched", "handed_on", "run", "tried", "wished"]

RECIPE, ENVIRONMENT, REPORT = "recipe.yaml", "environment.json", "report.html"

FREE = ("device", "workers", "threads", "accept", "deadline_ms", "search", "report", "export")
"""Keys that may differ when a run is resumed: they change no weight, or only its last bits, of which the run warns."""

FEW = 2
"""Samples that the student's graph is tried with."""

_PAGE = ("jinja2", "matplotlib")


@dataclass(frozen=True)
class Ran:
    """What a run has come to.

    Attributes:
        result: of the job.
        folder: where everything is.
        page: if one was wished for.
        deployed: the folder or file to deploy, if one was wished for, and the figures of that file.
    """

    result: Distilled
    folder: Path
    page: Path | None
    deployed: Path | None
    figures: dict[str, float]

    def show(self, console: Console) -> None:
        """Say where everything is."""
        console.print()
        for what, path in (("The run", self.folder), ("The page", self.page), ("To deploy", self.deployed)):
            if path is not None:
                console.print(f"{what + ':':<11}{path}", soft_wrap=True)
        metric, part = self.result.task.metric, self.result.measured_on
        if self.deployed is not None and metric not in self.figures:
            console.print(f"{'':<11}not run: its runtime does not exist on this system", soft_wrap=True)
        elif self.figures:
            console.print(f"{'':<11}{metric} of the file on {part}: {self.figures[metric]:.3f}", soft_wrap=True)


def run(document: Document, out: Path, *, resume: bool = False, console: Console | None = None) -> Ran:
    """Check a recipe, do the job, and leave everything in ``out``.

    Raises: whatever :func:`~understudy.recipe.examine.examine` and :func:`understudy.distill` raise.
    """
    one_process("understudy run")
    console = console or Console(highlight=False)
    examined = examine(document, folder=out, resume=resume, console=console)
    wishes, missing = wished(document, examined)
    fetched(wishes)
    tried(document, examined, wishes)
    for note in [*missing, *claim(out, examined, resume), *examined.notes]:
        console.print(note, soft_wrap=True)
    return handed_on(perform(examined.material), out, wishes, examined, console)


def handed_on(result: Distilled, out: Path, wishes: Mapping[str, Any], examined: Examined, console: Console) -> Ran:
    """Show what a job has come to, and write page and export as they are wished for."""
    console.print()
    result.show(console)
    page = result.report(out / REPORT) if wishes["report"] else None
    deployed, figures = None, dict[str, float]()
    if wishes["export"]:
        to, target = deployment(wishes["export"])
        deployed, train = out / to, examined.material.data["train"]
        known = card_of(examined.resolved.value)
        figures = result.export(deployed, raw=examined.parts.raw, target=target, training=train, card=known)
    ran = Ran(result, out, page, deployed, figures)
    ran.show(console)
    return ran


def claim(out: Path, examined: Examined, resume: bool, free: Sequence[str] = FREE) -> list[str]:
    """Write the recipe and the environment; on a resume, see that it is the same recipe, but for the keys in ``free``.

    Returns: what is worth knowing. A resume where there is nothing yet begins, so that one command can be given again and again.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file. Choose another folder: --out.")
    known = out / RECIPE
    if resume and known.exists():
        changed = examined.resolved.differences(read(known).value, free)
        if changed:
            told = "\n".join(f"  {line}" for line in changed)
            raise InputError(
                f"{out}: holds a run of another recipe:\n{told}\nChoose another folder: --out. "
                f"Or name the folder, {out}, in place of the recipe: then that run goes on as it is."
            )
        return []
    new = resume and not (out / FACTS).exists()
    if (out / FACTS).exists() and not resume:
        raise InputError(f"{out}: already holds a run. Go on with it: --resume. Or choose another folder: --out.")
    foreign = sorted({file.name for file in out.iterdir()} - {RECIPE, ENVIRONMENT, "lock"}) if out.exists() else []
    if foreign and not (out / FACTS).exists():
        raise InputError(f"{out}: holds {', '.join(foreign[:3])}, which no run made. Choose another folder: --out.")
    make_folder(out)
    write_text(known, examined.resolved.text())
    device = examined.material.device
    write_json(out / ENVIRONMENT, environment(device))
    return [f"{out}: holds nothing to go on with yet. This begins at the start."] if new else []


def fetched(wishes: Mapping[str, Any]) -> None:
    """Have at hand what the export needs of the network, so that it does not fail for it after the training.

    Raises: MachineError where it cannot be had.
    """
    brings = TARGETS[deployment(wishes["export"])[1]].brings if wishes["export"] else None
    if brings:
        brings(None)


def tried(document: Document, examined: Examined, wishes: Mapping[str, Any]) -> None:
    """Make the student's graph for the export as it begins, so that a model that has none is not trained for it.

    Raises: InputError that says what in the model stands against it.
    """
    material = examined.material
    inputs = material.data["train"].few(FEW).inputs()
    if not wishes["export"] or inputs is None:
        return
    name = deployment(wishes["export"])[1]
    try:
        with preserved():
            convertible(name, begun(material.plan.student, material.teacher), inputs)
    except InputError as error:
        at = "export" if "export" in document.value else "student"
        told = f"{document.place((at,))}: {error} To train without it: export: null."
        raise InputError(told) from error


def wished(document: Document, examined: Examined) -> tuple[dict[str, Any], list[str]]:
    """Page and export, as far as what they need is installed; and what is worth knowing of the others.

    Raises: MissingExtra for what the recipe itself asks for.
    """
    wishes, notes = {name: examined.resolved.value[name] for name in ("report", "export")}, list[str]()
    target = TARGETS[deployment(wishes["export"] or "")[1]]
    needs = {"report": (_PAGE, "report", ""), "export": (target.packages, target.extra, target.fix)}
    for name, (modules, extra, fix) in needs.items():
        if wishes[name] and not all(importlib.util.find_spec(module) for module in modules):
            missing = MissingExtra(f"{document.place((name,))}: {name}", extra, fix=fix)
            if name in document.value:
                raise missing
            notes.append(f"{missing} Until then there is none.")
            wishes[name] = None
    return wishes, notes
