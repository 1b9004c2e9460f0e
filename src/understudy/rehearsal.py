"""One batch through everything that a job would do: what each term finds, what it pulls, and what the job will cost."""

from __future__ import annotations

import copy
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.answers import Answers
from understudy.batch import Batch
from understudy.callbacks import Callback
from understudy.data.order import preserved
from understudy.engine import train
from understudy.examples import device_of, outputs
from understudy.material import Material, Stage
from understudy.measure import latency, parameters, size_mb
from understudy.method import Distillation, Method
from understudy.modes import evaluating
from understudy.progress import START, Progress
from understudy.projectors import Projector
from understudy.teachers.stored import InMemory, Stored
from understudy.term import Term

__all__ = ["Clock", "Cost", "Model", "Rehearsal", "TermSeen", "memory_of_step", "rehearse"]

CALLS = 9  # of a model, to see how long one takes
STEPS = 6  # of each stage, to see how long one takes; the first is slower
DROWNED = 0.05  # of the gradient: who has less than that hardly says where the student goes
PAGE_BYTES = 2_000_000  # of page.json, report.html and results.json together, about


@dataclass(frozen=True)
class Model:
    """A model of the job, what it gives for one sample, and the milliseconds that it takes for that here."""

    name: str
    kind: str
    parameters: int | None
    size_mb: float | None
    output: list[int]
    latency_ms: float | None = None


@dataclass(frozen=True)
class TermSeen:
    """A term on one batch at the start.

    Attributes:
        shapes: of what is at each of its addresses.
        weight: at the run's first step.
        value: without the weight; None for a term that reads nothing, because its weight is 0 or no label is there.
        gradient: the 2-norm of the weighted term's gradient with respect to the student's parameters.
        share: of the sum of these over all terms.
        project: the projector, with its sizes.
    """

    name: str
    shapes: dict[str, list[int]]
    weight: float
    value: float | None
    gradient: float | None
    share: float | None
    project: str | None = None


@dataclass(frozen=True)
class Cost:
    """What the job will take, measured on a few steps and multiplied out.

    Attributes:
        seconds: of each stage, over all seeds.
        memory_mb: of weights, gradients, optimizer, activations of one step, and tensors of the data; without what Python
            and torch themselves need.
        disk_mb: of the run's folder at its end.
    """

    seconds: dict[str, float]
    memory_mb: float
    disk_mb: float


@dataclass(frozen=True)
class Rehearsal:
    """What was seen."""

    models: list[Model]
    terms: list[TermSeen]
    cost: Cost

    @property
    def warnings(self) -> list[str]:
        """What makes the run likely to end badly, though nothing is wrong with it."""
        return _drowned(self.terms)


def _drowned(terms: Sequence[TermSeen]) -> list[str]:
    """A warning, if what says which answer is right has next to no part in the student's gradient.

    That is what is at the student's own output, whether a label or the teacher's answer is there too.
    """
    read = [(term, term.share) for term in terms if term.share is not None]
    answers = [(term, share) for term, share in read if any(_is_output(address) for address in term.shapes)]
    theirs = sum(share for _, share in answers)
    if not answers or len(answers) == len(read) or theirs >= DROWNED:
        return []
    most = max(read, key=lambda one: one[1])[0]
    return [
        f"{' and '.join(term.name for term, _ in answers)}: {theirs:.1%} of the gradient, so that the student hardly learns which "
        f"answer is right, and may end near chance. Give {most.name} less weight; `understudy compare RECIPE --methods all --tune` finds one."
    ]


def _is_output(address: str) -> bool:
    parsed = Address.parse(address)
    whole = parsed.tap is None and parsed.parameter is None and parsed.keys in ((), ("logits",), (0,))
    return parsed.model == "student" and whole


def rehearse(material: Material) -> Rehearsal:
    """Go through it. Trains nothing that is kept, and leaves models and random numbers as they are."""
    with preserved():
        return Rehearsal(_models(material), _terms(material), _cost(material))


