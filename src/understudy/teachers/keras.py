"""A teacher of Keras or TensorFlow."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from understudy.errors import CorruptError, InputError, choices
from understudy.teachers.black_box import FLOOR, BlackBox, Channels, Gives, fingerprint, library

__all__ = ["Keras", "SavedModel", "keras"]

PURPOSE = "A teacher of Keras"
REACHES_OUT = frozenset(
    {"ReadFile", "WriteFile", "PyFunc", "PyFuncStateless", "EagerPyFunc", "LoadLibrary", "DeleteFile", "RenameFile"}
)
"""Operators of TensorFlow by which a graph reaches files or code beyond itself."""


def keras(path: Path, *, gives: Gives = "logits", channels: Channels = "first", floor: float = FLOOR) -> Any:
    """A model that Keras 3 saved as a ``.keras`` file.

    Keras runs on torch unless it was imported before, or KERAS_BACKEND says otherwise; then the teacher is a module, and its
    layers can be read by their Keras names, ``teacher.conv2d``. On TensorFlow or JAX its last output is all that can be read.
    Code in the file is not run: a model with Lambda layers or classes of its own is refused.

    Args:
        path: of the ``.keras`` file.
        gives: "probabilities" if the model ends with a softmax or a sigmoid; their logarithm is taken.
        channels: "last" if the model takes pictures ``[N, H, W, C]``, as Keras does by default.
        floor: smallest probability.

    Raises: MissingExtra without Keras; InputError if there is no such file, or for one with code; CorruptError for a damaged one.
    """
    path = Path(path)
    fingerprint([path])
    if path.suffix != ".keras":
        raise InputError(
            f"{path}: is no .keras file. Older formats (.h5) may hold code. Load it in Keras and save it anew: model.save('teacher.keras')."
        )
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    framework = library("keras", PURPOSE, "tf")
    try:
        model = framework.saving.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras and its backend raise
        told = " ".join(str(error).split())[:300]
        if isinstance(error, OSError | KeyError):
            raise CorruptError(f"{path}: is damaged, or no file of Keras {framework.__version__}: {told}") from error
        raise InputError(
            f"{path}: cannot be loaded by Keras {framework.__version__} without running code that it holds: {told} Where you trust it, "
            "load it yourself, and give Keras(model), in Python or through --plugin."
        ) from error
    return _read(model, gives, channels, floor, [path])


def _read(model: Any, gives: Gives, channels: Channels, floor: float, known_by: list[Path] | None) -> Any:
    if isinstance(model, nn.Module):
        return Keras(model, gives=gives, channels=channels, floor=floor)

    def answer(*arrays: Any) -> Any:
        return model(arrays[0] if len(arrays) == 1 else list(arrays), training=False)

    return BlackBox(answer, f"Keras model {model.name}", gives=gives, channels=channels, floor=floor, known_by=known_by)


class Keras(nn.Module):
    """A model of Keras on torch. Its layers can be read by their Keras names: ``teacher.conv2d``.

    Args:
        model: in the memory of this program, on the torch backend.
        gives: "probabilities" if it ends with a softmax or a sigmoid; their logarithm is taken.
        channels: "last" if it takes pictures ``[N, H, W, C]``.
        floor: smallest probability.

    Raises: InputError for a model of another backend, for which :class:`~understudy.teachers.BlackBox` is.
    """

    def __init__(
        self, model: Any, *, gives: Gives = "logits", channels: Channels = "first", floor: float = FLOOR
    ) -> None:
        super().__init__()
        if not isinstance(model, nn.Module) or not hasattr(model, "layers"):
            raise InputError(
                f"Keras: a {type(model).__name__} is no Keras model on the torch backend. Set KERAS_BACKEND=torch before keras is "
                "imported; or give a function of arrays: BlackBox(lambda x: model(x, training=False), 'my model')."
            )
        BlackBox(model, "Keras", gives=gives, channels=channels, floor=floor)  # which says what is wrong with them
        self.gives, self.channels, self.floor = gives, channels, floor
        # Not a submodule itself: its layers are, under their own names.
        self._held = (model,)
        layers: Any = model.layers
        for layer in layers:
            self.add_module(layer.name.replace(".", "_"), layer)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's output, in inference."""
        given = [x.movedim(1, -1) if self.channels == "last" and x.ndim == 4 else x for x in inputs]
        output: Tensor = self._held[0](given[0] if len(given) == 1 else given, training=False)
        return _logarithm(output, self.floor) if self.gives == "probabilities" else output


