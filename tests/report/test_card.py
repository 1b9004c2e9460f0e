from __future__ import annotations

import io
import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from understudy.errors import InputError
from understudy.report.card import card, check

ROW = {
    "name": "distilled-int8", "accuracy": 0.966, "accuracy_ci95": 0.0111, "seeds": 3, "file_accuracy": 0.9656, "gap_closed": 0.3, "parameters": 2450,
    "size_bytes": 9800, "latency_ms_p50": 0.0139, "energy_mj": 0.129, "energy_how": "estimated", "precision": "int8", "runtime": "onnxruntime",
}  # fmt: skip
TOLD: dict[str, Any] = {
    "name": "digits-small",
    "about": "The smallest that is accepted.",
    "task": "classification",
    "classes": ["cat", "dog"],
    "metric": "accuracy",
    "row": ROW,
    "teacher": {"name": "teacher", "accuracy": 0.98, "size_bytes": 226_000, "parameters": 56_500},
    "others": [{"name": "alone", "accuracy": 0.95, "accuracy_ci95": 0.006, "seeds": 3}],
    "lineage": ["teacher: CNN", "student: MLP, by kd", "exported: onnx-int8"],
    "data": {"name": "digits", "split": "test", "samples": 360, "about": "Handwritten, 1998."},
    "recipe": {"method": "kd", "epochs": "30"},
    "target": "onnx-int8",
    "runtime": "onnxruntime",
    "file": "model.onnx",
    "checked": {"samples": 256, "max_error": 0.021, "agreement": 0.996},
    "measured": {"machine": "two cores, load 3"},
    "command": "understudy compare digits --ways distilled-int8",
}
TITLES = [
    "What it is", "Where it comes from", "Data", "Training", "Figures", "Size, speed, memory, energy", "Limits", "Licence", "How to use it",
    "How to make it again",
]  # fmt: skip


def head(text: str) -> dict[str, Any]:
    _, front, _ = text.split("---\n", 2)
    return YAML(typ="safe", pure=True).load(io.StringIO(front))


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return {title: body.strip() for title, body in zip(parts[1::2], parts[2::2], strict=True)}


def cell(section: str, line: str, column: str) -> str:
    rows = [[c.strip() for c in row.strip("|").split("|")] for row in section.splitlines() if row.startswith("|")]
    return next(row for row in rows if row[0] == line)[rows[0].index(column)]


# -- for machines ------------------------------------------------------------------------------------------------------


def test_the_head_says_what_machines_look_for() -> None:
    found = head(card(TOLD))
    assert (found["license"], found["license_name"], found["library_name"]) == ("other", "to-be-filled-in", "onnx")
    assert found["tags"] == ["knowledge-distillation", "understudy", "onnx-int8"]
    assert (found["datasets"], found["metrics"]) == (["digits"], ["accuracy"])
    (model,) = found["model-index"]
    (result,) = model["results"]
    assert (model["name"], result["task"]["type"]) == ("digits-small", "classification")
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert [(m["type"], m["value"]) for m in result["metrics"]] == [("accuracy", 0.9656), ("accuracy", 0.966)]
    assert "± 0.0111" in result["metrics"][1]["name"]


def test_hugging_face_reads_the_head() -> None:
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard(card(TOLD)).data
    assert (data.license, data.library_name, data.model_name) == ("other", "onnx", "digits-small")
    assert [result.metric_value for result in data.eval_results] == [0.9656, 0.966]
    assert data.eval_results[0].dataset_split == "test"


def test_the_check_by_hugging_face_sees_a_head_that_is_broken() -> None:
    hub = pytest.importorskip("huggingface_hub")
    with pytest.raises(ValueError, match=r".+"):
        hub.ModelCard(card(TOLD).replace("- task:", "- tusk:"), ignore_metadata_errors=False)


