"""The whole job in one call: from a teacher and some data to a small model and an honest table.

Stages, in order: train the teacher (if asked), ask it beforehand (where that spares work), and for each seed: the student alone, the distilled
student, and the distilled student fine-tuned on hard labels. Then everything is evaluated, once, on the test data.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from torch import nn

from understudy.answers import BATCH, Answers, reads
from understudy.callbacks import Bar, Callback
from understudy.choices import Choices
from understudy.compress import Step, finished
from understudy.data.order import preserved
from understudy.engine import Result, train
from understudy.evaluate import Evidence, Trial, best_trial, costs, decide, quality, rows, verdict
from understudy.examples import device_of, outputs
from understudy.forms import BestForms
from understudy.material import Material
from understudy.method import Distillation, Method
from understudy.optimize import Optim
from understudy.outcome import Distilled
from understudy.parallel import one_process
from understudy.plan import Named, Plan
from understudy.preflight import check, check_teacher
from understudy.progress import cosine
from understudy.start import Make
from understudy.tasks import Task
from understudy.views import View, views

__all__ = ["Trying", "distill", "perform", "train_stage"]

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
    teacher_run: str = "auto",
    store: str | Path | None = "auto",
    draws: int | None = None,
    precision: str = "auto",
    compress: Sequence[Step] = (),
    fine_tune: bool = True,
    accept: Mapping[str, str] | None = None,
    deadline_ms: float | None = None,
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
            anew, so that the intervals include the start. It is not changed. Or "teacher", which ``compress`` makes smaller.
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
        teacher_run: how the teacher runs while students learn: a name of :data:`understudy.inference.WAYS`, or "auto" for
            the fastest one here whose answers are the same within :data:`understudy.probe.TOLERANCE`.
        store: a folder of what the teacher says of every sample, which is asked once and read by all students, of other jobs
            too; "auto" keeps it with the job where that spares asking again; None asks in every step.
        draws: views of each sample, where they are augmented, that the epochs go through in turn; None draws a new one each
            epoch.
        precision: of the students' training: "fp32", "bf16", "fp16", or "auto" for bf16 where that is clearly faster here.
        compress: what is done to the student before it learns, in this order: names of :mod:`understudy.compress`, or pairs of
            a name and options, such as ``[("narrower", {"ratio": 0.25}), "qat"]``. Measured and handed on is what comes of it.
        fine_tune: whether to fine-tune on the hard labels after distilling.
        accept: conditions on the kept student, such as ``{"accuracy": ">= 0.97 * teacher"}``; see :mod:`understudy.accept`.
        deadline_ms: by which one inference is to be done: adds the figure ``missed_share``, of 1,000 that take longer.
        classes: names of the classes, for the page and the export.
        folder: where everything is kept; None keeps nothing on the disk.
        resume: go on with the folder's job, if it has one, stage by stage and step by step.
        device: where to train; the GPU if there is one.
        workers: processes that load data.
        progress: show progress bars.
        console: the rich console to show them on.
        **options: of the method: ``temperature=4``, ``alpha=0.9``, ...

    Returns: the student that is kept, the table, and whether it was accepted.
    Raises: InputError before any training for what cannot work, and under ``torchrun``; what :func:`understudy.train` raises.
    """
    one_process("distill")
    material = Material(Plan(**locals()))  # before any other name is bound: all arguments, and nothing else
    check(material)
    return perform(material)


@dataclass(frozen=True, kw_only=True)
class Trying:
    """How a job is done that is one of several attempts.

    Attributes:
        last: whether it is the one that is handed on: it is measured on the test data, as any job is. Others are measured on the
            validation data.
        costs: whether latency, size and memory are wanted of one that is not the last.
        judge: the teacher that students are compared with, where another one has taught them.
        shared: folders of stages that several attempts have alike, by the stage's name.
        callbacks: of every training.
    """

    last: bool = False
    costs: bool = False
    judge: Any = None
    shared: Mapping[str, Path] = field(default_factory=dict)
    callbacks: Sequence[Callback] = ()


