"""A program of torch.export, in a file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from understudy.errors import CorruptError
from understudy.export import graph
from understudy.export.loaded import Loaded
from understudy.export.model import Inputs, named

__all__ = ["load", "write"]

NAMES = "inputs.json"


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """Write a model that is on the CPU, unchecked; the names of its inputs are in the file.

    Returns: whether it rounds to 8 bits, because the model does.
    Raises: InputError where it is no graph.
    """
    program = graph.traced(model, inputs)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines and paths of this machine
    with graph.quiet():
        torch.export.save(program, file, extra_files={NAMES: json.dumps(list(named(inputs)))})
    return graph.rounds(program)


def load(file: Path, threads: int | None) -> Loaded:
    """Read a file. It runs the code that is in it: only for a file whose maker is trusted.

    ``threads`` are torch's own: of the whole process.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    extra = {NAMES: ""}
    try:
        with graph.quiet():
            importlib.import_module("torch.ao.quantization.fx._decomposed")  # operators of quantized models
            module = torch.export.load(file, extra_files=extra).module()
        names = tuple(json.loads(extra[NAMES]))
    except Exception as error:
        raise CorruptError(f"{file}: is not a file that an export to torch has written: {error}") from error

    def run(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            made: np.ndarray = module(*(torch.from_numpy(arrays[name]) for name in names)).numpy()
        return made

    return Loaded(names, run)
