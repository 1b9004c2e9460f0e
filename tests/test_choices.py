"""What a job chooses by itself: on what grounds, and once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Term, choices, converted, distill, evaluate, inference, job, losses, preflight, probe
from understudy.batch import Batch, call
from understudy.choices import FILE, Choices
from understudy.errors import CorruptError, InputError, MissingExtra, NonFiniteError
from understudy.inference import WAYS, Inference
from understudy.method import Distillation
from understudy.probe import Choice, calibration, choose
from understudy.state import digest
from understudy.store import Store
from understudy.writing import read_json, write_json
from understudy.zoo import CNN

FEW: dict[str, Any] = {
    "epochs": 2, "seeds": 1, "fine_tune": False, "progress": False, "batch_size": 16, "device": "cpu",
    "optimizer": Optim("SGD", lr=0.05),
}  # fmt: skip


def data(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (samples,), generator=generator)
    return torch.randn(samples, 1, 8, 8, generator=generator) + label[:, None, None, None], label


TRAIN, VALID = data(48, 0), data(32, 1)


def taught() -> nn.Module:
    torch.manual_seed(0)
    model = CNN(4, classes=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(TRAIN[0]), TRAIN[1]).backward()
        optimizer.step()
    return model.eval()


class Slow(nn.Module):
    """A model that takes its time, unless it computes in bfloat16; and may then be wrong."""

    def __init__(self, wrong: float = 0.0, refuses: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.wrong, self.refuses = wrong, refuses

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        if logits.dtype == torch.bfloat16:
            return logits + self.wrong * torch.randn_like(logits)
        time.sleep(0.02)
        return logits


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [Batch.of(torch.randn(32, 4, generator=generator)) for _ in range(2)]


def chosen(teacher: Any, times: int = 700, **options: Any) -> Choice:
    student = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    return choose(teacher, batches(), times, give=call, student=student, **options)[0]


# -- the teacher -------------------------------------------------------------------------------------------------------


def test_the_fastest_way_that_gives_the_same_is_chosen() -> None:
    found = chosen(Slow())
    assert found.way == "bf16"
    assert "of the time of fp32" in found.told
    assert found == Choice.of(found.facts())


def test_a_faster_way_that_says_something_else_is_not_chosen() -> None:
    found = chosen(Slow(wrong=1.0))
    assert found.way in ("fp32", "channels_last")
    (bf16,) = (tried for tried in found.tried if tried.way == "bf16")
    assert "% off; allowed: 2 %" in (bf16.refused or "")


def test_a_tolerance_that_allows_all_would_have_let_it_pass() -> None:
    assert chosen(Slow(wrong=1.0), tolerance=1e9).way == "bf16"


def test_a_short_run_is_not_worth_a_trial() -> None:
    found = chosen(Slow(), times=3)
    assert found.way == "fp32"
    assert [tried.way for tried in found.tried] == ["fp32"]


def test_compiling_is_not_tried_where_it_cannot_pay() -> None:
    told = {tried.way: tried.refused for tried in chosen(Slow()).tried}
    assert "compiling takes longer" in (told["compiled-bf16"] or "")


def test_a_way_that_fails_is_none() -> None:
    class Refuses(Slow):
        def forward(self, x: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no such kernel\nat line 3")
            return super().forward(x)

    (bf16,) = (tried for tried in chosen(Refuses()).tried if tried.way == "bf16")
    assert bf16.refused == "RuntimeError: no such kernel"


def test_a_tap_that_is_off_counts() -> None:
    class Hidden(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + (torch.randn_like(x) if torch.is_autocast_enabled("cpu") else 0)

    class Two(Slow):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = Hidden()

        def forward(self, x: Tensor) -> Tensor:
            self.hidden(x)
            return super().forward(x)

    assert chosen(Two()).way == "bf16"
    assert chosen(Two(), taps=["hidden"]).way != "bf16"


def test_what_is_no_module_runs_as_it_does() -> None:
    def teacher(x: Tensor) -> Tensor:
        return x

    assert choose(teacher, batches(), 10**6, give=call)[1] is teacher


class Formed:
    """In place of an export: as fast as can be, and as right as the model says that it is."""

    def __init__(self, model: Slow, form: str, give: Any, samples: list[Any]) -> None:
        if form in model.refuses:
            raise InputError(f"{form} cannot be made of it")
        self.model, self.samples = model, samples

    def __call__(self, give: Any, inputs: Any) -> Tensor:
        logits: Tensor = self.model.layer(inputs)
        return logits + self.model.wrong * torch.randn_like(logits)


def with_forms(monkeypatch: pytest.MonkeyPatch, *ways: str) -> None:
    """As if all packages were there, and nothing took long to be made."""
    monkeypatch.setattr(inference, "Converted", Formed)
    monkeypatch.setattr(inference, "check_installed", lambda form: None)
    monkeypatch.setattr(probe, "COMPILING_SECONDS", 0.0)
    monkeypatch.setattr(probe, "WAYS", {way: WAYS[way] for way in ("fp32", "channels_last", *ways)})


def refused(found: Choice, way: str) -> str:
    (tried,) = (tried for tried in found.tried if tried.way == way)
    return tried.refused or ""


@pytest.mark.parametrize("way", ["onnx", "int8"])
def test_a_form_is_chosen_where_it_is_the_fastest(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with_forms(monkeypatch, way)
    assert chosen(Slow()).way == way


def test_where_bf16_is_the_fastest_a_graph_in_float32_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with_forms(monkeypatch, "bf16", "onnx", "int8")
    assert "onnx" not in {tried.way for tried in chosen(Slow()).tried}
    assert "int8" in {tried.way for tried in chosen(Slow()).tried}


def test_a_form_that_says_something_else_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with_forms(monkeypatch, "int8")
    found = chosen(Slow(wrong=1.0))
    assert found.way != "int8"
    assert "% off; allowed: 2 %" in refused(found, "int8")


def test_a_form_that_cannot_be_made_is_passed_over_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with_forms(monkeypatch, "onnx", "int8")
    found = chosen(Slow(refuses=("int8",)))
    assert found.way == "onnx"
    assert refused(found, "int8") == "int8 cannot be made of it"


def test_a_form_whose_package_is_missing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with_forms(monkeypatch, "int8")
    monkeypatch.setattr(inference, "check_installed", converted.check_installed)
    monkeypatch.setattr(converted.importlib.util, "find_spec", lambda name: None)
    found = chosen(Slow())
    assert found.way != "int8"
    assert "understudy[compress]" in refused(found, "int8")


def test_a_form_in_which_what_is_read_is_lost_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with_forms(monkeypatch, "onnx", "int8")
    found = chosen(Slow(), taps=["layer"])
    assert found.way not in ("onnx", "int8")
    assert "'layer' is read" in refused(found, "int8")
    found = chosen(Slow(), parts=True)
    assert found.way not in ("onnx", "int8")
    assert "gives one tensor" in refused(found, "onnx")


def test_a_form_is_made_from_other_samples_than_the_gradient_is_compared_on() -> None:
    given = batches()
    (made_from,) = calibration(given)
    assert torch.equal(made_from, given[1].inputs)
    assert torch.equal(calibration(given[:1])[0], given[0].inputs)


# -- in a job ----------------------------------------------------------------------------------------------------------


def worth(monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> None:
    """As if a short run were worth a trial."""
    monkeypatch.setattr(probe, "WORTH_SECONDS", seconds)
    monkeypatch.setattr(choices, "WORTH_SECONDS", seconds)


def fixed(monkeypatch: pytest.MonkeyPatch, way: str) -> list[str]:
    """A trial that always ends so."""
    calls: list[str] = []

    def choose(teacher: nn.Module, *args: Any, **options: Any) -> tuple[Choice, Any]:
        calls.append(way)
        return Choice(way, "it was so decided"), Inference(teacher, way)

    monkeypatch.setattr(choices, "choose", choose)
    return calls


def test_a_resumed_job_keeps_what_was_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job: dict[str, Any] = {
        **FEW,
        "method": "attention_transfer",
        "layers": [("layer2", "layer2")],
        "folder": tmp_path / "run",
    }
    fixed(monkeypatch, "bf16")
    first = distill(CNN(2, classes=3), taught(), TRAIN, VALID, **job)
    calls = fixed(monkeypatch, "fp32")
    again = distill(CNN(2, classes=3), taught(), TRAIN, VALID, resume=True, **job)
    assert calls == []
    assert read_json(tmp_path / "run" / FILE)["teacher"]["way"] == "bf16"
    assert digest(again.student) == digest(first.student)


def ends(**options: Any) -> str:
    torch.manual_seed(3)
    job = FEW | {"method": "attention_transfer", "layers": [("layer2", "layer2")]} | options
    return digest(distill(CNN(2, classes=3), taught(), TRAIN, VALID, **job).student)


def test_what_is_set_by_hand_is_done() -> None:
    plain = ends(teacher_run="fp32", precision="fp32")
    assert ends() == plain  # a short job chooses nothing
    assert ends(teacher_run="bf16") != plain
    assert ends(precision="bf16") != plain


@pytest.mark.parametrize(("bf16", "taken"), [(0.1, "bf16"), (0.9, "fp32")])
def test_bf16_is_taken_where_it_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bf16: float, taken: str
) -> None:
    worth(monkeypatch)
    fixed(monkeypatch, "fp32")
    seconds: Callable[..., float] = lambda self, precision: {"fp32": 1.0, "bf16": bf16}[precision.name]  # noqa: E731
    monkeypatch.setattr(Choices, "_seconds", seconds)
    distill(CNN(2, classes=3), taught(), TRAIN, VALID, folder=tmp_path / "run", **FEW)
    told = read_json(tmp_path / "run" / FILE)["precision"]
    assert told["name"] == taken
    assert f"{bf16:.2f}" in told["told"]


def test_the_time_of_a_step_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worth(monkeypatch)
    distill(CNN(2, classes=3), taught(), TRAIN, VALID, folder=tmp_path / "run", **FEW)
    told = read_json(tmp_path / "run" / FILE)
    assert "of the time" in told["precision"]["told"]


class Shown(nn.Module):
    """Notes in which precision it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.model, self.short = taught(), set[bool]()

    def __deepcopy__(self, memo: dict[int, Any]) -> Shown:
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.short.add(torch.is_autocast_enabled("cpu"))
        logits: Tensor = self.model(x)
        return logits


