"""A teacher from an ONNX file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from understudy.errors import CorruptError, InputError, choices
from understudy.teachers.black_box import FLOOR, BlackBox, Channels, Gives, fingerprint, library, told

__all__ = ["Onnx"]

TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class Onnx(BlackBox):
    """A model in an ONNX file, run by onnxruntime on the CPU. Its last output is all that can be read of it.

    Loading the file runs no code of its own. It may name files with weights beside it, and those only.

    Args:
        path: of the file.
        output: its name, where the model has several; "logits" or the first if not given.
        gives: "probabilities" if the model ends with a softmax or the sigmoid of yes or no, "independent" if it ends with a sigmoid
            for each of several labels; their logits are taken.
        channels: "last" if the model takes pictures ``[N, H, W, C]``, as those that come from TensorFlow may.
        floor: smallest probability.

    Called with one tensor, or with as many as the graph has inputs, in its order or by its names.

    Raises: MissingExtra without onnxruntime; InputError if there is no such file or output; CorruptError for a damaged file.
    """

    def __init__(
        self,
        path: Path,
        *,
        output: str | None = None,
        gives: Gives = "logits",
        channels: Channels = "first",
        floor: float = FLOOR,
    ) -> None:
        path = Path(path)
        runtime = library("onnxruntime", "A teacher from an ONNX file", "onnx")
        what = f"ONNX model {path.name}"
        self.path = path
        fingerprint([path])  # which says what is wrong with the file
        files = [path, *_beside(path)]
        super().__init__(self._run, what, gives=gives, channels=channels, floor=floor, known_by=files)
        self._session = _session(runtime, path)
        self._inputs = {i.name: i for i in self._session.get_inputs()}
        names = [o.name for o in self._session.get_outputs()]
        if output is not None and output not in names:
            raise InputError(f"{what}: has no output {output!r}. {choices(output, names)}")
        self.output = output or ("logits" if "logits" in names else names[0])

    def _run(self, *arrays: Any, **named: Any) -> Any:
        given = {
            **dict(zip(self._inputs, arrays, strict=False)),
            **{k: v for k, v in named.items() if k in self._inputs},
        }
        if len(arrays) > len(self._inputs) or given.keys() != self._inputs.keys():
            raise InputError(
                f"{self.what}: takes {', '.join(self._inputs)}; it was called with {len(arrays)} arrays and {', '.join(named) or 'none'} by name."
            )
        feed = {name: self._typed(name, array) for name, array in given.items()}
        (answer,) = self._session.run([self.output], feed)
        return answer

    def _typed(self, name: str, array: Any) -> Any:
        """As the graph declares it; and of as many samples as it takes."""
        wanted = self._inputs[name]
        first = wanted.shape[0] if wanted.shape else None
        if isinstance(first, int) and first != len(array):
            raise InputError(
                f"{self.what}: takes batches of {first} only, and this one has {len(array)} samples. Export it with a batch "
                'axis of any length: torch.onnx.export(..., dynamic_shapes={"x": {0: "batch"}}).'
            )
        return array.astype(TYPES[wanted.type], copy=False) if wanted.type in TYPES else array


def _session(runtime: Any, path: Path) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # its advice is for whoever wrote the file
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # classes of its own for each thing that can be wrong with a file
        raise CorruptError(
            f"{path}: is no ONNX file that onnxruntime {runtime.__version__} can run: {told(error)}"
        ) from error


def _beside(path: Path) -> list[Path]:
    """The files in which the model's weights are, where they are in files of their own."""
    onnx = library("onnx", "A teacher from an ONNX file", "onnx")

    def held(graph: Any) -> Iterator[Any]:
        yield from graph.initializer
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            yield attribute.t
            for inner in (attribute.g, *attribute.graphs):
                yield from held(inner)

    try:
        tensors = list(held(onnx.load(str(path), load_external_data=False).graph))
    except Exception as error:  # protobuf's own
        raise CorruptError(f"{path}: is no ONNX file, or damaged: {told(error)}") from error
    names = {Path(entry.value) for t in tensors for entry in t.external_data if entry.key == "location"}
    if outside := sorted(str(name) for name in names if name.is_absolute() or ".." in name.parts):
        raise InputError(f"{path}: names {outside[0]!r} for its weights; only files beside it, or below, are read.")
    return sorted(path.parent / name for name in names)
