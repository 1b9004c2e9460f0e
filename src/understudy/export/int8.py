"""ONNX in 8 bits: weights and activations as integers, with ranges that are seen on samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from understudy.errors import InputError, MissingExtra
from understudy.export import graph
from understudy.export.model import Inputs, kind, named, outputs
from understudy.export.onnx import rounds

__all__ = ["write"]

BATCH = 32


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> None:
    """Write a model that is on the CPU, unchecked, with QuantizeLinear and DequantizeLinear around what has an int8 form.

    Weights have a scale for each output channel, activations one for the whole tensor, from the least and the largest value
    on the calibration samples. A model that was trained with the rounding in it keeps the ranges that it has learned.

    Raises: InputError if it cannot be exported, is not float32, or holds nothing that has an int8 form.
    """
    try:
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingExtra("Export to ONNX in 8 bits", "onnx") from error
    made = str(outputs(model, inputs).dtype).removeprefix("torch.")
    if made != "float32":
        raise InputError(
            f"export of {kind(model)}: 8 bits are made of float32, and it gives {made}. Give model.float()."
        )
    graph.write(model, inputs, file)
    if rounds(file):
        return
    with tempfile.TemporaryDirectory(dir=file.parent) as folder, graph.quiet():
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(file, prepared)
            quantize_static(
                prepared,
                file,
                _Samples(calibration),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:
            raise InputError(
                f"export of {kind(model)}: onnxruntime cannot make 8 bits of it: {type(error).__name__}: {error} "
                "Export it as onnx, or train it with the rounding in it (compress: qat) and export that as onnx."
            ) from error
    if not rounds(file):
        raise InputError(
            f"export of {kind(model)}: none of its operators has an int8 form in onnxruntime; those that have are "
            "convolutions, matrix products and what is between them. Export it as onnx."
        )


class _Samples:
    """What onnxruntime calls a CalibrationDataReader."""

    def __init__(self, calibration: Inputs) -> None:
        self.batches = self._batches({name: x.numpy() for name, x in named(calibration).items()})

    @staticmethod
    def _batches(arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for at in range(0, len(next(iter(arrays.values()))), BATCH):
            yield {name: x[at : at + BATCH] for name, x in arrays.items()}

    def get_next(self) -> Any:
        return next(self.batches, None)

    def __iter__(self) -> Any:
        return self.batches
