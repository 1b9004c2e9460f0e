"""The main job on real images, end to end, in about two minutes: the ready recipe ``digits``.

A team has 200 labelled handwritten digits and 800 without labels, and a teacher of 57 thousand parameters that was
trained on all 1,000 with labels. What can a student of 4 thousand parameters learn from the 200 labels, and what from
the teacher's soft labels of all 1,000 images?
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from understudy.errors import InputError
from understudy.folder import Lock
from understudy.parallel import one_process
from understudy.plan import FACTS
from understudy.recipe.ready import ready
from understudy.recipe.running import ENVIRONMENT, RECIPE, REPORT, Ran
from understudy.recipe.running import run as run_recipe
from understudy.recipe.text import Place, read

__all__ = ["run"]

TYPED = "understudy demo"
"""The origin of a demo's own values in its recipe, by which the next one knows it."""

OURS = (
    FACTS, RECIPE, ENVIRONMENT, REPORT, "lock", "results.json", "page.json", "teacher", "alone", "distilled", "fine-tuned", "deploy",
    "student.safetensors", "teacher.safetensors", "soft-labels-*.safetensors",
)  # fmt: skip
"""What a demo makes, and the next one may replace."""


def run(
    seeds: int = 5, *, out: Path = Path("runs/demo"), console: Console | None = None, epochs: int | None = None
) -> Ran:
    """Do the whole job, print the table, and write everything to ``out``.

    Raises: InputError if ``out`` holds something else than an earlier demo.
    """
    one_process("understudy demo")  # before an earlier one is deleted
    console = console or Console(highlight=False)
    recipe = read(ready()["digits"].path)
    typed = Place(TYPED, 0, Path())
    recipe.set(("seeds",), seeds, typed)
    if epochs is not None:
        recipe.set(("epochs",), epochs, typed)
        recipe.set(("teacher", "epochs"), epochs, typed)
    _clear(out)
    console.print("understudy demo: 1,000 images of handwritten digits, 200 of them labelled\n")
    return run_recipe(recipe, out, console=console)


def _clear(out: Path) -> None:
    """Delete an earlier demo; refuse a folder with anything else in it, such as another run."""
    found = sorted(out.iterdir()) if out.is_dir() else []
    if all(file.name == "lock" for file in found):
        return
    foreign = [file.name for file in found if not any(file.match(pattern) for pattern in OURS)]
    if foreign or not _is_demo(out / RECIPE):
        told = ", ".join((foreign or [file.name for file in found])[:3])
        raise InputError(f"{out}: holds {told}, which no demo made. Choose another folder with --out.")
    lock = Lock(out)
    lock.take()  # it may be running still
    for file in found:
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        elif file.name != "lock":
            file.unlink()
    lock.release()


def _is_demo(recipe: Path) -> bool:
    """Whether a resolved recipe says that its seeds come from a demo."""
    return recipe.is_file() and f"# {TYPED}\n" in recipe.read_text(encoding="utf-8", errors="replace")
