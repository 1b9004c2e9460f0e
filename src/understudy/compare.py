"""All methods under one protocol: the same teacher, data, steps, seeds and starts, against the student alone.

Every training is a run in a folder of its own, and so can be stopped and gone on with::

    OUT/teacher/                            trained once
    OUT/alone/seed-0/                       the student alone
    OUT/methods/NAME/seed-0/                a method's student
    OUT/methods/NAME-x0.1/seed-0/           with the weight that was chosen, if that is another
    OUT/tuning/NAME-x0.1/seed-1000000/      of other seeds, by which it was chosen
"""

from __future__ import annotations

import dataclasses
import functools
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.status import Status
from torch import nn

from understudy import methods, parallel
from understudy.contender import Contender, Rehearsed, can_be_tuned, rehearsed
from understudy.errors import CorruptError, InputError, Interrupted, MachineError, NonFiniteError, choices, raise_all
from understudy.examples import outputs
from understudy.job import train_stage
from understudy.material import Material
from understudy.measure import interval
from understudy.method import Method
from understudy.preflight import check_method, check_teacher
from understudy.progress import Progress
from understudy.ranking import ALONE, Entrant, Ranking
from understudy.recipe.build import method_of
from understudy.recipe.examine import examine
from understudy.recipe.running import FREE, claim
from understudy.recipe.text import Document
from understudy.registry import entries
from understudy.rehearsal import Clock
from understudy.state import compare as compare_facts
from understudy.state import identity, load_module
from understudy.teachers import Ensemble
from understudy.writing import load_tensors, read_json, write_json, write_text

__all__ = ["FACTORS", "TUNING_SEEDS", "Compared", "Contender", "compare"]

FACTORS = (1.0, 0.1, 0.01, 10.0)
"""On a method's distillation weight, from which tuning chooses; the first that is best."""

TUNING_SEEDS = 2
APART = 1_000_000  # from the seeds of the comparison to those of tuning

RESULTS, PAGE, COMMAND, RUN, WEIGHTS = "results.json", "methods.md", "command.txt", "run.json", "student.safetensors"
UNUSED = ("method", "terms", "fine_tune")  # keys of the recipe that a comparison does not ask for
SAVES = 4  # checkpoints of a run: those of one in every epoch would take longer than small students do


class Trained(NamedTuple):
    """What a run has left. ``failed`` is the reason, if it did not reach its end."""

    valid: float
    seconds: float
    step_ms: float | None
    failed: str | None = None


@dataclass(frozen=True)
class Compared:
    """What :func:`compare` returns."""

    ranking: Ranking
    folder: Path

    @property
    def page(self) -> Path:
        """The table in Markdown."""
        return self.folder / PAGE


def compare(
    document: Document,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    tune: bool = False,
    command: Sequence[str] = (),
    resume: bool = False,
    console: Console | None = None,
) -> Compared:
    """Train every method on a recipe's models and data, and measure them all at the end, once, on its test data.

    Args:
        document: the recipe. What it says of its method is not used: each has its paper's defaults.
        out: the folder of the comparison.
        names: of methods, ``"all"`` for all there are, ``"-dafl"`` for all but this one; all, if not given.
        tune: whether to choose each method's weight by validation, with other seeds.
        command: the words that say what the recipe is, for the page; on a resume those of the first time, if there are none.
        resume: go on with the comparison in ``out``; other methods may be added to it.
        console: where progress is shown.

    Raises: InputError for names that are not known, if no method can work, or under torchrun; what ``understudy run`` raises.
    """
    if max(parallel.started(), parallel.ranks()) > 1:
        raise InputError("compare: runs in one process, and this is one of several. Start it without torchrun.")
    chosen = _chosen(names)
    console = console or Console(highlight=False)
    examined = examine(document, folder=out, resume=resume, progress=False, console=console)
    material = examined.material
    if material.hard is None:
        raise InputError(
            f"{document.top.source}: train has no label, so that there is no student alone to compare methods with."
        )
    for note in [*claim(out, examined, resume, (*FREE, *UNUSED)), *examined.parts.notes]:
        console.print(note, soft_wrap=True)
    with material.plan.locked():
        ranking = Comparison(material, out, chosen, tune, console).run()
    write_json(out / RESULTS, ranking.results())
    words = [*_command(out, command), *_asked(names, tune)]
    write_text(out / PAGE, ranking.markdown(f"Methods on {_title(words, document)}", shlex.join(words)))
    return Compared(ranking, out)


def _asked(names: Sequence[str] | None, tune: bool) -> list[str]:
    """The options of the command line that say which methods, and how."""
    return [*([] if names is None else ["--methods", ",".join(names)]), *(["--tune"] if tune else [])]