def test_a_teacher_that_no_way_makes_faster_computes_in_float32_for_students_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    teacher = Shown()
    distill(CNN(2, classes=3), teacher, TRAIN, VALID, store=None, precision="bf16", **FEW)
    assert teacher.short == {False}
    monkeypatch.setattr(Choices, "teacher", lambda self, teacher, *given, **more: teacher)
    distill(CNN(2, classes=3), teacher, TRAIN, VALID, store=None, precision="bf16", **FEW)
    assert teacher.short == {False, True}


def test_a_learning_rate_that_is_too_high_for_what_is_timed_ends_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Done(Exception):
        pass

    def train_stage(*given: Any, **more: Any) -> None:
        raise Done

    worth(monkeypatch)
    fixed(monkeypatch, "fp32")
    monkeypatch.setattr(job, "train_stage", train_stage)
    given = FEW | {"optimizer": Optim("SGD", lr=1e6)}
    with pytest.raises(Done):
        distill(CNN(2, classes=3), taught(), TRAIN, VALID, **given)
    monkeypatch.setattr(Optim, "at", lambda self, share: self)
    with pytest.raises(NonFiniteError):
        distill(CNN(2, classes=3), taught(), TRAIN, VALID, **given)


def test_ways_and_precisions_that_there_are_not_are_refused() -> None:
    with pytest.raises(InputError, match=r"(?s)teacher_run='bf17'.*precision='int8'"):
        distill(CNN(2, classes=3), taught(), TRAIN, VALID, teacher_run="bf17", precision="int8", **FEW)


