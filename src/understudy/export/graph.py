"""From a model to an ONNX graph, and why that may not be possible."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from understudy.errors import InputError, MissingExtra
from understudy.export.model import Inputs, OneOutput, kind, named, outputs
from understudy.modes import evaluating

__all__ = ["write"]


def write(model: nn.Module, inputs: Inputs, file: Path) -> None:
    """Write a model that is on the CPU, unchecked.

    Raises: InputError that says what in the model stands against it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Export to ONNX", "onnx") from error
    if outputs(model, inputs).dtype == torch.bfloat16:
        raise InputError(f"export of {kind(model)}: numpy has no bfloat16. Export model.float() or model.half().")
    # Two samples, since an axis of length one is taken for one that never grows.
    pair = {name: torch.cat([x[:1], x[-1:]]) for name, x in named(inputs).items()}
    with evaluating(model), torch.no_grad(), _quiet():
        program = _traced(OneOutput(model, inputs), pair, kind(model))
        _converted(program, pair, kind(model)).save(file)


def _traced(model: OneOutput, pair: dict[str, Tensor], name: str) -> ExportedProgram:
    axes = tuple({0: Dim("batch")} for _ in pair)
    try:
        return torch.export.export(model, tuple(pair.values()), dynamic_shapes=(axes,), strict=False)
    except Exception as error:
        told = str(error)
        if "onstraints violated" in told:
            raise InputError(
                f"export of {name}: its forward works for one size of batch only. Read the size from the input where it "
                "is needed, as in x.reshape(x.shape[0], -1), and do not keep it as a number."
            ) from error
        line = re.search(r'The following call raised this error:\s+File "(.+?)", line (\d+), in \w+\s+(.+)', told)
        where = f" at {Path(line[1]).name}:{line[2]}, `{line[3].strip()}`" if line else ""
        raise InputError(
            f"export of {name}: it is no fixed graph{where}: {_first_line(error)} The usual cause is a branch or a shape "
            "that depends on the values of a tensor: use torch.where, or take it out of the forward."
        ) from error


def _converted(program: ExportedProgram, pair: dict[str, Tensor], name: str) -> Any:
    try:
        converted: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=list(pair),
            output_names=["output"],
            dynamic_shapes=(tuple({0: "batch"} for _ in pair),),
            verbose=False,
        )
    except Exception as error:
        raise InputError(f"export of {name}: {_why(error, program)}") from error
    # The exporter writes source lines and paths of this machine into every node: of no use to whoever runs the file.
    for part in (converted.model, converted.model.graph, *converted.model.graph.all_nodes()):
        part.metadata_props.clear()
    return converted


def _why(error: Exception, program: ExportedProgram) -> str:
    told = "\n".join(str(cause) for cause in _causes(error))
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", told)
    if not operator:
        return f"torch's exporter cannot convert it: {_first_line(list(_causes(error))[-1])}"
    # The exporter has taken operators apart: what is left of aten.linalg_eigvals is aten.linalg_eig.
    nodes = [
        n for n in program.graph.nodes if operator[1].rpartition(".")[2] in str(n.target) and "stack_trace" in n.meta
    ]
    line = f", from `{nodes[0].meta['stack_trace'].strip().splitlines()[-1].strip()}`" if nodes else ""
    return (
        f"ONNX has no operator for {operator[1]}{line}. Write it with others, of which https://onnx.ai/onnx/operators has "
        "the list, or take it out of the model: what comes first can be done to the data, what comes last to the output."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns, logs and prints of its own affairs at every export; what matters is in its exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
