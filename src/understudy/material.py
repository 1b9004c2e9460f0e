"""What a job works with: its data, read; its teacher; its task; and how students and methods are made."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from understudy import methods
from understudy.accept import parse
from understudy.batch import Batch
from understudy.data.order import preserved, seed_all
from understudy.errors import InputError, choices
from understudy.evaluate import FIGURES
from understudy.examples import Examples, outputs
from understudy.method import Method
from understudy.plan import Named, Plan
from understudy.settings import Settings
from understudy.start import begun, compressed
from understudy.state import digest
from understudy.tasks import TASKS, Task, infer
from understudy.teachers.named import named_model
from understudy.teachers.weights import load_weights

__all__ = ["Material", "Precision", "Stage"]

BATCH_SIZE = 64
FINE_TUNING = 0.1  # share of the distillation's steps, and of its learning rate


@dataclass(frozen=True)
class Stage:
    """A training that the job will do.

    Attributes:
        data: what is learnt from.
        steps: of the optimizer.
        runs: how often: once for each seed, or once.
        share: of the learning rate.
    """

    name: str
    data: Examples
    steps: int
    runs: int
    share: float = 1.0


@dataclass(frozen=True)
class Precision:
    """In which precision students learn.

    Attributes:
        name: as :class:`~understudy.Settings` has it.
        told: why.
    """

    name: Literal["fp32", "bf16", "fp16"]
    told: str = "as asked"

    @property
    def channels_last(self) -> bool:
        """Whether images have their channels innermost: the kernels of the short formats are made for it."""
        return self.name != "fp32"


class Material:
    """A plan's words made into things.

    Attributes:
        plan: what was asked for.
        data: by name: train, valid, and, if given, test and teacher_data.
        teacher: as it was given, or made and loaded as the plan says.
        task: what the labels mean.
        hard: the labelled part of train; None if nothing is labelled.
        conditions: for the kept student to be accepted.
        batch_size: samples of a step.
        precision: in which the students learn; float32 until something else was chosen.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._compressed: dict[str, nn.Module] = {}  # the student, by a digest of what it was made of
        self.precision = Precision(cast("Any", "fp32" if plan.precision == "auto" else plan.precision))
        self.data = {name: Examples.read(part, name) for name, part in plan.data.items()}
        self.teacher = _teacher(plan)
        self.task = self._task(plan.task)
        self.hard = self.data["train"].labelled(self.task)
        self.conditions = parse(plan.accept, [*self.task.figures, *FIGURES])
        self.batch_size = plan.batch_size or self.data["train"].source.batch_size or BATCH_SIZE

    def _task(self, task: str | Task | None) -> Task:
        if isinstance(task, Task):
            return task
        if task is None:
            few = self.data["valid"].few(8)
            return infer(outputs(self.student(), few, give=self.plan.call, who="student"), self.data["valid"].labels)
        if task not in TASKS:
            raise InputError(f"distill: there is no task {task!r}. {choices(task, TASKS)}")
        return TASKS[task]

    def student(self, seed: int | None = None) -> nn.Module:
        """A student at its start: made anew, or a copy of the one that was given. By default that of the first seed.

        It is compressed as the plan says; :func:`understudy.compress.finished` makes it what runs.
        """
        with preserved():
            seed_all(self.plan.seed if seed is None else seed, "student")
            made = begun(self.plan.student, self.teacher)
            if not self.plan.compress:
                return made
            if not isinstance(self.plan.student, (str, nn.Module)):
                return compressed(made, self.plan.compress, self.data["train"])
            # All seeds begin with the same weights, and to find the least important of them takes a while.
            if (weights := digest(made)) not in self._compressed:
                self._compressed.clear()
                self._compressed[weights] = compressed(made, self.plan.compress, self.data["train"])
            return copy.deepcopy(self._compressed[weights])

    def method(self, student: nn.Module, teacher: Any, seed: int | None = None) -> Method:
        """The method that the plan names, of these models; what else it makes, such as a generator, starts from the seed."""
        with preserved():
            seed_all(self.plan.seed if seed is None else seed, "method")
            return self._method(student, teacher)

    def _method(self, student: nn.Module, teacher: Any) -> Method:
        name = self.plan.method
        make = getattr(methods, name) if isinstance(name, str) else name
        given = {"task": self.task, "example": self.example, "samples": self.data["train"].samples}
        taken, chosen = inspect.signature(make).parameters, {**getattr(make, "keywords", {}), **self.plan.options}
        told = {key: value for key, value in given.items() if key in taken and key not in chosen}
        if not isinstance(name, str):
            return make(student, teacher, **told)
        options = {k: copy.deepcopy(v) if isinstance(v, nn.Module) else v for k, v in self.plan.options.items()}
        if name == "kd" and self.hard is None:
            options.setdefault("alpha", 1.0)  # no hard label anywhere
        models = (student, teacher) if "teacher" in taken else (student,)
        made: Method = make(*models, **told, **options)
        return made

    def with_method(self, method: Named, options: Mapping[str, Any]) -> Material:
        """The same job for another method: data, teacher and starts are shared."""
        return self.changed(method=method, options=options)

    def changed(self, **arguments: Any) -> Material:
        """The same job with other arguments, on the same data and models."""
        other = copy.copy(self)
        other.plan = dataclasses.replace(self.plan, **arguments)
        vars(other).pop("stages", None)  # what was worked out from the plan
        return other

    def alone(self, model: nn.Module) -> Method:
        """Training on hard labels."""
        return methods.alone(model, task=self.task, call=self.plan.call)

    @functools.cached_property
    def example(self) -> Batch:
        """A few samples, from which methods that choose their layers see what the models give."""
        (batch,) = self.data["train"].few(4).source.in_order()
        return batch

    @functools.cached_property
    def stages(self) -> dict[str, Stage]:
        """Every training of the job, in order, by name."""
        plan, train = self.plan, self.data["train"]
        steps = plan.epochs * self.steps_an_epoch(train)
        found = [Stage("distilled", train, steps, plan.seeds)]
        taught = self.data.get("teacher_data", train).labelled(self.task)
        if self.hard is not None:
            found.insert(0, Stage("alone", self.hard, steps, plan.seeds))
            if plan.fine_tune:
                found.append(
                    Stage("fine-tuned", self.hard, max(1, round(steps * FINE_TUNING)), plan.seeds, FINE_TUNING)
                )
        if plan.teacher_epochs and taught is not None:
            found.insert(0, Stage("teacher", taught, plan.teacher_epochs * self.steps_an_epoch(taught), 1))
        return {stage.name: stage for stage in found}

    @property
    def device(self) -> torch.device:
        """Where students train."""
        return self.settings(self.stages["distilled"], 0).on()

    def steps_an_epoch(self, data: Examples) -> int:
        """Steps in which each sample is seen once, but for one that would be a batch by itself."""
        return data.samples // self.batch_size if self._lonely(data) else -(-data.samples // self.batch_size)

    def _lonely(self, data: Examples) -> bool:
        """Whether the last batch is a single sample, which BatchNorm cannot take: it is left out, another one each epoch."""
        return data.samples > self.batch_size and data.samples % self.batch_size == 1

    def settings(self, stage: Stage, seed: int) -> Settings:
        """Those of one training."""
        own = self.plan.teacher_optimizer if stage.name == "teacher" else None
        precision = self.precision if stage.name != "teacher" else Precision("fp32")
        optimizer = own or self.plan.optimizer
        every = max(1, min(self.steps_an_epoch(self.data["train"]), stage.steps // 10))
        return Settings(
            steps=stage.steps,
            batch_size=self.batch_size,
            optimizer=optimizer.at(stage.share),
            seed=seed,
            draws=self.plan.draws,
            data_seed=self.plan.seed,  # so that students of all seeds see the same views
            precision=precision.name,
            channels_last=precision.channels_last,
            validate_every=every,
            best=self.task.metric,
            best_is=self.task.best_is,
            drop_last=self._lonely(stage.data),
            device=self.plan.device,
            workers=self.plan.workers,
        )


def _teacher(plan: Plan) -> Any:
    teacher = named_model(plan.teacher) if isinstance(plan.teacher, str) else plan.teacher
    return teacher if plan.teacher_weights is None else load_weights(copy.deepcopy(teacher), plan.teacher_weights)
