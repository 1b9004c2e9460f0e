"""ONNX: from a model to a file, from the file to outputs, and whether both say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError, MissingExtra
from understudy.export import graph
from understudy.export.comparing import ROUNDED, difference, figures, passed
from understudy.export.model import Inputs, first, kind, named, on_cpu, outputs, samples, shapes
from understudy.export.staging import publish_files, staged

__all__ = ["TOLERANCE", "check_onnx", "refuse_mixing", "rounds", "run_onnx", "session", "to_onnx", "write_checked"]

TOLERANCE = 1e-4
"""What float32 arithmetic in another order explains; see :func:`check_onnx`."""


def to_onnx(
    model: nn.Module, example_inputs: Inputs, path: str | Path, *, tolerance: float = TOLERANCE
) -> dict[str, float]:
    """Write the model, in eval mode, as an ONNX file that takes batches of any size.

    The file has an input ``input``, or those that a mapping names, and one output ``output``. All axes but the batch's
    keep the length that they have in the example. Over 2 GB, the weights are beside it in ``<name>.data``.

    Args:
        model: gives a tensor, a mapping or object with ``logits``, or a tuple of one tensor. It comes back as it was.
        example_inputs: one sample or more, as the model takes them; the file is checked on all of them.
        path: of the file. One that is there is replaced once the new one was checked.
        tolerance: as in :func:`check_onnx`.

    Returns: what :func:`check_onnx` says of the examples.
    Raises: InputError, and no file is left, where the model cannot be exported or the file does not say what the model
        says; MissingExtra without onnx, onnxscript and onnxruntime; MachineError if the file cannot be written.
    See also: write_folder.
    """
    path = Path(path)
    with staged(path) as folder:
        found = write_checked(model, example_inputs, folder / path.name, example_inputs, tolerance)
        publish_files(folder, path)
    return found


def write_checked(
    model: nn.Module, example_inputs: Inputs, file: Path, check_inputs: Inputs, tolerance: float
) -> dict[str, float]:
    """Write the model and compare what was written; see :func:`to_onnx`."""
    model = on_cpu(model)
    refuse_mixing(model, example_inputs, tolerance)
    graph.write(model, example_inputs, file)
    found, alone = run_onnx(file, check_inputs), run_onnx(file, first(check_inputs))
    return passed(kind(model), found, alone, outputs(model, check_inputs), None if rounds(file) else tolerance)


def rounds(file: Path) -> bool:
    """Whether a file rounds its activations to integers: of a quantized model, or quantized itself."""
    import onnx

    return any(node.op_type == "QuantizeLinear" for node in onnx.load(file, load_external_data=False).graph.node)


def refuse_mixing(model: nn.Module, inputs: Inputs, tolerance: float = TOLERANCE) -> None:
    """Raise InputError if the model says something else of a sample by itself than of the same sample in a batch."""
    whole, alone = outputs(model, inputs), outputs(model, first(inputs))
    if told := difference(alone, whole[:1], tolerance):
        if not difference(alone, whole[:1], ROUNDED) and _rounds(model, inputs):
            return  # a last bit that differs is a whole step of the grid after rounding
        raise InputError(
            f"export of {kind(model)}: it says something else of a sample by itself than of the same sample in a batch "
            f"({told}). Does it mix the samples of a batch, or draw random numbers, in eval mode?"
        )


def _rounds(model: nn.Module, inputs: Inputs) -> bool:
    try:
        return graph.rounds(graph.traced(model, inputs))
    except InputError:
        return False


def check_onnx(model: nn.Module, path: str | Path, inputs: Inputs, tolerance: float = TOLERANCE) -> dict[str, float]:
    """Compare a file with the model that it was made from, on batches of 256 and on the first sample by itself.

    Args:
        model: in any mode, on any device; it is compared in eval mode on the CPU.
        path: of the file.
        inputs: samples; 256 or more say something, a few do not.
        tolerance: the largest ``max_error`` that passes. 1e-4 is for float32; half precision needs about 1e-2.

    Returns: ``samples``, their number; ``max_error``, the largest difference between an output of the file and the
        model's, divided by the sample's largest output where that is above 1; ``agreement``, the share of samples for
        which both rank the same output first, or, of those with a single output, differ by no more than the tolerance.
    Raises: CorruptError if the error is above the tolerance, the shapes differ, or an output is NaN.
    """
    expected = outputs(on_cpu(model), inputs)
    found, alone = run_onnx(path, inputs), run_onnx(path, first(inputs))
    if problem := difference(found, expected, tolerance) or difference(alone, expected[:1], tolerance):
        raise CorruptError(f"{path}: is not this model: {problem}. Is it damaged, or of other weights?")
    return figures(found, expected, tolerance)


def run_onnx(path: str | Path, inputs: Inputs, batch_size: int = 256) -> Tensor:
    """The first output of a file for these samples, in their order.

    Args:
        path: of the file.
        inputs: a tensor for a file with one input, whatever its name; else a mapping.
        batch_size: how many samples are run at once.

    Raises: InputError if the file does not take such inputs; CorruptError if it cannot be read.
    """
    opened, given = session(path), named(inputs)
    takes = [i.name for i in opened.get_inputs()]
    if isinstance(inputs, Tensor) and len(takes) == 1:
        given = {takes[0]: given["input"]}
    if set(given) != set(takes):
        raise InputError(f"run_onnx: {path} takes {', '.join(takes)}, but was given {', '.join(given)}.")
    arrays = {name: x.numpy() for name, x in given.items()}
    parts = []
    for at in range(0, samples(given), batch_size):
        try:
            parts.append(torch.from_numpy(opened.run(None, {n: a[at : at + batch_size] for n, a in arrays.items()})[0]))
        except Exception as error:
            raise InputError(f"run_onnx: {path} does not run on {shapes(given)}: {error}") from error
    return torch.cat(parts)


def session(path: str | Path, *, threads: int | None = None) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU, with as many threads as torch has unless told otherwise.

    >>> outputs = session("student.onnx", threads=1).run(None, {"input": array})  # doctest: +SKIP

    Raises: InputError if there is no such file; CorruptError if it is no ONNX file; MissingExtra without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("Running an ONNX file", "onnx") from error
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise CorruptError(f"{path}: is not an ONNX file that onnxruntime can run: {error}") from error
