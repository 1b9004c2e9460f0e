"""A recipe and its Python form are the same thing: they give the same bits."""

from __future__ import annotations

import functools
import importlib.util
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import understudy as us
from recipe.kit import SMALL, differing, examined, problems, ran, without
from understudy.data.augment import Augment
from understudy.data.order import preserved, seed_all
from understudy.data.parts import Parts
from understudy.data.sets import digits
from understudy.errors import InputError
from understudy.losses import cross_entropy, kl, mse
from understudy.projectors import Conv1x1
from understudy.recipe.build import Sizes, arguments, data_of, maker, sizes_of, teacher_of, term_of
from understudy.registry import load_plugin, register
from understudy.zoo import CNN, MLP

TERMS = """\
terms:
  - {loss: cross_entropy, at: [student, batch.label], weight: 0.1}
  - {loss: kl, at: [student, teacher], temperature: 2}
  - {loss: mse, at: [student.layer2, teacher.layer2], project: Conv1x1, weight: {name: linear, start: 1, end: 0}}
"""

PLUGIN = '''
import functools
import torch
import understudy as us
from torch import nn
from understudy.data.sets import digits
from understudy.data.parts import Parts
from understudy.losses import cross_entropy

@us.register("data")
def bright(*, times: float = 2.0) -> Parts:
    """Digits, brighter."""
    parts = digits(train=200, valid=100)
    train, valid, test = ((x * times, y) for x, y in (parts.train, parts.valid, parts.test))
    return Parts(train, valid, test)

@us.register("model")
class Flat(nn.Module):
    """One layer of features."""
    def __init__(self, width: int, classes: int, inputs: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64 * inputs, width), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(width, classes)
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))

@us.register("loss")
def gap(student: torch.Tensor, teacher: torch.Tensor, *, power: float = 2.0) -> torch.Tensor:
    """Gap between scores."""
    return (student - teacher).abs().pow(power).mean(-1)

@us.register("curve")
def late(after: float = 0.5) -> us.constant:
    """Nothing at first."""
    return lambda progress: float(progress.fraction >= after)

@us.register("method")
def labels_and_gap(student: nn.Module, teacher: nn.Module, *, power: float = 1.0, task: object = None) -> us.Method:
    """Labels, and the gap."""
    return us.Distillation(
        us.Term(cross_entropy, "student", "batch.label"),
        us.Term(functools.partial(gap, power=power), "student", "teacher"),
        student=student, teacher=teacher,
    )
'''

PLUGGED = """\
task: classification
data: {name: bright, times: 1.5}
student: {name: Flat, width: 4}
teacher: {model: {name: Flat, width: 32}, epochs: 3}
epochs: 2
seeds: 2
batch_size: 50
optimizer: {name: SGD, lr: 0.05, momentum: 0.9, schedule: {name: cosine, start: 1, end: 0}, warmup: 0.1, clip: 1}
device: cpu
threads: 1
report: false
export: null
"""


def by_hand(folder: Path, *, seed: int = 0, **more: Any) -> None:
    """The Python form of SMALL, written out."""
    with preserved():
        seed_all(seed, "teacher")
        teacher = CNN(4, classes=10, inputs=1)
    parts, full = digits(train=200, valid=100, labelled=100), digits(train=300, valid=100)
    us.distill(
        lambda: CNN(2, classes=10, inputs=1), teacher, parts.train, parts.valid, test=parts.test, task="classification", epochs=2,
        seeds=2, seed=seed, batch_size=50, optimizer=us.Optim("AdamW", lr=1e-2), teacher_epochs=4, teacher_data=full.train, device="cpu",
        progress=False, folder=folder, **more,
    )  # fmt: skip


def test_a_recipe_of_kd_gives_the_weights_of_its_python_form(tmp_path: Path, quick: None) -> None:
    ran(tmp_path, SMALL, "seed=3")
    by_hand(tmp_path / "hand", seed=3, method="kd", temperature=2, alpha=0.5)
    assert differing(tmp_path / "out", tmp_path / "hand") == []


def test_another_recipe_gives_other_weights(tmp_path: Path, quick: None) -> None:
    ran(tmp_path, SMALL, "method.temperature=2.0001")
    by_hand(tmp_path / "hand", method="kd", temperature=2, alpha=0.5)
    changed = differing(tmp_path / "out", tmp_path / "hand")
    assert any(name.startswith("distilled") for name in changed)
    assert not any(name.startswith(("teacher", "alone")) for name in changed)


