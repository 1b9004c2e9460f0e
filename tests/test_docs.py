"""What README and docs say is run and checked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import understudy as us
from understudy import registry
from understudy.address import Address
from understudy.errors import InputError
from understudy.recipe.complaints import complaints
from understudy.recipe.examine import examine
from understudy.recipe.frame import Recipe, Teacher, TermOf
from understudy.recipe.reference import keys
from understudy.recipe.schema import schema
from understudy.recipe.text import read
from understudy.testing import Says

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_first_code_comes_by_line_15() -> None:
    assert README[: README.index("```python")].count("\n") < 15


def test_the_readmes_code_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(README, "python"):
        exec(re.sub(r"epochs=20", "epochs=4", block), names)
    assert names["loss"].requires_grad
    assert "student alone" in capsys.readouterr().out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "student.onnx"]


def test_the_readmes_table_is_what_the_demo_printed() -> None:
    printed = (ROOT / "docs/results/demo.txt").read_text()
    table = printed[printed.index("On test") : printed.index("The run:")].rstrip()
    assert table in README


RECIPES = (ROOT / "docs/recipes.md").read_text()


def recipes_in(*pages: str) -> list[str]:
    return [block for page in pages for block in blocks(page, "yaml")]


@pytest.mark.parametrize("text", recipes_in(README, RECIPES))
def test_a_recipe_in_the_docs_is_sound_by_its_schema(text: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    document = read(tmp_path / "my.yaml")
    found = [
        told for where, told in complaints(document, schema()) if where not in (("data",), ("student",), ("teacher",))
    ]
    assert found == [] if "labeled" not in text else len(found) == 4  # the one that shows what is refused


def test_the_refusals_in_the_docs_are_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = next(text for text in recipes_in(RECIPES) if "labeled" in text)
    Path("bad.yaml").write_text(wrong)
    with pytest.raises(InputError) as error:
        examine(read(Path("bad.yaml")))
    assert f"```\n{error.value}\n```" in RECIPES


def test_the_refusals_in_the_readme_are_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^my.yaml:\d+: .*$", README, flags=re.MULTILINE)
    Path("my.yaml").write_text(
        "data: digits\n\nstudent: {name: CNN, channels: 8, chanels: 8}\nteacher: {model: {name: CNN, channels: 32}}\n"
        "terms:\n  - {loss: cross_entropy, at: [student, batch.label]}\n"
        "  - {loss: kl, at: [student, teacher], temprature: 4}\n  - {loss: mse, at: [student.layr2, teacher.layer2]}\n"
    )
    with pytest.raises(InputError) as error:
        examine(read(Path("my.yaml")))
    assert str(error.value).split("\n") == lines


@pytest.mark.parametrize("kind", [Recipe, Teacher, TermOf])
def test_the_keys_in_the_docs_are_those_of_recipes(kind: type) -> None:
    assert keys(kind) in RECIPES  # python -m understudy.recipe.reference


def test_the_schema_beside_the_ready_recipes_is_theirs() -> None:
    there = (ROOT / "src/understudy/recipe/recipes/schema.json").read_text()
    assert json.loads(there) == json.loads(json.dumps(schema()))  # understudy schema > recipes/schema.json


def test_the_plugin_in_the_docs_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plugin = next(block for block in blocks(RECIPES, "python") if "@register" in block)
    (tmp_path / "my_models.py").write_text(plugin)
    (tmp_path / "my.yaml").write_text(
        "data: digits\nstudent: {name: Tiny, width: 32}\nteacher: {model: {name: CNN, channels: 32}}\n"
        "terms: [{loss: huber, at: [student, teacher], delta: 2}]\n"
    )
    before = dict(registry._PLUGGED)
    try:
        assert [e.name for e in registry.load_plugin(tmp_path / "my_models.py")] == ["Tiny", "huber"]
        examined = examine(read(tmp_path / "my.yaml"))
    finally:
        registry._PLUGGED.clear()
        registry._PLUGGED.update(before)
    assert examined.resolved.value["student"] == {"name": "Tiny", "inputs": 1, "classes": 10, "width": 32}


def test_every_address_in_the_docs_parses_and_is_read_back() -> None:
    page = (ROOT / "docs/addresses.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    assert len(rows) > 8
    assert [str(Address.parse(row)) for row in rows] == rows


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text())]
    assert len(links) > 5
    assert [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()] == []


def test_the_shipped_fake_counts_and_cannot_be_spoilt() -> None:
    teacher = Says(torch.tensor([[0.0, 1.0]]))
    method = us.methods.kd(torch.nn.Linear(3, 2), teacher, alpha=1.0)
    method.loss(torch.zeros(1, 3)).backward()
    assert teacher.calls == 1
    teacher(1, b=2).zero_()
    assert teacher.inputs == ((1,), {"b": 2})
    assert teacher(1).tolist() == [[0.0, 1.0]]
    assert Says({"logits": 3})(0) == {"logits": 3}


def test_the_readmes_textbook_table_is_what_the_example_printed() -> None:
    assert (ROOT / "docs/results/textbook.txt").read_text().rstrip() in README


TEACHERS = (ROOT / "docs/teachers.md").read_text()


def test_the_teachers_in_the_docs_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    found = re.findall(r"(?:<!-- before: ([^\n]*) -->\n)?```python\n(.*?)```", TEACHERS, flags=re.DOTALL)
    ran = [block for before, block in found if "keras(" not in block and "my_teachers" not in block]
    assert (
        len(ran) == len(found) - 2 == 4
    )  # test_keras.py has the teachers of Keras, recipe/test_teachers.py the plugin
    for before, block in found:
        if block in ran:
            exec(before, names)
            exec(block, names)
            assert names["teacher"](names["images"][:3]).shape == (3, 10)


def test_every_teacher_has_a_row_in_its_page() -> None:
    table = TEACHERS[: TEACHERS.index("Where there are no layers")]
    for name in (*us.teachers.__all__, *(n for n, e in registry.entries("teacher").items() if e.kind == "teacher")):
        if name not in ("Ema", "Stored", "load_weights", "named_model", "timm"):
            assert re.search(rf"\b{name}\b", table), name


def test_the_question_of_a_user_of_tensorflow_is_answered_in_two_lines() -> None:
    (answer,) = re.findall(r"\*\*TensorFlow or PyTorch\?\*\* (.*?)\n\n", README, flags=re.DOTALL)
    assert answer.count("\n") == 1
