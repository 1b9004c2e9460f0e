"""The JSON Schema of recipes: what editors complete from, and what recipes are checked against."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from understudy.recipe.forms import fields_of, schema_of
from understudy.recipe.frame import Recipe, TermOf
from understudy.registry import KINDS, entries

__all__ = ["MODELINE", "schema"]

MODELINE = "# yaml-language-server: $schema=understudy.schema.json"
"""The first line of a recipe, by which editors find the schema that ``understudy schema`` prints."""


def schema() -> dict[str, Any]:
    """Of the recipes that can be written now: with the entries of the plugins that are loaded."""
    made, either = schema_of(fields_of(Recipe).values()), ("method", "terms")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe of understudy",
        "description": (inspect.getdoc(Recipe) or "").partition("\n")[0],
        **made,
        "not": {"required": list(either), "properties": {key: {"not": {"type": "null"}} for key in either}},
        "$defs": _defs(),
    }


def _defs() -> dict[str, Any]:
    made: dict[str, Any] = {}
    term = fields_of(TermOf)
    for kind in KINDS:
        known = entries(kind)
        key, common = ("loss", {k: o for k, o in term.items() if k != "loss"}) if kind == "loss" else ("name", {})
        options = {
            n: schema_of([*common.values(), *e.options.values()], **{key: {"const": n}}) for n, e in known.items()
        }
        made |= {f"{kind}.{name}": {"description": known[name].summary, **said} for name, said in options.items()}
        made["term" if kind == "loss" else kind] = _named(kind, key, options)
    return made


def _named(kind: str, key: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Whichever of these the key names, with its options; where nothing else is required, the name alone will do."""
    chosen = [
        {
            "if": {"type": "object", "required": [key], "properties": {key: {"const": name}}},
            "then": {"$ref": f"#/$defs/{kind}.{name}"},
        }
        for name in options
    ]
    long = {"required": [key], "properties": {key: {"enum": list(options), "x-kind": kind}}, "allOf": chosen}
    bare = [name for name, said in options.items() if said["required"] == [key]]
    if kind == "loss":
        return {"type": "object", **long}
    return {
        "type": ["string", "object"],
        "if": {"type": "string"},
        "then": {"enum": bare, "x-kind": kind},
        "else": long,
    }
