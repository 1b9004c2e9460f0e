"""How a student begins, and students that are made of their teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import evaluate as evaluate_module
from understudy.errors import InputError
from understudy.examples import Examples
from understudy.outcome import Distilled
from understudy.start import begun, compressed
from understudy.state import digest

Split = tuple[Tensor, Tensor]


def blobs(samples: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 2, generator=generator)
    return inputs, (inputs[:, 0] > inputs[:, 1]).long()


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    model = mlp(32)
    us.train(us.methods.alone(model), blobs(300, 0), us.Settings(epochs=10, batch_size=64, device="cpu"))
    return model.eval()


@pytest.fixture(autouse=True)
def _no_export_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_module, "to_onnx", lambda *args: None)
    monkeypatch.setattr(evaluate_module, "peak_memory", lambda *args: {"peak_memory_mb": 1.0})


def run(student: Any, teacher: Any, **options: Any) -> Distilled:
    options = {"epochs": 2, "seeds": 1, "progress": False, "device": "cpu", **options}
    return us.distill(student, teacher, blobs(200, 1), blobs(100, 2), **options)


def zeros(model: nn.Module) -> float:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def test_a_module_is_copied_and_what_a_function_makes_is_taken(teacher: nn.Module) -> None:
    copied = begun(teacher, None)
    assert copied is not teacher
    assert digest(copied) == digest(teacher)
    made = mlp(4)
    assert begun(lambda: made, None) is made


def test_a_student_that_is_the_teacher_begins_with_its_weights_and_trains(teacher: nn.Module) -> None:
    frozen = copy.deepcopy(teacher).requires_grad_(False)
    student = begun("teacher", frozen)
    assert digest(student) == digest(teacher)
    assert all(p.requires_grad for p in student.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "told"),
    [
        ("teacher", lambda x: x, "a teacher that is a function is no module"),
        (3, None, "a int is neither"),
        (lambda: 3, None, "gave a int"),
        (lambda x: x, None, "Write lambda"),
    ],
)
def test_what_cannot_begin_is_refused(student: Any, teacher: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        begun(student, teacher)


def test_what_takes_several_inputs_is_not_compressed_here(teacher: nn.Module) -> None:
    train = Examples.read({"a": torch.zeros(8, 2), "b": torch.zeros(8, 2), "label": torch.zeros(8).long()}, "train")
    with pytest.raises(InputError, match="by hand"):
        compressed(teacher, ["magnitude"], train)


def test_the_teacher_itself_is_pruned_taught_and_handed_on_without_its_masks(teacher: nn.Module) -> None:
    before = digest(teacher)
    made = run("teacher", teacher, compress=[("magnitude", {"amount": 0.5})])
    assert digest(teacher) == before
    assert zeros(made.student) == pytest.approx(0.5, abs=0.01)  # still, after training
    assert {*made.student.state_dict()} == {*teacher.state_dict()}
    assert not torch.equal(
        made.student[0].weight[made.student[0].weight != 0], teacher[0].weight[made.student[0].weight != 0]
    )
    assert made.recipe["compressed"] == "magnitude(amount=0.5)"
    # control: without it nothing is zero
    assert zeros(run("teacher", teacher).student) == 0


def test_every_seed_of_a_function_that_makes_students_is_compressed_from_its_own_start(teacher: nn.Module) -> None:
    made = run(lambda: mlp(16), teacher, seeds=2, compress=[("magnitude", {"amount": 0.5})], fine_tune=False)
    first, second = (trial.students["distilled"] for trial in made.evidence.trials)
    assert zeros(first) == pytest.approx(0.5, abs=0.01)
    assert not torch.equal(first[0].weight == 0, second[0].weight == 0)


def test_a_compressed_run_goes_on_to_the_same_weights(teacher: nn.Module, tmp_path: Path) -> None:
    whole = run("teacher", teacher, compress=[("low_rank", {"ratio": 0.6})], folder=tmp_path / "a")
    again = run("teacher", teacher, compress=[("low_rank", {"ratio": 0.6})], folder=tmp_path / "a", resume=True)
    assert digest(again.student) == digest(whole.student)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"compress": ["magnitud"]}, r"compress\[0\]: there is no compression 'magnitud'. Did you mean 'magnitude'"),
        ({"compress": ["magnitude", ("low_rank", {"rtio": 1})]}, r"compress\[1\]: low_rank has no option 'rtio'"),
        ({"compress": "magnitude"}, "is no list of names"),
        ({"compress": ["int8_static"]}, "nothing in it can be trained after int8_static. .* take qat"),
        ({"student": "techer"}, "student='techer'"),
        ({"compress": [("magnitude", {"amount": 1.5})]}, "amount"),
    ],
)
def test_what_is_wrong_is_told_before_any_training(
    teacher: nn.Module, wrong: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.job.train", lambda *args, **kwargs: pytest.fail("it trains"))
    with pytest.raises(InputError, match=told):
        run(**{"student": "teacher", "teacher": teacher, **wrong})


def test_what_a_compression_sees_is_where_the_student_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    monkeypatch.setattr("understudy.start.chain", lambda model, inputs, steps: seen.append(inputs))
    for device in ("cpu", "meta"):
        compressed(mlp(8).to(device), ["magnitude"], Examples.read(blobs(20, 0), "train"))
    assert [inputs.device.type for inputs in seen] == ["cpu", "meta"]


def test_a_student_made_of_its_teacher_begins_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    taught, brought = mlp(8), list[nn.Module]()
    monkeypatch.setattr(nn.Module, "cpu", lambda self: brought.append(self) or self)
    made = begun("teacher", taught)
    assert brought == [made]  # and the teacher stays where it is
    assert made is not taught