def _models(material: Material) -> list[Model]:
    one = material.data["train"].few(1)
    found = []
    for name, model in (("student", material.student()), ("teacher", material.teacher)):
        module = model if isinstance(model, nn.Module) else None
        shape = list(outputs(model, one, give=material.plan.call, who=name).shape[1:])
        size = None if module is None else size_mb(module)
        count = None if module is None else parameters(module)
        time = None if module is None else _latency(material, module)
        found.append(Model(name, type(model).__name__, count, size, shape, time))
    return found


def _latency(material: Material, model: nn.Module) -> float:
    """The median of a few calls, in milliseconds."""
    batch = next(iter(material.data["train"].few(1).source.in_order())).to(device_of(model))
    with evaluating(model):
        told = latency(
            lambda: material.plan.call(model, batch.inputs), threads=torch.get_num_threads(), runs=CALLS, warmup=2
        )
    return cast("float", told["latency_ms_p50"])


def _batch(material: Material, device: torch.device) -> Batch:
    """One step's samples, drawn at random: the first ones may all have a label."""
    data = material.data["train"]
    ids = torch.randperm(data.samples, generator=torch.Generator().manual_seed(0))[: material.batch_size]
    batch = next(iter(data.source.subset(ids).in_order()))
    # As the loop gives it: a table of what the teacher says is asked for a draw.
    return (Batch.of(batch, draw=torch.tensor(0)) if data.source.may_vary else batch).to(device)


def _terms(material: Material) -> list[TermSeen]:
    student = material.student()
    device = device_of(student)
    method = material.method(student, material.teacher).to(device)
    batch = _batch(material, device)
    readings = method.dry_run(batch)
    if not isinstance(method, Distillation):
        return []
    method.train()
    weights = [cast("Term", term).weight_at(START) for term in method.terms]
    norms = {i: _gradient(method, i, batch) for i, reading in enumerate(readings) if reading.shapes and weights[i]}
    whole = sum(norms.values())
    return [
        TermSeen(
            name=reading.term,
            shapes={address: list(shape) for address, shape in reading.shapes.items()},
            weight=weights[i],
            value=reading.value if reading.shapes else None,
            gradient=norms.get(i),
            share=norms[i] / whole if i in norms and whole > 0 else None,
            project=_projector(cast("Term", method.terms[i]).project) if reading.shapes else None,
        )
        for i, reading in enumerate(readings)
    ]


def _projector(project: nn.Module | None) -> str | None:
    sizes = project.fitted if isinstance(project, Projector) else None
    return None if project is None else type(project).__name__ + (f"({sizes[0]}, {sizes[1]})" if sizes else "")


def _gradient(method: Distillation, term: int, batch: Batch) -> float:
    loss = method.move(method.prepare(batch, START), START, only={term}).loss
    wanted = [p for p in method.student.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, wanted, allow_unused=True)
    return math.sqrt(sum(float(g.detach().float().square().sum()) for g in grads if g is not None))


# -- what it will cost -------------------------------------------------------------------------------------------------


