"""ExecuTorch: a .pte file for phones and boards, with the XNNPACK kernels, in float32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.export import graph
from understudy.export.loaded import Loaded
from understudy.export.model import Inputs, kind, named

__all__ = ["BATCH", "load", "write", "write_int8"]

BATCH = 32
"""The largest batch. The runtime sets memory aside for the inputs and outputs of so many, and refuses more."""

OPERATOR = r"(?:Operator torch\._ops\.(\S+) is not in Core ATen|Missing out variants: \{'([^']+)')"


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """Write a model that is on the CPU, unchecked. It takes batches of 1 to 32.

    Returns: whether it rounds to 8 bits, because the model does.
    """
    program = _traced(model, inputs)
    _lowered(program, kind(model), file)
    return graph.rounds(program)


def write_int8(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """The same with weights and activations as integers, by the ranges that are seen on the calibration samples.

    A model that was trained with the rounding in it keeps the ranges that it has learned.
    """
    program = _traced(model, inputs)
    if not graph.rounds(program):
        program = _quantized(program, calibration, kind(model))
    _lowered(program, kind(model), file)
    return True


def _traced(model: nn.Module, inputs: Inputs) -> ExportedProgram:
    # As many rows as the largest batch: with fewer, comparisons of strides inside the lowering put a bound on the batch.
    return graph.traced(model, inputs, rows=BATCH, most=BATCH)


def _quantized(program: ExportedProgram, calibration: Inputs, name: str) -> ExportedProgram:
    try:
        with graph.quiet():
            from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
            from torchao.quantization.pt2e import quantize_pt2e
    except ImportError as error:
        raise MissingExtra("Export to ExecuTorch in 8 bits", "executorch") from error
    given = [x.split(BATCH) for x in named(calibration).values()]
    quantizer = xnnpack_quantizer.XNNPACKQuantizer()
    quantizer.set_global(xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True))
    rows = tuple(x[torch.arange(BATCH) % len(x)] for x in named(calibration).values())
    with graph.quiet(), torch.no_grad():
        try:
            prepared: Any = quantize_pt2e.prepare_pt2e(program.module(), quantizer)
            for batch in zip(*given, strict=True):
                prepared(*batch)
            made = quantize_pt2e.convert_pt2e(prepared)
            axes = ({0: Dim("batch", max=BATCH)},) * len(rows)
            quantized = torch.export.export(made, rows, dynamic_shapes=axes, strict=False)
        except Exception as error:
            raise InputError(
                f"export of {name}: torchao cannot make 8 bits of it: {type(error).__name__}: {error} Export it as "
                "executorch, or train it with the rounding in it (compress: qat) and export that."
            ) from error
    if not graph.rounds(quantized):
        raise InputError(
            f"export of {name}: none of its operators has an int8 form in XNNPACK; those that have are convolutions, linear "
            "layers, additions, products and poolings. Export it as executorch."
        )
    return quantized


def _lowered(program: ExportedProgram, name: str, file: Path) -> None:
    try:
        with graph.quiet():
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
    except ImportError as error:
        raise MissingExtra("Export to ExecuTorch", "executorch") from error
    with graph.quiet(), torch.no_grad():
        try:
            made = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        except Exception as error:
            raise graph.unsupported(name, error, program, "ExecuTorch", OPERATOR) from error
    file.write_bytes(made.buffer)


def load(file: Path, threads: int | None) -> Loaded:
    """Open a file with ExecuTorch's runtime for Python, which imports torch; the runtimes of devices do not.

    ``threads`` are those of its pool, which the whole process shares.
    """
    try:
        with graph.quiet():
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime
    except ImportError as error:
        raise MissingExtra("Running an ExecuTorch file", "executorch") from error
    if threads is not None:
        portable_lib._unsafe_reset_threadpool(threads)
    try:
        program = Runtime.get().load_program(file)
        method = program.load_method("forward")
    except Exception as error:
        raise CorruptError(f"{file}: is not an ExecuTorch file that runs here: {error}") from error
    assert method is not None  # every program of ours has one

    def run(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        made: np.ndarray = method.execute([torch.from_numpy(x) for x in arrays.values()])[0].numpy()
        return made

    return Loaded((), run, method.metadata.input_tensor_meta(0).sizes()[0])
