import json
import re
from pathlib import Path
from typing import Any

import pytest

from understudy.cli.listing import HOMES, KINDS, _names
from understudy.recipe.ready import ready
from understudy.registry import entries

from .calls import call, too_wide


def listed(*arguments: Any) -> Any:
    told = call("list", *arguments, "--json")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("\n") == 1
    return json.loads(told.out)


@pytest.mark.parametrize("what", KINDS)
def test_every_kind_names_each_entry_with_a_line_of_its_own(what: str) -> None:
    told = call("list", what)
    assert (told.code, told.err) == (0, "")
    assert too_wide(told.out) == []
    rows = listed(what)
    known = [e for e in entries(KINDS[what]).values() if e.kind == KINDS[what]]
    assert [row["name"] for row in rows] == [e.name for e in known]
    assert all(f"\n {row['name']} " in told.out for row in rows)
    assert all(row["told"] and "``" not in row["told"] for row in rows)
    assert not [row["told"] for row in rows if re.search(r":\w+:`", row["told"])]  # no markup


@pytest.mark.parametrize("what", KINDS)
def test_every_entry_tells_its_options(what: str) -> None:
    for row in listed(what):
        told = call("list", what, row["name"])
        assert (told.code, too_wide(told.out)) == (0, [])
        options = listed(what, row["name"])["options"]
        assert {o["option"] for o in options} <= set(row["options"].split(", "))
        assert all(f"\n  {o['option']} " in told.out for o in options)
        assert "None" not in told.out.replace("None does not clip", "")


FAMILIES = {
    "response", "feature", "attention", "transformer", "relation", "contrastive", "graph", "self", "online", "adversarial",
    "robust", "data-free", "GAN", "several teachers", "domain", "baseline",
}  # fmt: skip


def without_origin(rows: list[dict[str, Any]]) -> list[str]:
    """Methods that do not say whose they are, or of what kind."""
    paper = re.compile(r"[A-Z].* (19|20)\d\d( \(.+\))?, .+")
    known = [
        r["name"] for r in rows if r["family"] in FAMILIES and (paper.fullmatch(r["paper"]) or r["name"] == "alone")
    ]
    return [row["name"] for row in rows if row["name"] not in known]


