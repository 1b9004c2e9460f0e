"""The schema is one that editors can read, and it takes what the checks take."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from ruamel.yaml import YAML

from understudy.recipe.forms import fields_of
from understudy.recipe.frame import Recipe
from understudy.recipe.ready import ready, templates
from understudy.recipe.schema import MODELINE, schema
from understudy.registry import KINDS, entries, register

ALL = {
    **{f"recipes/{k}": v.path for k, v in ready().items()},
    **{f"templates/{k}": v.path for k, v in templates().items()},
}


def loaded(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


def test_it_is_a_valid_json_schema_of_2020_12() -> None:
    Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_a_schema_that_is_none_would_be_seen() -> None:
    with pytest.raises(SchemaError):
        Draft202012Validator.check_schema({**schema(), "required": "data"})


def test_it_is_plain_json() -> None:
    assert json.loads(json.dumps(schema(), allow_nan=False)) == schema()


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k == "$ref")
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def test_every_reference_leads_somewhere() -> None:
    made = schema()
    assert {ref.removeprefix("#/$defs/") for ref in references(made)} <= made["$defs"].keys()


def test_every_entry_of_every_kind_is_in_it_with_its_summary() -> None:
    defs = schema()["$defs"]
    for kind in KINDS:
        for name, entry in entries(kind).items():
            assert defs[f"{kind}.{name}"]["description"] == entry.summary


def test_every_key_is_described() -> None:
    made = schema()["properties"]
    assert list(made) == list(fields_of(Recipe))
    assert [key for key, said in made.items() if not said.get("description")] == []


def test_an_entry_of_a_plugin_is_in_it() -> None:
    assert "curve.mine" not in schema()["$defs"]

    @register("curve")
    def mine(height: float) -> Any:
        """Mine."""

    assert schema()["$defs"]["curve.mine"]["properties"]["height"] == {"type": "number"}


def test_there_are_the_ready_recipes_that_the_docs_name() -> None:
    assert set(ready()) == {
        "accept",
        "compare",
        "csv",
        "digits",
        "digits-all-labels",
        "digits-hints",
        "hugging-face",
        "images",
        "teachers/keras",
        "teachers/tensorflow",
        "vision/resnet152-resnet50-fitnets",
    }
    assert set(templates()) == {"image-classification", "multi-label", "tabular-classification", "tabular-regression"}


@pytest.mark.parametrize("path", ALL.values(), ids=list(ALL))
def test_a_ready_recipe_is_short_has_the_modeline_and_fits(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 40
    assert lines[0].startswith("# yaml-language-server: $schema=")
    assert max(map(len, lines)) <= 140
    assert list(Draft202012Validator(schema()).iter_errors(loaded(path))) == []


@pytest.mark.parametrize("name", list(templates()))
def test_a_template_begins_with_the_modeline_that_init_promises(name: str) -> None:
    assert templates()[name].path.read_text(encoding="utf-8").splitlines()[0] == MODELINE


@pytest.mark.parametrize("name", list(ready()))
def test_a_ready_recipes_modeline_names_a_file_beside_it_or_the_one_that_is_printed(name: str) -> None:
    path = ready()[name].path
    target = path.read_text(encoding="utf-8").splitlines()[0].partition("$schema=")[2]
    assert target in ("schema.json", "../schema.json", "understudy.schema.json")


@pytest.mark.parametrize("path", ALL.values(), ids=list(ALL))
@pytest.mark.parametrize(
    "change",
    [{"epochs": 0}, {"epochs": "x"}, {"sedes": 3}, {"student": "nothing"}, {"student": {"name": "CNN"}}, {"teacher": {}}, {"data": None}],
    ids=str,
)  # fmt: skip
def test_a_ready_recipe_with_a_mistake_does_not_fit(path: Path, change: dict[str, Any]) -> None:
    assert list(Draft202012Validator(schema()).iter_errors(loaded(path) | change))


def test_method_or_terms_but_not_both() -> None:
    recipe = loaded(ready()["digits"].path)
    terms = [{"loss": "kl", "at": ["student", "teacher"]}]
    assert list(Draft202012Validator(schema()).iter_errors({**recipe, "terms": terms}))
    without = {k: v for k, v in recipe.items() if k != "method"}
    assert not list(Draft202012Validator(schema()).iter_errors({**without, "terms": terms}))
    assert not list(Draft202012Validator(schema()).iter_errors(without))