def test_a_recipe_of_terms_gives_the_weights_of_its_python_form(tmp_path: Path, quick: None) -> None:
    def method(student: nn.Module, teacher: nn.Module) -> us.Distillation:
        return us.Distillation(
            us.Term(cross_entropy, "student", "batch.label", weight=0.1),
            us.Term(functools.partial(kl, temperature=2), "student", "teacher"),
            us.Term(mse, "student.layer2", "teacher.layer2", project=Conv1x1(), weight=us.linear(1, 0)),
            student=student,
            teacher=teacher,
        )

    ran(tmp_path, without(SMALL, "method") + TERMS)
    by_hand(tmp_path / "hand", method=method)
    assert differing(tmp_path / "out", tmp_path / "hand") == []


def loaded(folder: Path) -> types.ModuleType:
    """The plugin's own functions."""
    file = folder / "mine.py"
    file.write_text(PLUGIN)
    load_plugin(file)
    spec = importlib.util.find_spec("understudy_plugin_mine")
    assert spec is not None
    return importlib.import_module("understudy_plugin_mine")


@pytest.mark.parametrize("with_terms", [False, True], ids=["method", "loss"])
def test_a_recipe_of_plugins_gives_the_weights_of_its_python_form(
    tmp_path: Path, quick: None, with_terms: bool
) -> None:
    mine = loaded(tmp_path)
    terms = """\
terms:
  - {loss: cross_entropy, at: [student, batch.label]}
  - {loss: gap, at: [student.body, student.body/0], power: 1.5, weight: 0}
  - {loss: gap, at: [student, teacher], power: 1.5, weight: {name: late, after: 0.25}}
"""
    ran(tmp_path, PLUGGED + (terms if with_terms else "method: {name: labels_and_gap, power: 1.5}\n"))

    def by_terms(student: nn.Module, teacher: nn.Module) -> us.Distillation:
        return us.Distillation(
            us.Term(cross_entropy, "student", "batch.label"),
            us.Term(functools.partial(mine.gap, power=1.5), "student.body", "student.body/0", weight=0),
            us.Term(functools.partial(mine.gap, power=1.5), "student", "teacher", weight=mine.late(0.25)),
            student=student,
            teacher=teacher,
        )

    parts = mine.bright(times=1.5)
    with preserved():
        seed_all(0, "teacher")
        teacher = mine.Flat(32, 10)
    us.distill(
        lambda: mine.Flat(4, 10), teacher, parts.train, parts.valid, test=parts.test, task="classification", epochs=2, seeds=2, batch_size=50,
        optimizer=us.Optim("SGD", lr=0.05, momentum=0.9, schedule=us.cosine(1, 0), warmup=0.1, clip=1), teacher_epochs=3, device="cpu",
        progress=False, folder=tmp_path / "hand", method=by_terms if with_terms else functools.partial(mine.labels_and_gap, power=1.5),
    )  # fmt: skip
    assert differing(tmp_path / "out", tmp_path / "hand") == []


def test_what_distill_is_called_with_is_what_the_recipe_says(tmp_path: Path) -> None:
    recipe = examined(tmp_path, SMALL, "accept={accuracy: '> 0'}", "fine_tune=false").resolved.value
    parts = digits(train=50, valid=50)
    told = arguments(recipe, parts, lambda: CNN(2), "the teacher")
    assert told["teacher"] == "the teacher"
    assert told["train"] is parts.train
    assert told["accept"] == {"accuracy": "> 0"}
    assert (told["method"], told["temperature"], told["alpha"]) == ("kd", 2, 0.5)
    assert (told["epochs"], told["seeds"], told["seed"], told["batch_size"], told["workers"]) == (2, 2, 0, 50, 0)
    assert (told["teacher_epochs"], told["teacher_weights"], told["fine_tune"]) == (4, None, False)
    assert repr(told["optimizer"]) == repr(
        us.Optim(
            "AdamW", lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, amsgrad=False, maximize=False, capturable=False,
            differentiable=False,
        )
    )  # fmt: skip


# -- pieces ------------------------------------------------------------------------------------------------------------


def test_the_teachers_weights_follow_from_the_seed_and_from_nothing_else() -> None:
    raw, sizes = {"model": {"name": "CNN", "channels": 2}}, Sizes(1, 10)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = teacher_of(raw, sizes, 5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two, other = teacher_of(raw, sizes, 5), teacher_of(raw, sizes, 6)
    assert torch.equal(one.head.weight, two.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


X, Y = torch.zeros(4, 3), torch.tensor([0, 2, 1, 0])


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (Parts((X, Y), (X, Y)), Sizes(3, 3)),
        (Parts((X, Y), (X, Y), classes=("a", "b", "c", "d")), Sizes(3, 4)),
        (Parts((X, Y.new_full((4,), -100)), (X, Y)), Sizes(3, 3)),
        (Parts((X, torch.tensor([0, -100, 1, -100])), (X, Y)), Sizes(3, 3)),
        (Parts((X, Y.new_full((4,), -100)), (X, Y.new_full((4,), -100))), Sizes(3, None)),
        (Parts((X, torch.rand(4)), (X, torch.rand(4))), Sizes(3, 1)),
        (Parts((X, torch.rand(4, 2)), (X, torch.rand(4, 2))), Sizes(3, 2)),
        (Parts((X, torch.ones(4, 5, dtype=torch.long)), (X, torch.ones(4, 5, dtype=torch.long))), Sizes(3, 5)),
        (Parts((torch.zeros(4, 2, 8, 8), Y), (torch.zeros(4, 2, 8, 8), Y)), Sizes(2, 3)),
        (Parts((torch.zeros(4, 7, 8), Y), (torch.zeros(4, 7, 8), Y)), Sizes(None, 3)),
        (Parts((X,), (X, Y)), Sizes(3, None)),
    ],
)
def test_sizes_are_read_off_the_data(parts: Parts, sizes: Sizes) -> None:
    assert sizes_of(parts) == sizes