class Clock(Callback):
    """When each step ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def stepped(self, progress: Progress) -> None:
        """Note the time."""
        self.times.append(perf_counter())

    @property
    def seconds(self) -> float:
        """Of one step."""
        return median(b - a for a, b in zip(self.times, self.times[1:], strict=False))


def _cost(material: Material) -> Cost:
    seconds: dict[str, float] = {}
    memory: list[float] = []
    disk, answers = PAGE_BYTES, _answers(material)
    for name, stage in material.stages.items():
        with tempfile.TemporaryDirectory() as folder:
            method = _method_of(material, name, answers)
            memory.append(memory_of_step(material, method))
            pace = _pace(material, method, stage, Path(folder))
            validations = stage.steps / (material.settings(stage, 0).validate_every or stage.steps) + 1
            seconds[name] = stage.runs * (stage.steps * pace + validations * _validating(material, method))
            disk += stage.runs * _bytes_in(Path(folder))
    began = perf_counter()
    few = material.data["train"].few(material.batch_size)
    outputs(material.teacher, few, give=material.plan.call, who="teacher")
    labelling = (perf_counter() - began) * material.data["train"].samples / few.samples
    if answers is not None:
        seconds["soft labels"] = labelling * answers.draws
        disk += answers.bytes()
    disk += 3 * _bytes(material.student())  # its weights, and twice what is deployed
    disk += _bytes(material.teacher) if "teacher" in material.stages else 0
    parts = (getattr(part.source.dataset, "tensors", ()) for part in material.data.values())  # what is in memory
    held = sum(t.nbytes for tensors in parts for t in tensors)
    return Cost(seconds, (max(memory) + held) / 1e6, disk / 1e6)


def _method_of(material: Material, stage: str, answers: Answers | None) -> Method:
    """What trains in a stage, on models that are thrown away."""
    if stage == "teacher":
        return material.alone(copy.deepcopy(material.teacher))
    if stage != "distilled":
        return material.alone(material.student())
    method = material.method(material.student(), material.teacher)
    if answers is not None and isinstance(method, Distillation):  # no teacher runs in a step, but a table is looked up
        one = answers.ask(torch.tensor([0]), 0)
        rows = answers.draws * material.data["train"].samples
        table = InMemory({name: t.expand(rows, *t.shape[1:]) for name, t in one.items()}, answers.draws)
        method.supply("teacher", Stored(table, fixed=answers.fixed))
    return method


def _answers(material: Material) -> Answers | None:
    """What the job would ask its teacher beforehand, if it would."""
    method = material.method(material.student(), material.teacher).to(material.device)  # as the job does
    answers = Answers(material, material.teacher, method)
    return answers if answers.wanted else None


def _pace(material: Material, method: Method, stage: Stage, folder: Path) -> float:
    clock = Clock()
    settings = dataclasses.replace(material.settings(stage, 0), steps=STEPS, save_every=STEPS // 2, validate_every=None)
    train(method, stage.data.source, settings, folder=folder, callbacks=[clock])
    return clock.seconds


def _validating(material: Material, method: Method) -> float:
    """Seconds."""
    began = perf_counter()
    outputs(method.student, material.data["valid"], give=material.plan.call)
    return perf_counter() - began


def _bytes(model: Any) -> int:
    return round(size_mb(model) * 1e6)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def memory_of_step(material: Material, method: Method, progress: Progress = START) -> float:
    """Bytes: weights of all models, gradients, the optimizer's state, and what a forward keeps for its backward."""
    method.to(material.device)
    batch = _batch(material, material.device)
    method.dry_run(batch)
    method.train()
    kept = _kept_by_moves(method, batch, progress)
    trained = [p for p in method.parameters() if p.requires_grad]
    frozen = sum(_bytes(m) for m in method.frozen.values() if isinstance(m, nn.Module))
    return kept + _bytes(method) + frozen + sum(p.nbytes for p in trained) + _optimizer_bytes(material, trained)


def _kept_by_moves(method: Method, batch: Batch, progress: Progress) -> int:
    """Bytes that the forward of a move keeps, of that which keeps the most: after each comes its backward."""
    with torch.no_grad():
        prepared = method.prepare(batch, progress)
    most = 0
    with _kept() as kept:
        for _ in method.moves(prepared, progress):
            most = max(most, sum(kept.values()))
            kept.clear()
    return most


@contextmanager
def _kept() -> Iterator[dict[int, int]]:
    """Bytes of every storage that is kept for the backward, by its address."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def _optimizer_bytes(material: Material, trained: list[nn.Parameter]) -> int:
    copies = [nn.Parameter(p.detach().clone()) for p in trained]
    optimizer = material.plan.optimizer.kind(copies, lr=0.0, **material.plan.optimizer.options)  # type: ignore[call-arg]
    for parameter in copies:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))
