"""Where a transformer makes its queries, keys and values, found by the names that such layers have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from understudy.errors import InputError
from understudy.reading import unwrap

__all__ = ["Attention", "attentions", "of_both"]

NAMES = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("query_proj", "key_proj", "value_proj"),
    ("to_q", "to_k", "to_v"),
    ("w_q", "w_k", "w_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
HEADS = ("num_attention_heads", "num_heads", "n_heads", "heads", "n_head")


@dataclass(frozen=True)
class Attention:
    """One layer's attention: the submodules that make queries, keys and values, and its number of heads if it says so."""

    query: str
    key: str
    value: str
    heads: int | None


def attentions(who: str, model: Any) -> list[Attention]:
    """Every attention of a model that makes its queries, keys and values by three layers, in the order of its layers.

    Raises: InputError if there is none.
    """
    model = unwrap(model)
    found = []
    for path, module in model.named_modules() if isinstance(model, nn.Module) else ():
        children = {name for name, _ in module.named_children()}
        names = next((some for some in NAMES if children.issuperset(some)), None)
        if names is not None:
            query, key, value = (f"{path}.{name}" if path else name for name in names)
            found.append(Attention(query, key, value, _heads(model, module)))
    if not found:
        raise InputError(
            f"{who} ({type(model).__name__}) has no attention whose queries, keys and values are three layers of their own, "
            f"named such as {', '.join('/'.join(some) for some in NAMES[:3])}. Compare other layers, by attention_transfer."
        )
    return found


def of_both(student: Any, teacher: Any) -> list[tuple[Attention, Attention]]:
    """Each attention of the student with the teacher's at its depth; the last with the last."""
    ours, theirs = attentions("student", student), attentions("teacher", teacher)
    if len(ours) > len(theirs):
        raise InputError(
            f"student has {len(ours)} attentions and teacher {len(theirs)}; a student with as many or fewer goes with it."
        )
    return [(mine, theirs[(i + 1) * len(theirs) // len(ours) - 1]) for i, mine in enumerate(ours)]


def _heads(model: nn.Module, module: nn.Module) -> int | None:
    for owner in (module, getattr(module, "config", None), getattr(model, "config", None)):
        for name in HEADS:
            if isinstance(heads := getattr(owner, name, None), int):
                return heads
    return None
