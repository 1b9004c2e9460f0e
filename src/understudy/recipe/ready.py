"""The ready recipes that come with the package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ready", "ready", "templates"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Ready:
    """A ready recipe.

    Attributes:
        told: its first comment, in a line.
    """

    path: Path
    told: str

    @property
    def lacks(self) -> str | None:
        """The command that writes the data that the recipe names, if it is not there yet."""
        found = re.search(r"understudy data \S+ (\S+)", self.path.read_text(encoding="utf-8"))
        return found[0] if found and not Path(found[1]).exists() else None


def ready() -> dict[str, Ready]:
    """All of them, by the name under which ``understudy run`` takes them."""
    return _of(_HERE / "recipes")


def templates() -> dict[str, Ready]:
    """What ``understudy init`` writes, by the task."""
    return _of(_HERE / "templates")


def _of(folder: Path) -> dict[str, Ready]:
    """By name: that of a file in a sub-folder has it before, as in ``vision/hints``."""
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return {
        name: Ready(files[name], _told(files[name])) for name in sorted(files, key=lambda name: ("/" in name, name))
    }


def _told(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line[2:] for line in lines if line.startswith("# ") and "yaml-language-server" not in line), "")
