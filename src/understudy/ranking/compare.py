"""All methods under one protocol: what ``understudy compare --methods`` does with a recipe, and what it leaves in its folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from understudy import methods, parallel
from understudy.errors import InputError
from understudy.picking import picked
from understudy.ranking.comparison import FACTORS, TUNING_SEEDS, Comparison
from understudy.ranking.ranking import Ranking
from understudy.recipe.examine import examine
from understudy.recipe.running import FREE, claim
from understudy.recipe.text import Document
from understudy.registry import entries
from understudy.writing import write_json, write_text

__all__ = ["FACTORS", "TUNING_SEEDS", "Compared", "compare"]

RESULTS, PAGE, COMMAND = "results.json", "methods.md", "command.txt"
UNUSED = ("method", "terms", "fine_tune")  # keys of the recipe that a comparison does not ask for


@dataclass(frozen=True)
class Compared:
    """What :func:`compare` returns."""

    ranking: Ranking
    folder: Path

    @property
    def page(self) -> Path:
        """The table in Markdown."""
        return self.folder / PAGE


def compare(
    document: Document,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    tune: bool = False,
    command: Sequence[str] = (),
    resume: bool = False,
    console: Console | None = None,
) -> Compared:
    """Train every method on a recipe's models and data, and measure them all at the end, once, on its test data.

    Args:
        document: the recipe. What it says of its method is not used: each has its paper's defaults.
        out: the folder of the comparison.
        names: of methods, ``"all"`` for all there are, ``"-dafl"`` for all but this one; all, if not given.
        tune: whether to choose each method's weight by validation, with other seeds.
        command: the words that say what the recipe is, for the page; on a resume those of the first time, if there are none.
        resume: go on with the comparison in ``out``; other methods may be added to it.
        console: where progress is shown.

    Raises: InputError for names that are not known, if no method can work, or under torchrun; what ``understudy run`` raises.
    """
    parallel.one_process("compare")
    chosen = _chosen(names)
    console = console or Console(highlight=False)
    examined = examine(document, folder=out, resume=resume, progress=False, console=console)
    material = examined.material
    if material.hard is None:
        raise InputError(
            f"{document.top.source}: train has no label, so that there is no student alone to compare methods with."
        )
    for note in [*claim(out, examined, resume, (*FREE, *UNUSED)), *examined.parts.notes]:
        console.print(note, soft_wrap=True)
    with material.plan.locked():
        ranking = Comparison(material, out, chosen, tune, console).run()
    write_json(out / RESULTS, ranking.results())
    words = _command(out, command, _asked(names, tune))
    write_text(out / PAGE, ranking.markdown(f"Methods on {_title(words, document)}", shlex.join(words)))
    return Compared(ranking, out)


def _asked(names: Sequence[str] | None, tune: bool) -> list[str]:
    """The options of the command line that say which methods, and how."""
    return [*(["--methods", "all" if names is None else ",".join(names)]), *(["--tune"] if tune else [])]


def _command(out: Path, command: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The command that makes this table.

    On a resume of the folder it is what was typed when the comparison began, with the methods of now: the folder itself is
    nothing to others.
    """
    file = out / COMMAND
    first = list(command) or (_but_methods(shlex.split(file.read_text())) if file.exists() else [])
    words = [*(first or ["understudy", "compare", str(out)]), *asked]
    write_text(file, f"{shlex.join(words)}\n")
    return words


def _but_methods(words: Sequence[str]) -> list[str]:
    """The words without what :func:`_asked` has added."""
    at = words.index("--methods") if "--methods" in words else len(words)
    return [word for word in (*words[:at], *words[at + 2 :]) if word != "--tune"]


def _title(words: Sequence[str], document: Document) -> str:
    return Path(words[2] if len(words) > 2 else document.top.source).stem


def _chosen(names: Sequence[str] | None) -> list[str]:
    """Names of methods, each once. The student alone is no method here, but what all are compared with."""
    known = [name for name in entries("method") if name != methods.alone.__name__]
    chosen = picked("--methods", "method", ["all"] if names is None else names, known)
    if not chosen:
        raise InputError("--methods: names no method. Write all, or names with commas between them: kd,dkd.")
    return chosen
