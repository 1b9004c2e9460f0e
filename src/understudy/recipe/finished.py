"""A run that has ended: its student and its data, made again from its folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from understudy.cards import card_of, story
from understudy.compress import finished
from understudy.data.order import preserved, seed_all
from understudy.errors import CorruptError, InputError
from understudy.examples import Examples, outputs
from understudy.export import run_file
from understudy.measure import calibration
from understudy.outcome import RESULTS, STUDENT, TEACHER, deploy
from understudy.pages import page_of
from understudy.recipe.examine import Pieces
from understudy.recipe.text import Document
from understudy.source import sized
from understudy.tasks import TASKS, Task
from understudy.teachers.weights import load_weights
from understudy.writing import read_json

__all__ = ["Finished", "taught"]


@dataclass(frozen=True)
class Finished:
    """What a run has left behind.

    Attributes:
        student: the kept one, in eval mode.
        task: what the labels mean.
        examples: the part of the data that was asked for.
        classes: names of the labels.
        raw: how a file as it comes becomes an input, where the data set tells.
        train: the training data as it is, to see the ranges of activations on.
        told: what the run has left of its results, for a card.
    """

    student: nn.Module
    task: Task
    examples: Examples
    classes: tuple[str, ...] | None
    raw: Mapping[str, Any] | None = None
    train: Any = None
    told: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path, document: Document, part: str | None = None) -> Finished:
        """Make it again.

        Args:
            folder: of the run.
            document: its resolved recipe, or that with other values laid over it.
            part: train, valid or test; test if there is one, else valid.

        Raises: InputError for a folder without a finished run, or without that part; CorruptError for damaged files.
        """
        if not (folder / RESULTS).exists():
            raise InputError(f"{folder}: holds no finished run. Let it end first: understudy run {folder} --resume")
        told = read_json(folder / RESULTS)
        if not isinstance(told, dict) or str(told.get("task")) not in TASKS:
            raise CorruptError(f"{folder / RESULTS}: is damaged: it names no task.")
        made_of = ("teacher", "compress") if document.value.get("compress") else ()
        pieces = Pieces.of(document, only=("data", "student", *made_of))
        assert pieces.parts is not None  # else there was a problem
        assert pieces.student is not None
        part = part or ("valid" if pieces.parts.test is None else "test")
        data = getattr(pieces.parts, part)
        if data is None:
            raise InputError(f"{folder}: the data has no part {part!r}. Give another: --on valid.")
        if made_of:  # by whose weights, or those of the student's own start, a compression has chosen
            pieces.teacher = taught(folder, pieces)
        with preserved():
            seed_all(told.get("seed", pieces.recipe["seed"]), "student")
            begun = pieces.student()
        student = load_weights(finished(begun), folder / STUDENT).eval()
        return cls(
            student,
            TASKS[told["task"]],
            Examples.read(data, part),
            pieces.parts.classes,
            pieces.parts.raw,
            pieces.parts.train,
            _story(folder, told, document),
        )

    def figures(self, file: Path | None = None) -> dict[str, Any]:
        """The task's figures of the student, or of an exported file, on this part of the data."""
        labels = self.examples.labels
        if labels is None or self.examples.labelled(self.task) is None:
            raise InputError(f"{self.examples.name}: has no label to compare with. Choose another part: --on.")
        if file is None:
            made = outputs(self.student, self.examples, who="student")
        else:
            inputs = self.examples.inputs()
            if inputs is None:
                raise InputError(
                    f"{file}: takes inputs by name, which is not supported here. Score it with its predict.py."
                )
            made = run_file(file, inputs)
        told = {"part": self.examples.name, "samples": self.examples.samples, **self.task.metrics(made, labels)}
        if self.task.name == "classification":
            known = self.task.labelled(labels)
            told["calibration_error"] = calibration(made[known].softmax(-1), labels[known]).error
        return told

    def export(self, path: Path, target: str | None = None, vendor: Path | None = None) -> dict[str, float]:
        """Write the student for deployment: see :func:`understudy.outcome.deploy`."""
        train = self.train
        seen = None if train is None else Examples("train", sized(train, "train", lack="cannot be read twice"), None)
        return deploy(
            path, self.student, self.examples, self.task, self.classes,
            raw=self.raw, target=target, training=seen, card=self.told, vendor=vendor,
        )  # fmt: skip


def taught(folder: Path, pieces: Pieces) -> Any:
    """The teacher as it taught in a run: trained there, or with the weights that the recipe names."""
    file = folder / TEACHER if (folder / TEACHER).exists() else pieces.recipe["teacher"].get("weights")
    return pieces.teacher if file is None else load_weights(pieces.teacher, Path(file))


def _story(folder: Path, told: Mapping[str, Any], document: Document) -> dict[str, Any]:
    """The same as :func:`_told`. Raises: CorruptError where the results are not what a job writes."""
    try:
        return _told(folder, told, document)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CorruptError(
            f"{folder / RESULTS}: is damaged: it is not what a job writes. To have it written anew: understudy run {folder} --resume"
        ) from error


def _told(folder: Path, results: Mapping[str, Any], document: Document) -> dict[str, Any]:
    """What a card says of a run; a page that is not there, or damaged, is no reason not to export."""
    page: dict[str, Any] = {}
    with suppress(InputError, CorruptError):
        page = page_of(folder)
    told = story(results, page.get("recipe") or {}, page.get("environment") or {})
    return told | card_of(document.value)
