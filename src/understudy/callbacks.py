"""What listens to a run: progress bars, trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from understudy.errors import MissingExtra
from understudy.progress import Progress

__all__ = ["Bar", "Callback", "TensorBoard", "counting", "flattened"]


class Callback:
    """Override what you need. Called on rank 0 only; an exception here ends the run."""

    def started(self, progress: Progress) -> None:
        """Before the first step that this process makes; after a resume, not at step 0."""

    def stepped(self, progress: Progress) -> None:
        """After each step."""

    def logged(self, record: Mapping[str, Any]) -> None:
        """After each line of the metrics log; the record is that line."""

    def finished(self) -> None:
        """At the end, whether it was reached or an error."""


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested record by path: ``{"terms": {"kl": 1.0}}`` becomes ``{"terms/kl": 1.0}``."""
    flat: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}/")
        elif isinstance(value, (list, tuple)):
            flat |= flattened({str(i): v for i, v in enumerate(value)}, f"{prefix}{key}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[prefix + key] = float(value)
    return flat


class TensorBoard(Callback):
    """Writes every record to an event file in ``folder``; needs ``understudy[tensorboard]``."""

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("TensorBoard", "tensorboard") from error
        self.writer = SummaryWriter(str(folder))

    def logged(self, record: Mapping[str, Any]) -> None:
        """Each number under its path."""
        for name, value in flattened({k: v for k, v in record.items() if k not in ("step", "epoch")}).items():
            self.writer.add_scalar(name, value, record["step"])

    def finished(self) -> None:
        """Close the event file."""
        self.writer.close()


@contextmanager
def counting(title: str, console: Any, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for what is no training: told how many are done, and of how many; nothing where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description:<22}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with RichProgress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


LAST = {"valid": "last valid", "loss": "loss"}
"""What a bar calls the figures: the last validation's need not be that of the weights that are kept, which are the best ones."""


class Bar(Callback):
    """A progress bar with a title, the last loss and the last validation; one line of text where there is no terminal."""

    def __init__(self, title: str, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.title, self.console, self.note = title, console or Console(), ""
        columns = (
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bar = RichProgress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.task: Any = None
        self.done = self.total = 0

    def started(self, progress: Progress) -> None:
        """Draw it."""
        self.done, self.total = progress.step, progress.steps
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=progress.steps, completed=progress.step, note="")

    def stepped(self, progress: Progress) -> None:
        """Move it."""
        self.done = progress.step + 1
        self.bar.update(self.task, completed=self.done, note=self.note)

    def logged(self, record: Mapping[str, Any]) -> None:
        """Keep what is worth showing."""
        kind = "valid" if "valid" in record else "loss"
        if kind == "valid" or not self.note.startswith(LAST["valid"]):
            first = next(iter(record.get(kind, {}).items()), None)
            self.note = "" if first is None else f"{LAST[kind]} {first[0]} {first[1]:.3f}"

    def finished(self) -> None:
        """Leave the full bar on the screen, or say in one line that it is done."""
        self.bar.stop()
        if self.console.is_terminal:
            return
        if self.done < self.total:
            self.console.print(f"{self.title}: stopped at step {self.done} of {self.total}", highlight=False)
        else:
            self.console.print(f"{self.title}: {self.note or 'done before'}", highlight=False)
