"""One batch through everything: what each term pulls, and that nothing is changed by looking."""

from __future__ import annotations

import contextlib
import inspect
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import rehearsal
from understudy.data import Augment
from understudy.data.sets import digits
from understudy.errors import InputError
from understudy.job import distill
from understudy.losses import cross_entropy, kl, mse
from understudy.material import Material
from understudy.plan import Plan
from understudy.projectors import Conv1x1
from understudy.rehearsal import rehearse
from understudy.zoo import CNN


def material(**given: Any) -> Material:
    """What a small job works with."""
    parts = digits(train=200, valid=100, labelled=100)
    torch.manual_seed(0)
    told: dict[str, Any] = {
        "student": lambda: CNN(2), "teacher": CNN(4), "train": parts.train, "valid": parts.valid, "epochs": 3, "seeds": 2, "batch_size": 32,
        "device": "cpu", "progress": False,
    }  # fmt: skip
    bound = inspect.signature(distill).bind(**(told | given))
    bound.apply_defaults()
    return Material(Plan(**bound.arguments))


def terms(student: nn.Module, teacher: nn.Module) -> us.Distillation:
    return us.Distillation(
        us.Term(cross_entropy, "student", "batch.label", weight=0.3),
        us.Term(kl, "student", "teacher", weight=us.linear(0.9, 0)),
        us.Term(mse, "student.layer2", "teacher.layer2", project=Conv1x1(), weight=2.0),
        us.Term(mse, "student.layer1", "student.layer1", weight=0),
        student=student,
        teacher=teacher,
    )


# -- gradients ---------------------------------------------------------------------------------------------------------


def test_shares_add_up_to_one_and_follow_from_the_gradients() -> None:
    seen = rehearse(material(method=terms)).terms
    read = [term for term in seen if term.share is not None]
    assert len(read) == 3
    assert sum(term.share or 0 for term in read) == pytest.approx(1)
    whole = sum(term.gradient or 0 for term in read)
    assert [term.share for term in read] == pytest.approx([(term.gradient or 0) / whole for term in read])


def drowned(weight: float) -> list[str]:
    def method(student: nn.Module, teacher: nn.Module) -> us.Distillation:
        return us.Distillation(
            us.Term(cross_entropy, "student", "batch.label"),
            us.Term(mse, "student.layer2", "teacher.layer2", project=Conv1x1(), weight=weight),
            student=student,
            teacher=teacher,
        )

    return rehearse(material(method=method)).warnings


def test_labels_that_are_drowned_by_a_layer_are_warned_of() -> None:
    (told,) = drowned(1e6)
    assert told.startswith("cross_entropy(student, batch.label): 0.0% of the gradient")
    assert "Give mse(student.layer2, teacher.layer2) less weight" in told


def test_control_where_they_have_their_share_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drowned(0.1) == []
    monkeypatch.setattr(rehearsal, "DROWNED", 0.0)
    assert drowned(1e6) == []


def test_what_the_teacher_says_of_the_answer_counts_as_the_labels_do() -> None:
    made = rehearse(material(method="kd", temperature=1, alpha=0.999))
    assert min(term.share or 0 for term in made.terms) < rehearsal.DROWNED
    assert made.warnings == []


def test_a_gradient_is_what_autograd_gives_by_hand() -> None:
    made = material(method="kd", temperature=2, alpha=0.75)
    hard, soft = rehearse(made).terms
    batch = rehearsal._batch(made, torch.device("cpu"))
    student, teacher = made.student().train(), made.teacher.eval()
    label, known = batch["label"], batch["label"] != -100
    assert 0 < int(known.sum()) < len(known)

    def norm(loss: Tensor) -> float:
        grads = torch.autograd.grad(loss, list(student.parameters()))
        return math.sqrt(sum(float(g.square().sum()) for g in grads))

    def logits() -> Tensor:
        return student(batch["input"])

    assert hard.gradient == pytest.approx(
        norm(0.25 * torch.nn.functional.cross_entropy(logits()[known], label[known])), rel=1e-4
    )
    with torch.no_grad():
        target = (teacher(batch["input"]) / 2).softmax(-1)
    divergence = 4 * torch.nn.functional.kl_div((logits() / 2).log_softmax(-1), target, reduction="batchmean")
    assert soft.gradient == pytest.approx(norm(0.75 * divergence), rel=1e-4)
    assert (hard.weight, soft.weight) == (0.25, 0.75)


