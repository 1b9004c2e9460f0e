"""The table at the end of a job, in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

__all__ = ["Column", "markdown", "render"]


@dataclass(frozen=True)
class Column:
    """One column: the rows' key, what stands above it, and how a value is written."""

    key: str
    title: str
    form: str = "{}"

    def cell(self, row: Mapping[str, Any]) -> str:
        """The row's value, or a dash where there is none."""
        value = row.get(self.key)
        return "-" if value is None else self.form.format(value)


def render(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, title: str, emphasis: str | None = None
) -> Table:
    """A table with the first column to the left and all others to the right; the row named ``emphasis`` in bold."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        # Numbers stay whole: where the screen is narrow, names are folded.
        table.add_column(column.title, justify="left" if i == 0 else "right", no_wrap=i > 0, overflow="fold")
    for row in rows:
        bold = emphasis is not None and row.get(columns[0].key) == emphasis
        table.add_row(*(column.cell(row) for column in columns), style="bold" if bold else None)
    return table


def markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """The same in Markdown, without columns that no row has a value for."""
    shown = [column for column in columns if any(row.get(column.key) is not None for row in rows)]
    lines = [[column.title.replace("\n", " ") for column in shown], ["---"] * len(shown)]
    lines += [[column.cell(row) for column in shown] for row in rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
