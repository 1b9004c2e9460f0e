import importlib.util
import json
from pathlib import Path

import pytest

from .calls import call, too_wide


def test_it_tells_data_models_terms_and_cost_on_eighty_columns_and_writes_nothing(tmp_path: Path) -> None:
    told = call("check", "digits", "--set", "method.alpha=0.5")
    assert (told.code, told.err) == (0, "")
    assert too_wide(told.out) == []
    for words in (
        "digits: sound. The task is classification.",
        "1,000        200",
        "3,778",
        "56,554",
        "kl(student, teacher)",
        "cross_entropy(student, batch.label)",
        "student [64, 10]",
        "Time, about: ",
        "Memory, about: ",
        "Disk, about: ",
    ):
        assert words in told.out
    assert list(tmp_path.iterdir()) == []


def test_a_long_term_is_folded_and_its_numbers_stay_whole() -> None:
    term = "{loss: mse, at: [student.layer1.0.conv1, teacher.layer2.0.conv1], project: Conv1x1, weight: 0.123}"
    nets = [f"{name}={{name: ResNet, channels: 4, blocks: [1, 1]}}" for name in ("student", "teacher.model")]
    told = call(
        "check", "digits", "--set", "method=null", "--set", f"terms=[{term}]", "--set", nets[0], "--set", nets[1]
    )
    assert told.code == 0, told.err
    assert too_wide(told.out) == []
    for words in ("student.layer1.0.conv1 [64, 4, 8, 8]", "teacher.layer2.0.conv1 [64, 8, 4, 4]", " 0.123 ", "100%"):
        assert words in told.out


def test_json_is_one_line_with_the_same_things() -> None:
    told = call("check", "digits", "--set", "method.alpha=0.5", "--json")
    assert (told.code, told.err) == (0, "")
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    assert answer["sound"] is True
    assert answer["problems"] == []
    assert answer["data"]["train"] == {"samples": 1000, "labelled": 200}
    assert [m["parameters"] for m in answer["models"]] == [3778, 56554]
    assert sum(term["share"] for term in answer["terms"]) == pytest.approx(1)
    assert answer["cost"]["seconds"].keys() == {"teacher", "alone", "distilled", "fine-tuned", "soft labels"}


DROWNED = ("--set", "method={name: attention_transfer, weight: 1e6}")


def test_labels_that_are_drowned_are_warned_of() -> None:
    told = call("check", "digits", *DROWNED)
    assert told.code == 0
    assert told.out.startswith("digits: sound, with 1 warning. The task is classification.\nWarning: cross_entropy(")
    answer = json.loads(call("check", "digits", *DROWNED, "--json").out)
    assert (answer["sound"], len(answer["warnings"])) == (True, 1)
    assert json.loads(call("check", "digits", "--json").out)["warnings"] == []


def test_json_of_a_bad_recipe_lists_its_problems() -> None:
    Path("my.yaml").write_text("task: nonsense\ndata: digits\nstudent: {name: CNN}\nteacher: {model: CNN}\n")
    told = call("check", "my.yaml", "--json")
    assert (told.code, told.err) == (2, "")
    assert told.out.count("\n") == 1
    answer = json.loads(told.out)
    assert answer["sound"] is False
    assert [line[:9] for line in answer["problems"]] == ["my.yaml:1", "my.yaml:3", "my.yaml:4"]


def test_json_answers_also_where_there_is_no_recipe() -> None:
    told = call("check", "nope.yaml", "--json")
    assert (told.code, told.err) == (2, "")
    assert json.loads(told.out)["problems"][0].startswith("nope.yaml: there is no such file")


def test_a_value_that_is_laid_over_is_checked_and_named() -> None:
    told = call("check", "digits", "--set", "student.channels=16", "--set", "method.temprature=2", "--seed-of-nothing")
    assert told.code == 2
    assert "--seed-of-nothing" in told.err
    told = call("check", "digits", "--set", "student.channels=16", "--set", "method.temprature=2")
    assert told.code == 2
    assert told.err.startswith("--set 'method.temprature=2': ")
    assert "Did you mean 'temperature'?" in told.err


@pytest.mark.parametrize(("key", "lacking"), [("report", "jinja2"), ("export", "onnxscript")])
def test_packages_that_the_page_or_the_export_lack_are_told(
    key: str, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "needs a package" not in call("check", "digits").out
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == lacking else find(name, *rest))
    told = call("check", "digits")
    assert told.code == 0
    assert f"{key} needs a package that is not installed. Fix: pip install 'understudy[" in told.out
    assert "Until then there is none." in told.out
    assert len(json.loads(call("check", "digits", "--json").out)["missing"]) == 1
    asked = call("check", "digits", "--set", {"report": "report=true", "export": "export=deploy"}[key], "--json")
    assert asked.code == 4
    assert json.loads(asked.out)["problems"][0].startswith(f"--set '{key}=")


def test_a_runs_folder_can_be_checked(run: Path) -> None:
    told = call("check", run, "--json")
    assert told.code == 0
    assert json.loads(told.out)["sound"] is True


def test_signs_of_markup_in_a_name_are_shown_as_they_are(run: Path) -> None:
    Path("[red]").mkdir()
    Path("[red]/[bold].yaml").write_text((run / "recipe.yaml").read_text())
    assert call("check", "[red]/[bold].yaml").out.startswith("[red]/[bold].yaml: sound.")


def test_data_of_a_ready_recipe_is_looked_for_in_the_users_folder() -> None:
    told = call("check", "csv")
    assert told.code == 2
    assert (
        told.err == "csv: its data is not here yet. Write it first: understudy data breast-cancer data/breast-cancer\n"
    )
    assert call("data", "breast-cancer", "data/breast-cancer").code == 0
    assert call("check", "csv").code == 0
