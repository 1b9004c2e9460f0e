"""What a job chooses by itself, by trying it here: how its teacher runs, and in which precision its students learn.

A choice is made once. It stands in the job's folder, and a run that is resumed keeps it: another one would end in other
weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from understudy.data.order import preserved
from understudy.engine import train
from understudy.errors import NonFiniteError
from understudy.examples import device_of, outputs
from understudy.inference import Inference
from understudy.material import Material, Precision
from understudy.method import Distillation, Method
from understudy.probe import Choice, choose
from understudy.reading import unwrap
from understudy.rehearsal import Clock
from understudy.term import Term
from understudy.writing import read_json, write_json

__all__ = ["FILE", "Choices"]

FILE = "choices.json"

WORTH_SECONDS = 60.0  # of training in all, before another precision is tried
FASTER = 0.8  # of the time in float32, to be worth other rounding
STEPS = 5  # of a student that is timed
BATCHES = 2  # by which ways of running the teacher are compared


class Choices:
    """The choices of one job.

    Args:
        material: what the job works with.
        say: shows a line to the user.
    """

    def __init__(self, material: Material, say: Callable[[str], None]) -> None:
        self.material, self.plan, self.say = material, material.plan, say
        folder: Path | None = material.plan.path
        self.file = None if folder is None else folder / FILE
        self.made: dict[str, Any] = read_json(self.file) if self.file is not None and self.file.exists() else {}

    def teacher(
        self, teacher: Any, method: Method, times: int, *, rows: int | None = None, way: str | None = None
    ) -> Any:
        """The teacher as it is to be asked where the method reads it.

        Args:
            teacher: as it is.
            method: one that reads it.
            times: how often.
            rows: samples at once; those of a step by default.
            way: that is settled already.
        """
        wished = self.plan.teacher_run if way is None else way
        if not isinstance(teacher, nn.Module):
            return teacher
        if wished != "auto":
            return Inference(teacher, wished)
        if (held := self.made.get("teacher")) is not None:
            return Inference(teacher, held["way"])
        choice, asked = self._probed(teacher, method, times, rows or self.material.batch_size)
        told = None if choice.way == "fp32" else f"teacher runs as {choice.way}: {choice.told}"
        self._note("teacher", choice.facts(), told)
        return asked

    def _probed(self, teacher: nn.Module, method: Method, times: int, rows: int) -> tuple[Choice, Any]:
        material, stage = self.material, self.material.stages["distilled"]
        if type(method) is not Distillation:
            return Choice("fp32", f"{type(method).__name__} decides in its moves what it asks the teacher"), teacher
        if method.frozen.get("teacher") is not unwrap(teacher):
            return Choice("fp32", "the method asks a model of its own, which it has put the teacher into"), teacher
        device = material.settings(stage, 0).on()
        batches = [b.to(device) for b in islice(stage.data.source.in_order(rows), BATCHES)]
        student, logits = material.student(), None
        if material.task.name == "classification":
            logits = outputs(student, stage.data.few(batches[0].rows), give=self.plan.call)
        read = {a for term in method.terms for a in term.addresses if method.reader.run_of(a) is not None}  # type: ignore[union-attr]
        taps = sorted({a.tap for a in read if a.tap and a.model == "teacher"})
        home = device_of(teacher)
        try:
            return choose(teacher.to(device), batches, times, give=self.plan.call, student=logits, taps=taps)
        finally:
            teacher.to(home)

    def precision(self) -> Precision:
        """In which precision the students learn."""
        wished = self.plan.precision
        if wished != "auto":
            return self.material.precision
        if (held := self.made.get("precision")) is not None:
            return Precision(**held)
        found = self._raced()
        told = None if found.name == "fp32" else f"students learn in {found.name}: {found.told}"
        self._note("precision", asdict(found), told)
        return found

    def _raced(self) -> Precision:
        material, stage = self.material, self.material.stages["distilled"]
        plain = self._seconds(Precision("fp32"))
        whole = plain * stage.steps * sum(s.runs for s in material.stages.values() if s.name != "teacher")
        if whole < WORTH_SECONDS:
            return Precision("fp32", f"all their training takes about {max(1, round(whole))} s")
        try:
            fast = self._seconds(Precision("bf16"))
        except (NonFiniteError, RuntimeError) as error:
            return Precision("fp32", f"bf16 cannot be done here: {str(error).partition(chr(10))[0]}")
        share = fast / plain
        if share > FASTER:
            return Precision("fp32", f"a step in bf16 takes {share:.2f} of the time, which is not worth its rounding")
        return Precision("bf16", f"a step takes {share:.2f} of the time of fp32")

    def _seconds(self, precision: Precision) -> float:
        """Of a student's step, without its teacher."""
        material, stage = self.material, self.material.stages["distilled"]
        student = material.student()
        clock = Clock()
        settings = dataclasses.replace(
            material.settings(stage, 0), steps=STEPS, precision=precision.name, channels_last=precision.channels_last
        )
        with preserved():
            method = Distillation(Term(_sum_of_squares, "student"), student=student, call=self.plan.call)
            train(method, stage.data.source, settings, callbacks=[clock])
        return min(b - a for a, b in pairwise(clock.times))

    def _note(self, name: str, value: dict[str, Any], told: str | None) -> None:
        self.made[name] = value
        if self.file is not None:
            write_json(self.file, self.made)
        if told is not None:
            self.say(told)


def _sum_of_squares(output: Tensor) -> Tensor:
    """A loss of any output, without labels: what is timed is the student."""
    return output.flatten(1).square().sum(1)
