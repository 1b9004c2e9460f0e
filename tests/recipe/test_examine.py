"""What is wrong with a recipe is told before anything is trained: by the schema, and by trying each piece."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipe.kit import SMALL, document, examined, problems, without
from understudy.data.parts import Parts
from understudy.data.written import write_example
from understudy.errors import CorruptError, InputError, MachineError
from understudy.evaluate import STAGES
from understudy.recipe import trials
from understudy.recipe.examine import Pieces, examine
from understudy.recipe.ready import ready, templates
from understudy.recipe.text import read
from understudy.registry import register
from understudy.zoo import CNN
from understudy.zoo.limits import MOST_LAYERS

READY = {f"recipes/{k}": v.path for k, v in ready().items()} | {
    f"templates/{k}": v.path for k, v in templates().items()
}


@pytest.fixture(scope="module")
def with_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ready")
    for name in ("breast-cancer", "diabetes", "digits", "digits-attributes"):
        write_example(name, folder / "data" / name)
    return folder


# They need more than an example's files; tried in the next test, in test_vision.py and in test_teachers.py.
ELSEWHERE = tuple(
    f"recipes/{name}"
    for name in ("hugging-face", "vision/resnet152-resnet50-fitnets", "teachers/keras", "teachers/tensorflow")
)


@pytest.mark.parametrize("name", [name for name in READY if name not in ELSEWHERE])
def test_a_ready_recipe_is_sound_with_its_data(with_data: Path, name: str) -> None:
    file = with_data / READY[name].name
    file.write_text(READY[name].read_text(encoding="utf-8"), encoding="utf-8")
    made = examine(read(file), progress=False)
    assert made.material.stages.keys() >= {"distilled"}


@pytest.mark.long
def test_the_ready_recipe_of_transformers_is_sound() -> None:
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert examine(read(READY["recipes/hugging-face"]), progress=False).sizes.classes == 10


def test_what_is_examined_is_what_a_job_works_with(tmp_path: Path) -> None:
    made = examined(tmp_path, SMALL)
    assert made.sizes.inputs == 1
    assert made.sizes.classes == 10
    assert made.material.task.name == "classification"
    assert list(made.material.stages) == ["teacher", "alone", "distilled", "fine-tuned"]
    assert made.resolved.value["student"] == {"name": "CNN", "channels": 2, "inputs": 1, "classes": 10}


def test_nothing_is_trained_and_random_numbers_are_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", _only_small(torch.optim.AdamW.step))
    torch.manual_seed(4)
    before = torch.get_rng_state()
    examined(tmp_path, SMALL)
    assert torch.equal(before, torch.get_rng_state())
    assert [file.name for file in tmp_path.iterdir()] == ["r.yaml"]


def _only_small(step: Any) -> Any:
    def checked(self: torch.optim.Optimizer, *args: Any) -> Any:
        assert sum(p.numel() for g in self.param_groups for p in g["params"]) == 4  # the weight that it is tried on
        return step(self, *args)

    return checked


# -- sizes -------------------------------------------------------------------------------------------------------------

SIZES = {
    "student={name: MLP, hidden: [10000000, 10000000]}": (2, "MLP: would have 100,000,130,000,010 parameters; allowed are 1,000,000,000."),
    "student={name: CNN, channels: 100000000}": (2, "CNN: would have 540,000,002,900,000,000 parameters; allowed are"),
    "teacher.model={name: CNN, channels: 9000000000000000000}": (2, "parameters; allowed are 1,000,000,000."),
    "teacher.model={name: ResNet, channels: 1, blocks: [1000000]}": (2, f"ResNet: would have 2,000,000 layers; allowed are {MOST_LAYERS:,}."),
    f"student={{name: MLP, hidden: {[1] * 2000}}}": (2, f"MLP: would have 2,000 layers; allowed are {MOST_LAYERS:,}. Make it shallower."),
    f"student={{name: ResNet, channels: 1, blocks: {[1] * 200}}}": (2, "parameters; allowed are"),
    "data.train=0": (2, "digits: train=0 is not allowed; give 1 or more."),
    "data.train=-5": (2, "digits: train=-5 is not allowed; give 1 or more."),
    "data.train=1000000000000000000": (2, "leave nothing to test on. There are 1,797 images in all."),
    "epochs=1000000000000": (2, "epochs: must be a whole number, 1 to 1,000,000;"),
    "teacher.epochs=1000000000000": (2, "teacher.epochs: must be a whole number, 0 to 1,000,000;"),
    "batch_size=1000000000": (2, "batch_size: must be a whole number, 1 to 1,000,000;"),
    "seeds=1000000000": (2, "seeds: must be a whole number, 1 to 1,000;"),
    "workers=1000000000": (2, "workers: must be a whole number, 0 to 64;"),
    "threads=1000000000": (2, "threads: must be a whole number, 1 to 1,024;"),
    "device=meta": (4, "settings: device='meta' cannot compute here"),
    "device=mps:7": (4, "settings: device='mps:7' cannot compute here"),
    "device=xpu": (4, "settings: device='xpu' cannot compute here"),
    "device=nonsense": (2, "settings: device='nonsense': "),
    "device=cuda:99": (4, "settings: device='cuda:99', but this machine has"),
}  # fmt: skip


@pytest.mark.parametrize(("setting", "expected"), SIZES.items(), ids=[s[:40] for s in SIZES])
def test_a_size_that_cannot_be_is_refused_before_it_is_made(
    tmp_path: Path, setting: str, expected: tuple[int, str]
) -> None:
    code, told = expected
    with pytest.raises((InputError, MachineError)) as caught:
        examined(tmp_path, SMALL, setting)
    assert caught.value.exit_code == code
    assert told in str(caught.value)
    assert "--set " in str(caught.value) or setting == "data.train=1000000000000000000"  # which is wrong beside `valid`


def test_pictures_have_a_largest_size(with_data: Path) -> None:
    text = (
        without(SMALL, "data", "teacher")
        + "data: {name: images, train: data/digits/train, size: 20000}\nteacher: {model: {name: CNN, channels: 4}}\n"
    )
    (told,) = problems(with_data, text)
    assert told.startswith("r.yaml:12: image_folder ")
    assert told.endswith("in pixels, up to 4,096.")


def test_more_threads_than_do_any_good_are_refused_and_none_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before = torch.get_num_threads()
    with pytest.raises(MachineError, match="threads: 64 on a machine of 2 processors; allowed here are up to 16"):
        examined(tmp_path, SMALL, "threads=64")
    assert torch.get_num_threads() == before
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    trials.use_threads(256)
    assert asked == [256]


def test_a_model_that_does_not_fit_into_memory_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.zoo.limits._memory", lambda: 10_000)
    with pytest.raises(
        MachineError,
        match=r"CNN: would have 980 parameters, and to train them needs 0\.0 GB of memory; this machine has 0\.0",
    ):
        examined(tmp_path, SMALL)
    monkeypatch.setattr("understudy.zoo.limits._memory", lambda: None)
    assert examined(tmp_path, SMALL).material


def test_memory_that_runs_out_while_a_model_is_made_is_the_machines_fault(tmp_path: Path) -> None:
    @register("model")
    def huge(classes: int) -> nn.Module:
        """Too large."""
        return nn.Linear(10**9, 10**9)

    with pytest.raises(MachineError, match=r"r\.yaml:3: huge: needs more memory than this machine has\."):
        examined(tmp_path, SMALL.replace("{name: CNN, channels: 2}", "huge", 1))


# -- values that only a trial shows ------------------------------------------------------------------------------------

TRIED = {
    "optimizer={name: AdamW, lr: 1e300}": "Optim('AdamW'): torch refuses its first step: ",
    "optimizer={name: SGD, lr: 1e300}": "Optim('SGD'): ",
    "optimizer={name: AdamW, betas: [2, 3]}": "Optim('AdamW'): torch refuses it: Invalid beta parameter",
    "optimizer={name: AdamW, lr: -1}": "Optim('AdamW'): lr=-1 must be a finite number, 0 or above.",
    "optimizer={name: SGD, lr: 0.1, momentum: -1}": "Optim('SGD'): torch refuses it: Invalid momentum value",
    "optimizer={name: SGD, lr: 0.1, nesterov: true}": "Optim('SGD'): torch refuses it: Nesterov momentum requires",
    "optimizer={name: AdamW, clip: 0}": "clip=0 must be above 0",
    "optimizer={name: AdamW, warmup: -1}": "warmup -1: allowed: 0 (none)",
    "optimizer={name: Muon, lr: 0.1}": "Optim('Muon'): torch refuses it: ",
    "optimizer={name: AdamW, schedule: {name: steps_at, milestones: [2]}}": "steps_at: milestones [2]",
    "optimizer={name: LBFGS}": "there is no optimizer 'LBFGS'",
    "teacher.optimizer={name: SGD, lr: 1e300}": "Optim('SGD'): ",
    "method.temperature=1e-300": "kl(student, teacher): its value is nan before any training.",
    "method.temperature=1e300": "kl(student, teacher): its value is nan before any training.",
    "method.temperature=0": "kd: temperature 0 must be finite and above 0",
    "method.alpha=2": "kd: alpha 2 must be in [0, 1]",
    "method={name: fitnets, student_layer: layer9, teacher_layer: layer2}": "student has no submodule 'layer9'. Did you mean 'layer3'?",
    "student.dropout=2": "CNN has no option 'dropout'",
    "accept={accuracy: very}": "accept['accuracy']: 'very' does not begin with",
    "accept={acuracy: '>= 0.9'}": "'acuracy' is not a figure of this run. Did you mean 'accuracy'?",
    "accept={accuracy: '>= 1e999 * teacher'}": "a number is too large",
    "teacher.weights=nothing.pt": "nothing.pt: there is no such file.",
    "task=regression": "",
    "student={name: MLP}": "student: cannot take a sample of train",
    "student={name: CNN, channels: 2, classes: 7}": "the student gives [7] and the teacher [10]",
    "student={name: CNN, channels: 100}": "Were the two swapped?",
    "data.classes=3": "digits has no option 'classes'",
}  # fmt: skip


@pytest.mark.parametrize(("setting", "told"), TRIED.items(), ids=[s[:60] for s in TRIED])
def test_a_value_that_does_not_work_is_told_with_its_place(tmp_path: Path, setting: str, told: str) -> None:
    found = problems(tmp_path, SMALL, setting)
    assert any(told in line for line in found)
    assert all(line.startswith(("--set ", "r.yaml:")) for line in found)


TERMS = {
    "{loss: mse, at: [student]}": "at: mse is called with student, teacher: give an address for each; you wrote 1.",
    "{loss: mse, at: [student, teacher, student]}": "at: mse is called with student, teacher: give an address for each; you wrote 3.",
    "{loss: mse, at: [teacher, teacher]}": "reads nothing that learns. Its first address is the student's, such as student.layer2.",
    "{loss: mse, at: [stop student, teacher]}": "reads nothing that learns.",
    "{loss: mse, at: [batch.label, batch.label]}": "reads nothing that learns.",
    "{loss: kl, at: [student, teacher], weight: 1e300}": "its value is ",
    "{loss: kl, at: [student, teacher], weight: {name: linear, start: 1, end: 1e308}, temperature: 1e-300}": "its value is nan",
    "{loss: kl, at: [student, techer]}": "address 'techer'",
    "{loss: kl, at: [student, '']}": "address '': does not parse.",
    "{loss: kl, at: [student, 'teacher#99999999999999999999']}": "does not parse.",
    "{loss: kl, at: [student, batch.nothing]}": "address 'batch.nothing'",
    "{loss: cross_entropy, at: [student, batch.input]}": "mask [4, 1, 8, 8] does not lead the shape [4, 10] of 'student'.",
    "{loss: mse, at: [student.layer1, teacher.layer1], project: {name: Conv1x1, inputs: 0, outputs: 3}}": "sizes are whole numbers, 1 or above.",
    "{loss: mse, at: [student.layer1, teacher.layer1], project: {name: Conv1x1, inputs: 3, outputs: 3}}": "use Conv1x1(2, 4), or Conv1x1()",
    "{loss: mse, at: [student.layer1, teacher.layer1], project: {name: Conv1x1, inputs: 3}}": "give both sizes, or neither",
    "{loss: mse, at: [student.layer1, teacher.layer1], project: Linear}": "may differ in the last axis only",
    "{loss: mse, at: [student, teacher], mask: student}": "mask 'student' must be the batch's",
}  # fmt: skip


@pytest.mark.parametrize(("term", "told"), TERMS.items(), ids=[t[:60] for t in TERMS])
def test_a_term_that_does_not_work_is_told_by_its_number_and_line(tmp_path: Path, term: str, told: str) -> None:
    text = without(SMALL, "method") + f"terms:\n  - {{loss: kl, at: [student, teacher]}}\n  - {term}\n"
    (line,) = problems(tmp_path, text)
    assert line.startswith("r.yaml:15: terms[1] ")
    assert told in line


def test_a_weight_that_is_no_number_is_told(tmp_path: Path) -> None:
    @register("curve")
    def forgetful(start: float) -> Any:
        """A curve without a return."""
        return lambda progress: None if progress.fraction > 0.5 else start

    text = (
        without(SMALL, "method")
        + "terms:\n  - {loss: kl, at: [student, teacher], weight: {name: forgetful, start: 1}}\n"
    )
    assert problems(tmp_path, text) == [
        "r.yaml:14: terms[0] weight: is None at 99 % of the run; it must be a finite number."
    ]


def test_a_term_of_labels_where_the_first_samples_have_none_is_no_mistake(tmp_path: Path) -> None:
    text = without(SMALL, "method") + "terms:\n  - {loss: cross_entropy, at: [student, batch.label]}\n"
    assert examined(tmp_path, text, "data.labelled=1").material


NAMES = [
    "",
    "..",
    ".",
    "../x",
    "/etc/passwd",
    "a/b",
    "deploy/",
    "x.txt",
    "recipe.yaml",
    "results.json",
    "lock",
    "teacher",
    "distilled",
    "fine-tuned",
    "alone",
    "x" * 300,
]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_deployed_stays_in_the_runs_folder_and_takes_no_name_of_the_run(tmp_path: Path, name: str) -> None:
    found = problems(tmp_path, without(SMALL, "export") + f"export: '{name}'\n")
    assert len(found) == 1
    assert found[0].startswith("r.yaml:13: export: must be ")


@pytest.mark.parametrize("name", ["deploy", "student.onnx", "my-model_2", "über"])
def test_a_plain_name_may_be_deployed(tmp_path: Path, name: str) -> None:
    assert examined(tmp_path, without(SMALL, "export") + f"export: {name}\n").resolved.value["export"] == name


def test_a_deployed_file_has_its_targets_ending(tmp_path: Path) -> None:
    base = without(SMALL, "export")
    made = examined(tmp_path, base + "export: {to: x.pte, target: executorch}\n").resolved.value["export"]
    assert made == {"to": "x.pte", "target": "executorch"}
    assert examined(tmp_path, base + "export: {target: onnx-int8}\n")
    found = problems(tmp_path, base + "export: {to: x.onnx, target: executorch}\n")
    assert "or of a file that ends in .pte; you wrote 'x.onnx'" in found[0]
    assert "onnx-int8" in problems(tmp_path, base + "export: {target: onnx-int9}\n")[0]


def test_the_stages_that_a_job_makes_folders_of_are_those_that_are_taken(tmp_path: Path) -> None:
    assert set(examined(tmp_path, SMALL).material.stages) <= {stage for stage in STAGES if stage != "kept"}


# -- a user's own code -------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """What the models below are made of."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))


