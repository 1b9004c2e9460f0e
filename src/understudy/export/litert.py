"""LiteRT (TensorFlow Lite): a .tflite file of one sample at a time.

litert-torch holds other packages to versions of its own and brings a gigabyte of them. It is therefore in no extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import nn

from understudy.errors import CorruptError, MissingExtra
from understudy.export import graph
from understudy.export.loaded import Loaded
from understudy.export.model import Inputs, OneOutput, kind, named
from understudy.modes import evaluating

__all__ = ["FIX", "load", "write"]

OPERATOR = r"(?:Lowering not found: (\S+))"
FIX = (
    "it is litert-torch, which holds other packages to versions of its own and so is in no extra. Make an environment for it "
    "alone: python -m venv litert; litert/bin/pip install understudy litert-torch"
)


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """Write a model that is on the CPU, unchecked. It takes one sample: the converter refuses a batch of any size.

    Returns: whether it rounds to 8 bits, because the model does.
    Raises: MissingExtra without litert-torch.
    """
    try:
        with graph.quiet():
            import litert_torch
    except ImportError as error:
        raise MissingExtra("Export to LiteRT", fix=FIX) from error
    program = graph.traced(model, inputs, rows=1)
    one = tuple(x[:1] for x in named(inputs).values())
    with graph.quiet(), evaluating(model):
        try:
            litert_torch.convert(OneOutput(model, inputs), one).export(str(file))
        except Exception as error:
            raise graph.unsupported(kind(model), error, program, "LiteRT", OPERATOR) from error
    return graph.rounds(program)


def load(file: Path, threads: int | None) -> Loaded:
    """Open a file with the interpreter of ai-edge-litert, which comes with litert-torch."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingExtra("Running a LiteRT file", fix=FIX) from error
    try:
        runner = Interpreter(str(file), num_threads=threads).get_signature_runner()
    except Exception as error:
        raise CorruptError(f"{file}: is not a LiteRT file that runs here: {error}") from error

    def run(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        given = {f"args_{i}": _narrow(x) for i, x in enumerate(arrays.values())}
        made: np.ndarray = next(iter(runner(**given).values()))
        return made

    return Loaded((), run, 1)


def _narrow(x: np.ndarray) -> np.ndarray:
    """The converter makes integers of 32 bits of those of 64."""
    return x.astype(np.int32) if x.dtype == np.int64 else x