@pytest.mark.parametrize(
    "text", ["no", "on", "1e5", "12:30", "- a", "a: b", '"', "#x", "{", "null", "\\", "é 猫", "a\nb: c"]
)
def test_a_text_is_read_as_the_same_text_by_old_and_new_yaml(text: str) -> None:
    written = card({**TOLD, "name": text, "license": text, "tags": [text]})
    plain = " ".join(text.splitlines())
    for version in ((1, 1), (1, 2)):
        yaml = YAML(typ="safe", pure=True)
        yaml.version = version
        found = yaml.load(written.split("---\n", 2)[1])
        assert (found["license"], found["tags"][-1], found["model-index"][0]["name"]) == (plain, plain, plain)


@pytest.mark.parametrize("value", [1e-05, 123456789.0, 0.5, 3, 1e20])
def test_a_number_is_a_number_in_old_and_new_yaml(value: float) -> None:
    written = card({**TOLD, "row": {"accuracy": value}})
    for version in ((1, 1), (1, 2)):
        yaml = YAML(typ="safe", pure=True)
        yaml.version = version
        found = yaml.load(written.split("---\n", 2)[1])["model-index"][0]["results"][0]["metrics"][0]["value"]
        assert found == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("name", ["../data/my set.csv", "/home/me/x", "a b", ""])
def test_data_that_is_no_name_on_the_hub_is_not_claimed_to_be_one(name: str) -> None:
    found = head(card({**TOLD, "data": {"name": name}}))
    assert "datasets" not in found
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == "other"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_figure_that_is_none_is_no_result(value: float | None) -> None:
    assert "model-index" not in head(card({**TOLD, "row": {"accuracy": value}}))


# -- for people --------------------------------------------------------------------------------------------------------


def test_the_sections_come_in_their_order() -> None:
    assert list(sections(card(TOLD))) == TITLES


def test_figures_stand_with_their_interval_beside_teacher_and_student_alone() -> None:
    found = sections(card(TOLD))["Figures"]
    assert cell(found, "this model", "accuracy") == "0.9660 ± 0.0111"
    assert cell(found, "this model", "accuracy, from the file") == "0.9656"
    assert cell(found, "teacher", "accuracy") == "0.9800"
    assert cell(found, "alone", "accuracy") == "0.9500 ± 0.0060"
    assert "Measured on the test part" in found
    assert "on 256 samples: the largest difference of an output is 0.021, and the predictions agree on 99.60%" in found


def test_without_an_interval_it_is_said_that_there_is_none() -> None:
    found = sections(card({**TOLD, "row": {"accuracy": 0.9}, "others": []}))["Figures"]
    assert "There is no interval" in found
    assert "±" not in found


def test_costs_have_their_units_and_an_estimate_is_called_one() -> None:
    found = sections(card(TOLD))["Size, speed, memory, energy"]
    assert cell(found, "file, bytes", "this model") == "9,800"
    assert cell(found, "file, bytes", "teacher") == "226,000"
    assert cell(found, "energy is", "this model") == "estimated"
    assert "Energy is an estimate" in found
    assert "two cores, load 3" in found
    measured = sections(card({**TOLD, "row": {**ROW, "energy_how": "measured"}}))["Size, speed, memory, energy"]
    assert "estimate" not in measured


def test_what_was_not_tested_is_said() -> None:
    found = sections(card({**TOLD, "limits": ["Not for medicine."]}))["Limits"]
    assert "No bias was measured." in found
    assert "the test part of digits alone" in found
    assert "8 bits" in found
    assert found.endswith("- Not for medicine.")
    assert "8 bits" not in sections(card({**TOLD, "row": {}, "target": "onnx"}))["Limits"]


def test_a_licence_is_filled_in_or_said_to_be_missing() -> None:
    assert "Fill it in at the head of this file" in sections(card(TOLD))["Licence"]
    given = card({**TOLD, "license": "apache-2.0"})
    assert sections(given)["Licence"].startswith("apache-2.0")
    assert "license_name" not in head(given)


