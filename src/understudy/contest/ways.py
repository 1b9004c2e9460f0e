"""Ways to a smaller model: which rows the table of ``understudy compare`` has, and what each of them is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from understudy import compress
from understudy.compress import Step
from understudy.errors import InputError
from understudy.picking import picked

__all__ = ["LADDER", "Model", "Way", "chosen", "ladder", "ways"]

LADDER = (2, 5, 10, 20, 50)
"""A ladder's students have the teacher's parameters divided by these."""

ZEROS = 0.8
"""Share of the weights that magnitude pruning makes zero: what the literature reaches with little loss."""

ROUND = (8, 1)
"""What is left of a layer's channels is a multiple of the first, which runtimes like; or of the second, where that is too many."""


@dataclass(frozen=True)
class Model:
    """A model of the contest. Rows may share one, and then differ in what it is exported to.

    Attributes:
        name: of its folder.
        start: whose weights it begins with: "teacher", "student" (the recipe's, as that begins), "distilled", or "shape": the
            teacher made smaller, with weights that are made anew.
        chains: compressions in a row, in the order of preference; the first that can be done is.
        learns: "" for not at all, "alone" from labels, "distilled" as the recipe says, "recovered": as that, for half the epochs.
    """

    name: str
    start: str
    learns: str = ""
    chains: tuple[tuple[Step, ...], ...] = ((),)

    @property
    def chain(self) -> tuple[Step, ...]:
        """The compressions that are done."""
        return self.chains[0]

    @property
    def one(self) -> bool:
        """Whether it is the same for all seeds."""
        return self.start == "teacher" and not self.learns


@dataclass(frozen=True)
class Way:
    """A row of the table.

    Attributes:
        family: what the rows are coloured by: teacher, alone, distillation, pruning, quantization, low-rank, combination, ladder.
        target: what its model is exported to: a name in :data:`understudy.export.TARGETS`.
        beside: name of the row with the student alone, against which its share of the gap is measured.
    """

    name: str
    family: str
    model: Model
    target: str = "onnx"
    beside: str = "alone"

    @property
    def int8(self) -> bool:
        """Whether its file rounds, so that its figure has to come from the file."""
        return self.target == "onnx-int8"


def ways(student: int, teacher: int) -> list[Way]:
    """All rows but a ladder's, for models of so many parameters: pruned and factorized teachers get as many as the student has.

    >>> [way.name for way in ways(4_000, 200_000)][:4]
    ['teacher', 'teacher-int8', 'alone', 'distilled']
    """
    thin, low = tuple(_thinner(student, teacher)), tuple(_budgets(student, teacher))
    sparse: tuple[tuple[Step, ...], ...] = ((("magnitude", {"amount": ZEROS}),),)
    half = tuple((("narrower", {"ratio": 0.5, "round_to": n}),) for n in ROUND)
    whole, taught = Model("teacher", "teacher"), Model("distilled", "student", "distilled")
    found = [
        Way("teacher", "teacher", whole),
        Way("teacher-int8", "quantization", whole, "onnx-int8"),
        Way("alone", "alone", Model("alone", "student", "alone")),
        Way("distilled", "distillation", taught),
        Way("distilled-int8", "combination", taught, "onnx-int8"),
    ]
    if "qat" in compress.__all__:
        aware = Model("distilled-qat", "distilled", "recovered", (("qat",),))
        found.append(Way(aware.name, "combination", aware, "onnx-int8"))
    smaller = Model("distilled-half", "distilled", "recovered", half)
    found.append(Way("distilled-half-int8", "combination", smaller, "onnx-int8"))
    for name, family, chains in (("channels", "pruning", thin), ("low-rank", "low-rank", low)):
        if chains:
            again = Model(f"{name}-recovered", "teacher", "recovered", chains)
            found += [
                Way(name, family, Model(name, "teacher", "", chains)),
                Way(again.name, family, again),
                Way(f"{again.name}-int8", "combination", again, "onnx-int8"),
            ]
    masked = Model("magnitude-recovered", "teacher", "recovered", sparse)
    return [
        *found,
        Way("magnitude", "pruning", Model("magnitude", "teacher", "", sparse)),
        Way(masked.name, "pruning", masked),
    ]


def ladder() -> list[Way]:
    """Students in the teacher's shape with ever fewer parameters, each alone and distilled."""
    found = []
    for n in LADDER:
        chains = tuple((("narrower", {"ratio": 1 / n, "round_to": m}),) for m in ROUND)
        for learns in ("alone", "distilled"):
            name = f"1/{n}-{learns}"
            model = Model(f"ladder-{n}-{learns}", "shape", learns, chains)
            found.append(Way(name, "ladder", model, beside=f"1/{n}-alone"))
    return found


def _thinner(student: int, teacher: int) -> Iterator[tuple[Step, ...]]:
    """The student's number of parameters first, and more of them where layers cannot be as thin."""
    for ratio in _doubled(student / teacher, 1.0):
        for n in ROUND:
            yield (("narrower", {"ratio": _up(ratio), "round_to": n}),)


def _budgets(student: int, teacher: int) -> Iterator[tuple[Step, ...]]:
    for budget in _doubled(student, teacher):
        yield (("low_rank", {"budget": int(budget), "whitened": True}),)


def _doubled(first: float, end: float) -> Iterator[float]:
    while first < end:
        yield first
        first *= 2


def _up(ratio: float) -> float:
    """In four decimals, and no less."""
    return min(0.9999, math.ceil(ratio * 1e4) / 1e4)


def chosen(known: Sequence[Way], names: Sequence[str] | None) -> list[Way]:
    """Those of these names, in the table's order; see :func:`~understudy.picking.picked`.

    The teacher is always there, and so is the student alone where the table has it, for all others are held against them.

    Raises: InputError for names that there are not, or where nothing is left.
    """
    wanted = set(picked("--ways", "way", ["all"] if names is None else names, [way.name for way in known]))
    if not wanted - {"teacher"}:
        raise InputError(
            "--ways: names no way. Write all, or names with commas between them: distilled,distilled-int8."
        )
    wanted |= {"teacher"}
    # What is held against something in 8 bits needs the teacher in 8 bits.
    wanted |= {"teacher-int8"} if any(way.int8 and way.name in wanted for way in known) else set()
    wanted |= {way.beside for way in known if way.name in wanted and way.family not in ("teacher", "quantization")}
    return [way for way in known if way.name in wanted]
