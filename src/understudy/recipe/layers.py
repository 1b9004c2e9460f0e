"""The layers of a recipe's models, as addresses name them."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from understudy.examples import Examples, outputs
from understudy.recipe.examine import Pieces
from understudy.recipe.text import Document

__all__ = ["layers_of"]


def layers_of(document: Document) -> list[dict[str, Any]]:
    """Of the student and the teacher: address, class, shape of the output for four samples, parameters.

    The rest of the recipe may be wrong still. Raises: InputError for models or data that cannot be made.
    """
    pieces = Pieces.of(document, only=("data", "student", "teacher"))
    assert pieces.student is not None  # else there was a problem
    assert pieces.few is not None
    rows = []
    for name, model in (("student", pieces.student()), ("teacher", pieces.teacher)):
        if isinstance(model, nn.Module):
            rows += _layers(name, model, pieces.few)
    return rows


def _layers(name: str, model: nn.Module, few: Examples) -> list[dict[str, Any]]:
    shapes: dict[str, list[Any]] = {}
    hooks = [module.register_forward_hook(_Seen(path, shapes)) for path, module in model.named_modules()]
    try:
        outputs(model, few, who=name)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        {
            "address": f"{name}.{path}" if path else name,
            "is": type(module).__name__,
            "shape": _told(shapes.get(path, [])),
            "parameters": sum(p.numel() for p in module.parameters()),
        }
        for path, module in model.named_modules()
    ]


class _Seen:
    def __init__(self, path: str, shapes: dict[str, list[Any]]) -> None:
        self.path, self.shapes = path, shapes

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.shapes.setdefault(self.path, []).append(_shape(output))


def _shape(output: Any) -> Any:
    """Of a tensor; of what holds tensors, by key, as addresses take them: ``/logits``, ``/0``."""
    if isinstance(output, Tensor):
        return list(output.shape)
    items = (
        output.items() if hasattr(output, "items") else enumerate(output) if isinstance(output, tuple | list) else ()
    )
    return ", ".join(f"/{key} {_shape(value)}" for key, value in items) or type(output).__name__


def _told(calls: list[Any]) -> str:
    if not calls:
        return "did not run"
    return str(calls[0]) if len(calls) == 1 else f"{calls[0]}, {len(calls)} calls: #0 to #{len(calls) - 1}"