def test_a_forward_that_raises_is_a_sentence(tmp_path: Path) -> None:
    @register("model")
    class Raises(Plain):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("out of ideas")

    found = problems(tmp_path, SMALL, "student=Raises")
    assert len(found) == 1
    assert found[0].startswith("--set 'student=Raises': student: cannot take a sample of train (input [1, 1, 8, 8]")
    assert "RuntimeError: out of ideas" in found[0]


def test_an_error_of_any_kind_in_a_users_code_is_a_sentence(tmp_path: Path) -> None:
    @register("model")
    class Divides(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return x / (1 // 0)

    (told,) = problems(tmp_path, SMALL, "student=Divides")
    assert "ZeroDivisionError" in told


def test_what_is_no_module_is_told(tmp_path: Path) -> None:
    @register("model")
    def text(classes: int) -> nn.Module:
        """No model."""
        return "a text"  # type: ignore[return-value]

    found = problems(tmp_path, SMALL, "student=text")
    assert all(line.startswith("--set 'student=text': ") for line in found)


def test_data_of_a_user_that_raises_is_told_with_its_line(tmp_path: Path) -> None:
    @register("data")
    def lost(*, path: Path) -> Parts:
        """Data."""
        return Parts(open(path), None)  # noqa: PTH123

    (told,) = problems(tmp_path, SMALL, "data={name: lost, path: nothing.bin}")
    assert "lost: cannot be made: FileNotFoundError" in told


@pytest.mark.parametrize("kind", ["no data", "no valid", "iterator", "strings"])
def test_data_of_a_user_that_is_no_data_is_told(tmp_path: Path, kind: str) -> None:
    x, y = torch.zeros(8, 1, 8, 8), torch.zeros(8, dtype=torch.long)
    made = {
        "no data": Parts(None, None), "no valid": Parts((x, y), None), "iterator": Parts(iter([(x, y)]), (x, y)), "strings": Parts(["a", "b"], (x, y)),
    }[kind]  # fmt: skip

    @register("data")
    def mine() -> Parts:
        """Data."""
        return made

    found = problems(tmp_path, SMALL, "data=mine")
    assert all(line.startswith(("--set 'data=mine': ", "r.yaml:")) for line in found)


def test_a_method_of_a_user_that_takes_something_else_is_told(tmp_path: Path) -> None:
    @register("method")
    def alone_again(pupil: nn.Module) -> Any:
        """A method."""
        return None

    (told,) = problems(tmp_path, SMALL, "method=alone_again")
    assert told.startswith("--set 'method=alone_again': ")


def test_a_loss_of_a_user_that_raises_is_told_at_its_term(tmp_path: Path) -> None:
    @register("loss")
    def broken(student: Tensor, teacher: Tensor) -> Tensor:
        """A loss."""
        raise ArithmeticError("no")

    text = without(SMALL, "method") + "terms:\n  - {loss: broken, at: [student, teacher]}\n"
    (told,) = problems(tmp_path, text)
    assert told.startswith("r.yaml:14: terms[0]: ")
    assert "ArithmeticError: no" in told


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/dev/zero", "/dev/null", "/etc", "/proc/self/mem", ".", "nothing", "x" * 5000, "$HOME", "~", "r.yaml"]
)
@pytest.mark.parametrize(
    "line",
    [
        "data: {{name: csv, train: '{}', label: y}}", "data: {{name: npz, train: '{}'}}", "data: {{name: images, train: '{}', size: 8}}",
        "teacher: {{model: {{name: CNN, channels: 4}}, weights: '{}'}}",
    ],
    ids=["csv", "npz", "images", "weights"],
)  # fmt: skip
def test_a_path_that_is_no_data_is_told_with_its_line(tmp_path: Path, line: str, path: str) -> None:
    key = line.partition(":")[0]
    with pytest.raises((InputError, CorruptError, MachineError)) as caught:
        examined(tmp_path, without(SMALL, key) + line.format(path) + "\n")
    assert "r.yaml:13: " in str(caught.value)
    assert len(str(caught.value)) < 3000


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_pieces_of_some_keys_look_at_no_other(tmp_path: Path) -> None:
    text = without(SMALL, "method", "teacher") + "method: nothing\nteacher: nothing\nfoo: 1\n"
    pieces = Pieces.of(document(tmp_path, text), only=("data", "student"))
    assert isinstance(pieces.student and pieces.student(), CNN)
    assert pieces.teacher is None
    with pytest.raises(InputError, match="foo"):
        examined(tmp_path, text)


def test_what_stands_beside_a_mistake_is_still_tried(tmp_path: Path) -> None:
    found = problems(
        tmp_path, SMALL, "student.chanels=3", "student.channels=0", "data.labelled=x", "optimizer.lr=-1", "nonsense=1"
    )
    assert len(found) == 5
    assert any("CNN: channels=0" in line for line in found)
    assert any("lr=-1" in line for line in found)
