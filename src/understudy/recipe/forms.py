"""What a value of a recipe may be, by the type of the argument that it is for: as JSON Schema, and as what is passed on.

=============================  ========================================================================================
type                           in a recipe
=============================  ========================================================================================
bool, int, float, str, None    itself
Path                           a text, relative to the recipe's own folder
Literal                        one of the values
Sequence, tuple, Mapping       a list, a list, a mapping, of forms
Named                          an entry of the registry: its name, or a mapping of ``name`` and its options
Curve, nn.Module               the same of a curve, and of a projector
a dataclass                    a mapping of its fields
A | B                          either
=============================  ========================================================================================

An argument of any other type cannot be given in a recipe.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import nn

from understudy.progress import Curve
from understudy.registry import Option, options_of

__all__ = ["Named", "Rule", "branch", "entry_kind", "fields_of", "form", "given", "inner", "schema_of"]

_PLAIN: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


@dataclass(frozen=True)
class Named:
    """In an annotation: an entry of this kind."""

    kind: str


@dataclass(frozen=True)
class Rule:
    """In an annotation: a keyword of JSON Schema, such as ``Rule("minimum", 1)``."""

    keyword: str
    value: int


def form(annotation: Any) -> dict[str, Any] | None:
    """The JSON Schema of a type; None for one that no recipe can give."""
    if (kind := entry_kind(annotation)) is not None:
        return {"$ref": f"#/$defs/{kind}"}
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner = form(args[0])
        return (
            None if inner is None else inner | {rule.keyword: rule.value for rule in args[1:] if isinstance(rule, Rule)}
        )
    if annotation in _PLAIN:
        return {"type": _PLAIN[annotation]}
    if annotation is Path:
        return {"type": "string", "minLength": 1, "format": "path"}
    if origin is Literal:
        return {"enum": list(args)}
    if origin in (typing.Union, types.UnionType):
        return _any_of([made for a in args if (made := form(a)) is not None])
    if dataclasses.is_dataclass(annotation):
        return schema_of(fields_of(typing.cast("type", annotation)).values())
    return _many(origin, args)


def _many(origin: Any, args: Sequence[Any]) -> dict[str, Any] | None:
    """Of types that hold others."""
    if origin is tuple and args[-1:] != (...,):
        items = [form(a) for a in args]
        return (
            None
            if None in items
            else {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
        )
    if origin in (list, tuple, Sequence):
        inner = form(args[0])
        return None if inner is None else {"type": "array", "items": inner}
    if origin in (dict, Mapping):
        inner = form(args[1])
        return None if inner is None else {"type": "object", "additionalProperties": inner}
    return None


def _any_of(forms: list[dict[str, Any]]) -> dict[str, Any] | None:
    distinct = [f for i, f in enumerate(forms) if f not in forms[:i]]
    return (distinct[0] if len(distinct) == 1 else {"anyOf": distinct}) if distinct else None


def entry_kind(annotation: Any) -> str | None:
    """The kind of entry that a type stands for; None where it is none."""
    if annotation == Curve:
        return "curve"
    if annotation is nn.Module:
        return "projector"
    named = [a.kind for a in getattr(annotation, "__metadata__", ()) if isinstance(a, Named)]
    return named[0] if named else None


def fields_of(kind: type) -> dict[str, Option]:
    """The fields of a dataclass as options."""
    defaults = {
        f.name: f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        for f in dataclasses.fields(kind)
    }
    return {
        o.name: dataclasses.replace(
            o, default=inspect.Parameter.empty if (d := defaults[o.name]) is dataclasses.MISSING else d
        )
        for o in options_of(kind)
    }


def schema_of(options: typing.Iterable[Option], **more: Any) -> dict[str, Any]:
    """The schema of a mapping with these options, and no other key."""
    properties: dict[str, Any] = {**more}
    required = list(more)
    for option in options:
        made = form(option.annotation)
        if made is None:
            continue
        properties[option.name] = made | ({"description": option.told} if option.told else {})
        if option.required:
            required.append(option.name)
        elif isinstance(option.default, bool | int | float | str | dict) or option.default is None:
            properties[option.name]["default"] = option.default
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


# -- values ------------------------------------------------------------------------------------------------------------


def branch(annotation: Any, value: Any) -> Any:
    """The type itself, without notes; of a union, the part that the value is of."""
    while entry_kind(annotation) is None and typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType) or entry_kind(annotation) is not None:
        return annotation
    parts = [branch(part, value) for part in typing.get_args(annotation)]
    return next((part for part in parts if _fits(part, value)), parts[0])


def _fits(annotation: Any, value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return annotation is (type(None) if value is None else bool)
    if entry_kind(annotation) is not None:
        return isinstance(value, dict)
    origin = typing.get_origin(annotation)
    if isinstance(value, list):
        return origin in (list, tuple, Sequence)
    if isinstance(value, dict):
        return origin in (dict, Mapping) or dataclasses.is_dataclass(annotation)
    if origin is Literal:
        return value in typing.get_args(annotation)
    return annotation in (
        (str, Path) if isinstance(value, str) else (int, float) if isinstance(value, int) else (float,)
    )


def inner(annotation: Any, value: Any) -> Iterator[tuple[str | int, Any, Any]]:
    """The parts of a list or a mapping: (key, type, value)."""
    args = typing.get_args(annotation)
    if isinstance(value, list) and args:
        fixed = typing.get_origin(annotation) is tuple and args[-1] is not ...
        yield from ((i, args[i if fixed else 0], v) for i, v in enumerate(value))
    if isinstance(value, dict) and len(args) == 2:
        yield from ((k, args[1], v) for k, v in value.items())


def given(annotation: Any, value: Any, enter: Callable[[str, Mapping[str, Any]], Any]) -> Any:
    """What a valid value is passed on as; ``enter`` says what becomes of an entry, by its kind and its name and options."""
    annotation = branch(annotation, value)
    if (kind := entry_kind(annotation)) is not None:
        return enter(kind, value)
    if annotation is Path:
        return Path(value)
    if dataclasses.is_dataclass(annotation):
        kind_of = typing.cast("type", annotation)
        return kind_of(**{k: given(o.annotation, value[k], enter) for k, o in fields_of(kind_of).items() if k in value})
    parts = {key: given(a, v, enter) for key, a, v in inner(annotation, value)}
    if isinstance(value, list):
        return tuple(parts.values()) if typing.get_origin(annotation) is tuple else list(parts.values())
    return parts if isinstance(value, dict) else value
