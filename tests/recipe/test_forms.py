"""Types as what recipes may give for them, and as what is passed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from jsonschema import Draft202012Validator
from torch import Tensor, nn

from understudy.progress import Curve
from understudy.recipe.forms import Named, Rule, branch, entry_kind, fields_of, form, given, inner, schema_of
from understudy.registry import Option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two.

    Attributes:
        left: the one.
        right: the other.
    """

    left: int
    right: str = "r"
    hidden: Tensor | None = None


FORMS = [
    (bool, {"type": "boolean"}),
    (int, {"type": "integer"}),
    (float, {"type": "number"}),
    (str, {"type": "string"}),
    (Path, {"type": "string", "minLength": 1, "format": "path"}),
    (Literal["a", 1], {"enum": ["a", 1]}),
    (Sequence[int], {"type": "array", "items": {"type": "integer"}}),
    (list[str], {"type": "array", "items": {"type": "string"}}),
    (tuple[float, ...], {"type": "array", "items": {"type": "number"}}),
    (tuple[int, str], {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2}),
    (Mapping[str, float], {"type": "object", "additionalProperties": {"type": "number"}}),
    (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    (int | int, {"type": "integer"}),
    (Annotated[int, Rule("minimum", 1), Rule("maximum", 9)], {"type": "integer", "minimum": 1, "maximum": 9}),
    (Annotated[Any, Named("method")], {"$ref": "#/$defs/method"}),
    (Curve, {"$ref": "#/$defs/curve"}),
    (nn.Module, {"$ref": "#/$defs/projector"}),
    (float | Curve, {"anyOf": [{"type": "number"}, {"$ref": "#/$defs/curve"}]}),
    (nn.Module | None, {"anyOf": [{"$ref": "#/$defs/projector"}, {"type": "null"}]}),
    (
        Pair,
        {
            "type": "object",
            "properties": {
                "left": {"type": "integer", "description": "the one."},
                "right": {"type": "string", "description": "the other.", "default": "r"},
                "hidden": {"type": "null", "default": None},
            },
            "required": ["left"],
            "additionalProperties": False,
        },
    ),
    (Tensor, None), (Any, None), (object, None), (Sequence[Tensor], None), (tuple[int, Tensor], None), (Mapping[str, Any], None),
    (Annotated[Tensor, Rule("minimum", 1)], None), (Tensor | nn.Parameter, None), (type, None), (list, None), (tuple, None), (dict, None),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "made"), FORMS, ids=lambda v: str(v)[:50])
def test_a_type_has_its_form_or_none(annotation: Any, made: dict[str, Any] | None) -> None:
    assert form(annotation) == made
    if made is not None:
        Draft202012Validator.check_schema(made)


def test_an_option_without_a_form_cannot_be_given() -> None:
    made = schema_of([Option("a", int), Option("b", Tensor), Option("c", Tensor, None)], name={"const": "x"})
    assert list(made["properties"]) == ["name", "a"]
    assert made["required"] == ["name", "a"]
    assert made["additionalProperties"] is False


def enter(kind: str, raw: Mapping[str, Any]) -> tuple[str, Any]:
    return kind, dict(raw)


@pytest.mark.parametrize(
    ("annotation", "value", "passed"),
    [
        (int, 3, 3),
        (float, 3, 3),
        (Path, "a/b", Path("a/b")),
        (str, "a/b", "a/b"),
        (Path | float, "a", Path("a")),
        (Path | float, 0.2, 0.2),
        (Path | float, 1, 1),
        (Path | None, None, None),
        (int | tuple[int, int], [3, 4], (3, 4)),
        (int | tuple[int, int], 3, 3),
        (tuple[float, ...], [1, 2, 3], (1, 2, 3)),
        (Sequence[int], [1, 2], [1, 2]),
        (str | Sequence[str] | Mapping[str, str], {"a": "b"}, {"a": "b"}),
        (str | Sequence[str] | Mapping[str, str], ["a"], ["a"]),
        (Mapping[str, Path], {"a": "b"}, {"a": Path("b")}),
        (Sequence[tuple[int, Path]], [[1, "a"]], [(1, Path("a"))]),
        (bool | int, True, True),
        (int | bool, True, True),
        (Annotated[int, Rule("minimum", 1)], 3, 3),
        (Annotated[Any, Named("loss")], {"name": "kl"}, ("loss", {"name": "kl"})),
        (float | Curve, {"name": "linear", "start": 1}, ("curve", {"name": "linear", "start": 1})),
        (float | Curve, 2.0, 2.0),
        (nn.Module | None, {"name": "Linear"}, ("projector", {"name": "Linear"})),
        (Literal["a", "b"] | None, "b", "b"),
        (Pair, {"left": 1}, Pair(left=1)),
        (Pair | None, {"left": 1, "right": "x"}, Pair(left=1, right="x")),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_is_passed_on_as_its_type_says(annotation: Any, value: Any, passed: Any) -> None:
    made = given(annotation, value, enter)
    assert made == passed
    assert type(made) is type(passed)


def test_of_a_union_the_part_is_taken_that_the_value_is_of() -> None:
    assert branch(Annotated[Path | float | None, Rule("minimum", 0)], "x") is Path
    assert branch(Path | float | None, 0.5) is float
    assert branch(Path | float | None, None) is type(None)
    assert branch(int | float, 3) is int


def test_a_kind_of_entry_is_known_by_its_note() -> None:
    assert entry_kind(Annotated[Any, Named("model")]) == "model"
    assert entry_kind(Curve) == "curve"
    assert entry_kind(nn.Module) == "projector"
    assert entry_kind(nn.Linear) is None
    assert entry_kind(int) is None


def test_the_parts_of_a_value_have_their_types() -> None:
    assert list(inner(tuple[int, str], [1, "a"])) == [(0, int, 1), (1, str, "a")]
    assert list(inner(tuple[int, ...], [1, 2])) == [(0, int, 1), (1, int, 2)]
    assert list(inner(Mapping[str, float], {"a": 1})) == [("a", float, 1)]
    assert list(inner(list, [1])) == []


def test_a_dataclass_is_its_fields() -> None:
    fields = fields_of(Pair)
    assert list(fields) == ["left", "right", "hidden"]
    assert fields["left"].required
    assert fields["right"].default == "r"
    assert fields["left"].told == "the one."
