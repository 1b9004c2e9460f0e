"""Core ML: a package for Apple's devices. It is converted anywhere, and runs on macOS only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from understudy.errors import InputError, MissingExtra
from understudy.export import graph
from understudy.export.model import Inputs, kind, named

__all__ = ["write"]

BATCH = 256
OPERATOR = r"(?:Unsupported fx node (\w+)|function for op '(\w+)' not implemented)"
TYPES = {torch.float32: np.float32, torch.float16: np.float16, torch.int32: np.int32, torch.int64: np.int32}
"""Core ML has no integers of 64 bits."""


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """Write a model that is on the CPU, unchecked: an ML program in float32 that takes batches of 1 to 256.

    Returns: whether it rounds to 8 bits, because the model does.
    """
    try:
        with graph.quiet():
            import coremltools
    except ImportError as error:
        raise MissingExtra("Export to Core ML", "coreml") from error
    given = named(inputs)
    if lost := [f"{name} {x.dtype}" for name, x in given.items() if x.dtype not in TYPES]:
        raise InputError(
            f"export of {kind(model)}: Core ML takes no input {', '.join(lost)}. Give it as float32 or int32."
        )
    program = graph.traced(model, inputs)
    batch = coremltools.RangeDim(1, BATCH)
    with graph.quiet():
        takes = [
            coremltools.TensorType(name=name, shape=(batch, *x.shape[1:]), dtype=TYPES[x.dtype])
            for name, x in given.items()
        ]
        try:
            made: Any = coremltools.convert(
                program.run_decompositions({}),
                inputs=takes,
                outputs=[coremltools.TensorType(name="output")],
                convert_to="mlprogram",
                compute_precision=coremltools.precision.FLOAT32,
            )
        except Exception as error:
            raise graph.unsupported(kind(model), error, program, "Core ML", OPERATOR) from error
        made.save(str(file))
    return graph.rounds(program)
