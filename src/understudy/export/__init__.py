"""(model, example) to a file, checked against the model."""

from understudy.export.folder import write_folder
from understudy.export.onnx import check_onnx, run_onnx, session, to_onnx
from understudy.export.targets import TARGETS, Target, convertible, load, run_file, to_file

__all__ = [
    "TARGETS",
    "Target",
    "check_onnx",
    "convertible",
    "load",
    "run_file",
    "run_onnx",
    "session",
    "to_file",
    "to_onnx",
    "write_folder",
]
