import json
from pathlib import Path

from jsonschema import Draft202012Validator

from understudy.recipe.schema import MODELINE, schema

from .calls import call


def test_it_prints_the_schema_by_which_recipes_are_checked() -> None:
    told = call("schema")
    assert (told.code, told.err) == (0, "")
    printed = json.loads(told.out)
    Draft202012Validator.check_schema(printed)
    assert printed == json.loads(json.dumps(schema()))
    check = Draft202012Validator(printed)
    good = {
        "data": "digits",
        "student": {"name": "CNN", "channels": 8},
        "teacher": {"model": {"name": "CNN", "channels": 32}},
    }
    assert check.is_valid(good)
    assert not check.is_valid({**good, "epochz": 3})


def test_a_plugins_models_are_in_it() -> None:
    Path("mine.py").write_text(
        "import torch\nfrom understudy import register\n@register('model')\nclass NetOfTheSchema(torch.nn.Identity):\n"
        "    def __init__(self, width: int) -> None:\n        super().__init__()\n"
    )
    defs = json.loads(call("schema", "--plugin", "mine.py").out)["$defs"]
    assert defs["model.NetOfTheSchema"]["properties"]["width"]["type"] == "integer"


def test_help_and_templates_have_the_line_for_editors() -> None:
    assert MODELINE in call("schema", "--help").out
    assert call("init", "image-classification").out.startswith(f"{MODELINE}\n")