def _logarithm(p: Tensor, floor: float) -> Tensor:
    """As :func:`~understudy.teachers.black_box.as_logits`, with a gradient."""
    p = torch.cat([1 - p, p], -1) if p.shape[-1] == 1 else p
    return p.float().clamp(floor, 1.0).log()


class SavedModel(BlackBox):
    """A model that TensorFlow exported, in a folder with ``saved_model.pb``. Its last output is all that can be read of it.

    Such a folder is a program of TensorFlow's operators. One that reads or writes files, or calls Python, is refused; still, load
    only what you trust.

    Args:
        path: of the folder.
        signature: which of its functions answers; "serving_default" is what Keras exports.
        output: its name, where the function has several.
        gives: "probabilities" if the model ends with a softmax or a sigmoid; their logarithm is taken.
        channels: "last" if the model takes pictures ``[N, H, W, C]``, as TensorFlow does on a CPU.
        floor: smallest probability.

    Raises: MissingExtra without TensorFlow; InputError if there is no such folder, function or output, or if the graph reaches
        beyond itself; CorruptError for a damaged one.
    """

    def __init__(
        self,
        path: Path,
        *,
        signature: str = "serving_default",
        output: str | None = None,
        gives: Gives = "logits",
        channels: Channels = "first",
        floor: float = FLOOR,
    ) -> None:
        path = Path(path)
        what = f"SavedModel {path.name}"
        graph, *weights = [path / "saved_model.pb", *sorted(path.glob("variables/*"))]
        super().__init__(self._run, what, gives=gives, channels=channels, floor=floor, known_by=[graph, *weights])
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        tensorflow = library("tensorflow", "A teacher of TensorFlow", "tf")
        _refuse_reaching_out(graph)
        try:
            self._loaded = tensorflow.saved_model.load(str(path))
        except Exception as error:  # whatever TensorFlow raises
            raise CorruptError(
                f"{path}: cannot be loaded by TensorFlow {tensorflow.__version__}: {' '.join(str(error).split())[:300]}"
            ) from error
        known = list(self._loaded.signatures)
        if signature not in known:
            raise InputError(f"{what}: has no signature {signature!r}. {choices(signature, known)}")
        self._function = self._loaded.signatures[signature]
        outputs = list(self._function.structured_outputs)
        if output is not None and output not in outputs:
            raise InputError(f"{what}: has no output {output!r}. {choices(output, outputs)}")
        if output is None and len(outputs) > 1 and "logits" not in outputs:
            raise InputError(f"{what}: has several outputs. Name one: output={outputs[0]!r}. {choices('', outputs)}")
        self.output = output or ("logits" if "logits" in outputs else outputs[0])
        self._inputs: dict[str, Any] = self._function.structured_input_signature[1]
        self._convert = tensorflow.constant

    def _run(self, *arrays: Any, **named: Any) -> Any:
        given = {
            **dict(zip(self._inputs, arrays, strict=False)),
            **{k: v for k, v in named.items() if k in self._inputs},
        }
        if len(arrays) > len(self._inputs) or given.keys() != self._inputs.keys():
            raise InputError(
                f"{self.what}: takes {', '.join(self._inputs)}; it was called with {len(arrays)} arrays and {', '.join(named) or 'none'} by name."
            )
        for name, array in given.items():
            if not self._inputs[name].shape.is_compatible_with(
                array.shape
            ):  # of which TensorFlow itself says nothing here
                raise InputError(
                    f"{self.what}: takes {name} of {self._inputs[name].shape}, and not {list(array.shape)}. Pictures "
                    "[N, H, W, C] are made of PyTorch's with channels='last'."
                )
        typed = {k: self._convert(v.astype(self._inputs[k].dtype.as_numpy_dtype)) for k, v in given.items()}
        return self._function(**typed)[self.output].numpy()


def _refuse_reaching_out(graph: Path) -> None:
    proto = library("tensorflow.core.protobuf.saved_model_pb2", "A teacher of TensorFlow", "tf").SavedModel()
    try:
        proto.ParseFromString(graph.read_bytes())
    except Exception as error:  # protobuf's own
        raise CorruptError(f"{graph}: is damaged: {' '.join(str(error).split())[:200]}") from error
    found = set()
    for meta in proto.meta_graphs:
        found |= {node.op for node in meta.graph_def.node}
        found |= {node.op for function in meta.graph_def.library.function for node in function.node_def}
    if reaching := sorted(found & REACHES_OUT):
        raise InputError(
            f"{graph}: its graph holds {', '.join(reaching)}, which reach files or code beyond it. It is not loaded."
        )