# -- a teacher in a form that is made from samples ---------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what takes most of a small job's time: the memory that its exported models take."""
    monkeypatch.setattr(evaluate, "_memory", lambda *given: None)


def job_in(folder: Path, way: str, *, dies_at: int | None = None, **options: Any) -> tuple[str, int]:
    """A job whose students ask the teacher in every step, and how often they did; it may die on the way."""
    steps = 0

    def soft(student: Tensor, teacher: Tensor) -> Tensor:
        nonlocal steps
        steps += student.requires_grad
        if steps == dies_at:
            raise Killed
        return losses.kl(student, teacher, temperature=4.0)

    def method(student: nn.Module, teacher: nn.Module) -> Distillation:
        return Distillation(Term(soft, "student", "teacher"), student=student, teacher=teacher)

    job = FEW | {"method": method, "store": None, "teacher_run": way, "folder": folder} | options
    torch.manual_seed(3)
    return digest(distill(lambda: CNN(2, classes=3), taught(), TRAIN, VALID, **job).student), steps


def resumed(folder: Path, way: str) -> tuple[str, int]:
    with pytest.raises(Killed):
        job_in(folder, way, dies_at=5)
    return job_in(folder, way, resume=True)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("way", ["onnx", "int8", pytest.param("int8 compiled", marks=pytest.mark.long)])