def test_twice_the_weight_is_twice_the_gradient() -> None:
    def weighted(weight: float) -> list[float | None]:
        def method(student: nn.Module, teacher: nn.Module) -> us.Distillation:
            return us.Distillation(
                us.Term(kl, "student", "teacher", weight=weight),
                us.Term(cross_entropy, "student", "batch.label"),
                student=student,
                teacher=teacher,
            )

        return [term.gradient for term in rehearse(material(method=method)).terms]

    (one, label), (two, same) = weighted(0.5), weighted(1.0)
    assert one is not None
    assert two == pytest.approx(2 * one, rel=1e-5)
    assert same == pytest.approx(label, rel=1e-5)


def test_a_term_that_no_gradient_comes_from_is_refused() -> None:
    def method(student: nn.Module, teacher: nn.Module) -> us.Distillation:
        constant = us.Term(mse, "stop student.layer1", "stop student.layer1")
        return us.Distillation(us.Term(kl, "student", "teacher"), constant, student=student, teacher=teacher)

    with pytest.raises(InputError, match="no gradient flows from mse"):
        rehearse(material(method=method))


def test_a_term_of_weight_zero_is_not_read_and_has_no_share() -> None:
    term = rehearse(material(method=terms)).terms[3]
    assert (term.weight, term.value, term.gradient, term.share, term.shapes) == (0, None, None, None, {})


def test_the_shapes_are_those_of_the_batch() -> None:
    seen = rehearse(material(method=terms)).terms
    assert seen[2].shapes == {"student.layer2": [32, 4, 4, 4], "teacher.layer2": [32, 8, 4, 4]}
    assert seen[1].weight == 0.9


def test_a_method_without_terms_has_none_to_show() -> None:
    class Own(us.Method):
        def __init__(self, student: nn.Module) -> None:
            super().__init__()
            self.pupil = student

        @property
        def student(self) -> nn.Module:
            return self.pupil

        def moves(self, batch: us.Batch, progress: us.Progress) -> Any:
            yield us.Move(self.student(batch["input"]).square().mean(), "student")

        def players(self) -> dict[str, list[nn.Parameter]]:
            return {"student": list(self.student.parameters())}

        def loss(self, batch: Any, progress: us.Progress = rehearsal.START) -> Tensor:
            return self.student(batch["input"]).square().mean()

    seen = rehearse(material(method=lambda student, teacher: Own(student)))
    assert seen.terms == []
    assert set(seen.cost.seconds) == {"alone", "distilled", "fine-tuned"}


# -- what is left as it was --------------------------------------------------------------------------------------------


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def changed(before: dict[str, Tensor], model: nn.Module) -> list[str]:
    return [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]


@pytest.mark.parametrize("method", ["kd", terms], ids=["kd", "terms"])
def test_models_with_their_buffers_modes_and_gradients_are_left_as_they_were(method: Any) -> None:
    student = CNN(2)
    made = material(student=student, method=method, teacher_epochs=2)
    made.teacher.eval()
    before = state(student), state(made.teacher)
    rehearse(made)
    assert changed(before[0], student) == changed(before[1], made.teacher) == []
    assert student.training
    assert not made.teacher.training
    assert all(p.grad is None and p.requires_grad for model in (student, made.teacher) for p in model.parameters())
    assert not any(module._forward_hooks for model in (student, made.teacher) for module in model.modules())


