"""What methods of the last outputs share: where the teacher's are read, and what they are methods for."""

from __future__ import annotations

from typing import Any

from understudy.errors import InputError
from understudy.tasks import TASKS, Task
from understudy.tasks.classification import Classification

__all__ = ["of_classes", "taught_by"]


def taught_by(teacher: Any) -> tuple[str, dict[str, Any]]:
    """The address of the teacher's logits, and the model that gives them, if it is not a field of the batch."""
    return (teacher, {}) if isinstance(teacher, str) else ("teacher", {"teacher": teacher})


def of_classes(method: str, task: Task | None) -> Task:
    """The task, classification if not given; raise InputError for one whose outputs are no distribution over classes."""
    task = task or TASKS["classification"]
    if not isinstance(task, Classification):
        raise InputError(
            f"{method}: is a method for one of several classes, and this task is {task.name}. Use kd, which is for every task."
        )
    return task