def _command(out: Path, command: Sequence[str]) -> list[str]:
    """What was typed when the comparison began: the folder itself, by which one goes on with it, is nothing to others."""
    file = out / COMMAND
    if command:
        write_json(file, list(command))
    elif file.exists():
        return list(read_json(file))
    return list(command) or ["understudy", "compare", str(out)]


def _title(words: Sequence[str], document: Document) -> str:
    return Path(words[2] if len(words) > 2 else document.top.source).stem


def _chosen(names: Sequence[str] | None) -> list[str]:
    """Names of methods, each once. The student alone is no method here, but what all are compared with."""
    known = [name for name in entries("method") if name != methods.alone.__name__]
    given = ["all"] if names is None else list(names)
    wrong = [name for one in given if (name := one.removeprefix("-")) not in known and one != "all"]
    raise_all(InputError, [f"--methods: there is no method {name!r}. {choices(name, known)}" for name in wrong])
    wanted = [name for one in given if not one.startswith("-") for name in (known if one == "all" else [one])]
    chosen = [name for name in dict.fromkeys(wanted) if f"-{name}" not in given]
    if not chosen:
        raise InputError("--methods: names no method. Write all, or names with commas between them: kd,dkd.")
    return chosen


class Comparison:
    """One call of :func:`compare`, when everything is checked."""

    def __init__(self, material: Material, out: Path, names: Sequence[str], tune: bool, console: Console) -> None:
        self.material, self.plan, self.task = material, material.plan, material.task
        self.out, self.names, self.tune, self.console = out, names, tune, console
        self.teacher = material.teacher
        self.left_out: list[dict[str, str]] = []
        self.folders: dict[str, list[Path]] = {}  # of each entrant's students

    def run(self) -> Ranking:
        """All trainings, and then what they have come to."""
        digests = {f"data {name!r}": examples.digest for name, examples in self.material.data.items()}
        self.plan.claim({"what": "a comparison of methods", **digests})
        contenders = self._rehearse()
        if not contenders:
            raise InputError("\n".join(["compare: no method can work here.", *(o["reason"] for o in self.left_out)]))
        with self.console.status("") as status:
            self.status = status
            self._train_teacher()
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
        count = f"{len(found)} methods and the student alone, {self.plan.seeds} students of each"
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
        told = str(folder.relative_to(self.out))
        steps = material.stages[stage].steps
        settings = material.settings(material.stages[stage], seed)
        facts = identity(method, settings.identity(), material.stages[stage].data.samples)
        if (folder / RUN).exists():
            return _read(folder, facts)
        clock = _Shown(self.status, told)
        try:
            every = max(1, -(-steps // SAVES))
            result = train_stage(
                material, stage, method, seed, folder=folder, resume=True, callbacks=[clock], save_every=every
            )
            valid = float(result.best["valid"][self.task.metric]) if result.best else float("nan")
            step_ms = 1e3 * clock.seconds if len(clock.times) > 1 else None
            trained = Trained(valid, result.seconds, step_ms)
        except NonFiniteError as error:
            if stage != "distilled":
                raise NonFiniteError(f"{stage}: {error}") from error
            trained = Trained(float("nan"), 0.0, None, str(error))
        write_json(folder / RUN, {"told": _strict(trained), "facts": facts})
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return trained

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
            "teacher": f"{type(self.teacher).__name__}, the same for all; it runs in every step",
            "trained on": f"{train:,} samples, {hard:,} of them labelled; the student alone on those",
            "weights chosen on": f"valid, {self.material.data['valid'].samples:,} samples",
            "measured on": f"{part}, {self.material.data[part].samples:,} samples, once" if part == "test" else part,
            "distillation weight": weight,
            "optimizer": f"{plan.optimizer.name}, lr {plan.optimizer.lr:g}",
        }


class _Shown(Clock):
    """The clock of a run, which says what runs."""

    def __init__(self, status: Status, told: str) -> None:
        super().__init__()
        self.status, self.told = status, told

    def stepped(self, progress: Progress) -> None:
        """Note the time first: what is shown takes some."""
        super().stepped(progress)
        if progress.step % 10 == 0:
            self.status.update(f"{self.told}: step {progress.step} of {progress.steps}")


def _strict(trained: Trained) -> dict[str, Any]:
    told = trained._asdict()
    return {**told, "valid": None if told["valid"] != told["valid"] else told["valid"]}


def _read(folder: Path, facts: Mapping[str, str]) -> Trained:
    """A run that is done. Raises: InputError if it is of another method, CorruptError if it is damaged."""
    found = read_json(folder / RUN)
    try:
        told, then = found["told"], found["facts"]
        trained = Trained(**{**told, "valid": float("nan") if told["valid"] is None else told["valid"]})
    except (KeyError, TypeError) as error:
        raise CorruptError(f"{folder / RUN}: is damaged: it is not what a comparison writes.") from error
    compare_facts(then, facts, folder)
    return trained
