"""What a kind of device allows a model: named budgets, which are emulated on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.errors import InputError, choices

__all__ = ["BUDGETS", "DEADLINE_RUNS", "EMULATED", "Budget", "budget_of", "missed_share", "verdict"]

EMULATED = (
    "The budget is emulated: file, memory and threads are held to it; the processor is that of this machine, "
    "and not that of such a device."
)


DEADLINE_RUNS = 1000
"""Of so many calls, at least, it is told which share misses a deadline."""


@dataclass(frozen=True)
class Budget:
    """What a device allows.

    Attributes:
        name: of the budget.
        size_bytes: of the model's files.
        memory_bytes: that loading and running the model may allocate, beside what Python and the idle runtime have.
        deadline_ms: by which one inference must be done.
        told: whom it stands for, in words.
        in_flash: whether weights stay in the flash memory; then the files' bytes are allowed beside ``memory_bytes``, for a runtime
            here holds weights in memory.
        missed_share: of inferences that may miss the deadline.
        threads: of the runtime.
    """

    name: str
    size_bytes: int
    memory_bytes: int
    deadline_ms: float
    told: str
    in_flash: bool = False
    missed_share: float = 0.01
    threads: int = 1

    def limit(self, size_bytes: int) -> int:
        """Bytes that a process may allocate for a model of this size."""
        return self.memory_bytes + (size_bytes if self.in_flash else 0)


BUDGETS: Mapping[str, Budget] = {
    b.name: b
    for b in (
        Budget("phone", 20_000_000, 200_000_000, 33.0, "a phone's app: a picture of a video at 30 a second"),
        Budget("edge", 10_000_000, 64_000_000, 100.0, "a camera or a small board without a GPU: ten answers a second"),
        Budget("microcontroller", 1_000_000, 512_000, 100.0, "1 MB of flash memory and 512 kB of RAM", in_flash=True),
    )
}
"""Ours, and no standard: round numbers that such devices have. A device of your own has its data sheet."""


def budget_of(name: str) -> Budget:
    """The budget of this name; InputError that tells which there are."""
    if name not in BUDGETS:
        raise InputError(f"budget: there is no {name!r}. {choices(name, BUDGETS)}")
    return BUDGETS[name]


def missed_share(times_ms: Sequence[float], deadline_ms: float) -> float:
    """Share of the calls that took longer than that.

    >>> missed_share([1, 2, 3, 9], 3)
    0.25
    """
    if not deadline_ms > 0:
        raise InputError(f"deadline_ms: {deadline_ms!r}; allowed: a number of milliseconds above 0.")
    return sum(time > deadline_ms for time in times_ms) / len(times_ms)


def verdict(budget: Budget, found: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether a model is within a budget, and a sentence for each thing in which it is not.

    Args:
        found: ``size_bytes``; ``memory_fits``, None if nobody could tell; ``missed_share``.
    """
    wrong = []
    if found["size_bytes"] > budget.size_bytes:
        wrong.append(f"its files have {found['size_bytes']:,} bytes, and {budget.size_bytes:,} are allowed")
    if not found["memory_fits"]:
        why = "cannot be told here" if found["memory_fits"] is None else "is too much"
        wrong.append(
            f"its memory {why}: {budget.limit(found['size_bytes']):,} bytes are allowed beside the idle runtime"
        )
    if found["missed_share"] > budget.missed_share:
        share = f"{found['missed_share']:.1%} of inferences miss {budget.deadline_ms:g} ms"
        wrong.append(f"{share}, and {budget.missed_share:.0%} may")
    return not wrong, wrong
