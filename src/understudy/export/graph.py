"""From a model to an ONNX graph, and why that may not be possible."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from understudy.errors import InputError, MissingExtra
from understudy.export.model import Inputs, OneOutput, kind, named, outputs
from understudy.modes import evaluating
from understudy.quiet import quiet

__all__ = ["quiet", "rounds", "traced", "unsupported", "write"]


def write(model: nn.Module, inputs: Inputs, file: Path) -> None:
    """Write a model that is on the CPU, unchecked.

    Raises: InputError that says what in the model stands against it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Export to ONNX", "onnx") from error
    program = traced(model, inputs)
    with evaluating(model), torch.no_grad(), quiet():
        _converted(program, list(named(inputs)), kind(model)).save(file)


def traced(model: nn.Module, inputs: Inputs, *, rows: int = 2, most: int | None = None) -> ExportedProgram:
    """The model, which is on the CPU, as a graph that takes batches of any size, by position.

    Args:
        rows: of the batch that is traced. Not one, since an axis of length one is taken for one that never grows; one
            makes a graph that takes one sample and no more.
        most: the largest batch, for a runtime that sets memory aside for it; None for no bound.

    Raises: InputError that says what in the model stands against it.
    """
    if torch.bfloat16 in (outputs(model, inputs).dtype, *(p.dtype for p in model.parameters())):
        raise InputError(f"export of {kind(model)}: numpy has no bfloat16. Export model.float() or model.half().")
    given = {name: x[torch.arange(rows) % len(x)] for name, x in named(inputs).items()}
    with evaluating(model), torch.no_grad(), quiet():
        return _traced(OneOutput(model, inputs), given, kind(model), most)


def rounds(program: ExportedProgram) -> bool:
    """Whether a graph rounds its activations to integers: it comes from a quantized model."""
    return any("quantized_decomposed.quantize_per" in str(node.target) for node in program.graph.nodes)


def unsupported(name: str, error: BaseException, program: ExportedProgram, runtime: str, patterns: str) -> InputError:
    """What to say where an exporter gives up: the operator, the line that it comes from, and what to do.

    Args:
        name: of the model.
        program: that was to be converted.
        runtime: for which.
        patterns: a regular expression whose groups are where the exporter's message names the operator.
    """
    told = "\n".join(str(cause) for cause in _causes(error))
    operator = re.search(patterns, told)
    if not operator:
        return InputError(
            f"export of {name}: the exporter of {runtime} cannot convert it: {_first_line(list(_causes(error))[-1])}"
        )
    named_so = next(group for group in operator.groups() if group).removesuffix(".default")
    return InputError(f"export of {name}: {_lacks(named_so, runtime, '', program)}")


def _traced(model: OneOutput, given: dict[str, Tensor], name: str, most: int | None) -> ExportedProgram:
    one = next(iter(given.values())).shape[0] == 1
    axes = None if one else (tuple({0: Dim("batch", max=most)} for _ in given),)
    try:
        return torch.export.export(model, tuple(given.values()), dynamic_shapes=axes, strict=False)
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


def _converted(program: ExportedProgram, names: list[str], name: str) -> Any:
    try:
        converted: Any = torch.onnx.export(
            program,
            dynamo=True,
            input_names=names,
            output_names=["output"],
            dynamic_shapes=(tuple({0: "batch"} for _ in names),),
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
    return _lacks(operator[1], "ONNX", " of which https://onnx.ai/onnx/operators has the list,", program)


def _lacks(operator: str, runtime: str, listed: str, program: ExportedProgram) -> str:
    # The exporter has taken operators apart: what is left of aten.linalg_eigvals is aten.linalg_eig.
    bare = operator.rpartition(".")[2]
    nodes = [n for n in program.graph.nodes if bare in str(n.target) and "stack_trace" in n.meta]
    line = f", from `{nodes[0].meta['stack_trace'].strip().splitlines()[-1].strip()}`" if nodes else ""
    return (
        f"{runtime} has no operator for {operator}{line}. Write it with others,{listed} or take it out of the model: what "
        "comes first can be done to the data, what comes last to the output."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