def test_a_job_that_dies_and_is_resumed_ends_alike(way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    way, _, compiled = way.partition(" ")
    for package in converted.FORMS[way][0]:
        pytest.importorskip(package)
    if not compiled:
        monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    whole, steps = job_in(tmp_path / "whole", way)
    again, fewer = resumed(tmp_path / "broken", way)
    assert again == whole
    assert fewer < steps  # it went on, and did not begin anew
    assert read_json(tmp_path / "whole" / FILE)["teacher"]["way"] == way


@pytest.mark.usefixtures("unmeasured")
def test_a_form_made_from_other_samples_would_be_seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    whole, _ = job_in(tmp_path / "whole", "int8")
    few = Choices._few
    monkeypatch.setattr(Choices, "_few", lambda self, rows: few(self, rows).only(torch.arange(40, 48)))
    assert resumed(tmp_path / "broken", "int8")[0] != whole


def test_the_samples_of_a_trial_are_from_all_over_the_data_and_always_the_same() -> None:
    class Held:
        samples = 1000

        def only(self, ids: Tensor) -> Tensor:
            return ids

    made = Choices.__new__(Choices)
    made.material = type("M", (), {"stages": {"distilled": type("S", (), {"data": Held()})}})()  # type: ignore[assignment]
    ids: Any = made._few(20)
    assert ids.tolist() == made._few(20).tolist()  # type: ignore[attr-defined]
    assert len(set(ids.tolist())) == 60
    assert ids[0] == 0
    assert ids[-1] > 950


@pytest.mark.usefixtures("unmeasured")
def test_a_store_knows_in_which_form_its_teacher_ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    monkeypatch.setattr(torch, "compile", lambda model, **options: model)
    said = tmp_path / "said"
    job = FEW | {"store": said, "epochs": 3}
    first = distill(CNN(2, classes=3), taught(), TRAIN, VALID, teacher_run="int8", **job)
    assert Store.open(said).manifest.facts["run"] == "int8"
    again = distill(CNN(2, classes=3), taught(), TRAIN, VALID, **job)  # goes on as the store was filled
    assert digest(again.student) == digest(first.student)
    facts = Store.open(said).manifest.facts
    with pytest.raises(InputError, match="run"):
        Store.open(said, facts | {"run": "fp32"})


@pytest.mark.parametrize("way", ["onnx", "int8"])
def test_layers_that_a_form_would_lose_are_named_before_any_training(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check_installed", lambda form: None)
    trained: list[str] = []
    monkeypatch.setattr(job, "train_stage", lambda *a, **k: trained.append("a stage"))
    with pytest.raises(InputError, match=rf"run='{way}'.*'layer2' is read.*Ways in which layers can be read: fp32"):
        ends(teacher_run=way)
    assert trained == []


def test_a_form_that_cannot_be_had_is_told_before_any_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"understudy\[onnx\]"):
        distill(CNN(2, classes=3), taught(), TRAIN, VALID, teacher_run="onnx", **FEW)


@pytest.mark.parametrize("damaged", [[1], {"teacher": []}, {"precision": {"name": "fp8", "told": ""}}])
def test_damaged_choices_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damaged: Any) -> None:
    def begun() -> None:
        distill(CNN(2, classes=3), taught(), TRAIN, VALID, folder=tmp_path / "run", resume=True, **FEW)

    begun()
    write_json(tmp_path / "run" / FILE, damaged)
    with pytest.raises(CorruptError, match=r"choices\.json: is damaged: it is not what a job writes\. Delete it"):
        begun()
    monkeypatch.setattr(choices, "_chosen_before", lambda _: damaged)  # the control
    with pytest.raises((AttributeError, TypeError, KeyError, InputError)):
        begun()
