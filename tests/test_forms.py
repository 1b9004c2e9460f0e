"""Other forms of a student: measured beside it, with the weights that go with the student's best."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import evaluate, forms, job, outcome
from understudy.errors import Interrupted
from understudy.forms import BestForms, HasForms, forms_of
from understudy.methods.byot import exits_of
from understudy.methods.residual_hint import ResidualHead, with_hint
from understudy.outcome import Distilled
from understudy.state import digest
from understudy.tasks import TASKS


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Flatten(), nn.Linear(36, width), nn.ReLU())
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer1(x)))


class Deep(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


def images(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    pictures = torch.randn(samples, 1, 6, 6, generator=generator)
    pictures[labels == 0, :, :, 2] += 0.7
    pictures[labels == 1, :, 2, :] += 0.7
    return pictures, labels


TEST = images(60, 2)


def run(method: Any = "residual_hint", student: Any = None, **more: Any) -> Distilled:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    teacher = Net(32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "to_onnx", lambda *args: None)
        patch.setattr(evaluate, "peak_memory", lambda *args: {"peak_memory_mb": 1.0})
        return us.distill(
            student or (lambda: Net(2)), teacher, images(96, 0), images(60, 1), test=TEST, method=method,
            **{"epochs": 6, "seeds": 2, "teacher_epochs": 12, "fine_tune": True, "progress": False, "device": "cpu", **more},
        )  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    return run(folder=tmp_path_factory.mktemp("job") / "run")


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model.eval()(TEST[0]).argmax(1) == TEST[1]).double().mean())


def row(result: Distilled, name: str) -> dict[str, Any]:
    (found,) = [r for r in result.rows if r["model"] == name]
    return found


def test_a_residual_hint_is_reported_with_the_head_and_without(done: Distilled) -> None:
    names = [r["model"] for r in done.rows]
    assert names == ["teacher", "student alone", "distilled", "distilled, with hint", "+ fine-tuned", "kept"]
    trials = done.evidence.trials
    for name, models in (
        ("distilled, with hint", [t.forms["with hint"] for t in trials]),
        ("distilled", [t.students["distilled"] for t in trials]),
    ):
        assert row(done, name)["accuracy"] == pytest.approx(sum(map(accuracy, models)) / 2)
        assert {"agreement", "divergence", "gap_closed", "loss_nats_ci95"} <= row(done, name).keys()
    # the two are not the same model
    assert row(done, "distilled, with hint")["loss_nats"] != pytest.approx(
        row(done, "distilled")["loss_nats"], abs=1e-6
    )


def test_the_head_is_counted_and_what_is_handed_on_has_none(done: Distilled) -> None:
    assert row(done, "distilled, with hint")["parameters"] == row(done, "distilled")["parameters"] + 2 * 2 + 2
    assert isinstance(done.student, Net)
    assert any('The form "with hint"' in line and "the distilled student" in line for line in done.verdict)
    assert "distilled, with hint" in [r["model"] for r in done.page["rows"]]
    assert "with hint" in str(done)


def test_the_sum_is_the_students_output_and_the_hint_and_the_student_inside_is_the_distilled_one(
    done: Distilled,
) -> None:
    for trial in done.evidence.trials:
        both, student = trial.forms["with hint"], trial.students["distilled"]
        assert isinstance(both, ResidualHead)
        assert both.student is student
        with torch.no_grad():
            hint = both.hint(student.eval().layer1(TEST[0]))
            torch.testing.assert_close(both(TEST[0]), student(TEST[0]) + hint)


def test_a_method_without_forms_has_no_further_row() -> None:
    result = run("kd", epochs=1, seeds=1, fine_tune=False)
    assert [r["model"] for r in result.rows] == ["teacher", "student alone", "distilled", "kept"]
    assert not isinstance(us.methods.kd(Net(2), Net(3)), HasForms)


def test_a_student_with_its_own_head_is_reported_without_it() -> None:
    result = run(student=lambda: ResidualHead(Net(2), "head<", inputs=2, outputs=2), epochs=2, seeds=1, fine_tune=False)
    (trial,) = result.evidence.trials
    bare = trial.forms["without hint"]
    own = trial.students["distilled"]
    with torch.no_grad():
        torch.testing.assert_close(bare(TEST[0]), own.student(TEST[0]))  # type: ignore[operator]
        assert not torch.allclose(bare(TEST[0]), own(TEST[0]))
    assert row(result, "distilled, without hint")["accuracy"] == pytest.approx(accuracy(bare))


def test_early_exits_are_reported_each_and_in_the_mean() -> None:
    result = run("byot", student=lambda: Deep(3), layers=["layer1", "layer2"], epochs=2, seeds=1, fine_tune=False)
    (trial,) = result.evidence.trials
    assert list(trial.forms) == ["exit 1", "mean of exits"]
    with torch.no_grad():
        first, last = trial.forms["exit 1"](TEST[0]), trial.students["distilled"](TEST[0])
        torch.testing.assert_close(trial.forms["mean of exits"](TEST[0]), (first + last) / 2)
    assert not torch.allclose(first, last)
    assert row(result, "distilled, exit 1")["accuracy"] == pytest.approx(accuracy(trial.forms["exit 1"]))


def test_what_is_exported_is_the_student_unless_told(done: Distilled, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[nn.Module] = []
    monkeypatch.setattr(outcome, "deploy", lambda path, model, *rest: given.append(model))
    done.export("student.onnx")
    done.export("student.onnx", form="with hint")
    (best,) = [trial for trial in done.evidence.trials if trial.seed == done.seed]
    assert given == [done.student, best.forms["with hint"]]
    with pytest.raises(us.errors.InputError, match=r"no form 'with hints'.*with hint"):
        done.export("student.onnx", form="with hints")


@pytest.mark.long
def test_a_form_does_as_a_file_what_it_does_here(done: Distilled, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    figures = done.export(tmp_path / "both.onnx", form="with hint")
    assert figures["accuracy"] == pytest.approx(accuracy(done.form("with hint")))


# -- the weights -------------------------------------------------------------------------------------------------------


def small(method: Any, folder: Path | None = None, **more: Any) -> tuple[Any, BestForms]:
    listening = BestForms(method, TASKS["classification"], folder)
    valid = images(60, 1)

    def validate(model: nn.Module) -> dict[str, float]:
        figures.append(0.0)
        return {"accuracy": BEST[len(figures) - 1]}

    figures: list[float] = []
    settings = us.Settings(steps=5, batch_size=32, validate_every=1, best="accuracy", device="cpu", save_every=1)
    result = us.train(
        method, valid, settings, validate=validate, folder=folder, callbacks=[listening, *more.get("also", ())]
    )
    return result, listening


BEST = [0.0, 0.2, 0.9, 0.5, 0.9, 0.1]  # before training, and after each step: best after the second, and once as good


class Heads(us.Callback):
    """What the head is after each step."""

    def __init__(self, method: Any) -> None:
        self.method, self.seen = method, [Tensor()]

    def stepped(self, progress: us.Progress) -> None:
        self.seen.append(with_hint(self.method).hint.weight.detach().clone())  # type: ignore[union-attr]


def hinting() -> Any:
    torch.manual_seed(0)
    return us.methods.residual_hint(Net(2), Net(8), features="layer1")


def test_the_head_is_that_of_the_students_best_and_not_the_last() -> None:
    method = hinting()
    heads = Heads(method)
    result, listening = small(method, also=[heads])
    assert result.best["step"] == 2
    last = with_hint(method).hint.weight.detach().clone()  # type: ignore[union-attr]
    both = listening.restore(result)["with hint"]
    assert torch.equal(both.hint.weight, heads.seen[2])
    assert torch.equal(last, heads.seen[5])  # control: without it, the last
    assert not torch.equal(last, heads.seen[2])


def test_to_keep_forms_disturbs_no_training() -> None:
    watched, alone = hinting(), hinting()
    small(watched)
    before = BestForms.logged
    try:
        BestForms.logged = lambda self, record: None  # type: ignore[method-assign]
        small(alone)
    finally:
        BestForms.logged = before  # type: ignore[method-assign]
    assert digest(watched) == digest(alone)
    assert watched.training == alone.training


def test_a_resumed_training_finds_the_head_again(tmp_path: Path) -> None:
    method = hinting()
    result, first = small(method, tmp_path / "run")
    again = hinting()
    again.dry_run(images(4, 1))
    listening = BestForms(again, TASKS["classification"], tmp_path / "run")
    settings = us.Settings(steps=5, batch_size=32, validate_every=1, best="accuracy", device="cpu", save_every=1)
    other = us.train(
        again, images(60, 1), settings, validate=lambda model: {"accuracy": 0.0}, folder=tmp_path / "run", resume=True, callbacks=[listening]
    )  # fmt: skip
    assert digest(listening.restore(other)["with hint"]) == digest(first.restore(result)["with hint"])
    lost = copy.deepcopy(listening)
    lost.step = 0
    lost.method.terms[1].loss.head.weight.data.zero_()  # type: ignore[union-attr]
    assert digest(lost.restore(other)["with hint"]) != digest(first.restore(result)["with hint"])  # control


def test_an_interrupted_job_gives_the_same_figures_when_it_goes_on(done: Distilled, tmp_path: Path) -> None:
    class Stop(BestForms):
        def logged(self, record: Mapping[str, Any]) -> None:
            super().logged(record)
            if "valid" in record and record["step"] == 6:
                raise Interrupted("now")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "BestForms", Stop)
        with pytest.raises(Interrupted):
            run(folder=tmp_path / "run")
    result = run(folder=tmp_path / "run", resume=True)
    for key in ("accuracy", "loss_nats", "divergence"):
        assert row(result, "distilled, with hint")[key] == row(done, "distilled, with hint")[key]


# -- guards ------------------------------------------------------------------------------------------------------------


class Wrong(us.Distillation):
    def forms(self) -> dict[str, nn.Module]:
        return {"doubled": nn.Linear(7, 2)}


def test_a_form_that_cannot_take_the_data_is_refused_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def method(student: nn.Module, teacher: nn.Module) -> us.Method:
        return Wrong(us.Term(us.losses.kl, "student", "teacher"), student=student, teacher=teacher)

    trained: list[str] = []
    monkeypatch.setattr(job, "train_stage", lambda *args, **more: trained.append("!"))
    with pytest.raises(us.errors.InputError, match="student doubled: cannot take a sample of train"):
        run(method)
    assert trained == []


def test_forms_are_asked_for_after_the_dry_run() -> None:
    method = us.methods.byot(Deep(3), layers=["layer1", "layer2"])
    with pytest.raises(us.errors.InputError, match="after its dry run"):
        forms_of(method)
    method.dry_run(images(4, 0))
    assert list(forms_of(method)) == ["exit 1", "mean of exits"]
    assert len(exits_of(method)(TEST[0])) == 2
    assert forms.__all__ == ["BestForms", "HasForms", "forms_of"]
