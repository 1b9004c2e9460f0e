"""What labels mean: the label loss, the figures, and how an output becomes a prediction.

One small object for each kind of label, so that neither the engine nor the job knows a modality. A new kind is one file
and one line here.
"""

from collections.abc import Mapping

from understudy.tasks.classification import Classification
from understudy.tasks.inference import infer
from understudy.tasks.multilabel import MultiLabel
from understudy.tasks.regression import Regression
from understudy.tasks.task import Loss, Task

__all__ = ["TASKS", "Classification", "Loss", "MultiLabel", "Regression", "Task", "infer"]

TASKS: Mapping[str, Task] = {task.name: task for task in (Classification(), MultiLabel(), Regression())}
"""Each task with its defaults, by the name that ``task=`` takes."""
