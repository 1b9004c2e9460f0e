"""The models of a contest: made, trained and made again. Every training is a run in a folder of its own::

OUT/teacher/seed-0/                    trained once
OUT/alone/seed-0/, OUT/distilled/seed-0/
OUT/ways/NAME/seed-0/                  what is made from the teacher or from the distilled student, and learns again
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status
from torch import nn

from understudy.choices import Choices
from understudy.compress import Step, copied, described, finished
from understudy.contest.ways import Model
from understudy.data.order import preserved, seed_all
from understudy.errors import InputError
from understudy.material import Material
from understudy.measure import interval
from understudy.method import Method
from understudy.preflight import check_method, check_teacher
from understudy.shared import Shared
from understudy.start import compressed
from understudy.state import identity, load_module
from understudy.trained import WEIGHTS, Shown, Trained, held, trained
from understudy.writing import load_tensors

__all__ = ["DISTILLED", "Entrants"]

DISTILLED = Model("distilled", "student", "distilled")
"""The student that others begin with."""


class Entrants:
    """Who trains the models of a contest, and makes them again from what the training left.

    Attributes:
        teacher: trained once, in place.
        told: of each model that learnt: what its runs have left, a value for each seed.
    """

    def __init__(self, material: Material, out: Path, console: Console) -> None:
        self.material, self.plan, self.task = material, material.plan, material.task
        self.out, self.console, self.teacher = out, console, material.teacher
        self.half = material.changed(epochs=max(1, self.plan.epochs // 2))
        self.choices = Choices(material, lambda told: console.print(told, soft_wrap=True))
        self.shared = Shared(material, self.teacher, self.choices)
        self.told: dict[str, list[Trained]] = {}
        self._compressed: dict[str, nn.Module] = {}

    # -- before ------------------------------------------------------------------------------------------------------------

    def checked(self, model: Model) -> Model:
        """The model with the one chain that can be done; tried on the teacher and the student as they begin.

        Raises: InputError if none can be, or if the method cannot take what comes of it.
        """
        if model.learns in ("alone",) and self.material.hard is None:
            raise InputError("train has no label, so that there is no student alone.")
        lost: InputError | None = None
        for chain in model.chains:
            one = dataclasses.replace(model, chains=(chain,))
            try:
                made = self._start(one, self.plan.seed, untrained=True)
            except InputError as error:
                lost = lost or error
                continue
            if model.learns in ("distilled", "recovered"):
                check_method(self.material, made)
                self.shared.add(self.material.method(made, self.teacher))
            return one
        assert lost is not None  # a model has a chain at least
        raise lost

    def settle(self, trainings: int) -> None:
        """Choose what is chosen by time, once for so many trainings."""
        self.material.precision = self.half.precision = self.choices.precision(trainings)

    # -- trainings -----------------------------------------------------------------------------------------------------------

    def train_teacher(self, status: Status) -> None:
        """In place, as every method reads it; and once."""
        if "teacher" in self.material.stages:
            folder = self.out / "teacher" / "seed-0"
            told = self._run("teacher", self.material, self.material.alone(self.teacher), 0, folder, status)
            load_module(self.teacher, load_tensors(folder / WEIGHTS))
            self.console.print(f"teacher: {self.task.metric} {told.valid:.3f} on valid, {told.seconds:.0f} s")
        self.teacher.eval()
        self._compressed.clear()
        check_teacher(self.material)

    def train(self, model: Model, status: Status) -> str | None:
        """The students of every seed, if it learns and has not done so; the reason if one of them did not reach its end."""
        if not model.learns or model.name in self.told:
            return None
        if model.start == "distilled" and (failed := self.train(DISTILLED, status)) is not None:
            return failed
        stage, material = {
            "alone": ("alone", self.material),
            "distilled": ("distilled", self.material),
            "recovered": ("distilled", self.half),
        }[model.learns]
        found = []
        for seed in self.plan.every_seed:
            student = self._start(model, seed)
            method = material.alone(student) if stage == "alone" else material.method(student, self.teacher, seed)
            found.append(self._run(stage, material, method, seed, self._folder(model, seed), status, model.chain))
            if found[-1].failed is not None:
                return found[-1].failed
        self.told[model.name] = found
        valid, seconds = interval([told.valid for told in found]), sum(told.seconds for told in found)
        self.console.print(f"{model.name}: {self.task.metric} {valid} on valid, {seconds:.0f} s", soft_wrap=True)
        return None

    def _run(
        self,
        stage: str,
        material: Material,
        method: Method,
        seed: int,
        folder: Path,
        status: Status,
        chain: Sequence[Step] = (),
    ) -> Trained:
        settings = material.settings(material.stages[stage], seed)
        facts = identity(method, settings.identity(), material.stages[stage].data.samples)
        facts |= {"compressed": ", ".join(map(described, chain))} if chain else {}
        if (found := held(folder, facts)) is not None:
            return found
        if stage == "distilled":
            self.shared.teach(method)
        shown = Shown(status, str(folder.relative_to(self.out)))
        return trained(material, stage, method, seed, folder, facts, shown)

    def _folder(self, model: Model, seed: int) -> Path:
        own = model.name in ("alone", "distilled")
        return (self.out if own else self.out / "ways") / model.name / f"seed-{seed}"

    # -- what came of it -----------------------------------------------------------------------------------------------------

    def seeds(self, model: Model) -> list[int]:
        """Those of which it has a model each: the first alone, where it is the same for all."""
        return [self.plan.seed] if model.one else list(self.plan.every_seed)

    def best(self, model: Model) -> int:
        """The seed that is handed on: the first of those that are best by validation."""
        best = self.plan.seed
        known = {seed: told.valid for seed, told in zip(self.plan.every_seed, self._runs(model), strict=False)}
        for seed, valid in known.items():
            best = seed if self.task.better(valid, known[best]) else best
        return best

    def seconds(self, model: Model) -> float:
        """Of training, of all that went into one model beside the teacher: the mean over seeds."""
        before = self.seconds(DISTILLED) if model.start == "distilled" else 0.0
        own = self.told.get(model.name, [])
        return before + (sum(told.seconds for told in own) / len(own) if own else 0.0)

    def _runs(self, model: Model) -> list[Trained]:
        return self.told.get(model.name, self.told.get(DISTILLED.name, []) if model.start == "distilled" else [])

    def made(self, model: Model, seed: int) -> nn.Module:
        """The model as it runs, in eval mode."""
        if model.one and not model.chain:
            whole: nn.Module = self.teacher
            return whole
        made = self._start(model, seed)
        if model.learns:
            load_module(made, load_tensors(self._folder(model, seed) / WEIGHTS))
        return finished(made).eval()

    def _start(self, model: Model, seed: int, untrained: bool = False) -> nn.Module:
        """The model as it begins to learn."""
        if model.start == "student":
            return self.material.student(seed)
        with preserved():
            seed_all(seed, "student")
            if model.start == "distilled":
                begin = finished(self.material.student(seed)) if untrained else self.made(DISTILLED, seed)
                return compressed(copied(begin), model.chain, self.material.data["train"])
            if model.name not in self._compressed:  # it is the same for all seeds
                made = compressed(copied(self.teacher), model.chain, self.material.data["train"])
                self._compressed[model.name] = made
            made = copy.deepcopy(self._compressed[model.name])
            return renewed(made) if model.start == "shape" else made


def renewed(model: nn.Module) -> nn.Module:
    """The same module with weights as its layers are made with; what no layer knows how to make stays."""
    for module in model.modules():
        reset: Any = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model
