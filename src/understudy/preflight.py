"""What is checked before anything is trained, so that a mistake costs seconds and not the night."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from understudy.address import Address
from understudy.compress import described
from understudy.converted import check_installed
from understudy.data.order import preserved
from understudy.errors import InputError, raise_all
from understudy.evaluate import MISSED
from understudy.examples import Examples, device_of, outputs
from understudy.forms import forms_of
from understudy.inference import WAYS, check_layers
from understudy.material import Material
from understudy.measure import parameters
from understudy.method import Distillation, Method
from understudy.tasks import Task

__all__ = ["addresses_of", "beyond", "check", "check_method", "check_store", "check_teacher", "is_known"]


def check(material: Material) -> None:
    """Raise InputError for what cannot work."""
    student, teacher = material.student(), material.teacher
    if not callable(teacher):
        raise InputError(f"teacher: a {type(teacher).__name__} cannot be called. Give a module or a function.")
    _refuse_untrainable(student, material)
    _refuse_shared(student, teacher, "it shares weights with the teacher, which would train along. copy.deepcopy them")
    again = "the function gives the same module at each call. Build a new one inside it"
    _refuse_shared(student, material.student(), again)
    _check_data(material, _shape(material, student), {"student": student, "teacher": teacher})
    _check_sizes(student, teacher)
    if material.plan.teacher_epochs and not (isinstance(teacher, nn.Module) and "teacher" in material.stages):
        raise InputError(
            "teacher_epochs: to be trained, the teacher must be an nn.Module, and its data must have labels."
        )
    check_store(material)
    check_method(material, student)
    _check_wishes(material, student)


def is_known(teacher: Any) -> bool:
    """Whether a teacher can be told from another one when its answers are met again."""
    return hasattr(teacher, "state_dict")


def check_store(material: Material) -> None:
    """Raise InputError for a teacher whose answers others are to read, and who cannot be known again."""
    if material.plan.store not in ("auto", None) and not is_known(material.teacher):
        raise InputError(
            f"store: a {type(material.teacher).__name__} cannot be known again, so that its answers could be another's. "
            "Give a module as teacher, or leave store out."
        )


def check_teacher(material: Material) -> None:
    """Raise InputError for a teacher, trained by now, that has nothing to teach."""
    task, valid = material.task, material.data["valid"]
    assert valid.labels is not None  # checked above
    output = outputs(material.teacher, valid, give=material.plan.call, who="teacher")
    if task.name == "classification" and _are_probabilities(output):
        raise InputError(
            "teacher: its outputs are probabilities (in [0, 1], each row adds up to 1), but distillation softens logits. "
            "Leave out its last Softmax, or give the logarithm of the outputs."
        )
    figure, chance = task.metrics(output, valid.labels)[task.metric], task.chance(valid.labels)
    if not task.better(figure, chance):
        raise InputError(
            f"teacher: its {task.metric} on valid is {figure:.3f}; the best constant answer has {chance:.3f}. "
            + _why_no_better(task, valid.labels)
        )


def _refuse_untrainable(student: nn.Module, material: Material) -> None:
    if any(p.requires_grad for p in student.parameters()):
        return
    steps = ", ".join(map(described, material.plan.compress))
    made = (
        f" after {steps}. What comes last must be trainable: take qat for 8 bits, or quantize what is handed on (export)"
        if steps
        else ""
    )
    raise InputError(f"student: nothing in it can be trained{made}.")


def _refuse_shared(student: nn.Module, other: Any, why: str) -> None:
    """Raise InputError if two models have a parameter in common."""
    theirs = {id(p) for p in other.parameters()} if isinstance(other, nn.Module) else set()
    shared = [name for name, p in student.named_parameters() if id(p) in theirs]
    if shared:
        raise InputError(f"student: {why}. In common: {', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}.")


def _shape(material: Material, student: nn.Module) -> torch.Size:
    """Of what both models give for one sample."""
    few, give = material.data["train"].few(4), material.plan.call
    ours = outputs(student, few, give=give, who="student").shape[1:]
    theirs = outputs(material.teacher, few, give=give, who="teacher").shape[1:]
    if ours != theirs:
        raise InputError(
            f"distill: for one sample the student gives {list(ours)} and the teacher {list(theirs)}. "
            "Both must score the same classes: give the student's last layer the teacher's size."
        )
    return ours


def _check_data(material: Material, shape: torch.Size, models: dict[str, Any]) -> None:
    for name in ("valid", "test"):
        if name in material.data and material.data[name].labelled(material.task) is None:
            raise InputError(
                f"{name}: has no label, but is there to be compared with. Put labelled samples aside for it."
            )
    for name, examples in material.data.items():
        _check_labels(name, examples, material.task, shape)
        for who, model in models.items():
            outputs(model, examples.few(1), give=material.plan.call, who=who)


def _check_labels(name: str, examples: Examples, task: Task, shape: torch.Size) -> None:
    if examples.labels is None:
        return
    try:
        task.metrics(torch.zeros(examples.samples, *shape), examples.labels)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_sizes(student: nn.Module, teacher: Any) -> None:
    if not isinstance(teacher, nn.Module):
        return
    ours, theirs = parameters(student), parameters(teacher)
    if ours > 2 * theirs:
        raise InputError(
            f"distill: the student has {ours:,} parameters and the teacher {theirs:,}. "
            "The student comes first: distill(student, teacher, ...). Were the two swapped?"
        )


def check_method(material: Material, student: nn.Module) -> None:
    """Raise InputError for a method that cannot be made of these models, or cannot take the data."""
    try:
        method: object = material.method(student, material.teacher)
    except TypeError as error:
        raise InputError(f"distill: the method cannot be made: {error}") from error
    if not isinstance(method, Method) or method.student is not student:
        raise InputError(
            "distill: method must be a function of (student, teacher), in this order, that returns a Method of that student."
        )
    _check_run(material, method)
    (batch,) = material.data["train"].few(4).source.in_order()
    with preserved():
        readings = method.to(device_of(student)).dry_run(batch.to(device_of(student)))
    wrong = [f"{r.term}: its value is {r.value} before any training." for r in readings if not math.isfinite(r.value)]
    raise_all(InputError, wrong)
    for name, form in forms_of(method).items():
        outputs(form, material.data["train"].few(2), give=material.plan.call, who=f"student {name}")


def addresses_of(method: Method, name: str = "teacher") -> list[Address]:
    """Where a method's terms read a model's run."""
    if type(method) is not Distillation:  # others decide in their moves what they read
        return []
    read = {a for term in method.terms for a in term.addresses if method.reader.run_of(a) is not None}  # type: ignore[union-attr]
    return sorted((a for a in read if a.model == name), key=str)


def beyond(address: Address) -> bool:
    """Whether it names more of a model's output than its logits."""
    return address.tap is None and address.keys not in ((), ("logits",))


