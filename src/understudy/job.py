"""The whole job in one call: from a teacher and some data to a small model and an honest table.

Stages, in order: train the teacher (if asked), make soft labels, and for each seed: the student alone, the distilled
student, and the distilled student fine-tuned on hard labels. Then everything is evaluated, once, on the test data.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from understudy import methods
from understudy.accept import Condition, parse
from understudy.callbacks import Bar
from understudy.checkpoint import load_tensors, save_tensors
from understudy.data.order import preserved, seed_all
from understudy.engine import Result, train
from understudy.errors import InputError, choices, raise_all
from understudy.evaluate import FIGURES, Evidence, Trial, best_trial, costs, decide, quality, rows, verdict
from understudy.examples import Examples, device_of, outputs
from understudy.measure import parameters
from understudy.method import Method
from understudy.optimize import Optim
from understudy.outcome import Distilled
from understudy.plan import Named, Plan
from understudy.progress import cosine
from understudy.state import digest, whole
from understudy.tasks import TASKS, Task, infer
from understudy.teachers.named import named_model
from understudy.teachers.stored import Stored
from understudy.teachers.weights import load_weights

__all__ = ["distill"]

Make = nn.Module | Callable[[], nn.Module]

OPTIMIZER = Optim("AdamW", lr=3e-3, schedule=cosine(1, 0), warmup=0.05)
BATCH_SIZE = 64
FINE_TUNING = 0.1  # share of the distillation's steps, and of its learning rate


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
    seeds: int = 3,
    batch_size: int | None = None,
    optimizer: Optim = OPTIMIZER,
    teacher_epochs: int = 0,
    teacher_data: Any = None,
    teacher_weights: str | Path | None = None,
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
        seeds: how many students of each kind.
        batch_size: samples of a step; a DataLoader's own by default, else 64.
        optimizer: for every stage; fine-tuning takes a tenth of its learning rate, and of the steps.
        teacher_epochs: train the teacher first, for so long, on ``teacher_data``, or else on ``train``.
        teacher_data: labelled data of the teacher's own.
        teacher_weights: a safetensors file, or a state_dict that torch saved, to load into the teacher first.
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
    plan = Plan(
        method=method,
        epochs=epochs,
        seeds=seeds,
        batch_size=batch_size,
        optimizer=optimizer,
        teacher_epochs=teacher_epochs,
        fine_tune=fine_tune,
        folder=_folder(folder),
        resume=resume,
        device=device,
        workers=workers,
        progress=progress,
        console=console,
        options=options,
        known=inspect.signature(distill).parameters,
    )
    if train is None or valid is None:
        raise InputError(
            f"distill: {'train' if train is None else 'valid'} is None; give data such as (inputs, labels)."
        )
    if accept is not None and not isinstance(accept, Mapping):
        raise InputError(
            f"distill: accept={accept!r} is no mapping of figures to conditions, such as {{'accuracy': '>= 0.9'}}."
        )
    if classes is not None and (isinstance(classes, str) or not isinstance(classes, Sequence)):
        raise InputError(f"distill: classes={classes!r} is no list of names.")
    given = {"train": train, "valid": valid, "test": test, "teacher_data": teacher_data}
    data = {name: Examples.read(part, name) for name, part in given.items() if part is not None}
    if isinstance(teacher, str):
        teacher = named_model(teacher)
    if teacher_weights is not None:
        teacher = load_weights(copy.deepcopy(teacher), teacher_weights)
    with plan.locked():
        job = Job(plan, student, teacher, data, task)
        conditions = parse(accept, [*job.task.figures, *FIGURES])
        job.check_wishes(conditions, classes)
        return job.conclude(job.run(), conditions, classes)


class Job:
    """One call of :func:`distill`: its stages, and what they have come to.

    Attributes:
        seconds: of each stage, a value for each seed.
    """

    def __init__(
        self, plan: Plan, student: Make, teacher: Any, data: Mapping[str, Examples], task: str | Task | None
    ) -> None:
        self.plan, self.make, self.teacher, self.data = plan, student, teacher, data
        self.seconds: dict[str, list[float]] = {}
        self.batch_size = plan.batch_size or data["train"].source.batch_size or BATCH_SIZE
        self.task = self._task(task)
        self.hard = data["train"].labelled(self.task)
        self._check()

    def fresh(self, seed: int) -> nn.Module:
        """A student at its start: made anew, or a copy of the one that was given."""
        if isinstance(self.make, nn.Module):
            return copy.deepcopy(self.make)
        if not callable(self.make):
            raise InputError(
                f"student: a {type(self.make).__name__} is neither a module nor a function that makes one."
            )
        with preserved():
            seed_all(seed, "student")
            try:
                made = self.make()
            except TypeError as error:
                raise InputError(
                    f"student: the function that makes it failed: {error}. Write lambda: Model(arguments)."
                ) from error
        if not isinstance(made, nn.Module):
            raise InputError(f"student: the function gave a {type(made).__name__}; it must make an nn.Module.")
        return made

    # -- before anything is trained ------------------------------------------------------------------------------------

    def _task(self, task: str | Task | None) -> Task:
        if isinstance(task, Task):
            return task
        if task is None:
            few = self.data["valid"].few(8)
            return infer(outputs(self.fresh(0), few, give=self.plan.call, who="student"), self.data["valid"].labels)
        if task not in TASKS:
            raise InputError(f"distill: there is no task {task!r}. {choices(task, TASKS)}")
        return TASKS[task]

    def _check(self) -> None:
        """Refuse what cannot work."""
        if not callable(self.teacher):
            raise InputError(f"teacher: a {type(self.teacher).__name__} cannot be called. Give a module or a function.")
        models = {"student": self.fresh(0), "teacher": self.teacher}
        _refuse_shared(
            models["student"],
            self.teacher,
            "it shares weights with the teacher, which would train along. copy.deepcopy them",
        )
        _refuse_shared(
            models["student"],
            self.fresh(0),
            "the function gives the same module at each call. Build a new one inside it",
        )
        few = self.data["train"].few(4)
        student, teacher = (outputs(m, few, give=self.plan.call, who=who).shape[1:] for who, m in models.items())
        if student != teacher:
            raise InputError(
                f"distill: for one sample the student gives {list(student)} and the teacher {list(teacher)}. "
                "Both must score the same classes: give the student's last layer the teacher's size."
            )
        for name in ("valid", "test"):
            if name in self.data and self.data[name].labelled(self.task) is None:
                raise InputError(
                    f"{name}: has no label, but is there to be compared with. Put labelled samples aside for it."
                )
        for name, examples in self.data.items():
            self._check_labels(name, examples, student)
            for who, model in models.items():
                outputs(model, examples.few(1), give=self.plan.call, who=who)
        self._check_sizes()
        self._check_method(models["student"])

    def _check_method(self, student: nn.Module) -> None:
        try:
            method = self._method(student, self.teacher)
        except TypeError as error:
            raise InputError(f"distill: the method cannot be made: {error}") from error
        if not isinstance(method, Method) or method.student is not student:
            raise InputError(
                "distill: method must be a function of (student, teacher), in this order, that returns a Method of that student."
            )
        (batch,) = self.data["train"].few(4).source.in_order()
        with preserved():
            method.to(device_of(student)).dry_run(batch.to(device_of(student)))

    def _check_labels(self, name: str, examples: Examples, shape: torch.Size) -> None:
        if examples.labels is None:
            return
        try:
            self.task.metrics(torch.zeros(examples.samples, *shape), examples.labels)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error

    def check_wishes(self, conditions: Sequence[Condition], classes: Sequence[str] | None) -> None:
        """Refuse conditions and names that can never fit."""
        problems = [
            f"accept: {c} compares with the student alone, but train has no label, so that there is none."
            for c in conditions
            if c.model == "alone" and self.hard is None
        ]
        outputs_a_sample = outputs(self.fresh(0), self.data["train"].few(1), give=self.plan.call).shape[-1]
        if classes is not None and self.task.name == "regression":
            problems.append("classes: a regression has none. Leave them out.")
        elif classes is not None and len(classes) != outputs_a_sample:
            problems.append(
                f"classes: {len(classes)} names for {outputs_a_sample} outputs; give one for each, in their order."
            )
        raise_all(InputError, problems)

    def _check_sizes(self) -> None:
        if not isinstance(self.teacher, nn.Module):
            return
        student, teacher = parameters(self.fresh(0)), parameters(self.teacher)
        if student > 2 * teacher:
            raise InputError(
                f"distill: the student has {student:,} parameters and the teacher {teacher:,}. "
                "The student comes first: distill(student, teacher, ...). Were the two swapped?"
            )

    def _check_teacher(self) -> None:
        valid = self.data["valid"]
        assert valid.labels is not None  # checked above
        output = outputs(self.teacher, valid, give=self.plan.call, who="teacher")
        if self.task.name == "classification" and _are_probabilities(output):
            raise InputError(
                "teacher: its outputs are probabilities (in [0, 1], each row adds up to 1), but distillation softens logits. "
                "Leave out its last Softmax, or give the logarithm of the outputs."
            )
        figure = self.task.metrics(output, valid.labels)[self.task.metric]
        chance = self.task.chance(valid.labels)
        if not self.task.better(figure, chance):
            raise InputError(
                f"teacher: its {self.task.metric} on valid is {figure:.3f}; the best constant answer has {chance:.3f}. "
                + _why_no_better(self.task, valid.labels)
            )

    # -- the end -------------------------------------------------------------------------------------------------------

    def conclude(
        self, trials: Sequence[Trial], conditions: Sequence[Condition], classes: Sequence[str] | None
    ) -> Distilled:
        """Measure everything once, and keep the student of the best seed by validation."""
        measured_on = "test" if "test" in self.data else "valid"
        evidence = Evidence(self.task, self.data[measured_on], self.teacher, trials, self.seconds, self.plan.call)
        told = quality(evidence)
        table = rows(evidence, told, costs(evidence))
        accepted, reasons = decide(conditions, table)
        best = trials[best_trial(self.task, trials)]
        if self.plan.folder is not None:
            save_tensors(self.plan.folder / "student.safetensors", whole(best.students["kept"]))
        return Distilled(
            student=best.students["kept"],
            teacher=self.teacher,
            task=self.task,
            rows=table,
            verdict=verdict(evidence, told),
            accepted=accepted,
            reasons=reasons,
            path=self.plan.folder,
            measured_on=measured_on,
            classes=classes,
            recipe=self.plan.told(self.task, self.batch_size),
            evidence=evidence,
        )

    # -- stages --------------------------------------------------------------------------------------------------------

    def run(self) -> list[Trial]:
        """All stages; what each seed came to."""
        self.plan.claim({f"data {name!r}": examples.digest for name, examples in self.data.items()})
        if self.plan.teacher_epochs:
            self._teach()
        self._check_teacher()
        teacher = self._soften()
        return [self._trial(seed, teacher) for seed in range(self.plan.seeds)]

    def _teach(self) -> None:
        data = self.data.get("teacher_data", self.data["train"]).labelled(self.task)
        if data is None or not isinstance(self.teacher, nn.Module):
            raise InputError(
                "teacher_epochs: to be trained, the teacher must be an nn.Module, and its data must have labels."
            )
        steps = self.plan.teacher_epochs * self._every(data)
        self._train("teacher", "teacher", self._alone(self.teacher), data, steps, 0)
        self.teacher.eval()

    def _soften(self) -> Any:
        """The teacher; or, where that cannot change, a table of what it says of every training sample."""
        train = self.data["train"]
        if self.plan.method != "kd" or not train.source.is_fixed():
            return self.teacher
        with self._clock("soft labels"):
            file = None
            if self.plan.folder is not None:
                self.plan.folder.mkdir(parents=True, exist_ok=True)
                file = self.plan.folder / f"soft-labels-{digest(self.teacher)[:16]}.safetensors"
            known = hasattr(self.teacher, "state_dict")  # of a function there is nothing to know it by
            if file is not None and file.exists() and self.plan.resume and known:
                return Stored(load_tensors(file)["outputs"])
            made = outputs(self.teacher, train, give=self.plan.call, who="teacher")
            if self.plan.progress:
                (self.plan.console or Console()).print(
                    f"soft labels: {len(made)} samples, once for all seeds", highlight=False
                )
            if file is not None:
                save_tensors(file, {"outputs": made})
        return Stored(made)

    def _trial(self, seed: int, teacher: Any) -> Trial:
        trial = Trial(seed)
        steps = self.plan.epochs * self._every(self.data["train"])
        mark = f"({seed + 1}/{self.plan.seeds})"
        if self.hard is not None:
            alone = self.fresh(seed)
            result = self._train("alone", f"student alone {mark}", self._alone(alone), self.hard, steps, seed)
            trial.add("alone", alone, result)
        student = self.fresh(seed)
        method = self._method(student, teacher)
        trial.add(
            "distilled", student, self._train("distilled", f"distil {mark}", method, self.data["train"], steps, seed)
        )
        if self.hard is not None and self.plan.fine_tune:
            tuned = copy.deepcopy(student)
            fewer = max(1, round(steps * FINE_TUNING))
            method = self._alone(tuned)
            result = self._train("fine-tuned", f"fine-tune {mark}", method, self.hard, fewer, seed, lr=FINE_TUNING)
            trial.add("fine-tuned", tuned, result)
        trial.keep(self.task)
        return trial

    def _alone(self, model: nn.Module) -> Method:
        return methods.alone(model, task=self.task, call=self.plan.call)

    def _method(self, student: nn.Module, teacher: Any) -> Method:
        if not isinstance(self.plan.method, str):
            return self.plan.method(student, teacher)
        options = dict(self.plan.options)
        if self.plan.method == "kd" and self.hard is None:
            options.setdefault("alpha", 1.0)  # no hard label anywhere
        make = getattr(methods, self.plan.method)
        models = (student,) if self.plan.method == "alone" else (student, teacher)
        made: Method = make(*models, task=self.task, **options)
        return made

    def _every(self, data: Examples) -> int:
        return -(-data.samples // self.batch_size)

    def _train(
        self, stage: str, title: str, method: Method, data: Examples, steps: int, seed: int, lr: float = 1.0
    ) -> Result:
        folder = None if self.plan.folder is None else self.plan.folder / stage / f"seed-{seed}"
        valid, task = self.data["valid"], self.task
        every = max(1, min(self._every(self.data["train"]), steps // 10))
        # A last batch of one sample is one that BatchNorm cannot take.
        single = data.samples > self.batch_size and data.samples % self.batch_size == 1
        settings = self.plan.settings(steps, self.batch_size, every, seed, task, lr, drop_last=single)

        def validate(model: nn.Module) -> dict[str, float]:
            assert valid.labels is not None  # checked before the first stage
            return task.metrics(outputs(model, valid, give=self.plan.call), valid.labels)

        bars = [Bar(title, self.plan.console)] if self.plan.progress else []
        with self._clock(stage):
            return train(
                method, data.source, settings, validate=validate, folder=folder, resume=self.plan.resume, callbacks=bars
            )

    @contextlib.contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        began = perf_counter()
        yield
        self.seconds.setdefault(stage, []).append(perf_counter() - began)


def _are_probabilities(output: Tensor) -> bool:
    """Whether these are probabilities and not logits."""
    inside = bool(((output >= 0) & (output <= 1)).all())
    return inside and torch.allclose(output.sum(-1), torch.ones(len(output), dtype=output.dtype), atol=1e-3)


def _why_no_better(task: Task, labels: Tensor) -> str:
    if task.name != "regression":
        return (
            "Is it trained (teacher_epochs=), are its classes in the data's order, and is its preprocessing the data's?"
        )
    known = labels[~labels.isnan()]
    return (
        f"Is it trained (teacher_epochs=), and are inputs and labels of about unit size? The labels have mean {float(known.mean()):.3g} "
        f"and standard deviation {float(known.std()):.3g}; standardise them if that is far from 0 and 1."
    )


def _folder(folder: str | Path | None) -> Path | None:
    if folder is not None and (not isinstance(folder, (str, Path)) or str(folder) in ("", ".")):
        raise InputError(f"distill: folder={folder!r} is not the name of a folder of its own, such as 'runs/first'.")
    return None if folder is None else Path(folder)


def _refuse_shared(student: nn.Module, other: Any, why: str) -> None:
    """Raise InputError if two models have a parameter in common."""
    theirs = {id(p) for p in other.parameters()} if isinstance(other, nn.Module) else set()
    shared = [name for name, p in student.named_parameters() if id(p) in theirs]
    if shared:
        raise InputError(f"student: {why}. In common: {', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}.")
