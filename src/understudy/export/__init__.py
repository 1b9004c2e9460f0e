"""(model, example) to a file, checked against the model."""

from understudy.export.folder import write_folder
from understudy.export.onnx import check_onnx, run_onnx, session, to_onnx

__all__ = ["check_onnx", "run_onnx", "session", "to_onnx", "write_folder"]
