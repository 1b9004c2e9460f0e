"""A comparison as it runs: what can take part, every training, and the measurement at the end.

The same teacher, data, steps, seeds and starts for all, against the student alone. Every training is a run in a folder of its own,
and so can be stopped and gone on with::

    OUT/choices.json                        how the teacher runs, the students' precision, what is stored
    OUT/teacher/                            trained once
    OUT/alone/seed-0/                       the student alone
    OUT/methods/NAME/seed-0/                a method's student
    OUT/methods/NAME-x0.1/seed-0/           with the weight that was chosen, if that is another
    OUT/tuning/NAME-x0.1/seed-1000000/      of other seeds, by which it was chosen
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from torch import nn

from understudy.choices import Choices
from understudy.errors import InputError, Interrupted, MachineError, NonFiniteError
from understudy.examples import outputs
from understudy.material import Material
from understudy.measure import interval
from understudy.method import Method
from understudy.preflight import check_method, check_teacher
from understudy.ranking.contender import Contender, Rehearsed, can_be_tuned, rehearsed
from understudy.ranking.ranking import ALONE, Entrant, Ranking
from understudy.recipe.build import method_of
from understudy.shared import Shared
from understudy.state import identity, load_module
from understudy.teachers import Ensemble
from understudy.trained import WEIGHTS, Shown, Trained, held, trained
from understudy.writing import load_tensors

__all__ = ["FACTORS", "TUNING_SEEDS", "Comparison"]

FACTORS = (1.0, 0.1, 0.01, 10.0)
"""On a method's distillation weight, from which tuning chooses; the first that is best."""

TUNING_SEEDS = 2
APART = 1_000_000  # from the seeds of the comparison to those of tuning