def test_a_model_is_told_the_sizes_that_the_recipe_leaves_out_and_no_others() -> None:
    made = maker("model", {"name": "MLP", "hidden": [5]}, Sizes(7, 3))()
    assert (made.layer1[0].in_features, made.head.out_features) == (7, 3)
    made = maker("model", {"name": "MLP", "hidden": [5], "classes": 4, "inputs": 2}, Sizes(7, 3))()
    assert (made.layer1[0].in_features, made.head.out_features) == (2, 4)


def test_a_model_whose_size_the_data_does_not_tell_must_be_given_it() -> None:
    with pytest.raises(InputError, match=r"CNN: inputs cannot be told from this data\. Give it: inputs: \.\.\."):
        maker("model", {"name": "CNN", "channels": 2}, Sizes(None, 3))


def test_a_maker_makes_a_new_model_each_time() -> None:
    make = maker("model", {"name": "MLP"}, Sizes(2, 2))
    assert isinstance(make(), MLP)
    assert make() is not make()


def test_a_term_has_what_the_recipe_says() -> None:
    raw = {
        "loss": "kl", "at": ["student", "teacher"], "temperature": 3, "weight": {"name": "linear", "start": 1, "end": 0},
        "project": {"name": "Linear", "inputs": 4, "outputs": 5}, "mask": "batch.mask",
    }  # fmt: skip
    term = term_of(raw)
    assert [str(a) for a in term.addresses] == ["student", "teacher"]
    assert isinstance(term.loss, functools.partial)
    assert (term.loss.func, term.loss.keywords) == (kl, {"temperature": 3})
    assert term.weight_at(us.Progress(50, 100)) == 0.5
    assert str(term.mask) == "batch.mask"
    assert term.project is not None
    assert term.project.fitted == (4, 5)


def test_a_term_without_options_has_the_loss_itself() -> None:
    assert term_of({"loss": "mse", "at": ["student", "teacher"]}).loss is mse


def test_a_data_set_that_gives_something_else_is_refused() -> None:
    @register("data")
    def nothing() -> Parts:
        return None  # type: ignore[return-value]

    with pytest.raises(InputError, match=r"nothing: gave a NoneType; a data set is an understudy\.data\.Parts\."):
        data_of({"name": "nothing"})


def test_what_cannot_be_made_is_told_with_the_line_of_what_names_it(tmp_path: Path) -> None:
    @register("model")
    class Broken(nn.Module):
        def __init__(self, depth: int = 1) -> None:
            raise KeyError("depth")

    told = problems(tmp_path, SMALL, "student={name: Broken, depth: 3}")
    assert told == ["--set 'student={name: Broken, depth: 3}': Broken: cannot be made: KeyError: 'depth'"]


def test_data_is_augmented_as_the_recipe_says_and_the_run_is_that_of_python(tmp_path: Path) -> None:
    data = "data: {name: digits, train: 200, valid: 100, augment: {shift: 1}, mean: 0.3, std: 0.4}"
    recipe = SMALL.replace("data: {name: digits, train: 200, valid: 100, labelled: 100}", data)
    made = examined(tmp_path, recipe)
    parts = digits(train=200, valid=100, augment=Augment(shift=1), mean=0.3, std=0.4)
    ids = torch.arange(200)
    assert torch.equal(made.parts.train.batch(ids, 3, 1)[0], parts.train.batch(ids, 3, 1)[0])
    assert (made.parts.train.random, made.parts.valid.random) == (True, False)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("augment: {shft: 1}", "r.yaml:2: data.augment: has no key 'shft'. Did you mean 'shift'?"),
        ("augment: {crop: -1}", "r.yaml:2: augment: crop=-1 is not allowed; give a number of pixels, 0 or above."),
        ("mean: 0.3", "r.yaml:2: pictures: std is missing; give both mean and std."),
    ],
)
def test_an_augmentation_that_cannot_be_is_refused_with_its_line(tmp_path: Path, options: str, told: str) -> None:
    assert problems(tmp_path, SMALL.replace("labelled: 100}", f"{options}}}")) == [told]
