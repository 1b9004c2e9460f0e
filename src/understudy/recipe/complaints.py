"""What is wrong with a recipe by its schema: where, what was typed, what is allowed, and the nearest name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from understudy.errors import choices
from understudy.recipe.text import Document, Where, shown
from understudy.registry import entries

__all__ = ["Complaint", "complaints", "dotted", "words"]

Complaint = tuple[Where, str]
"""Where in the document, and the sentence without its place."""

_TYPES = {
    "boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "a text", "null": "null",
    "object": "a mapping", "array": "a list",
}  # fmt: skip


def complaints(document: Document, schema: Mapping[str, Any]) -> list[Complaint]:
    """All of them, in the order of the recipe's lines."""
    found = [c for e in Draft202012Validator(schema).iter_errors(document.value) for c in _of(e)]
    return sorted(dict.fromkeys(found), key=lambda c: (document.place(c[0]).line, dotted(c[0])))


def dotted(where: Where) -> str:
    """The way to a value as it is said.

    >>> dotted(("terms", 0, "at", 1))
    'terms[0].at[1]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")


def words(schema: Mapping[str, Any]) -> str:
    """What a schema allows, in words.

    >>> words({"type": "integer", "minimum": 1}), words({"anyOf": [{"type": "number"}, {"$ref": "#/$defs/curve"}]})
    ('a whole number, 1 or above', 'a number or a curve')
    """
    if "anyOf" in schema:
        return " or ".join(
            words(part) for part in schema["anyOf"] if part != {"type": "null"}
        )  # which is leaving it out
    if "$ref" in schema:
        return _a(str(schema["$ref"]).rpartition("/")[2])
    if "enum" in schema:
        return " or ".join(map(shown, schema["enum"]))
    if isinstance(schema["type"], list):  # of an entry
        return f"the name of {_a(schema['then']['x-kind'])}, or a mapping of its name and its options"
    told = "a path" if schema.get("format") == "path" else _TYPES[schema["type"]]
    if "prefixItems" in schema:
        return f"a list of {len(schema['prefixItems'])}, each {words(schema['prefixItems'][0])}"
    if schema["type"] == "array" and "items" in schema:
        told += f" of which each is {words(schema['items'])}"
    if "minimum" in schema:
        told += f", {schema['minimum']} " + (f"to {schema['maximum']:,}" if "maximum" in schema else "or above")
    if "exclusiveMinimum" in schema:
        told += f" above {schema['exclusiveMinimum']}"
    return told + (
        ", not empty" if told in ("a text", "a list") and (schema.get("minItems") or schema.get("minLength")) else ""
    )


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {'data set' if kind == 'data' else kind}"


def _of(error: ValidationError) -> Iterator[Complaint]:
    where: Where = tuple(error.absolute_path)
    schema, value = error.schema, error.instance
    assert isinstance(schema, Mapping)  # ours have no other
    if error.validator == "additionalProperties" and "properties" in schema:
        yield from (
            _unknown(where, key, value, schema["properties"]) for key in value if key not in schema["properties"]
        )
    elif error.validator == "required":
        yield from (
            ((*where, key), _lacking(where, key, value, schema)) for key in error.validator_value if key not in value
        )
    elif error.validator == "enum" and "x-kind" in schema:
        yield where, _misnamed(where, value, schema["x-kind"])
    elif error.validator == "anyOf":
        yield from _of_union(error, where)
    elif error.validator == "not":
        yield ("terms",), "method and terms exclude each other: terms are a method of your own. Remove one of them."
    else:
        yield where, _unfit(where, value, schema)


def _unfit(where: Where, value: Any, schema: Mapping[str, Any]) -> str:
    allowed = [v for part in (schema, *schema.get("anyOf", ())) for v in part.get("enum", ())]
    near = choices(value, allowed) if allowed else ""
    hint = f" {near}" if near.startswith("Did") else ""
    return f"{dotted(where)}: must be {words(schema)}; you wrote {shown(value)}.{hint}"


def _owner(where: Where, value: Mapping[str, Any]) -> str:
    """Who has keys: the recipe, a part of it, or what that part names."""
    name = value.get("name", value.get("loss"))
    if not where:
        return "a recipe"
    return f"{dotted(where)}:" + (f" {name}" if isinstance(name, str) else "")


def _unknown(where: Where, key: str, value: Mapping[str, Any], allowed: Mapping[str, Any]) -> Complaint:
    what = "option" if {"name", "loss"} & value.keys() else "key"
    near = choices(key, allowed)
    if not where and not near.startswith("Did"):
        homes = ["teacher"] if key in ("weights", "teacher_epochs") else []
        homes += [part for part in ("optimizer", "method") if any(key in e.options for e in entries(part).values())]
        near = f"It is an option of the {homes[0]}: write it there." if homes else near
    return (*where, key), f"{_owner(where, value)} has no {what} {shown(key)}. {near}"


def _lacking(where: Where, key: str, value: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    said = schema.get("properties", {}).get(key, {})
    told = f": {said['description']}" if "description" in said else "."
    return f"{_owner(where, value)} needs {shown(key)}, which is not given{told}"


def _misnamed(where: Where, value: Any, kind: str) -> str:
    known = entries(kind)
    if isinstance(value, str) and value in known:  # by its name alone, which is not enough
        needs = [option.name for option in known[value].options.values() if option.required]
        return f"{dotted(where)}: {value} needs {' and '.join(needs)}: write {{name: {value}, {needs[0]}: ...}}."
    near = choices(value, known)
    if kind in ("curve", "projector") and isinstance(value, str) and _is_number(value):
        near = "A number has no quotes."
    elif not near.startswith("Did") and kind != "optimizer":
        near += " Or does a file have it that is to be named with --plugin?"
    return f"{dotted(where)}: there is no {kind} {shown(value)}. {near}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_union(error: ValidationError, where: Where) -> Iterator[Complaint]:
    """What is wrong by the one branch that is of the value's kind; if there is none such, what would be allowed."""
    kind = "object" if isinstance(error.instance, dict) else "array" if isinstance(error.instance, list) else None
    near = [
        i for i, b in enumerate(error.validator_value) if b.get("type") == kind or (kind == "object" and "$ref" in b)
    ]
    if isinstance(error.instance, str):
        near = [i for i, b in enumerate(error.validator_value) if "$ref" in b]
    if len(near) != 1:
        assert isinstance(error.schema, Mapping)
        yield where, _unfit(where, error.instance, error.schema)
    for inner in error.context or ():
        if len(near) == 1 and inner.schema_path[0] == near[0]:
            yield from _of(inner)
