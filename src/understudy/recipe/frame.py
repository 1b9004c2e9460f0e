"""The keys of a recipe. Their types, defaults and descriptions here are those of the checks, the schema and the docs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from understudy.progress import Curve
from understudy.recipe.forms import Named, Rule

__all__ = ["ADAMW", "Export", "Recipe", "Search", "Teacher", "TermOf", "deployment"]

Many = Annotated[int, Rule("minimum", 1), Rule("maximum", 1_000_000)]
Data = Annotated[Any, Named("data")]

ADAMW = {"name": "AdamW", "lr": 3e-3, "schedule": {"name": "cosine", "start": 1, "end": 0}, "warmup": 0.05}


@dataclass(frozen=True, kw_only=True)
class Export:
    """What to deploy.

    Attributes:
        to: the name of a folder with predict.py, in that of the run, or of a file with the target's ending.
        target: form of the file, and the runtime that runs it; those in 8 bits are calibrated on training data.
    """

    to: Annotated[str, Rule("minLength", 1)] = "deploy"
    target: Literal[
        "onnx",
        "onnx-int8",
        "torch",
        "executorch",
        "executorch-int8",
        "openvino",
        "openvino-int8",
        "coreml",
        "litert",
        "web",
    ] = "onnx"


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """Who teaches.

    Attributes:
        model: what it is: a model that is trained here or gets weights from a file, or a teacher that others trained.
        weights: a file of its weights: safetensors, or what torch.save made of a state_dict.
        epochs: train it first, for so many passes over its data.
        data: what it is trained on, if not the student's data.
        optimizer: of its training, if not the students' one.
        store: a folder of what it says of every sample, asked once and read by all students, of other runs too; auto keeps
            it with the run where that spares asking again; null asks in every step.
        run: how it runs while students learn; auto takes the fastest way here that gives the same answers within 2 %.
    """

    model: Annotated[Any, Named("teacher")]
    weights: Path | None = None
    epochs: Annotated[int, Rule("minimum", 0), Rule("maximum", 1_000_000)] = 0
    data: Data | None = None
    optimizer: Annotated[Any, Named("optimizer")] | None = None
    store: Literal["auto"] | Path | None = "auto"
    run: Literal["auto", "fp32", "channels_last", "bf16", "compiled", "compiled-bf16", "onnx", "int8"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is tried, judged on the validation data, where the student is not accepted.

    Attributes:
        budget: of the attempts after the recipe's own: a time, such as 90s, 10m or 1h30m, or how many.
        order: what is tried, and in which order: temperature, alpha, lr, data, student, ratio, assistant; all that can be, in this order of cost, if not given.
        temperature: values of the method's option.
        alpha: values of the method's option.
        lr: factors on the optimizer's learning rate.
        data: other data sets to learn from, such as one with more samples; valid and test must be the recipe's own.
        student: other models, the smallest first.
        ratio: values of the first compression that has one, the smallest first.
        assistant: models of sizes between teacher and student, each of which learns from the teacher and then teaches in its place.
    """

    budget: Annotated[str, Rule("minLength", 1)] | Annotated[int, Rule("minimum", 0)]
    order: Annotated[Sequence[str], Rule("minItems", 1)] | None = None
    temperature: Sequence[float] | None = None
    alpha: Sequence[float] | None = None
    lr: Sequence[float] | None = None
    data: Sequence[Data] | None = None
    student: Sequence[Annotated[Any, Named("model")]] | None = None
    ratio: Sequence[float] | None = None
    assistant: Sequence[Annotated[Any, Named("model")]] | None = None


@dataclass(frozen=True, kw_only=True)
class TermOf:
    """A loss at addresses. Beside these keys it takes the options of its loss.

    Attributes:
        loss: what is minimised; `understudy list losses` has them all.
        at: the addresses of what the loss is called with, the student's first, such as [student.layer2, teacher.layer3].
        weight: of the term: a number, or a curve over the run.
        project: what makes the student's tensor comparable with the teacher's; it learns along.
        mask: the address in the batch of what counts.
    """

    loss: Annotated[str, Rule("minLength", 1)]
    at: Annotated[Sequence[str], Rule("minItems", 1)]
    weight: float | Curve = 1.0
    project: Annotated[Any, Named("projector")] | None = None
    mask: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The keys of a recipe.

    Attributes:
        task: what the labels mean; inferred from them if not given.
        data: what is learnt from; `understudy list data` has them all.
        student: the small model; or teacher, for one that begins as the teacher and is made smaller by compress.
        teacher: the big one.
        method: how the student learns; `understudy list methods` has them all. Or give terms.
        terms: a method of your own: losses at addresses, with weights.
        epochs: passes of the distilled student over the data. The student alone gets as many steps.
        seeds: students of each kind; intervals come from their spread.
        seed: of the first of them; the others count on.
        batch_size: samples of a step.
        optimizer: of every stage but the teacher's, if that has its own; `understudy list optimizers` has them all.
        fine_tune: whether to fine-tune on the hard labels after distilling.
        draws: views of each sample, where they are augmented, that the epochs go through in turn; a new one each epoch if not given.
        precision: of the students' training; auto takes bf16 where that is clearly faster here.
        compress: what is done to the student before it learns, in this order; `understudy list compressions` has them all.
        accept: conditions on the kept student, such as {accuracy: ">= 0.97 * teacher"}.
        deadline_ms: of one inference of the student; adds the figure missed_share, of 1,000 that take longer, for accept.
        search: how long to try other values where that is not met, such as 10m, or what to try; the best by validation is measured on the test data, once.
        report: whether to write report.html.
        export: what to deploy, in the run's folder: the name of a folder with predict.py, or of a file that ends in .onnx; or its name and target; null for none.
        device: where to train: cpu, cuda, ...; the GPU if there is one.
        threads: of the processor, for computing; torch's own choice if not given. Results are the same at equal threads.
        workers: processes that load data.
    """

    task: Literal["classification", "multi-label", "regression"] | None = None
    data: Data
    student: Literal["teacher"] | Annotated[Any, Named("model")]
    teacher: Teacher
    method: Annotated[Any, Named("method")] | None = None
    terms: Annotated[Sequence[Annotated[Any, Named("term")]], Rule("minItems", 1)] | None = None
    epochs: Many = 20
    seeds: Annotated[int, Rule("minimum", 1), Rule("maximum", 1000)] = 3
    seed: Annotated[int, Rule("minimum", 0)] = 0
    batch_size: Many | None = None
    optimizer: Annotated[Any, Named("optimizer")] = dataclasses.field(default_factory=lambda: dict(ADAMW))
    fine_tune: bool = True
    draws: Many | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compress: Annotated[Sequence[Annotated[Any, Named("compression")]], Rule("minItems", 1)] | None = None
    accept: Mapping[str, str] | None = None
    deadline_ms: Annotated[float, Rule("exclusiveMinimum", 0)] | None = None
    search: Annotated[str, Rule("minLength", 1)] | Annotated[int, Rule("minimum", 0)] | Search | None = None
    report: bool = True
    export: Export | Annotated[str, Rule("minLength", 1)] | None = "deploy"
    device: str | None = None
    threads: Annotated[int, Rule("minimum", 1), Rule("maximum", 1024)] | None = None
    workers: Annotated[int, Rule("minimum", 0), Rule("maximum", 64)] = 0


def deployment(asked: str | Mapping[str, Any]) -> tuple[str, str]:
    """The place and the target of what a recipe has under ``export``."""
    if isinstance(asked, str):
        return asked, "onnx"
    return asked.get("to", "deploy"), asked.get("target", "onnx")
