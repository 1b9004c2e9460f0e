"""Every sentence about what is wrong with a recipe by itself: where, what was typed, what is allowed, the nearest name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipe.kit import document, problems
from understudy.recipe import complaints as module
from understudy.recipe.complaints import complaints, dotted, words
from understudy.recipe.schema import schema

PLAIN = """\
task: classification
data: digits
student: {name: CNN, channels: 2}
teacher: {model: {name: CNN, channels: 4}}
"""

PLUGIN = " Or does a file have it that is to be named with --plugin?"

SENTENCES = {
    # what there is not
    "method: kdd": "method: there is no method 'kdd'. Did you mean 'kd'?",
    "data: foo": "data: there is no data 'foo'. Allowed: csv, digits, hugging_face, images, npz." + PLUGIN,
    "student: os.system": "student: there is no model 'os.system'. Allowed: CNN, MLP, ResNet, from_config." + PLUGIN,
    "student: {name: os.system}": "student.name: there is no model 'os.system'. Allowed: CNN, MLP, ResNet, from_config." + PLUGIN,
    "optimizer: Adm": "optimizer: there is no optimizer 'Adm'. Did you mean 'Adam'?",
    "optimizer: {name: AdamW, schedule: {name: cosin}}": "optimizer.schedule.name: there is no curve 'cosin'. Did you mean 'cosine'?",
    "method: {name: 3}": "method.name: there is no method 3. Allowed: ",
    "terms: [{loss: klx, at: [student]}]": "terms[0].loss: there is no loss 'klx'. Did you mean 'kl'?",
    "terms: [{loss: mse, at: [student], project: Conv}]": "terms[0].project: there is no projector 'Conv'. Did you mean 'Conv1x1'?",
    "terms: [{loss: mse, at: [student], weight: '0.1'}]": "terms[0].weight: there is no curve '0.1'. A number has no quotes.",
    "terms: [{loss: mse, at: [student], weight: heavy}]": "terms[0].weight: there is no curve 'heavy'. Allowed: constant, linear, cosine, steps_at." + PLUGIN,
    # by its name alone, which is not enough
    "student: CNN": "student: CNN needs channels: write {name: CNN, channels: ...}.",
    "optimizer: {name: AdamW, schedule: cosine}": "optimizer.schedule: cosine needs start and end: write {name: cosine, start: ...}.",
    "teacher: {model: CNN}": "teacher.model: CNN needs channels: write {name: CNN, channels: ...}.",
    # keys that are not there
    "epoch: 3": "a recipe has no key 'epoch'. Did you mean 'epochs'?",
    "nonsense: 1": "a recipe has no key 'nonsense'. Allowed: task, data, student, teacher, method, terms, epochs, seeds, seed, batch_size, optimizer, fine_tune, ... (23 in all).",
    "temperature: 3": "a recipe has no key 'temperature'. It is an option of the method: write it there.",
    "lr: 3": "a recipe has no key 'lr'. It is an option of the optimizer: write it there.",
    "weights: x": "a recipe has no key 'weights'. It is an option of the teacher: write it there.",
    "teacher: {model: {name: CNN, channels: 2}, weigths: x}": "teacher: has no key 'weigths'. Did you mean 'weights'?",
    "student: {name: CNN, chanels: 3, channels: 2}": "student: CNN has no option 'chanels'. Did you mean 'channels'?",
    "terms: [{loss: kl, at: [student, teacher], temprature: 2}]": "terms[0]: kl has no option 'temprature'. Did you mean 'temperature'?",
    "optimizer: {name: AdamW, lrr: 3}": "optimizer: AdamW has no option 'lrr'. Did you mean 'lr'?",
    # what is lacking
    "student: {channels: 3}": "student: needs 'name', which is not given.",
    "student: {name: CNN}": "student: CNN needs 'channels', which is not given: of the first layer;",
    "teacher: {}": "teacher: needs 'model', which is not given: what it is:",
    "terms: [{at: [student]}]": "terms[0]: needs 'loss', which is not given.",
    "terms: [{loss: kl}]": "terms[0]: kl needs 'at', which is not given: the addresses of what the loss is called with",
    # of another kind
    "epochs: many": "epochs: must be a whole number, 1 to 1,000,000; you wrote 'many'.",
    "epochs: 0": "epochs: must be a whole number, 1 to 1,000,000; you wrote 0.",
    "epochs: 1000000000000": "epochs: must be a whole number, 1 to 1,000,000; you wrote 1000000000000.",
    "epochs: 1.5": "epochs: must be a whole number, 1 to 1,000,000; you wrote 1.5.",
    "epochs: true": "epochs: must be a whole number, 1 to 1,000,000; you wrote true.",
    "epochs: {}": "epochs: must be a whole number, 1 to 1,000,000; you wrote an empty mapping.",
    "batch_size: 1000000000": "batch_size: must be a whole number, 1 to 1,000,000; you wrote 1000000000.",
    "seeds: 1001": "seeds: must be a whole number, 1 to 1,000; you wrote 1001.",
    "workers: 65": "workers: must be a whole number, 0 to 64; you wrote 65.",
    "threads: 9000000000000000000": "threads: must be a whole number, 1 to 1,024; you wrote 9000000000000000000.",
    "seed: -1": "seed: must be a whole number, 0 or above; you wrote -1.",
    "fine_tune: yes": "fine_tune: must be true or false; you wrote 'yes'.",
    "device: 3": "device: must be a text; you wrote 3.",
    "export: ''": "export: must be a mapping or a text, not empty; you wrote ''.",
    "teacher: CNN": "teacher: must be a mapping; you wrote 'CNN'.",
    "accept: 3": "accept: must be a mapping; you wrote 3.",
    "accept: {accuracy: 3}": "accept.accuracy: must be a text; you wrote 3.",
    "terms: 3": "terms: must be a list of which each is a term; you wrote 3.",
    "terms: []": "terms: must be a list of which each is a term; you wrote an empty list.",
    "terms: [3]": "terms[0]: must be a mapping; you wrote 3.",
    "terms: [{loss: kl, at: student}]": "terms[0].at: must be a list of which each is a text; you wrote 'student'.",
    "terms: [{loss: kl, at: [student, 3]}]": "terms[0].at[1]: must be a text; you wrote 3.",
    "method: 3": "method: must be the name of a method, or a mapping of its name and its options; you wrote 3.",
    "student: [a]": "student: must be 'teacher' or a model; you wrote a list of 1.",
    "data: 3": "data: must be the name of a data set, or a mapping of its name and its options; you wrote 3.",
    "optimizer: 3": "optimizer: must be the name of an optimizer, or a mapping of its name and its options; you wrote 3.",
    "method: {name: kd, temperature: hot}": "method.temperature: must be a number; you wrote 'hot'.",
    "optimizer: {name: AdamW, betas: [1]}": "optimizer.betas: must be a list of 2, each a number; you wrote a list of 1.",
    # of a union
    "task: classificaton": "task: must be 'classification' or 'multi-label' or 'regression'; you wrote 'classificaton'. Did you mean 'classification'?",
    "task: foo": "task: must be 'classification' or 'multi-label' or 'regression'; you wrote 'foo'.",
    "data: {name: images, train: x, size: big}": "data.size: must be a whole number or a list of 2, each a whole number; you wrote 'big'.",
    "data: {name: images, train: x, size: [1]}": "data.size: must be a list of 2, each a whole number; you wrote a list of 1.",
    "data: {name: images, train: x, size: 8, channels: 2}": "data.channels: must be 1 or 3 or 4; you wrote 2.",
    "data: {name: csv, train: x, label: y, valid: true}": "data.valid: must be a path or a number; you wrote true.",
    "data: {name: images, train: '', size: 8}": "data.train: must be a path; you wrote ''.",
    "terms: [{loss: mse, at: [student], weight: [1]}]": "terms[0].weight: must be a number or a curve; you wrote a list of 1.",
    "optimizer: {name: AdamW, schedule: 3}": "optimizer.schedule: must be the name of a curve, or a mapping of its name and its options; you wrote 3.",
}  # fmt: skip


def told(folder: Path, line: str) -> list[str]:
    """Complaints about PLAIN with one line of it replaced, or one more."""
    key = line.partition(":")[0]
    kept = [old for old in PLAIN.splitlines() if old.partition(":")[0] != key]
    return [sentence for _, sentence in complaints(document(folder, "\n".join([*kept, line, ""])), schema())]


@pytest.mark.parametrize(("line", "sentence"), SENTENCES.items(), ids=list(SENTENCES))
def test_a_mistake_has_its_one_sentence(tmp_path: Path, line: str, sentence: str) -> None:
    found = told(tmp_path, line)
    assert len(found) == 1
    assert found[0].startswith(sentence)
    assert found[0] == sentence or sentence[-1] not in ".?"


@pytest.mark.parametrize(
    "line",
    ["task: null", "export: null", "method: kd", "optimizer: AdamW", "terms: null", "accept: {}", "threads: null"],
)
def test_what_is_right_has_none(tmp_path: Path, line: str) -> None:
    assert told(tmp_path, line) == []


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "understudy.zoo.CNN",
        "zoo.CNN",
        "__main__",
        "../CNN",
        "CNN.__init__",
        "builtins.eval",
        "torch.nn.Linear",
    ],
)
@pytest.mark.parametrize(
    "line", ["student: {{name: {}}}", "method: {}", "data: {}", "optimizer: {}", "terms: [{{loss: {}, at: [student]}}]"]
)
def test_nothing_is_chosen_by_a_path_to_code(tmp_path: Path, line: str, name: str) -> None:
    found = told(tmp_path, line.format(name))
    assert any("there is no " in sentence and repr(name) in sentence for sentence in found)


def test_method_and_terms_exclude_each_other(tmp_path: Path) -> None:
    text = PLAIN + "method: kd\nterms:\n  - {loss: kl, at: [student, teacher]}\n"
    assert problems(tmp_path, text) == [
        "r.yaml:6: method and terms exclude each other: terms are a method of your own. Remove one of them."
    ]


def test_what_is_lacking_is_told_at_what_lacks_it(tmp_path: Path) -> None:
    found = problems(tmp_path, "task: classification\nteacher:\n  epochs: 3\ndata: digits\n")
    assert found[0].startswith("r.yaml:1: a recipe needs 'student', which is not given: the small model")
    assert found[1].startswith("r.yaml:2: teacher: needs 'model', which is not given")


def test_five_mistakes_of_five_kinds_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
task: classification
data: {name: digits, labelled: 200}
student: {name: CNN, channels: 8}
teacher:
  model: {name: CNN, channels: 32}
terms:
  - {loss: cross_entropy, at: [student, batch.label]}
  - {loss: kl, at: [student, teacher], temprature: 2}
  - {loss: mse, at: [student.layer5, teacher.layer2]}
  - {loss: mse, at: [student.layer2, teacher.layer2]}
epochs: many
sedes: 3
"""
    found = problems(tmp_path, text)
    assert [line.split(" ")[0] for line in found] == [
        "r.yaml:8:",
        "r.yaml:9:",
        "r.yaml:10:",
        "r.yaml:11:",
        "r.yaml:12:",
    ]
    assert found[0] == "r.yaml:8: terms[1]: kl has no option 'temprature'. Did you mean 'temperature'?"
    assert (
        found[1]
        == "r.yaml:9: terms[2] address 'student.layer5': student has no submodule 'layer5'. Did you mean 'layer3'?"
    )
    assert found[2].startswith(
        "r.yaml:10: terms[3] mse(student.layer2, teacher.layer2): mse: shapes [4, 16, 4, 4] (student) and [4, 64, 4, 4]"
    )
    assert found[2].endswith("Add `project: Conv1x1` to the term (16 -> 64 channels).")
    assert found[3] == "r.yaml:11: epochs: must be a whole number, 1 to 1,000,000; you wrote 'many'."
    assert found[4] == "r.yaml:12: a recipe has no key 'sedes'. Did you mean 'seeds'?"


