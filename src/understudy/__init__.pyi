from . import chains, data, losses, methods, projectors, tasks
from .batch import Batch, ModelInputs, call
from .callbacks import Bar, Callback, TensorBoard
from .engine import Result, train
from .job import distill
from .method import Distillation, Method, Move, Part, Progress
from .optimize import Optim
from .progress import constant, cosine, linear, steps_at
from .registry import register
from .settings import Settings
from .teachers.ema import Ema
from .term import Term

__version__: str

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
    "chains",
    "constant",
    "cosine",
    "data",
    "distill",
    "linear",
    "losses",
    "methods",
    "projectors",
    "register",
    "steps_at",
    "tasks",
    "train",
]