def perform(material: Material, trying: Trying | None = None) -> Distilled:
    """Do the job that these things are for, which have been checked. What an attempt comes to is not written into its folder."""
    with material.plan.locked():
        return Job(material, trying).run()


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
        choices: what was chosen automatically, and why.
    """

    def __init__(self, material: Material, trying: Trying | None = None) -> None:
        self.material, self.plan, self.task = material, material.plan, material.task
        self.trying = trying or Trying(last=True)
        self.keeps = trying is None
        self.teacher, self.data, self.stages = material.teacher, material.data, material.stages
        self.seconds: dict[str, list[float]] = {}
        self.choices: dict[str, dict[str, Any]] = {}

    def run(self) -> Distilled:
        """All stages, and what they come to; what is to be kept is in the folder."""
        self.plan.claim({f"data {name!r}": examples.digest for name, examples in self.data.items()})
        if "teacher" in self.stages:
            self._train("teacher", "teacher", self.material.alone(self.teacher), 0)
            self.teacher.eval()
        # Where students train, as training would put it: it may be asked about every sample before that.
        method = self.material.method(self.material.student(), self.teacher).to(self.material.device)
        check_teacher(self.material)
        teacher = self._ask(method)
        result = self._conclude([self._trial(at, seed, teacher) for at, seed in enumerate(self.plan.every_seed)])
        if self.keeps:
            result.keep(with_teacher=self.plan.teacher_epochs > 0)
        return result

    # -- stages --------------------------------------------------------------------------------------------------------

    def _ask(self, method: Method) -> Any:
        """Where students read the teacher: in a table of what it says of every sample, or, as it runs best, in each step."""
        material, choices = self.material, Choices(self.material, self._say)
        material.precision = choices.precision()
        answers = Answers(material, self.teacher, method)
        self.choices = choices.made
        if not answers.wanted:
            choices.live(answers)
            return choices.teacher(self.teacher, method, self.stages["distilled"].steps * self.plan.seeds)
        began = perf_counter()
        answers.ask_as(choices.teacher(self.teacher, method, answers.passes, rows=BATCH, way=answers.way()))
        made = answers.stored()
        choices.stored(answers)
        self.seconds["soft labels"] = [perf_counter() - began]
        return made

    def _say(self, told: str) -> None:
        if self.plan.progress:
            (self.plan.console or Console()).print(told, highlight=False, soft_wrap=True)

    def _trial(self, at: int, seed: int, teacher: Any) -> Trial:
        trial, material = Trial(seed), self.material
        mark = f"({at + 1}/{self.plan.seeds})"
        if "alone" in self.stages:
            alone = material.student(seed)
            result = self._train("alone", f"student alone {mark}", material.alone(alone), seed)
            trial.add("alone", finished(alone), result)
        student = material.student(seed)
        method = material.method(student, self.teacher, seed)
        if isinstance(method, Distillation) and reads(method, self.teacher):
            method.supply("teacher", teacher)
        forms = BestForms(method, self.task, self._folder("distilled", seed))
        result = self._train("distilled", f"distil {mark}", method, seed, forms)
        trial.add("distilled", finished(student), result, forms.restore(result))
        if "fine-tuned" in self.stages:
            tuned = copy.deepcopy(student)
            result = self._train("fine-tuned", f"fine-tune {mark}", material.alone(tuned), seed)
            trial.add("fine-tuned", finished(tuned), result)
        trial.keep(self.task)
        return trial

    def _folder(self, name: str, seed: int) -> Path | None:
        if self.plan.path is None:
            return None
        return self.trying.shared.get(name, self.plan.path / name) / f"seed-{seed}"

    def _train(self, name: str, title: str, method: Method, seed: int, *more: Callback) -> Result:
        listening = [*([Bar(title, self.plan.console)] if self.plan.progress else []), *self.trying.callbacks, *more]
        folder, resume = self._folder(name, seed), self.plan.resume
        result = train_stage(self.material, name, method, seed, folder=folder, resume=resume, callbacks=listening)
        self.seconds.setdefault(name, []).append(result.seconds)
        return result

    # -- the end -------------------------------------------------------------------------------------------------------

    def _conclude(self, trials: Sequence[Trial]) -> Distilled:
        """Measure everything once, and hand on the student of the best seed by validation."""
        trying, teacher = self.trying, self.teacher if self.trying.judge is None else self.trying.judge
        measured_on = "test" if trying.last and "test" in self.data else "valid"
        data, give = self.data[measured_on], self.plan.call
        # The layers that a method compares are those of the teacher that has taught.
        views = self._views() if trying.last and teacher is self.teacher else ()
        evidence = Evidence(self.task, data, teacher, trials, self.seconds, give, views)
        told = quality(evidence)
        cost = costs(evidence, self.plan.deadline_ms) if trying.last or trying.costs else {"teacher": {}, "kept": {}}
        table = rows(evidence, told, cost)
        accepted, reasons = decide(self.material.conditions, table)
        best = trials[best_trial(self.task, trials)]
        return Distilled(
            student=best.students["kept"],
            teacher=teacher,
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
            choices=self.choices,
            evidence=evidence,
        )

    def _views(self) -> tuple[View, ...]:
        """Which layers the method compares, by one that is made for the question: those that trained may have read a table."""
        device = device_of(self.teacher)
        with preserved():
            method = self.material.method(self.material.student(), self.teacher).to(device)
            example = self.material.example.to(device)
            method.dry_run(example)
            return views(method, self.teacher, example)