def test_one_mistake_at_a_time_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_the_first(*args: Any) -> Any:
        return module_complaints(*args)[:1]

    module_complaints = module.complaints
    monkeypatch.setattr("understudy.recipe.examine.complaints", only_the_first)
    with pytest.raises(AssertionError):
        test_five_mistakes_of_five_kinds_are_told_at_once_with_their_lines(tmp_path)


def test_the_projector_that_would_fit_makes_the_recipe_sound(tmp_path: Path) -> None:
    text = PLAIN + "terms:\n  - {loss: mse, at: [student.layer2, teacher.layer2]}\n"
    assert "`project: Conv1x1`" in problems(tmp_path, text)[0]
    from recipe.kit import examined

    assert examined(tmp_path, text.replace("teacher.layer2]", "teacher.layer2], project: Conv1x1")).material


def test_complaints_come_in_the_order_of_lines_each_once(tmp_path: Path) -> None:
    made = document(tmp_path, "b: 1\nstudent: {name: CNN, x: 1}\na: 1\ndata: digits\nepochs: x\n")
    found = complaints(made, schema())
    lines = [made.place(where).line for where, _ in found]
    assert lines == sorted(lines)
    assert len(set(found)) == len(found) == 6  # teacher and channels are lacking


@pytest.mark.parametrize(
    ("schema_", "said"),
    [
        ({"type": "integer", "minimum": 0, "maximum": 2000}, "a whole number, 0 to 2,000"),
        ({"type": "number"}, "a number"),
        ({"type": "number", "exclusiveMinimum": 0}, "a number above 0"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "a text"),
        ({"$ref": "#/$defs/optimizer"}, "an optimizer"),
        ({"$ref": "#/$defs/data"}, "a data set"),
        ({"enum": ["a", 1]}, "'a' or 1"),
        ({"type": "array", "items": {"type": "string"}}, "a list of which each is a text"),
        ({"type": "string", "format": "path", "minLength": 1}, "a path"),
        ({"type": "null"}, "null"),
    ],
)  # fmt: skip
def test_a_schema_is_said_in_words(schema_: dict[str, Any], said: str) -> None:
    assert words(schema_) == said


def test_a_way_is_said_as_programs_write_it() -> None:
    assert dotted(("terms", 3, "project", "name")) == "terms[3].project.name"
    assert dotted(()) == ""