def test_what_a_rehearsal_does_to_the_model_itself_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = material(teacher_epochs=2)
    before = state(made.teacher)
    monkeypatch.setattr(rehearsal.copy, "deepcopy", lambda model: model)
    rehearse(made)
    assert any("running_mean" in name for name in changed(before, made.teacher))
    assert any("weight" in name for name in changed(before, made.teacher))


def random_state() -> Any:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def test_random_numbers_go_on_as_if_nothing_had_been(monkeypatch: pytest.MonkeyPatch) -> None:
    made = material()
    torch.manual_seed(5)
    before = random_state()
    rehearse(made)
    assert random_state() == before


def test_without_care_random_numbers_would_be_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made = material()
    torch.manual_seed(5)
    before = random_state()
    monkeypatch.setattr(rehearsal, "preserved", contextlib.nullcontext)
    monkeypatch.setattr("understudy.engine.preserved", contextlib.nullcontext)
    monkeypatch.setattr("understudy.material.preserved", contextlib.nullcontext)
    rehearse(made)
    assert random_state() != before


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    rehearse(material(folder=tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_stored_answers_of_several_views_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    rows = rehearsal.InMemory.rows
    monkeypatch.setattr(
        rehearsal.InMemory, "rows", lambda self, ids, draw=0: (seen.append(draw), rows(self, ids, draw))[1]
    )
    parts = digits(train=200, valid=100, augment=Augment(shift=1))
    made = rehearse(material(train=parts.train, valid=parts.valid, draws=2, epochs=20))
    assert "soft labels" in made.cost.seconds
    assert seen  # and not the teacher in every step


# -- cost --------------------------------------------------------------------------------------------------------------


def test_every_stage_has_its_time() -> None:
    assert set(rehearse(material(teacher_epochs=2)).cost.seconds) == {
        "teacher",
        "alone",
        "distilled",
        "fine-tuned",
        "soft labels",
    }
    live = material(fine_tune=False, method=terms, store=None)
    assert set(rehearse(live).cost.seconds) == {"alone", "distilled"}
    assert all(seconds > 0 for seconds in rehearse(material()).cost.seconds.values())


def test_time_is_a_steps_pace_times_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_pace", lambda *_: 2.0)
    monkeypatch.setattr(rehearsal, "_validating", lambda *_: 0.0)
    made = material()
    seconds = rehearse(made).cost.seconds
    assert {name: seconds[name] for name in made.stages} == {
        name: 2.0 * s.steps * s.runs for name, s in made.stages.items()
    }


def test_memory_counts_what_the_optimizer_keeps() -> None:
    adam = rehearse(material(optimizer=us.Optim("AdamW", lr=1e-3))).cost.memory_mb
    plain = rehearse(material(optimizer=us.Optim("SGD", lr=1e-3))).cost.memory_mb
    parameters = sum(p.numel() for p in CNN(2).parameters())
    assert (adam - plain) * 1e6 == pytest.approx(8 * parameters, rel=0.05)


def test_memory_grows_with_the_batch_and_disk_with_the_seeds() -> None:
    small, large = rehearse(material(batch_size=8)).cost, rehearse(material(batch_size=64)).cost
    assert large.memory_mb > small.memory_mb
    assert rehearse(material(seeds=8)).cost.disk_mb > rehearse(material(seeds=1)).cost.disk_mb


def test_models_are_told_with_their_sizes() -> None:
    student, teacher = rehearse(material()).models
    assert (student.name, student.kind, student.output) == ("student", "CNN", [10])
    assert student.parameters == sum(p.numel() for p in CNN(2).parameters())
    assert (teacher.name, teacher.parameters) == ("teacher", sum(p.numel() for p in CNN(4).parameters()))


def test_a_teacher_that_is_a_function_has_no_size() -> None:
    def teacher(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]

    told = rehearse(material(teacher=teacher)).models[1]
    assert (told.parameters, told.size_mb, told.output) == (None, None, [10])
