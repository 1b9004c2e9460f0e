"""OpenVINO: a graph in model.xml and its weights in model.bin, by way of ONNX; in float32, or with ONNX's 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.export import graph, int8
from understudy.export.loaded import Loaded
from understudy.export.model import Inputs, kind
from understudy.export.onnx import rounds

__all__ = ["load", "write", "write_int8"]


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """Write a model that is on the CPU, unchecked.

    Returns: whether it rounds to 8 bits, because the model does.
    """
    return _converted(model, inputs, file, None)


def write_int8(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """The same with the integers of :func:`understudy.export.int8.write`, which OpenVINO computes with."""
    return _converted(model, inputs, file, calibration)


def _converted(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs | None) -> bool:
    runtime = _openvino("Export to OpenVINO")
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        between = Path(folder) / "model.onnx"
        if calibration is None:
            graph.write(model, inputs, between)
        else:
            int8.write(model, inputs, between, calibration)
        try:
            with graph.quiet():
                made = runtime.convert_model(between)
                runtime.save_model(made, file, compress_to_fp16=False)
        except Exception as error:
            raise InputError(
                f"export of {kind(model)}: OpenVINO cannot convert it: {error} Write the operator that it names with others, "
                "or export the model as onnx."
            ) from error
        return rounds(between)


def load(file: Path, threads: int | None) -> Loaded:
    """Open a file on the CPU, in float32 also where the processor has bfloat16, which OpenVINO would take by itself."""
    runtime = _openvino("Running an OpenVINO file")
    asked = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
    try:
        compiled = runtime.compile_model(file, "CPU", asked)
    except Exception as error:
        raise CorruptError(f"{file}: is not an OpenVINO file that runs here: {error}") from error

    def run(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        made: np.ndarray = compiled(dict(arrays))[0]
        return made

    return Loaded(tuple(i.any_name for i in compiled.inputs), run)


def _openvino(purpose: str) -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra(purpose, "openvino") from error
    return openvino
