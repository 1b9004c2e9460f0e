"""A teacher of Keras or TensorFlow."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from understudy.errors import CorruptError, InputError, UnderstudyError, choices
from understudy.teachers.black_box import (
    FLOOR,
    BlackBox,
    Channels,
    Gives,
    as_logits,
    check_options,
    fingerprint,
    last,
    library,
    told,
)

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
        gives: "probabilities" if the model ends with a softmax or the sigmoid of yes or no, "independent" if it ends with a sigmoid
            for each of several labels; their logits are taken.
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
    if not zipfile.is_zipfile(path):
        raise CorruptError(f"{path}: is damaged, or no file of Keras: it is no archive. Save or copy it anew.")
    if "keras" not in sys.modules:
        os.environ.setdefault("KERAS_BACKEND", "torch")
    framework = library("keras", PURPOSE, "tf")
    try:
        model = framework.saving.load_model(str(path), compile=False, safe_mode=True)
    except Exception as error:  # whatever Keras and its backend raise
        if isinstance(error, OSError | KeyError):
            raise CorruptError(
                f"{path}: is damaged, or no file of Keras {framework.__version__}: {told(error)}"
            ) from error
        raise InputError(
            f"{path}: cannot be loaded by Keras {framework.__version__} without running code that it holds: {told(error)} Where you trust it, "
            "load it yourself, and give Keras(model), in Python or through --plugin."
        ) from error
    if isinstance(model, nn.Module):
        return Keras(model, gives=gives, channels=channels, floor=floor)

    def answer(*arrays: Any) -> Any:
        return model(arrays[0] if len(arrays) == 1 else list(arrays), training=False)

    return BlackBox(answer, f"Keras model {model.name}", gives=gives, channels=channels, floor=floor, known_by=[path])


class Keras(nn.Module):
    """A model of Keras on torch. Its layers can be read by their Keras names: ``teacher.conv2d``, ``teacher.base.conv2d``.

    It runs in inference, where the input is, and in eval mode from the start. With ``channels="last"`` the maps of its layers are
    turned as its pictures are, so that what is read is ``[N, C, H, W]`` as PyTorch's layers have it. A layer of a name that every
    module has, such as "train", is read with a ``_`` after it.

    Args:
        model: in the memory of this program, on the torch backend.
        gives: "probabilities" if it ends with a softmax or the sigmoid of yes or no, "independent" if it ends with a sigmoid for
            each of several labels; their logits are taken.
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
        self.what = f"Keras model {model.name}"
        check_options(self.what, gives, channels, floor)
        self.gives, self.channels, self.floor = gives, channels, floor
        self._held = (model,)  # not a submodule: it knows its weights by paths, which are others after each loading
        _show(self, model, channels)
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Keras:
        (model,) = copy.deepcopy(self._held, memo)
        return Keras(model, gives=self.gives, channels=self.channels, floor=self.floor)

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's output, in inference."""
        if torch.compiler.is_compiling():  # Keras asks at each step what it runs on
            return torch.compiler.disable(self._answer)(*inputs)  # type: ignore[no-any-return]
        return self._answer(*inputs)

    def _answer(self, *inputs: Tensor) -> Tensor:
        given = [last(x) if self.channels == "last" else x for x in inputs]
        try:
            with _shown(self), _on(inputs[0].device):
                output: Any = self._held[0](given[0] if len(given) == 1 else given, training=False)
        except (UnderstudyError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever Keras raises
            shapes = ", ".join(f"{list(x.shape)} of {x.dtype}" for x in inputs)
            turn = (
                "" if self.channels == "last" else " Pictures [N, H, W, C] are made of PyTorch's with channels='last'."
            )
            raise InputError(
                f"{self.what}: cannot take {shapes}: {type(error).__name__}: {told(error)}{turn}"
            ) from error
        if not isinstance(output, Tensor):
            raise InputError(
                f"{self.what}: gave a {type(output).__name__}, not one tensor. Make a model of one output: keras.Model(model.inputs, model.outputs[0])."
            )
        return output if self.gives == "logits" else as_logits(output, self.gives, self.floor, self.what)


class _Layer(nn.Module):
    """What a layer of Keras takes in and puts out: called with both while the model runs, so that its hooks see them."""

    def __init__(self, layer: Any, channels: Channels) -> None:
        super().__init__()
        self._held = (layer,)
        self._channels = channels
        _show(self, layer, channels)

    def forward(self, given: Any, output: Any) -> Any:
        return output

    def hook(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Of the layer itself."""
        first = args[0] if args else None
        self(*(tree_map_only(Tensor, _turned, x) if self._channels == "last" else x for x in (first, output)))


def _turned(x: Tensor) -> Tensor:
    return x.movedim(-1, 1) if x.ndim == 4 else x


def _show(module: nn.Module, model: Any, channels: Channels) -> None:
    """Give a module the model's layers as submodules, and the weights that are in none of them as parameters."""
    inner: list[Any] = [layer for layer in getattr(model, "layers", ()) if type(layer).__name__ != "InputLayer"]
    for layer in inner:
        module.add_module(_name(module, layer.name), _Layer(layer, channels))
    theirs = {id(weight) for layer in inner for weight in getattr(layer, "weights", ())}
    for weight in getattr(model, "weights", ()):
        if id(weight) not in theirs:
            parts = weight.path.split("/")  # such as functional/head/kernel
            own = parts[parts.index(model.name) + 1 :] if model.name in parts else parts
            module.register_parameter(_name(module, "_".join(own)), weight.value)


def _name(module: nn.Module, name: str) -> str:
    """One that a module can have."""
    while hasattr(module, name):
        name += "_"
    return name


@contextlib.contextmanager
def _shown(model: nn.Module) -> Iterator[None]:
    """What is asked for of the layers is told while the model runs."""
    asked = [m for m in model.modules() if isinstance(m, _Layer) and (m._forward_hooks or m._forward_pre_hooks)]
    handles = [m._held[0].register_forward_hook(m.hook) for m in asked]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Keras would take everything to the GPU where there is one."""
    framework = sys.modules.get("keras")
    return contextlib.nullcontext() if framework is None else framework.device(str(device))


class SavedModel(BlackBox):
    """A model that TensorFlow exported, in a folder with ``saved_model.pb``. Its last output is all that can be read of it.

    Such a folder is a program of TensorFlow's operators. One that reads or writes files, or calls Python, is refused; still, load
    only what you trust.

    Args:
        path: of the folder.
        signature: which of its functions answers; "serving_default" is what Keras exports.
        output: its name, where the function has several.
        gives: "probabilities" if the model ends with a softmax or the sigmoid of yes or no, "independent" if it ends with a sigmoid
            for each of several labels; their logits are taken.
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
                f"{path}: cannot be loaded by TensorFlow {tensorflow.__version__}: {told(error)}"
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
        raise CorruptError(f"{graph}: is damaged: {told(error)}") from error
    found = set()
    for meta in proto.meta_graphs:
        found |= {node.op for node in meta.graph_def.node}
        found |= {node.op for function in meta.graph_def.library.function for node in function.node_def}
    if reaching := sorted(found & REACHES_OUT):
        raise InputError(
            f"{graph}: its graph holds {', '.join(reaching)}, which reach files or code beyond it. It is not loaded."
        )
