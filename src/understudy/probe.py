"""Which way a frozen teacher runs fastest here, without saying anything else: timed and checked on the user's own batches.

Each candidate is compared with the model as it is, in float32: how far its outputs are off, how far the gradient that a
student gets from them, and how often it would decide otherwise. The fastest within the tolerance is taken, if what it saves
over the length of the run is more than what its compilation takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.batch import Batch, Call, tensors
from understudy.data.order import preserved
from understudy.errors import UnderstudyError
from understudy.inference import WAYS, Inference, Way, check_layers
from understudy.lookup import named_tensor

__all__ = ["TOLERANCE", "Choice", "Tried", "calibration", "choose"]

TOLERANCE = 0.02
"""The largest relative error of outputs, taps and the student's gradient, and the largest share of other decisions."""

WORTH_SECONDS = 10.0  # what the teacher must take in the whole run before anything is tried
COMPILING_SECONDS = 30.0  # about, of which nothing is known before it is tried
COMPILED_SAVES = 0.4  # of the fastest uncompiled time, at least, seen on convolutional networks
ROUNDS = 3
TEMPERATURE = 4.0

_OUTPUT = Address.parse("model")


@dataclass(frozen=True)
class Tried:
    """A way that was looked at.

    Attributes:
        ms: of one batch, the median of interleaved rounds; None if it could not run.
        first_ms: of the first batches, with compilation or export.
        output_error: largest relative 2-norm of the difference of an output or a tap.
        gradient_error: relative 2-norm of the difference of the gradient of :func:`~understudy.losses.kl` at temperature
            4 with respect to the student's logits; None where there are no classes.
        disagreement: share of samples with another largest logit; None likewise.
        refused: why it cannot be taken; None if it can.
    """

    way: str
    ms: float | None = None
    first_ms: float | None = None
    output_error: float | None = None
    gradient_error: float | None = None
    disagreement: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        way: a name of :data:`~understudy.inference.WAYS`.
        told: the reason, in a sentence.
        tried: what was looked at; the model as it is first.
    """

    way: str
    told: str
    tried: tuple[Tried, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Choice:
        """From :meth:`facts`."""
        return cls(facts["way"], facts["told"], tuple(Tried(**tried) for tried in facts["tried"]))


def choose(
    teacher: Any,
    batches: Sequence[Batch],
    times: int,
    *,
    give: Call,
    student: Tensor | None = None,
    taps: Sequence[str] = (),
    tolerance: float = TOLERANCE,
    parts: bool = False,
) -> tuple[Choice, Any]:
    """Choose how a teacher runs.

    Args:
        teacher: a module; anything else runs as it does.
        batches: some of the user's, as the run will have them.
        times: how often the teacher will run.
        give: how a batch's inputs reach a model.
        student: a student's logits ``[N, C]`` of the first batch, for the gradient's error; None where there are no classes.
        taps: the teacher's submodules that terms read.
        tolerance: see :data:`TOLERANCE`.
        parts: whether terms read of the teacher's output more than its logits.

    Returns: the choice, and what to give to the method in the teacher's place, compiled if that was chosen.
    """
    if not isinstance(teacher, nn.Module):
        return Choice("fp32", f"a {type(teacher).__name__} runs as it does"), teacher
    with preserved(), torch.no_grad():
        return _Probe(teacher, batches, times, give, student, frozenset(taps), tolerance, parts).run()


def calibration(batches: Sequence[Batch]) -> list[Any]:
    """The inputs from which ways are made that need samples: not those of the first batch, on which the gradient is compared."""
    return [batch.inputs for batch in batches[1:] or batches]


class _Probe:
    def __init__(
        self, teacher: nn.Module, batches: Sequence[Batch], times: int, give: Call, student: Tensor | None,
        taps: frozenset[str], tolerance: float, parts: bool,
    ) -> None:  # fmt: skip
        self.teacher, self.batches, self.times, self.give = teacher, batches, times, give
        self.student, self.taps, self.tolerance, self.parts = student, taps, tolerance, parts
        self.asked = {"fp32": Inference(teacher, "fp32")}
        self.wanted = self._all("fp32")
        self.rounds: dict[str, list[float]] = {"fp32": [self._timed("fp32") for _ in range(2)]}
        self.tried: dict[str, Tried] = {"fp32": Tried("fp32")}

    def run(self) -> tuple[Choice, Inference]:
        whole = self.times * min(self.rounds["fp32"])
        if whole < WORTH_SECONDS:
            return self._chosen("fp32", f"the teacher takes {whole:.1f} s of the whole run")
        for way in (name for name, way in WAYS.items() if not way.prepared and way != Way()):
            self._try(way)
        self._race()
        fastest = self._fastest()
        saved = COMPILED_SAVES * self.times * self._seconds(fastest)
        for way in (name for name, way in WAYS.items() if way.prepared):
            if WAYS[way].bf16 != WAYS[fastest].bf16 and way != "int8":
                continue  # where bfloat16 is slower or too far off, it is so compiled too; and in float32 nothing overtakes it
            if WAYS[way].form is not None and self.parts:
                self.tried[way] = Tried(way, refused="gives one tensor, and more of the output is read")
            elif saved < COMPILING_SECONDS:
                what = "compiling" if WAYS[way].compiled else "exporting"
                self.tried[way] = Tried(way, refused=f"{what} takes longer than the {saved:.0f} s that it could save")
            else:
                self._try(way)
        self._race()
        chosen = self._fastest()
        if chosen == "fp32":
            return self._chosen(chosen, "nothing within the tolerance is faster")
        share = self._seconds(chosen) / self._seconds("fp32")
        error = self.tried[chosen].gradient_error
        off = self.tried[chosen].output_error if error is None else error
        what = "its outputs are" if error is None else "the student's gradient is"
        told = f"takes {share:.2f} of the time of fp32 on {len(self.batches)} of your batches; {what} {100 * (off or 0):.1g} % off"
        return self._chosen(chosen, told)

    def _chosen(self, way: str, told: str) -> tuple[Choice, Inference]:
        order = sorted(self.tried, key=list(WAYS).index)
        seen = [
            replace(self.tried[name], ms=1e3 * self._seconds(name) if name in self.rounds else None) for name in order
        ]
        return Choice(way, told, tuple(seen)), self.asked[way]

    def _seconds(self, way: str) -> float:
        return statistics.median(self.rounds[way])

    def _fastest(self) -> str:
        """The least time in the whole run, with what compilation took: a run that is resumed has to do it again."""
        able = [way for way, tried in self.tried.items() if tried.refused is None]
        return min(able, key=lambda way: self.times * self._seconds(way) + (self.tried[way].first_ms or 0.0) / 1e3)

    def _try(self, way: str) -> None:
        """Run it once, and compare."""
        began = time.perf_counter()
        try:
            check_layers(way, self.taps)
            self.asked[way] = Inference(self.teacher, way, calibration(self.batches))
            found = self._all(way)
        except UnderstudyError as error:
            self.tried[way] = Tried(way, refused=str(error))
            return
        except Exception as error:  # whatever torch's compiler or a kernel raises: this way is none
            self.tried[way] = Tried(way, refused=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return
        first = time.perf_counter() - began if WAYS[way].prepared else 0.0
        output = max(_apart(a, b) for a, b in zip(found, self.wanted, strict=True))
        gradient, other = self._of_logits(found)
        worst = max(output, gradient or 0.0, other or 0.0)
        refused = None if worst <= self.tolerance else f"{100 * worst:.1g} % off; allowed: {100 * self.tolerance:g} %"
        self.tried[way] = Tried(way, None, 1e3 * first, output, gradient, other, refused)
        self.rounds[way] = [self._timed(way)]

    def _race(self) -> None:
        """Time those that can be taken in turns, so that what else runs on the machine meets all of them alike."""
        able = [way for way, tried in self.tried.items() if tried.refused is None]
        for _ in range(ROUNDS):
            for way in able:
                self.rounds[way].append(self._timed(way))

    def _timed(self, way: str) -> float:
        """Seconds of one batch."""
        began = time.perf_counter()
        _wait(self._ask(way, self.batches[0])[0])
        return time.perf_counter() - began

    def _ask(self, way: str, batch: Batch) -> list[Tensor]:
        output, caught = self.asked[way].read(self.give, batch.inputs, self.taps)
        found = [named_tensor(output, _OUTPUT), *(next(tensors(calls[0].output)) for calls in caught.values())]
        return [t.float() for t in found]

    def _all(self, way: str) -> list[Tensor]:
        """Outputs and taps of all batches."""
        parts = [self._ask(way, batch) for batch in self.batches]
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _of_logits(self, found: Sequence[Tensor]) -> tuple[float | None, float | None]:
        if self.student is None:
            return None, None
        rows = len(self.student)
        made, wanted = found[0][:rows], self.wanted[0][:rows]
        p, q, s = ((x.float() / TEMPERATURE).softmax(-1) for x in (wanted, made, self.student.to(wanted.device)))
        other = (found[0].argmax(-1) != self.wanted[0].argmax(-1)).float().mean()
        return float((q - p).norm() / (s - p).norm().clamp_min(1e-30)), float(other)


def _apart(found: Tensor, wanted: Tensor) -> float:
    off = float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))
    return off if off == off else float("inf")


def _wait(tensor: Tensor) -> None:
    """Until a GPU has done what it was told."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
