"""A teacher that torch.export has made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from understudy.batch import tensors
from understudy.errors import InputError
from understudy.teachers.black_box import fingerprint

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Exported"]

TRAINING = {"aten.dropout.default": 2, "aten.batch_norm.default": 5, "aten.native_dropout.default": 2}
"""At which argument an operator is told that it trains."""


class Exported:
    """A program of :func:`torch.export.export`: its last output is all that can be read of it, for its layers are gone.

    It comes in from Python, or through ``--plugin``; there is no path to give. :func:`torch.export.load` runs what a file holds:
    it unpickles the inputs that lie beside the program, and whatever else is marked as pickled, and it executes the program's
    guards as Python. Load it yourself where you trust the file: ``Exported(torch.export.load(path))``. Or give
    :class:`~understudy.teachers.Onnx` a file, which holds no code.

    A gradient flows through it to its input. It runs where the input is. The program that was given stays as it is.

    Args:
        program: exported in eval mode, with a batch axis of any length:
            ``torch.export.export(model.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))``.

    Raises: InputError for a path, for what is no program, or for one that was exported in train mode.
    """

    def __init__(self, program: ExportedProgram) -> None:
        from torch.export import ExportedProgram  # which takes a second

        if isinstance(program, str | bytes) or hasattr(program, "__fspath__"):
            raise InputError(
                f"Exported: {program!r} is a path. torch.export.load unpickles what the file holds and executes its guards as Python, "
                "so that it is never done here. Load it yourself where you trust it: Exported(torch.export.load(path))."
            )
        if not isinstance(program, ExportedProgram):
            raise InputError(f"Exported: a {type(program).__name__} is no program of torch.export.export.")
        for node in program.graph.nodes:
            at = TRAINING.get(str(node.target))
            if at is not None and len(node.args) > at and node.args[at] is True:
                raise InputError(
                    f"Exported: the program was exported in train mode ({node.target}), and a teacher must say the same each time. "
                    "Export model.eval()."
                )
        self._program = program
        self._graphs: dict[torch.device, Any] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """What it is known by: its weights, its constants, and what it does with them."""
        constants = {f"constant {k}": v for k, v in self._program.constants.items() if isinstance(v, Tensor)}
        called = [node for node in self._program.graph.nodes if node.op == "call_function"]
        told = [f"{n.target} {[a for a in n.args if isinstance(a, bool | int | float | str | list)]}" for n in called]
        return {**self._program.state_dict, **constants, "operators": fingerprint([repr(told).encode()])}

    def __deepcopy__(self, memo: object) -> Exported:
        return self  # it never changes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The program's output."""
        given = list(tensors((args, kwargs)))
        graph = self._on(given[0].device if given else torch.device("cpu"))
        try:
            return graph(*args, **kwargs)
        except Exception as error:  # a guard raises whatever it likes
            shapes = ", ".join(f"{list(t.shape)} of {t.dtype}" for t in given)
            told = " ".join(str(error).split())[:300]
            raise InputError(
                f"exported program: cannot take {shapes}: {type(error).__name__}: {told} Was it exported for batches of one size? "
                'Export with dynamic_shapes=({0: torch.export.Dim("batch")},).'
            ) from error

    def _on(self, device: torch.device) -> Any:
        """The program there, frozen; its weights are the program's own where it is there already."""
        if device not in self._graphs:
            graph: Any = self._program.module()
            for module in graph.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    module.register_parameter(name, nn.Parameter(parameter.detach(), requires_grad=False))
            for node in graph.graph.nodes:  # where it makes tensors of its own
                node.args = tuple(device if isinstance(a, torch.device) else a for a in node.args)
                node.kwargs = {k: device if isinstance(a, torch.device) else a for k, a in node.kwargs.items()}
            graph.recompile()
            self._graphs = {device: graph.to(device)}
        return self._graphs[device]

    def __repr__(self) -> str:
        return "exported program"