class Comparison:
    """One call of :func:`compare`, when everything is checked."""

    def __init__(self, material: Material, out: Path, names: Sequence[str], tune: bool, console: Console) -> None:
        self.material, self.plan, self.task = material, material.plan, material.task
        self.out, self.names, self.tune, self.console = out, names, tune, console
        self.teacher = material.teacher
        self.choices = Choices(material, lambda told: console.print(told, soft_wrap=True))
        self.shared = Shared(material, self.teacher, self.choices)
        self.left_out: list[dict[str, str]] = []
        self.folders: dict[str, list[Path]] = {}  # of each entrant's students

    def run(self) -> Ranking:
        """All trainings, and then what they have come to."""
        digests = {f"data {name!r}": examples.digest for name, examples in self.material.data.items()}
        self.plan.claim({"what": "a comparison of methods", **digests})
        self.material.precision = self.choices.precision((1 + len(self.names)) * self.plan.seeds)
        contenders = self._rehearse()
        if not contenders:
            raise InputError("\n".join(["compare: no method can work here.", *(o["reason"] for o in self.left_out)]))
        with self.console.status("") as status:
            self.status = status
            self._train_teacher()
            for contender, _ in contenders:
                self.shared.add(contender.method(self.material.student(), self.teacher))
            alone = Entrant(ALONE, memory_mb=self.alone_memory_mb)
            self._students(alone, None)
            entered = [entrant for c, seen in contenders if (entrant := self._enter(c, seen))]
        return self._conclude(alone, entered)

    # -- before ----------------------------------------------------------------------------------------------------------

    def _rehearse(self) -> list[tuple[Contender, Rehearsed]]:
        """A few steps of each method; those that cannot work here are left out with their reasons."""
        alone = rehearsed(self.material, "alone", lambda student: self.material.alone(student))
        self.alone_memory_mb = alone.memory_mb
        found, seconds = [], self._expected(alone)
        for name in self.names:
            plan = method_of({"method": {"name": name}})
            contender = Contender(name, self.material.with_method(plan.pop("method"), plan))
            try:
                check_method(contender.material, self.material.student())
                make = functools.partial(contender.method, teacher=self.teacher)
                self._check_teachers(name, make(self.material.student()))
                seen = rehearsed(contender.material, "distilled", make)
            except NonFiniteError as error:
                self._leave_out(name, "failed", str(error))
            except (MachineError, Interrupted):
                raise
            except Exception as error:  # whatever a method raises, it is that method's, and the others go on
                known = isinstance(error, InputError)
                told = str(error) if known else f"{type(error).__name__}: {error}"
                self._leave_out(name, "skipped" if known else "failed", told)
            else:
                found.append((contender, seen))
                seconds += self._expected(seen)
        number = f"{self.plan.seeds} student{'' if self.plan.seeds == 1 else 's'}"
        count = f"{len(found)} methods and the student alone, {number} of each"
        self.console.print(f"{count}. Time, about: {max(1, round(seconds / 60))} min", soft_wrap=True)
        return found

    def _check_teachers(self, name: str, method: Method) -> None:
        """Raise InputError for a method that weighs teachers where there is one: all such methods then come out alike."""
        given = [model for model in method.frozen.values() if model is not self.teacher]
        if any(isinstance(model, Ensemble) and len(model) == 1 for model in given):
            raise InputError(f"{name}: weighs several teachers, and the recipe has one.")

    def _expected(self, seen: Rehearsed) -> float:
        steps = self.material.stages["distilled"].steps
        runs = self.plan.seeds + (len(FACTORS) * TUNING_SEEDS if self.tune else 0)
        return runs * (seen.first_seconds + steps * seen.step_seconds)

    def _leave_out(self, name: str, why: str, reason: str) -> None:
        told = " ".join(reason.split())
        told = told if told.startswith(name) else f"{name}: {told}"
        self.left_out.append({"method": name, "why": why, "reason": told})
        self.console.print(f"{why.capitalize()}: {told}", soft_wrap=True)

    # -- trainings -------------------------------------------------------------------------------------------------------

    def _train_teacher(self) -> None:
        """In place, as every method reads it; and once."""
        if "teacher" in self.material.stages:
            folder = self.out / "teacher" / "seed-0"
            told = self._trained("teacher", self.material, self.material.alone(self.teacher), 0, folder)
            load_module(self.teacher, load_tensors(folder / WEIGHTS))
            self.console.print(f"teacher: {self.task.metric} {told.valid:.3f} on valid, {told.seconds:.0f} s")
        if isinstance(self.teacher, nn.Module):
            self.teacher.eval()
        check_teacher(self.material)

    def _enter(self, contender: Contender, seen: Rehearsed) -> Entrant | None:
        """Train a method's students; None if one of them failed."""
        factor = None
        if self.tune and can_be_tuned(contender, self.teacher):
            factor = self._tuned(contender)
            contender = dataclasses.replace(contender, factor=factor)
        entrant = Entrant(contender.name, factor, memory_mb=seen.memory_mb)
        return entrant if self._students(entrant, contender) else None

    def _students(self, entrant: Entrant, contender: Contender | None) -> bool:
        """Train those of every seed, and say in a line how it went; whether all of them reached their end."""
        self.folders[entrant.name] = [self._folder(contender, seed) for seed in self.plan.every_seed]
        seeded = zip(self.plan.every_seed, self.folders[entrant.name], strict=True)
        found: list[Trained] = []
        while len(found) < self.plan.seeds and not (found and found[-1].failed is not None):
            found.append(self._student(contender, *next(seeded)))
        failed = found[-1].failed
        if failed is not None:
            self._leave_out(entrant.name, "failed", failed)
            return False
        entrant.step_ms = [told.step_ms for told in found if told.step_ms is not None]
        valid, seconds = interval([told.valid for told in found]), sum(told.seconds for told in found)
        self.console.print(f"{entrant.name}: {self.task.metric} {valid} on valid, {seconds:.0f} s")
        return True

    def _folder(self, contender: Contender | None, seed: int) -> Path:
        where = self.out / "alone" if contender is None else self.out / "methods" / contender.label
        return where / f"seed-{seed}"

    def _student(self, contender: Contender | None, seed: int, folder: Path) -> Trained:
        material = self.material if contender is None else contender.material
        student = material.student(seed)
        method = material.alone(student) if contender is None else contender.method(student, self.teacher, seed)
        return self._trained("alone" if contender is None else "distilled", material, method, seed, folder)

    def _tuned(self, contender: Contender) -> float:
        """The factor whose students are best by validation."""
        best, most = FACTORS[0], -float("inf")
        for factor in FACTORS:
            tried = dataclasses.replace(contender, factor=factor)
            seeds = range(self.plan.seed + APART, self.plan.seed + APART + TUNING_SEEDS)
            base = self.out / "tuning" / tried.label
            found = [self._student(tried, seed, base / f"seed-{seed}") for seed in seeds]
            if any(told.failed is not None for told in found):
                continue
            figure = self.task.sign * sum(told.valid for told in found)
            if figure > most:
                best, most = factor, figure
        return best

    def _trained(self, stage: str, material: Material, method: Method, seed: int, folder: Path) -> Trained:
        """A run, or what it left when it was done before."""
        settings = material.settings(material.stages[stage], seed)
        facts = identity(method, settings.identity(), material.stages[stage].data.samples)
        found = held(folder, facts)
        if found is None:
            if stage == "distilled":
                self.shared.teach(method)
            shown = Shown(self.status, str(folder.relative_to(self.out)))
            found = trained(material, stage, method, seed, folder, facts, shown)
        return found

    # -- the end ---------------------------------------------------------------------------------------------------------

    def _conclude(self, alone: Entrant, entered: Sequence[Entrant]) -> Ranking:
        """Measure everything, once, on data that chose nothing."""
        part = "test" if "test" in self.material.data else "valid"
        data, give = self.material.data[part], self.plan.call
        assert data.labels is not None  # checked before any training
        for entrant in [alone, *entered]:
            for seed, folder in zip(self.plan.every_seed, self.folders[entrant.name], strict=True):
                student = self.material.student(seed)
                load_module(student, load_tensors(folder / WEIGHTS))
                entrant.outputs.append(outputs(student, data, give=give))
        taught = outputs(self.teacher, data, give=give, who="teacher")
        protocol = self._protocol(part)
        return Ranking.of(self.task, taught, data.labels, alone, entered, self.left_out, protocol, part)

    def _protocol(self, part: str) -> dict[str, str]:
        """What all had alike, in words."""
        stages, plan = self.material.stages, self.plan
        hard, train = stages["alone"].data.samples, self.material.data["train"].samples
        weight = "the paper's default"
        if self.tune:
            weight += f", times the best of {', '.join(f'{f:g}' for f in sorted(FACTORS))} by validation with {TUNING_SEEDS} other seeds"
        return {
            "task": self.task.name,
            "seeds": str(plan.seeds),
            "steps": f"{stages['distilled'].steps:,} of {self.material.batch_size} samples",
            "student": f"{type(self.material.student()).__name__}, at the same start for all methods of a seed",
            "teacher": f"{type(self.teacher).__name__}, the same for all; {self.shared.told()}",
            "trained on": f"{train:,} samples, {hard:,} of them labelled; the student alone on those",
            "weights chosen on": f"valid, {self.material.data['valid'].samples:,} samples",
            "measured on": f"{part}, {self.material.data[part].samples:,} samples, once" if part == "test" else part,
            "distillation weight": weight,
            "optimizer": f"{plan.optimizer.name}, lr {plan.optimizer.lr:g}",
        }