def test_a_file_that_was_not_run_is_said_to_be_so() -> None:
    told = {**TOLD, "target": "coreml", "checked": {"samples": 0}}
    assert "The file was not run" in sections(card(told))["Figures"]
    assert "pip install numpy coremltools" in sections(card(told))["How to use it"]


def test_the_way_to_use_it_and_to_make_it_again_are_commands() -> None:
    found = sections(card({**TOLD, "raw": True}))
    assert "python predict.py input.npy" in found["How to use it"]
    assert "CSV" in found["How to use it"]
    assert "CSV" not in sections(card(TOLD))["How to use it"]
    assert found["How to make it again"] == "```sh\nunderstudy compare digits --ways distilled-int8\n```"


def test_what_is_not_told_is_said_to_be_not_recorded() -> None:
    found = sections(card({"name": "bare"}))
    assert list(found) == TITLES
    assert [title for title, body in found.items() if body == "Not recorded."] == [
        "Where it comes from", "Data", "Training", "Figures", "Size, speed, memory, energy", "How to make it again",
    ]  # fmt: skip
    assert head(card({"name": "bare"})) == {
        "license": "other", "license_name": "to-be-filled-in", "tags": ["knowledge-distillation", "understudy"],
    }  # fmt: skip


def test_many_classes_are_counted_and_not_all_named() -> None:
    found = sections(card({**TOLD, "classes": [f"c{i}" for i in range(1000)]}))["What it is"]
    assert "1,000: c0, c1" in found
    assert "and 980 more" in found
    assert "c20" not in found


EVIL = "<script>evil()</script> [x](http://y) *b* `c`\n## Limits\n---\n| a |"


def poisoned() -> str:
    rows = {**ROW, "name": EVIL, "runtime": EVIL}
    told = {
        "name": EVIL, "about": EVIL, "task": EVIL, "classes": [EVIL], "row": rows, "others": [rows], "lineage": [EVIL], "limits": [EVIL],
        "data": {"name": EVIL, "split": EVIL, "about": EVIL}, "recipe": {EVIL: EVIL}, "measured": {EVIL: EVIL}, "file": EVIL, "runtime": EVIL,
    }  # fmt: skip
    return card({**TOLD, **told})


def intruders(text: str) -> list[str]:
    body = text.split("---\n", 2)[2]
    found = ["<"] * ("<" in body) + ["section"] * (list(sections(body)) != TITLES)
    for sign in "`[*":
        own = sum(line.count(sign) for line in OWN) if sign == "`" else 0
        found += [sign] * (len(re.findall(rf"(?<!\\)\{sign}", body)) != own)
    rows = [line for line in sections(body)["Figures"].splitlines() if line.startswith("|")]
    return found + ["|"] * (len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) != 1)


def test_nothing_in_the_data_becomes_markup() -> None:
    assert intruders(poisoned()) == []
    assert head(poisoned())["model-index"][0]["name"] == " ".join(EVIL.splitlines())


def test_the_check_of_markup_sees_a_card_without_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.report.card._inline", str)
    assert {"<", "section", "`", "[", "*"} <= set(intruders(poisoned()))


# The card's own code.
OWN = ("`license`", "`license_name`", "`other`", "`preprocessing.json`", "```sh", "```", "```sh", "```")


def test_a_command_with_backticks_stays_in_its_block() -> None:
    found = sections(card({**TOLD, "command": "a ``` b\n## Limits"}))
    assert found["How to make it again"].startswith("````sh\na ``` b")


@pytest.mark.parametrize(
    ("told", "message"),
    [({"name": "a", "licence": "mit"}, "no part 'licence'. Did you mean 'license'"), ({}, "name is missing")],
)
def test_a_wrong_part_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        card(told)


def test_parts_can_be_checked_before_there_are_any() -> None:
    check({"license": "mit"})
    with pytest.raises(InputError, match="no part 'x'"):
        check({"x": 1})


def test_the_same_facts_give_the_same_card() -> None:
    assert card(TOLD) == card(dict(TOLD))
    assert card(TOLD).endswith("```\n")
