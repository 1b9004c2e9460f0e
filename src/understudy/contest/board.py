"""A contest that is done: its tables on the screen and in Markdown, and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from understudy.report import Column, markdown, render
from understudy.writing import strict

__all__ = ["Board"]

Row = Mapping[str, Any]

COLUMNS = (
    "File: the mean over seeds comes from the models, for int8 from the files; beside it the file that is handed on.",
    "Same: times smaller and faster than the teacher in the same runtime and precision. Overall: than the teacher in PyTorch in fp32.",
    "Pays after: inferences, one at a time on one thread, after which the training (of one seed, without the teacher's) is earned back "
    "against the teacher in the same runtime.",
)
FRONT = "On the front: no other row is as good in figure, size and latency and better in one."
"""Of a column that the page alone has."""


@dataclass(frozen=True)
class Board:
    """What :func:`understudy.contest.contest.contest` returns.

    Attributes:
        rows: the teacher as it was, then a row for each way; units in the keys, ``*_ci95`` is half the width of the 95 % t-interval over seeds.
        metric: the task's figure.
        better: "max" or "min": of the metric.
        measured_on: "test", or "valid" where there was no test data.
        winner: the name of the row that is in deploy/; None if none was accepted.
        told: what the tables say, in sentences.
        four: pruning, quantization, low rank and distillation, a row each.
        left_out: ways that are not in the table, each with ``way`` and ``reason``.
        protocol: what all had alike, in words.
        machine: processor, cores, load, and notes on what was measured.
        command: that makes this table.
    """

    rows: list[dict[str, Any]]
    metric: str
    better: str
    measured_on: str
    winner: str | None
    told: list[str]
    four: list[dict[str, Any]]
    left_out: list[dict[str, str]]
    protocol: dict[str, str]
    machine: dict[str, Any]
    command: str

    def row(self, name: str) -> dict[str, Any]:
        """The row of this name; an empty one where there is none."""
        return next((row for row in self.rows if row["name"] == name), {})

    def results(self) -> dict[str, Any]:
        """As strict JSON can hold it."""
        plain: dict[str, Any] = strict({name: getattr(self, name) for name in self.__dataclass_fields__})
        return plain

    def show(self, console: Console) -> None:
        """Print the tables and the sentences, in 80 columns."""
        shown = self._cells
        heads = (f"Quality on {self.measured_on}", "Costs: batch 1, one thread", "Against the teacher")
        for title, columns in zip(heads, self._columns(), strict=True):
            console.print(render(shown, columns, title=title, emphasis=self.winner))
        if any(row["row"] for row in self.four):
            console.print(render(self.four, self._four(), title="Four ways"))
        for line in [*self.told, *COLUMNS]:
            console.print(line, highlight=False, soft_wrap=True)
        for one in self.left_out:
            console.print(f"Left out: {one['way']}: {one['reason']}", highlight=False, soft_wrap=True)

    def markdown(self, title: str) -> str:
        """A page of its own."""
        shown = self._cells
        quality, costs, ratios = self._columns()
        # What 80 columns have no room for.
        quality += [Column("seeds", "seeds"), Column("flops", "FLOPs", "{:,}"), Column("on_front", "on the front")]
        costs.append(Column("eager_latency_ms_p50", "ms in PyTorch", "{:.3f}"))
        tables = [markdown(shown, columns) for columns in (quality, costs, ratios)]
        short = [Column("way", "way"), Column("idea", "main idea"), *self._four()[1:]]
        left_out = [f"- {one['way']}: {one['reason']}" for one in self.left_out]
        parts = [
            f"# {title}",
            f"```sh\n{self.command}\n```",
            "\n".join(f"- {name}: {told}" for name, told in self.protocol.items()),
            *(f"{line}" for line in self.told),
            *(
                part
                for pair in zip(("## Quality", "## Costs", "## Against the teacher"), tables, strict=True)
                for part in pair
            ),
            "\n".join(f"- {line}" for line in (*COLUMNS, FRONT)),
            *(["## Four ways", markdown(self.four, short)] if any(row["row"] for row in self.four) else []),
            *(["## Left out", "\n".join(left_out)] if left_out else []),
            "## Measured where",
            "\n".join(f"- {line}" for line in self.measured.values()),
        ]
        return "\n\n".join(parts) + "\n"

    @property
    def measured(self) -> dict[str, str]:
        """How costs were measured, in words."""
        facts = {
            "machine": f"{self.machine['processor']}, {self.machine['cores']} cores, load {self.machine['load_average']}"
        }
        return facts | {f"note {i}": note for i, note in enumerate(self.machine["notes"], 1)}

    @property
    def _cells(self) -> list[dict[str, Any]]:
        mixed = len({row["energy_how"] for row in self.rows}) > 1
        return [_cells(self.metric, row, mixed) for row in self.rows]

    def _columns(self) -> tuple[list[Column], list[Column], list[Column]]:
        name, guessed = Column("name", "way"), all(row["energy_how"] == "estimated" for row in self.rows)
        quality = [
            name,
            Column("figure", self.metric),
            Column(f"file_{self.metric}", "file", "{:.3f}"),
            Column("gap_closed", "gap\nclosed", "{:.0%}"),
            Column("parameters", "parameters", "{:,}"),
            Column("accepts", "accepted"),
        ]
        costs = [
            name,
            Column("kilobytes", "kB", "{:,.1f}"),
            Column("compressed", "kB\nzipped", "{:,.1f}"),
            Column("latency_ms_p50", "ms\np50", "{:.3f}"),
            Column("latency_ms_p99", "ms\np99", "{:.3f}"),
            Column("peak_memory_mb", "peak\nMB", "{:.0f}"),
            Column("energy", "mJ\n(est.)" if guessed else "mJ"),
        ]
        ratios = [
            name,
            Column("times_smaller", "smaller\nsame", "{:.1f}x"),
            Column("times_faster", "faster\nsame", "{:.1f}x"),
            Column("times_smaller_overall", "smaller\noverall", "{:.1f}x"),
            Column("times_faster_overall", "faster\noverall", "{:.1f}x"),
            Column("cost_per_million", "cost of\n10^6", "{:.4g}"),
            Column("pays_after", "pays\nafter", "{:,}"),
        ]
        return quality, costs, ratios

    def _four(self) -> list[Column]:
        return [
            Column("way", "way"),
            Column("row", "row"),
            Column("times_faster", "faster", "{:.1f}x"),
            Column("times_smaller", "smaller", "{:.1f}x"),
            Column(self.metric, self.metric, "{:.3f}"),
            Column("at_equal_size", "at equal\nsize", "{:.3f}"),
        ]


def _cells(metric: str, row: Row, mixed: bool) -> dict[str, Any]:
    """A row with what is written of it."""
    half, how = row.get(f"{metric}_ci95"), row["energy_how"]
    return {
        **row,
        "figure": f"{row[metric]:.3f}" + ("" if half is None else f" ± {half:.3f}"),
        "accepts": "yes" if not row["missed"] else "no",
        "kilobytes": row["size_bytes"] / 1e3,
        "compressed": row["size_compressed_bytes"] / 1e3,
        "energy": f"{row['energy_mj']:.3g}" + (" est." if how == "estimated" and mixed else ""),
        "on_front": "yes" if row["pareto"] else None,
    }
