"""What a job chooses by itself: how its teacher runs, in which precision its students learn, and whence the soft labels are.

A choice is made once. It stands in the job's folder, and a run that is resumed keeps it: another one would end in other
weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor, nn

from understudy.answers import Answers
from understudy.data.order import preserved
from understudy.engine import train
from understudy.errors import CorruptError, NonFiniteError
from understudy.examples import Examples, device_of, outputs
from understudy.inference import WAYS, Inference
from understudy.material import Material, Precision
from understudy.method import Distillation, Method
from understudy.preflight import addresses_of, beyond
from understudy.probe import Choice, calibration, choose
from understudy.reading import unwrap
from understudy.rehearsal import Clock
from understudy.term import Term
from understudy.writing import read_json, write_json

__all__ = ["FILE", "Choices"]

FILE = "choices.json"

WORTH_SECONDS = 60.0  # of training in all, before another precision is tried
FASTER = 0.8  # of the time in float32, to be worth other rounding
STEPS = 5  # of a student that is timed
BATCHES = 3  # by which ways of running the teacher are compared


class Choices:
    """The choices of one job.

    Args:
        material: what the job works with.
        say: shows a line to the user.

    Attributes:
        made: what was chosen, by what it is about; each has ``told``, the reason in words.
    """

    def __init__(self, material: Material, say: Callable[[str], None]) -> None:
        self.material, self.plan, self.say = material, material.plan, say
        folder: Path | None = material.plan.path
        self.file = None if folder is None else folder / FILE
        self.made = _chosen_before(self.file)

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
        held = self.made.get("teacher")
        if not isinstance(teacher, nn.Module):
            self.note("teacher", {"way": "as it is", "told": "it is no module"})
            return teacher
        if wished != "auto":
            if held is None or held["way"] != wished:
                self.note(
                    "teacher", {"way": wished, "told": "as asked" if way is None else "as when its store was filled"}
                )
            return self._as(teacher, wished, rows)
        if held is not None:
            return self._as(teacher, held["way"], rows)
        choice, asked = self._probed(teacher, method, times, rows or self.material.batch_size)
        told = None if choice.way == "fp32" else f"teacher runs as {choice.way}: {choice.told}"
        self.note("teacher", choice.facts(), told)
        return asked

    def _as(self, teacher: nn.Module, way: str, rows: int | None) -> Inference:
        """The teacher in a way that is settled, made of the samples of which a trial would have made it."""
        if WAYS[way].form is None:
            return Inference(teacher, way)
        at_once = rows or self.material.batch_size
        asked = Inference(teacher, way, calibration(list(self._few(at_once).source.in_order(at_once))))
        if rows is None:  # who fills a store may find all in it, and need not ask
            asked.prepare(self.plan.call)
        return asked

    def _few(self, rows: int) -> Examples:
        """Samples from all over the data, the same at every call: what is made of them is the same in a resumed run."""
        examples = self.material.stages["distilled"].data
        count = min(BATCHES * rows, examples.samples)
        return examples.only(torch.arange(count) * examples.samples // count)

    def _probed(self, teacher: nn.Module, method: Method, times: int, rows: int) -> tuple[Choice, Inference]:
        material = self.material
        if type(method) is not Distillation:
            return self._untried(teacher, f"{type(method).__name__} decides in its moves what it asks the teacher")
        if method.frozen.get("teacher") is not unwrap(teacher):
            return self._untried(teacher, "the method asks a model of its own, which it has put the teacher into")
        few = self._few(rows)
        batches = [batch.to(material.device) for batch in few.source.in_order(rows)]
        student, logits = material.student(), None
        if material.task.name == "classification":
            logits = outputs(student, few.few(batches[0].rows), give=self.plan.call)
        read = addresses_of(method)
        taps, parts = sorted({a.tap for a in read if a.tap}), any(map(beyond, read))
        home = device_of(teacher)
        try:
            return choose(
                teacher.to(material.device), batches, times, give=self.plan.call, student=logits, taps=taps, parts=parts
            )
        finally:
            teacher.to(home)

    def _untried(self, teacher: nn.Module, why: str) -> tuple[Choice, Inference]:
        return Choice("fp32", why), Inference(teacher, "fp32")  # as a resumed run asks it

    def live(self, answers: Answers) -> None:
        """Note that the teacher is asked in every step, and why."""
        if not answers.addresses:
            told = "the method asks the teacher about more than the samples as they are"
        elif self.plan.store is None:
            told = "as asked"
        elif self.plan.seeds * self.plan.epochs <= answers.draws:
            told = "no sample is seen twice"
        else:
            told = f"stored they would take {answers.bytes(2) / 1e6:,.0f} MB"
        self.note("soft labels", {"way": "asked in every step", "told": told})

    def stored(self, answers: Answers) -> None:
        """Note that the teacher's answers are read, and where."""
        told = answers.told()
        if (
            answers.asked or self.made.get("soft labels", {}).get("way") != "stored"
        ):  # else a resume would say that it read its own
            self.note("soft labels", {"way": "stored", "told": told, "asked": answers.asked})
        self.say(f"soft labels: {told}")

    def precision(self, trainings: int | None = None) -> Precision:
        """In which precision the students learn: that many trainings, or those of the job's stages."""
        wished = self.plan.precision
        if wished != "auto":
            self.note("precision", asdict(self.material.precision))
            return self.material.precision
        if (held := self.made.get("precision")) is not None:
            return Precision(**held)
        found = self._raced(trainings)
        told = None if found.name == "fp32" else f"students learn in {found.name}: {found.told}"
        self.note("precision", asdict(found), told)
        return found

    def _raced(self, trainings: int | None) -> Precision:
        material, stage = self.material, self.material.stages["distilled"]
        plain = self._seconds(Precision("fp32"))
        runs = trainings or sum(s.runs for s in material.stages.values() if s.name != "teacher")
        whole = plain * stage.steps * runs
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
        """Of a student's step, without its teacher, and without a learning rate: this loss may run away at the user's."""
        material, stage = self.material, dataclasses.replace(self.material.stages["distilled"], share=0.0)
        student = material.student()
        clock = Clock()
        settings = dataclasses.replace(
            material.settings(stage, 0), steps=STEPS, precision=precision.name, channels_last=precision.channels_last
        )
        with preserved():
            method = Distillation(Term(_sum_of_squares, "student"), student=student, call=self.plan.call)
            train(method, stage.data.source, settings, callbacks=[clock])
        return min(b - a for a, b in pairwise(clock.times))

    def note(self, name: str, value: dict[str, Any], told: str | None = None) -> None:
        """Write down what was chosen, and say it if there is something to be told."""
        self.made[name] = value
        if self.file is not None:
            write_json(self.file, self.made)
        if told is not None:
            self.say(told)


def _chosen_before(file: Path | None) -> dict[str, dict[str, Any]]:
    """What stands in a job's folder. Raises: CorruptError for what no job has written."""
    if file is None or not file.exists():
        return {}
    made: Any = read_json(file)
    sound = isinstance(made, dict) and all(
        isinstance(c, dict) and isinstance(c.get("told"), str) for c in made.values()
    )
    if not sound or not _is_way(made.get("teacher")) or not _is_precision(made.get("precision")):
        raise CorruptError(f"{file}: is damaged: it is not what a job writes. Delete it to have the choices made anew.")
    return dict(made)


def _is_way(held: dict[str, Any] | None) -> bool:
    return held is None or held.get("way") in (*WAYS, "as it is")


def _is_precision(held: dict[str, Any] | None) -> bool:
    return held is None or (
        held.keys() == {"name", "told"} and held["name"] in get_args(get_type_hints(Precision)["name"])
    )


def _sum_of_squares(output: Tensor) -> Tensor:
    """A loss of any output, without labels: what is timed is the student."""
    return output.flatten(1).square().sum(1)
