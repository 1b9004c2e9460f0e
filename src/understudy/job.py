"""The whole job in one call: from a teacher and some data to a small model and an honest table.

Stages, in order: train the teacher (if asked), make soft labels, and for each seed: the student alone, the distilled
student, and the distilled student fine-tuned on hard labels. Then everything is evaluated, once, on the test data.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from torch import nn

from understudy.callbacks import Bar, Callback
from understudy.engine import Result, train
from understudy.evaluate import Evidence, Trial, best_trial, costs, decide, quality, rows, verdict
from understudy.examples import outputs
from understudy.material import Material
from understudy.method import Method
from understudy.optimize import Optim
from understudy.outcome import Distilled
from understudy.plan import Make, Named, Plan
from understudy.preflight import check, check_teacher
from understudy.progress import cosine
from understudy.state import digest
from understudy.tasks import Task
from understudy.teachers.stored import Stored
from understudy.writing import load_tensors, save_tensors

__all__ = ["distill", "perform", "train_stage"]

OPTIMIZER = Optim("AdamW", lr=3e-3, schedule=cosine(1, 0), warmup=0.05)


def distill(
    student: Make,
    teacher: Any,
    train: Any,
    valid: Any,
    *,
    test: Any = None,
    task: str | Task | None = None,
    method: Named = "kd",
    epochs: int = 20,
    seed: int = 0,
    seeds: int = 3,
    batch_size: int | None = None,
    optimizer: Optim = OPTIMIZER,
    teacher_epochs: int = 0,
    teacher_data: Any = None,
    teacher_weights: str | Path | None = None,
    teacher_optimizer: Optim | None = None,
    fine_tune: bool = True,
    accept: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    device: str | None = None,
    workers: int = 0,
    progress: bool = True,
    console: Any = None,
    **options: Any,
) -> Distilled:
    """Do the whole job.

    Args:
        student: a module, from whose weights every seed starts; or a function that makes one, which each seed calls
            anew, so that the intervals include the start. It is not changed.
        teacher: a module or any callable from a batch's inputs to outputs; or a name, as
            :func:`understudy.teachers.named_model` takes it. It is not changed, unless it is trained here.
        train: tensors, arrays, a Dataset or a DataLoader; labels may be missing: -100 for a class, NaN for a measured value, or none at all.
        valid: labelled; weights are chosen on it.
        test: labelled; touched once, at the end. Without it the table is made on ``valid``, and says so.
        task: "classification", "multi-label", "regression" or a Task; inferred from outputs and labels if not given.
        method: a name of :mod:`understudy.methods`, or a function of (student, teacher) that returns a Method.
        epochs: passes of the distilled student over ``train``. The student alone gets as many optimizer steps.
        seed: of the first student; the others count on. The teacher's training has 0, whatever the students have.
        seeds: how many students of each kind.
        batch_size: samples of a step; a DataLoader's own by default, else 64.
        optimizer: for every stage but the teacher's; fine-tuning takes a tenth of its learning rate, and of the steps.
        teacher_epochs: train the teacher first, for so long, on ``teacher_data``, or else on ``train``.
        teacher_data: labelled data of the teacher's own.
        teacher_weights: a safetensors file, or a state_dict that torch saved, to load into the teacher first.
        teacher_optimizer: for the teacher's training; ``optimizer`` if not given.
        fine_tune: whether to fine-tune on the hard labels after distilling.
        accept: conditions on the kept student, such as ``{"accuracy": ">= 0.97 * teacher"}``; see :mod:`understudy.accept`.
        classes: names of the classes, for the page and the export.
        folder: where everything is kept; None keeps nothing on the disk.
        resume: go on with the folder's job, if it has one, stage by stage and step by step.
        device: where to train; the GPU if there is one.
        workers: processes that load data.
        progress: show progress bars.
        console: the rich console to show them on.
        **options: of the method: ``temperature=4``, ``alpha=0.9``, ...

    Returns: the student that is kept, the table, and whether it was accepted.
    Raises: InputError before any training for what cannot work; what :func:`understudy.train` raises.
    """
    material = Material(Plan(**locals()))  # before any other name is bound: all arguments, and nothing else
    check(material)
    return perform(material)


def perform(material: Material) -> Distilled:
    """Do the job that these things are for, which have been checked."""
    with material.plan.locked():
        return Job(material).run()


def train_stage(
    material: Material,
    name: str,
    method: Method,
    seed: int,
    *,
    folder: Path | None = None,
    resume: bool = False,
    callbacks: Sequence[Callback] = (),
    **changes: Any,
) -> Result:
    """One training of a job, validated as its task says; with ``changes`` to its settings."""
    stage, valid, task, give = material.stages[name], material.data["valid"], material.task, material.plan.call

    def validate(model: nn.Module) -> dict[str, float]:
        assert valid.labels is not None  # checked before the first stage
        return task.metrics(outputs(model, valid, give=give), valid.labels)

    settings = dataclasses.replace(material.settings(stage, seed), **changes)
    return train(
        method, stage.data.source, settings, validate=validate, folder=folder, resume=resume, callbacks=callbacks
    )


class Job:
    """One call of :func:`distill`: its stages, and what they have come to.

    Attributes:
        seconds: of each stage, a value for each seed.
    """

    def __init__(self, material: Material) -> None:
        self.material, self.plan, self.task = material, material.plan, material.task
        self.teacher, self.data, self.stages = material.teacher, material.data, material.stages
        self.seconds: dict[str, list[float]] = {}

    def run(self) -> Distilled:
        """All stages, and what they come to; what is to be kept is in the folder."""
        self.plan.claim({f"data {name!r}": examples.digest for name, examples in self.data.items()})
        if "teacher" in self.stages:
            self._train("teacher", "teacher", self.material.alone(self.teacher), 0)
            self.teacher.eval()
        check_teacher(self.material)
        teacher = self._soften()
        result = self._conclude([self._trial(at, seed, teacher) for at, seed in enumerate(self.plan.every_seed)])
        result.keep(with_teacher=self.plan.teacher_epochs > 0)
        return result

    # -- stages --------------------------------------------------------------------------------------------------------

    def _soften(self) -> Any:
        """The teacher; or, where that cannot change, a table of what it says of every training sample."""
        if not self.material.softens:
            return self.teacher
        data = self.data["train"]
        began = perf_counter()
        file = (
            None if self.plan.path is None else self.plan.path / f"soft-labels-{digest(self.teacher)[:16]}.safetensors"
        )
        known = hasattr(self.teacher, "state_dict")  # of a function there is nothing to know it by
        if file is not None and file.exists() and self.plan.resume and known:
            made = load_tensors(file)["outputs"]
        else:
            made = outputs(self.teacher, data, give=self.plan.call, who="teacher")
            if self.plan.progress:
                told = f"soft labels: {len(made)} samples, once for all seeds"
                (self.plan.console or Console()).print(told, highlight=False)
            if file is not None:
                save_tensors(file, {"outputs": made})
        self.seconds["soft labels"] = [perf_counter() - began]
        return Stored(made)

    def _trial(self, at: int, seed: int, teacher: Any) -> Trial:
        trial, material = Trial(seed), self.material
        mark = f"({at + 1}/{self.plan.seeds})"
        if "alone" in self.stages:
            alone = material.student(seed)
            trial.add("alone", alone, self._train("alone", f"student alone {mark}", material.alone(alone), seed))
        student = material.student(seed)
        method = material.method(student, teacher, seed)
        trial.add("distilled", student, self._train("distilled", f"distil {mark}", method, seed))
        if "fine-tuned" in self.stages:
            tuned = copy.deepcopy(student)
            trial.add("fine-tuned", tuned, self._train("fine-tuned", f"fine-tune {mark}", material.alone(tuned), seed))
        trial.keep(self.task)
        return trial

    def _train(self, name: str, title: str, method: Method, seed: int) -> Result:
        folder = None if self.plan.path is None else self.plan.path / name / f"seed-{seed}"
        bars = [Bar(title, self.plan.console)] if self.plan.progress else []
        result = train_stage(self.material, name, method, seed, folder=folder, resume=self.plan.resume, callbacks=bars)
        self.seconds.setdefault(name, []).append(result.seconds)
        return result

    # -- the end -------------------------------------------------------------------------------------------------------

    def _conclude(self, trials: Sequence[Trial]) -> Distilled:
        """Measure everything once, and hand on the student of the best seed by validation."""
        measured_on = "test" if "test" in self.data else "valid"
        evidence = Evidence(self.task, self.data[measured_on], self.teacher, trials, self.seconds, self.plan.call)
        told = quality(evidence)
        table = rows(evidence, told, costs(evidence))
        accepted, reasons = decide(self.material.conditions, table)
        best = trials[best_trial(self.task, trials)]
        return Distilled(
            student=best.students["kept"],
            teacher=self.teacher,
            task=self.task,
            rows=table,
            verdict=verdict(evidence, told),
            accepted=accepted,
            reasons=reasons,
            path=self.plan.path,
            measured_on=measured_on,
            seed=best.seed,
            classes=self.plan.classes,
            recipe=self.plan.told(self.task, self.material.batch_size),
            evidence=evidence,
        )