def _check_run(material: Material, method: Method) -> None:
    """Refuse a way to run the teacher that cannot be had here, or does not give what is read."""
    run, read = material.plan.teacher_run, addresses_of(method)
    if run == "auto" or (form := WAYS[run].form) is None or not isinstance(material.teacher, nn.Module):
        return
    check_installed(form)
    if material.device.type != "cpu":
        raise InputError(f"teacher_run={run!r} is for the CPU, and this run is on {material.device}. Leave it out.")
    check_layers(run, {a.tap for a in read if a.tap})
    if parts := [str(a) for a in read if beyond(a)]:
        raise InputError(
            f"teacher_run={run!r} gives one tensor of the teacher's output, and {', '.join(parts)} is read. Leave it out."
        )


def _check_wishes(material: Material, student: nn.Module) -> None:
    """Refuse conditions and names that can never fit."""
    classes = material.plan.classes
    problems = [
        f"accept: {c} compares with the student alone, but train has no label, so that there is none."
        for c in material.conditions
        if c.model == "alone" and material.hard is None
    ]
    problems += [
        f"accept: {c} needs to know the deadline; give deadline_ms, in milliseconds."
        for c in material.conditions
        if c.name == MISSED and material.plan.deadline_ms is None
    ]
    scores = outputs(student, material.data["train"].few(1), give=material.plan.call).shape[-1]
    if classes is not None and material.task.name == "regression":
        problems.append("classes: a regression has none. Leave them out.")
    elif classes is not None and len(classes) != scores:
        problems.append(f"classes: {len(classes)} names for {scores} outputs; give one for each, in their order.")
    raise_all(InputError, problems)


def _are_probabilities(output: Tensor) -> bool:
    """Whether these are probabilities and not logits."""
    inside = bool(((output >= 0) & (output <= 1)).all())
    return inside and torch.allclose(output.sum(-1), torch.ones(len(output), dtype=output.dtype), atol=1e-3)


def _why_no_better(task: Task, labels: Tensor) -> str:
    if task.name != "regression":
        return "Is it trained (teacher_epochs; in a recipe epochs under teacher), are its classes in the data's order, and is its preprocessing the data's?"
    known = labels[~labels.isnan()]
    return (
        f"Is it trained (teacher_epochs; in a recipe epochs under teacher), and are inputs and labels of about unit size? The labels have mean {float(known.mean()):.3g} "
        f"and standard deviation {float(known.std()):.3g}; standardise them if that is far from 0 and 1."
    )
