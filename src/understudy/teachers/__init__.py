"""What can be read besides a module."""

from understudy.teachers.black_box import BlackBox
from understudy.teachers.ema import Ema
from understudy.teachers.ensemble import Ensemble
from understudy.teachers.estimator import Estimator
from understudy.teachers.exported import Exported
from understudy.teachers.keras import Keras, SavedModel, keras
from understudy.teachers.named import named_model
from understudy.teachers.onnx import Onnx
from understudy.teachers.stored import Stored
from understudy.teachers.weights import load_weights

__all__ = [
    "BlackBox",
    "Ema",
    "Ensemble",
    "Estimator",
    "Exported",
    "Keras",
    "Onnx",
    "SavedModel",
    "Stored",
    "keras",
    "load_weights",
    "named_model",
]