def test_sixty_methods_and_more_tell_their_paper_and_their_family() -> None:
    rows = listed("methods")
    assert len(rows) >= 60
    assert without_origin(rows) == []
    assert {row["family"] for row in rows} == FAMILIES
    by_name = {row["name"]: row for row in rows}
    assert (by_name["kd"]["family"], by_name["kd"]["paper"]) == ("response", "Hinton et al. 2015, arXiv:1503.02531")
    # The control: one of no known family, and one whose paper cannot be read.
    assert without_origin([{**by_name["kd"], "family": "soft"}, {**by_name["dkd"], "paper": "its code"}]) == [
        "kd",
        "dkd",
    ]


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_of_methods_fits_the_screen(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    told = call("list", "methods").out
    assert max(map(len, told.splitlines())) <= width
    assert ("Soft labels beside hard ones." in told) == (width == 140)
    assert re.search(r"\n kd +response +Hinton et al. 2015,", told)
    assert re.search(r"\n specialists +several teachers +Vongkulbhisal et al. 2019,", told)


def test_one_method_and_one_loss_tell_theirs_too() -> None:
    assert "\nself; Yun et al. 2020 (CS-KD), arXiv:2003.13964\n" in call("list", "methods", "cs_kd").out
    assert "\nresponse; Zhao et al. 2022, arXiv:2203.08679\n" in call("list", "losses", "dkd").out
    told = listed("methods", "cs_kd")
    assert (told["family"], told["paper"]) == ("self", "Yun et al. 2020 (CS-KD), arXiv:2003.13964")


@pytest.mark.parametrize("what", ["methods", "losses"])
def test_a_list_can_be_of_one_family(what: str) -> None:
    every = listed(what)
    some = json.loads(call("list", what, "--family", "relation", "--json").out)
    assert some == [row for row in every if row["family"] == "relation"]
    assert 0 < len(some) < len(every)
    assert {row["family"] for row in every} <= FAMILIES
    wrong = call("list", what, "--family", "relations")
    assert wrong.code == 2
    assert "Did you mean 'relation'?" in wrong.err


@pytest.mark.parametrize("words", [("models",), ("methods", "kd"), ("recipes",)])
def test_a_family_is_of_methods_and_losses_only(words: tuple[str, ...]) -> None:
    told = call("list", *words, "--family", "relation")
    assert told.code == 2
    assert "--family" in told.err


@pytest.mark.parametrize("what", HOMES)
def test_the_shell_is_told_the_names_of_the_registry(what: str) -> None:
    assert _names(what) == [row["name"] for row in listed(what)]


def test_an_option_says_what_it_is_and_what_stands_if_it_is_not_given() -> None:
    told = call("list", "methods", "kd").out
    assert "temperature  a number, 4.0 if not given: T > 0." in told
    assert "a whole number, needed: of the first layer" in call("list", "models", "CNN").out
    assert "a whole number, from the data if not given" in call("list", "models", "CNN").out
    assert "It has no options." in call("list", "losses", "mse").out
    by_name = {o["option"]: o for o in listed("models", "CNN")["options"]}
    assert by_name["channels"]["required"] is True
    assert by_name["inputs"]["required"] is False


RESIDUAL = "student={name: ResNet, channels: 4, blocks: [1, 1, 1]}"


def test_layers_of_a_residual_net_have_their_addresses_and_shapes() -> None:
    rows = {row["address"]: row for row in listed("layers", "digits", "--set", RESIDUAL)}
    assert rows["student"] == {"address": "student", "is": "ResNet", "shape": "[4, 10]", "parameters": 4934}
    shapes = {name: rows[f"student.{name}"]["shape"] for name in ("layer1", "layer2", "layer3")}
    assert shapes == {"layer1": "[4, 4, 8, 8]", "layer2": "[4, 8, 4, 4]", "layer3": "[4, 16, 2, 2]"}
    assert rows["teacher.layer2"]["shape"] == "[4, 64, 4, 4]"
    told = call("list", "layers", "digits", "--set", RESIDUAL)
    assert too_wide(told.out) == []
    assert " student.layer1.0.conv1 " in told.out


def test_where_there_is_no_screen_each_address_stays_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = call("list", "layers", "digits", "--set", RESIDUAL).out.splitlines()
    assert any(line.split()[:2] == ["student.layer2.0.conv1", "Conv2d"] for line in lines)


def test_an_address_of_the_list_is_one_that_a_term_can_read() -> None:
    terms = "terms=[{loss: mse, at: [student.layer3, stop student.layer3]}]"
    assert call("check", "digits", "--set", "method=null", "--set", RESIDUAL, "--set", terms).code == 0
    wrong = terms.replace("layer3", "layer9")
    assert call("check", "digits", "--set", "method=null", "--set", RESIDUAL, "--set", wrong).code == 2


def test_layers_of_a_recipe_that_is_otherwise_wrong() -> None:
    Path("my.yaml").write_text(
        "data: digits\nstudent: {name: CNN, channels: 4}\nteacher: {model: {name: CNN, channels: 8}}\nepochs: many\n"
    )
    assert call("check", "my.yaml").code == 2
    assert "student.layer1" in {row["address"] for row in listed("layers", "my.yaml")}


def test_ready_recipes_and_their_text() -> None:
    rows = listed("recipes")
    assert {row["name"] for row in rows} == ready().keys()
    told = call("list", "recipes")
    assert too_wide(told.out) == []
    assert "understudy[transformers]" in "".join(told.out.split())  # what is in brackets is no markup
    for row in rows:
        assert call("list", "recipes", row["name"]).out == Path(row["path"]).read_text()
        assert listed("recipes", row["name"])["text"] == Path(row["path"]).read_text()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (["layers"], "of which recipe? Write: understudy list layers my.yaml"),
        (["layers", "nope.yaml"], "nope.yaml: there is no such file"),
        (["recipes", "digit"], "Did you mean 'digits'?"),
        (["models", "CNNN"], "there is no model 'CNNN'. Did you mean 'CNN'?"),
        (["losses", "--set", "a=1"], "--set changes a recipe, and none is read here."),
        (["losses", "--plugin", "nope.py"], "--plugin nope.py: "),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_cannot_be_listed_is_told(typed: list[str], told: str) -> None:
    answer = call("list", *typed)
    assert (answer.code, answer.out) == (2, "")
    assert told in answer.err


def test_what_a_plugin_adds_is_listed_with_its_file() -> None:
    Path("mine.py").write_text(
        "from understudy import register\n@register('curve')\ndef step_of_the_list(height: float = 1.0):\n"
        '    """A step.\n\n    Args:\n        height: how high it is.\n    """\n    return lambda progress: height\n'
    )
    row = listed("curves", "--plugin", "mine.py")[-1]
    assert (row["name"], row["options"], row["told"]) == ("step_of_the_list", "height", "A step.")
    assert Path(row["source"]).name == "mine.py"
    assert "height  a number, 1.0 if not given: how high it is." in call("list", "curves", "step_of_the_list").out
