"""Knowledge distillation for PyTorch: a small model takes over from a big one.

>>> import understudy as us
>>> method = us.methods.kd(student, teacher, temperature=4, alpha=0.9)          # doctest: +SKIP
>>> result = us.train(method, (images, labels), us.Settings(epochs=20))          # doctest: +SKIP
"""

from understudy import losses, methods, projectors, tasks
from understudy.batch import Batch, ModelInputs, call
from understudy.callbacks import Bar, Callback, TensorBoard
from understudy.engine import Result, train
from understudy.job import distill
from understudy.method import Distillation, Method, Move, Part, Progress
from understudy.optimize import Optim
from understudy.progress import constant, cosine, linear, steps_at
from understudy.settings import Settings
from understudy.teachers.ema import Ema
from understudy.term import Term

__version__ = "0.1.0"

__all__ = [
    "Bar",
    "Batch",
    "Callback",
    "Distillation",
    "Ema",
    "Method",
    "ModelInputs",
    "Move",
    "Optim",
    "Part",
    "Progress",
    "Result",
    "Settings",
    "TensorBoard",
    "Term",
    "call",
    "constant",
    "cosine",
    "distill",
    "linear",
    "losses",
    "methods",
    "projectors",
    "steps_at",
    "tasks",
    "train",
]
