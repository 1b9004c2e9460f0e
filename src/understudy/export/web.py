"""A page that runs an ONNX file in the browser; nothing leaves it."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import torch
from torch import nn

from understudy.errors import InputError
from understudy.export import graph, onnx
from understudy.export.model import Inputs, kind, named, outputs
from understudy.export.vendored import VERSION, vendored

__all__ = ["FOLDER", "PAGE", "files", "write"]

PAGE = ("index.html", "page.css", "page.js")
FOLDER = "ort"
DTYPES = (torch.float32, torch.float64, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
"""What the page makes tensors of."""


def write(model: nn.Module, inputs: Inputs, file: Path, calibration: Inputs) -> bool:
    """Write the graph, in one file: see :class:`understudy.export.targets.Write`.

    Raises: InputError for what a page cannot run.
    """
    types = {**{name: x.dtype for name, x in named(inputs).items()}, "output": outputs(model, inputs).dtype}
    for name, dtype in types.items():
        if dtype not in DTYPES:
            told = f"{name} is {str(dtype).removeprefix('torch.')}, which the page cannot make or read. Export model.float()"
            raise InputError(f"export of {kind(model)} to the web: {told}.")
    graph.write(model, inputs, file)
    if file.with_name(f"{file.name}.data").exists():
        raise InputError(f"export of {kind(model)} to the web: it is over 2 GB, which a browser does not load.")
    return onnx.rounds(file)


def files(vendor: str | Path | None = None) -> dict[str, bytes]:
    """What a page's folder holds beside the model, by path in it.

    Scripts are called ``.js``: many servers do not know that ``.mjs`` is one, and a browser then does not run it.

    Args:
        vendor: see :func:`understudy.export.vendored.vendored`.
    """
    own = importlib.resources.files(__package__).joinpath("template", "web")
    made = {name: own.joinpath(name).read_bytes() for name in PAGE}
    made[f"{FOLDER}/LICENSE.txt"] = own.joinpath("ort-license.txt").read_bytes().replace(b"VERSION", VERSION.encode())
    theirs = vendored(vendor)
    return made | {f"{FOLDER}/{name.replace('.mjs', '.js')}": content for name, content in theirs.items()}
