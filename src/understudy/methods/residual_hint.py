"""Residual hints: a second head of the student predicts what its output lacks of the teacher's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from understudy.batch import call as plain_call
from understudy.errors import InputError
from understudy.losses import ResidualHint, residual
from understudy.losses.residual import HintHead
from understudy.matching import penultimate
from understudy.method import Distillation
from understudy.progress import Curve
from understudy.taps import Tapped
from understudy.tasks import TASKS, Task
from understudy.term import Term

__all__ = ["Hinting", "ResidualHead", "residual_hint", "with_hint"]


class ResidualHead(nn.Module):
    """A student with a second head, which predicts what the student's output lacks of its teacher's.

    The student inside stays as it is, with its own keys: ``model.student``. ``model.added`` may be set at any time.

    Args:
        student: a module to outputs ``[N, C]``.
        features: what the head looks at: a submodule's path, such as ``pool``; with ``<`` what goes into it, ``head<``.
        inputs: features that it sees; not needed with ``hint``.
        outputs: of the student; not needed with ``hint``.
        hint: the head; a linear map of the features, in the mean over positions, if not given.
        added: whether the output is the student's with the hint added, or the student's alone.

    Raises: InputError if there is neither a head nor its sizes, or if the student has no such submodule.
    """

    def __init__(
        self,
        student: nn.Module,
        features: str,
        *,
        inputs: int | None = None,
        outputs: int | None = None,
        hint: nn.Module | None = None,
        added: bool = True,
    ) -> None:
        super().__init__()
        if features.rstrip("<") not in dict(student.named_modules()):
            raise InputError(f"ResidualHead: the student has no submodule {features.rstrip('<')!r}.")
        if hint is None and (inputs is None or outputs is None):
            raise InputError("ResidualHead: give the head, or its sizes: inputs= (features) and outputs=.")
        self.student, self.features, self.added = student, features, added
        self.hint = HintHead(inputs, outputs) if hint is None and inputs and outputs else hint

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The student's output, with the hint added to it or without."""
        if not self.added and not self.training:
            alone: Tensor = self.student(*args, **kwargs)
            return alone
        tapped = Tapped("student", self.student, frozenset({self.features}), compiled=False)
        output, caught = tapped(lambda model, _: model(*args, **kwargs), None, ())
        found = caught[self.features][0].output
        if not isinstance(output, Tensor) or not isinstance(found, Tensor):
            raise InputError(
                f"ResidualHead: student and features must be tensors; they are {type(output).__name__} and "
                f"{type(found).__name__}."
            )
        assert self.hint is not None  # the constructor sees to it
        hint: Tensor = self.hint(found)
        return output + hint if self.added else output


class Hinting(Distillation):
    """A :func:`residual_hint`, which offers its student in another form."""

    def forms(self) -> dict[str, nn.Module]:
        """The student with its head; one that was given with its head, without. Parameters are shared."""
        own = self.student
        if not isinstance(own, ResidualHead):
            return {"with hint": with_hint(self)}
        name = "without hint" if own.added else "with hint"
        return {name: ResidualHead(own.student, own.features, hint=own.hint, added=not own.added)}


def residual_hint(
    student: nn.Module,
    teacher: Any,
    *,
    weight: float | Curve = 1.0,
    label_weight: float = 1.0,
    features: str | None = None,
    example: Any = None,
    label: str = "batch.label",
    task: Task | None = None,
    **options: Any,
) -> Distillation:
    """Hard labels, and a second head that learns what the output lacks of the teacher's, which teaches the features too.

    The head sees the student's features; student's and teacher's output are both cut from the graph where it is told what
    is lacking. When training is over it is dropped with the method, or added: :func:`with_hint`. A student that is a
    :class:`ResidualHead` keeps its own. Agreement with the teacher is watched for both, with the head and without, and a job's
    table has a row for each.

    Args:
        student: what learns: a module to outputs ``[N, C]``, or a :class:`ResidualHead`.
        teacher: a module or any callable to the same outputs.
        weight: of the hint: a number, or a function of progress.
        label_weight: of the hard labels, which the student alone should meet.
        features: what the head looks at, such as ``pool`` or ``head<``; what goes into the last linear layer if not given.
        example: a small batch, by which the features are chosen.
        label: address of the hard labels.
        task: what the labels mean; classification if not given.
        **options: of :class:`~understudy.Distillation`.

    Raises: InputError if features are neither given nor to be found, or given twice.
    Family: feature.
    Source: Gao et al. 2020, arXiv:2002.09168; Li et al. 2020 (ResKD), arXiv:2006.04719, for outputs.
    Differs: both take a network of its own for the residual; this is one head on the student's features.
    """
    task = task or TASKS["classification"]
    if isinstance(student, ResidualHead):
        if features is not None:
            raise InputError(f"residual_hint: the student looks at {student.features!r} already; leave features= out.")
        output, hint = "student.student", "student.hint"
        loss: Callable[..., Tensor] = residual
        together = partial(_agreement, task, None)
    else:
        if features is None:
            features = penultimate(student, example, call=options.get("call", plain_call))
        output, hint = "student", f"student.{features}"
        loss = ResidualHint()
        together = partial(_agreement, task, loss)
    return Hinting(
        Term(task.label_loss, output, label, weight=label_weight),
        Term(loss, hint, f"stop {output}", "teacher", weight=weight),
        student=student,
        teacher=teacher,
        watch={
            "agreement": (task.agreement, output, "teacher"),
            "agreement with hint": (together, hint, output, "teacher"),
        },
        **options,
    )


def _agreement(task: Task, loss: ResidualHint | None, hint: Tensor, student: Tensor, teacher: Tensor) -> Tensor:
    return task.agreement(student + (hint if loss is None else loss.head(hint)), teacher)


def with_hint(method: Distillation) -> ResidualHead:
    """The student of a :func:`residual_hint` that has trained, with its head: parameters are shared, not copied.

    Raises: InputError for another method, or before its dry run.
    """
    if isinstance(method.student, ResidualHead):
        return method.student
    for term in method.terms:
        if isinstance(term, Term) and isinstance(term.loss, ResidualHint) and term.loss.sizes is not None:
            return ResidualHead(method.student, str(term.addresses[0]).partition(".")[2], hint=term.loss.head)
    raise InputError("with_hint: this is no residual_hint, or it has not seen a batch yet: call its dry_run first.")
