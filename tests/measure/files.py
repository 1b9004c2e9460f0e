"""Small files of models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def written(path: Path, columns: int = 2, axes: tuple[int | str, ...] = ("batch", 4), external: bool = False) -> Path:
    """An ONNX file that multiplies its input [N, 4] by a matrix of random numbers."""
    matrix = np.random.default_rng(0).random((4, columns), dtype=np.float32)
    taken = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(axes))
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [axes[0], columns])
    node = helper.make_node("MatMul", ["x", "matrix"], ["y"])
    graph = helper.make_graph([node], "g", [taken], [made], [numpy_helper.from_array(matrix, "matrix")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data" if external else None)
    return path
