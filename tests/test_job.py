"""The whole job, on small data."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import understudy as us
from understudy import answers, material, preflight
from understudy import evaluate as evaluate_module
from understudy import job as job_module
from understudy import outcome as outcome_module
from understudy.checkpoint import Checkpoints, thaw
from understudy.errors import InputError, MachineError
from understudy.examples import device_of
from understudy.folder import Lock
from understudy.outcome import Distilled
from understudy.state import digest
from understudy.teachers.stored import InMemory
from understudy.writing import load_tensors, save_tensors

Split = tuple[Tensor, Tensor]


def blobs(samples: int, seed: int) -> Split:
    """Three classes on a ring, so that a linear student cannot do all that the teacher can."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 2, generator=generator)
    angle = torch.atan2(inputs[:, 1], inputs[:, 0])
    return inputs, ((angle + torch.pi) / (2 * torch.pi) * 6).long().clamp(max=5) % 3


def mlp(width: int, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(0)
    model = mlp(64)
    optimizer = us.Optim("AdamW", lr=1e-2)
    us.train(us.methods.alone(model), blobs(600, 0), us.Settings(epochs=30, batch_size=64, optimizer=optimizer))
    return model.eval()


def run(teacher: Any, train: Any = None, student: Any = None, **options: Any) -> Distilled:
    options = {"test": blobs(200, 2), "epochs": 4, "seeds": 1, "progress": False, "device": "cpu", **options}
    return us.distill(student or (lambda: mlp(8)), teacher, train or blobs(300, 1), blobs(150, 3), **options)


@pytest.fixture(autouse=True)
def _no_export_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second; the module's `result`, which is made before, has it."""
    monkeypatch.setattr(evaluate_module, "to_onnx", lambda *args: None)
    monkeypatch.setattr(evaluate_module, "peak_memory", lambda *args: {"peak_memory_mb": 1.0})


@pytest.fixture(scope="module")
def result(teacher: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Distilled:
    folder = tmp_path_factory.mktemp("job") / "run"
    accept = {"accuracy": ">= 0.1 * teacher", "size_mb": "<= 0.00001"}
    return run(teacher, seeds=3, folder=folder, accept=accept, classes=["red", "green", "blue"], temperature=2)


def test_the_table_has_a_row_for_each_stage_with_units_in_the_keys(result: Distilled) -> None:
    assert [row["model"] for row in result.rows] == ["teacher", "student alone", "distilled", "+ fine-tuned", "kept"]
    student = result.rows[2]
    for key in (
        "accuracy",
        "accuracy_ci95",
        "loss_nats",
        "divergence",
        "agreement",
        "parameters",
        "size_mb",
        "seconds",
    ):
        assert isinstance(student[key], (int, float)), key
    assert student["latency_ms_p50"] <= student["latency_ms_p99"]
    assert student["parameters"] == 123
    assert result.rows[0]["accuracy_ci95"] is None  # one model


def test_the_figures_are_those_of_the_test_data(result: Distilled, teacher: nn.Module) -> None:
    inputs, labels = blobs(200, 2)
    with torch.no_grad():
        expected = (teacher(inputs).argmax(-1) == labels).double().mean()
        agreement = [
            (t.students["kept"](inputs).argmax(-1) == teacher(inputs).argmax(-1)).double().mean()
            for t in result.evidence.trials
        ]
    assert result.rows[0]["accuracy"] == pytest.approx(float(expected))
    assert result.rows[-1]["agreement"] == pytest.approx(float(torch.stack(agreement).mean()))


def test_alone_and_distilled_have_the_same_steps(result: Distilled) -> None:
    steps = {row["model"]: row.get("steps") for row in result.rows}
    assert steps["student alone"] == steps["distilled"] == 4 * 5
    assert steps["+ fine-tuned"] == 2


def test_the_printed_table_fits_eighty_columns_and_cuts_nothing(result: Distilled) -> None:
    text = str(result)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "± 95 % t-interval" in text
    assert "peak MB" in text


def test_what_is_accepted_and_why_is_said(result: Distilled) -> None:
    assert result.accepted is False
    assert "accuracy" in result.reasons[0]
    assert result.reasons[0].endswith(": met")
    assert result.reasons[1].endswith(": not met")
    assert "Not accepted." in str(result)


def test_conditions_that_are_all_met_are_accepted_and_none_is_none(teacher: nn.Module) -> None:
    assert run(teacher, accept={"accuracy": ">= 0.1"}, epochs=1).accepted is True
    assert run(teacher, epochs=1).accepted is None


def test_the_folder_holds_the_student_that_is_returned(result: Distilled) -> None:
    assert result.path is not None
    written = load_tensors(result.path / "student.safetensors")
    assert all(torch.equal(written[k], v) for k, v in result.student.state_dict().items())
    assert not result.student.training


def test_the_page_is_written(result: Distilled, tmp_path: Path) -> None:
    html = result.report(tmp_path / "new" / "page.html").read_text()
    for words in ("student alone", "red", "kept", "Calibration", "Soft labels"):
        assert words in html


def test_an_export_does_what_the_student_does(result: Distilled, tmp_path: Path) -> None:
    told = result.export(tmp_path / "student.onnx")
    with torch.no_grad():
        expected = (result.student(blobs(200, 2)[0]).argmax(-1) == blobs(200, 2)[1]).double().mean()
    assert told["agreement"] == 1.0
    assert told["accuracy"] == pytest.approx(float(expected))
    result.export(tmp_path / "deploy")
    assert sorted(p.name for p in (tmp_path / "deploy").iterdir()) == [
        "README.md",
        "model.onnx",
        "predict.py",
        "preprocessing.json",
    ]


def test_the_given_student_and_teacher_are_not_changed(teacher: nn.Module) -> None:
    student = mlp(8).train()
    before = copy.deepcopy((student.state_dict(), teacher.state_dict()))
    run(teacher, student=student, epochs=1)
    after = (student.state_dict(), teacher.state_dict())
    assert all(torch.equal(a[k], b[k]) for a, b in zip(before, after, strict=True) for k in a)
    assert student.training


def test_the_test_data_is_used_once_and_only_at_the_end(teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[str, int]] = []
    real = job_module.outputs

    def before(model: Any, examples: Any, **options: Any) -> Tensor:
        used.append((examples.name, examples.samples))
        return real(model, examples, **options)

    for module in (material, preflight, job_module):
        monkeypatch.setattr(module, "outputs", before)
    run(teacher, epochs=1)
    assert {name for name, samples in used if samples > 1} == {"train", "valid"}  # one sample, to see that it fits


def test_without_any_label_in_train_there_is_no_student_alone_and_only_soft_labels_count(teacher: nn.Module) -> None:
    inputs, _ = blobs(300, 1)
    result = run(teacher, (inputs,), epochs=2)
    assert [row["model"] for row in result.rows] == ["teacher", "distilled", "kept"]
    assert "gap_closed" not in result.rows[1]
    assert "teacher" in str(result)


def test_unlabelled_samples_are_for_the_distilled_student_alone(
    teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = blobs(300, 1)
    labels[50:] = -100
    sizes: dict[str, int] = {}
    real = job_module.train

    def watch(method: Any, data: Any, settings: Any, **options: Any) -> Any:
        sizes[method.names[-1]] = data.samples
        return real(method, data, settings, **options)

    monkeypatch.setattr(job_module, "train", watch)
    run(teacher, (inputs, labels), epochs=1)
    assert sizes == {"cross_entropy(student, batch.label)": 50, "kl(student, teacher)": 300}


def test_with_shuffled_soft_labels_the_gain_vanishes_and_the_verdict_says_so(
    teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, labels = blobs(400, 1)
    labels[30:] = -100
    options = {"seeds": 3, "epochs": 15, "temperature": 2, "alpha": 1.0, "fine_tune": False, "batch_size": 32}
    options |= {"student": lambda: mlp(48), "optimizer": us.Optim("AdamW", lr=1e-2)}
    good = run(teacher, (inputs, labels), **options)
    assert "Distillation helped" in good.verdict[0]

    def shuffled(tables: dict[str, Tensor], draws: int) -> InMemory:
        order = torch.randperm(400, generator=torch.Generator().manual_seed(0))
        return InMemory({name: table[order] for name, table in tables.items()}, draws)

    monkeypatch.setattr(answers, "InMemory", shuffled)
    bad = run(teacher, (inputs, labels), **options)
    assert "helped" not in bad.verdict[0]
    assert bad.rows[2]["accuracy"] < good.rows[2]["accuracy"] - 0.1


def test_a_job_that_is_broken_off_ends_as_one_that_was_not(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(teacher, folder=tmp_path / "whole", seeds=2, epochs=2)
    calls = 0
    real = job_module.train

    def dying(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(job_module, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        run(teacher, folder=tmp_path / "broken", seeds=2, epochs=2)
    monkeypatch.undo()
    with pytest.raises(InputError, match="already holds a job"):
        run(teacher, folder=tmp_path / "broken", seeds=2, epochs=2)
    again = run(teacher, folder=tmp_path / "broken", seeds=2, epochs=2, resume=True)
    for a, b in zip(whole.rows, again.rows, strict=True):
        same = [k for k in a if not k.startswith(("seconds", "latency", "peak_memory"))]
        assert {k: a[k] for k in same} == {k: b[k] for k in same}


def test_the_seeds_count_on_from_the_first(teacher: nn.Module, tmp_path: Path) -> None:
    both = run(teacher, seeds=2, epochs=2)
    later = run(teacher, seed=1, epochs=2, folder=tmp_path / "run")
    first, second = ({s: digest(m) for s, m in t.students.items()} for t in both.evidence.trials)
    (trial,) = later.evidence.trials
    assert {s: digest(m) for s, m in trial.students.items()} == second
    assert set(first.values()).isdisjoint(second.values())
    assert [t.seed for t in both.evidence.trials] == [0, 1]
    assert (trial.seed, later.seed, later.recipe["seed"]) == (1, 1, "1")
    assert "the kept student of seed 1," in later.verdict[-1]
    assert [p.name for p in (tmp_path / "run" / "distilled").iterdir()] == ["seed-1"]
    assert [c["seed"] for c in later.page["curves"]] == [1, 1, 1]


def facts_of(folder: Path) -> dict[str, Any]:
    """The results that two runs of a job have in common: all but what was timed."""
    told: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    timed = ("seconds", "latency", "peak_memory")
    told["rows"] = [{k: v for k, v in row.items() if not k.startswith(timed)} for row in told["rows"]]
    return {k: v for k, v in told.items() if k != "seconds"}


def test_the_results_are_in_the_folder(result: Distilled) -> None:
    assert result.path is not None
    told = json.loads((result.path / "results.json").read_text(encoding="utf-8"))
    assert told == result.results()
    assert told["rows"] == result.rows
    assert (told["verdict"], told["reasons"], told["accepted"]) == (result.verdict, result.reasons, False)
    assert (told["task"], told["metric"], told["measured_on"]) == ("classification", "accuracy", "test")
    assert told["seeds"] == [0, 1, 2]
    best = next(t for t in result.evidence.trials if t.seed == told["seed"])
    assert digest(best.students["kept"]) == digest(result.student)
    assert {stage: len(seconds) for stage, seconds in told["seconds"].items()} == {
        "soft labels": 1, "alone": 3, "distilled": 3, "fine-tuned": 3,
    }  # fmt: skip
    assert not (result.path / "teacher.safetensors").exists()  # it came as it is


def test_a_finished_job_that_is_resumed_leaves_the_same_results(tmp_path: Path) -> None:
    def again(resume: bool) -> Distilled:
        torch.manual_seed(0)
        return run(mlp(64), teacher_epochs=10, seeds=2, epochs=2, folder=tmp_path / "run", resume=resume)

    again(False)
    files = {name: (tmp_path / "run" / name).read_bytes() for name in ("student.safetensors", "teacher.safetensors")}
    facts, page = facts_of(tmp_path / "run"), json.loads((tmp_path / "run" / "page.json").read_text())
    second = again(True)
    assert {name: (tmp_path / "run" / name).read_bytes() for name in files} == files
    assert facts_of(tmp_path / "run") == facts
    resumed = json.loads((tmp_path / "run" / "page.json").read_text())
    assert {k: v for k, v in resumed.items() if k != "rows"} == {k: v for k, v in page.items() if k != "rows"}
    written = load_tensors(tmp_path / "run" / "teacher.safetensors")
    assert all(torch.equal(written[k], v) for k, v in second.teacher.state_dict().items())
    # What was trained before the resume counts: a teacher is not free because it was there already.
    saved = Checkpoints(tmp_path / "run" / "teacher" / "seed-0" / "checkpoints").load()
    assert saved is not None
    assert second.rows[0]["seconds"] >= thaw(*saved)["seconds"] > 0


def test_a_job_that_cannot_write_its_page_is_done_when_it_is_resumed(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = outcome_module.write_json

    def full(path: Path, *args: Any, **options: Any) -> None:
        if path.name == "page.json":
            raise MachineError("the disk is full")
        real(path, *args, **options)

    monkeypatch.setattr(outcome_module, "write_json", full)
    with pytest.raises(MachineError):
        run(teacher, folder=tmp_path / "run", epochs=1)
    before = facts_of(tmp_path / "run")
    monkeypatch.undo()
    run(teacher, folder=tmp_path / "run", epochs=1, resume=True)
    assert facts_of(tmp_path / "run") == before
    assert (tmp_path / "run" / "page.json").exists()


def test_a_job_that_is_refused_leaves_no_folder(teacher: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        run(teacher, folder=tmp_path / "run", classes=["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_may_be_in_the_folder_before_its_job(teacher: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("student: ...")
    run(teacher, folder=tmp_path, epochs=1)
    assert (tmp_path / "recipe.yaml").read_text() == "student: ..."


def test_regression_and_multi_label_are_inferred(teacher: nn.Module) -> None:
    inputs = torch.randn(200, 2, generator=torch.Generator().manual_seed(5))
    values = (inputs[:, :1] * 2 - inputs[:, 1:]).contiguous()
    big, options = mlp(32, 1), {"test": None, "epochs": 2, "seeds": 1, "progress": False, "teacher_epochs": 10}
    result = us.distill(lambda: mlp(4, 1), big, (inputs, values), (inputs[:80], values[:80]), **options)
    assert (result.task.name, result.measured_on) == ("regression", "valid")
    assert result.rows[0]["r2"] > 0.2

    answers = torch.stack([inputs[:, 0] > 0, inputs[:, 1] > 0], 1)
    result = us.distill(lambda: mlp(4, 2), mlp(32, 2), (inputs, answers), (inputs[:80], answers[:80]), **options)
    assert result.task.name == "multi-label"
    assert "f1_macro" in result.rows[0]


def test_another_method_and_a_function_of_ones_own_can_be_used(teacher: nn.Module) -> None:
    linear = us.projectors.Linear
    result = run(
        teacher, epochs=1, method="fitnets", student_layer="0", teacher_layer="0", project=linear(), weight=1.0
    )
    assert result.recipe["method"] == "fitnets"
    own = run(teacher, epochs=1, method=lambda s, t: us.methods.kd(s, t, temperature=1, alpha=0.5))
    assert own.rows[2]["steps"] == 5


class Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 7)


def bad_label() -> Split:
    inputs, labels = blobs(50, 1)
    labels[7] = 9
    return inputs, labels


def with_nan() -> Split:
    inputs, labels = blobs(50, 1)
    inputs[4, 0] = float("nan")
    return inputs, labels


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"teacher": Wide()}, r"student gives \[3\] and the teacher \[7\]"),
        ({"teacher": lambda x: torch.tensor([2.0, 0.0, 1.0]).expand(len(x), 3)}, "best constant answer"),
        ({"teacher": lambda x: torch.full((len(x), 3), float("nan"))}, "NaN for samples 0, 1"),
        ({"teacher": 3}, "cannot be called"),
        ({"student": lambda: mlp(300)}, "Were the two swapped"),
        ({"student": lambda: 3}, "must make an nn.Module"),
        ({"train": bad_label()}, "train: .*label 9"),
        ({"train": with_nan()}, "train: 'input' is NaN or infinite in sample 4"),
        ({"train": (torch.zeros(0, 2), torch.zeros(0).long())}, "train: has no sample"),
        ({"train": iter([torch.zeros(2)])}, "cannot be read twice"),
        ({"test": (blobs(20, 0)[0],)}, "test: has no label"),
        ({"task": "clasification"}, "Did you mean 'classification'"),
        ({"method": "kdd"}, "Did you mean 'kd'"),
        ({"temprature": 3}, "Did you mean 'temperature'"),
        ({"epochs": 0, "seeds": -1}, "(?s)epochs=0.*seeds=-1"),
        ({"seed": -1, "seeds": 1.5}, "(?s)seed=-1 must be a whole number, 0 or above.*seeds=1.5"),
        ({"seed": True}, "seed=True"),
        ({"sed": 3}, "Did you mean 'seed'"),
        ({"method": "KD"}, "Did you mean 'kd'"),
        ({"train": (torch.zeros(0, 2), torch.zeros(0).long()), "epochs": 0, "classes": 3}, "(?s)epochs=0.*classes=3"),
        ({"accept": {"acuracy": ">= 1"}}, "Did you mean 'accuracy'"),
        ({"teacher_epochs": 1, "train": (blobs(20, 0)[0],)}, "its data must have labels"),
    ],
)
def test_bad_input_is_refused_before_training(
    change: dict[str, Any], words: str, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("a stage was trained")

    monkeypatch.setattr(job_module, "train", never)
    with pytest.raises(InputError, match=words):
        run(**{"teacher": teacher, **change})


def test_a_teacher_that_answers_at_random_is_refused(teacher: nn.Module) -> None:
    wrong = nn.Sequential(teacher, nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        wrong[1].weight.copy_(torch.eye(3).roll(1, 0))  # the classes in another order
    with pytest.raises(InputError, match="are its classes in the data's order"):
        run(wrong)


def test_a_folder_in_use_is_refused(teacher: nn.Module, tmp_path: Path) -> None:
    lock = Lock(tmp_path)
    lock.take()
    try:
        with pytest.raises(InputError, match="is in use by process"):
            run(teacher, folder=tmp_path)
    finally:
        lock.release()


def test_what_could_not_be_measured_is_none(teacher: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise InputError("no such operator")

    monkeypatch.setattr(evaluate_module, "to_onnx", refuse)
    result = run(teacher, epochs=1, accept={"peak_memory_mb": "<= 1e9"})
    assert result.rows[-1]["peak_memory_mb"] is None
    assert result.accepted is False


def test_a_teacher_that_gives_probabilities_is_refused(teacher: nn.Module) -> None:
    with pytest.raises(InputError, match="Leave out its last Softmax"):
        run(nn.Sequential(teacher, nn.Softmax(-1)))


def test_a_teacher_in_training_mode_is_measured_in_eval_mode_and_not_changed() -> None:
    torch.manual_seed(0)
    normed = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    us.train(
        us.methods.alone(normed), blobs(600, 0), us.Settings(epochs=20, batch_size=64, optimizer=us.Optim(lr=1e-2))
    )
    before = copy.deepcopy(normed.train().state_dict())
    run(normed, epochs=1)
    assert all(torch.equal(before[k], v) for k, v in normed.state_dict().items())
    assert normed.training


def test_a_student_made_by_a_function_leaves_the_users_random_numbers_alone(teacher: nn.Module) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(teacher, epochs=1)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ["a", "b"]}, "2 names for 3 outputs"),
        ({"train": (blobs(60, 0)[0],), "accept": {"accuracy": ">= alone"}}, "there is none"),
    ],
)
def test_wishes_that_can_never_come_true_are_refused_before_training(
    change: dict[str, Any], words: str, teacher: nn.Module
) -> None:
    with pytest.raises(InputError, match=words):
        run(teacher, **change)


def test_a_few_seeds_are_not_taken_for_the_absence_of_a_gap(teacher: nn.Module) -> None:
    told = {"teacher": {"accuracy": [0.93] * 2}, "alone": {"accuracy": [0.55, 0.63]}}
    task = us.tasks.TASKS["classification"]
    assert "cannot be told from 2 seeds" in evaluate_module._no_gap(task, told)
    told["alone"]["accuracy"] = [0.95, 0.94]
    assert "no gap to close" in evaluate_module._no_gap(task, told)


def always(model: nn.Module) -> Any:
    return lambda: model


def shared_with(teacher: nn.Module) -> nn.Module:
    assert isinstance(teacher, nn.Sequential)
    return nn.Sequential(teacher[0], nn.ReLU(), nn.Linear(64, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t: {"method": lambda s, t: us.methods.kd(t, s)}, "in this order"),
        (lambda t: {"method": lambda s, t: None}, "returns a Method"),
        (lambda t: {"method": lambda s: None}, "the method cannot be made"),
        (lambda t: {"method": "fitnets", "student_layer": "0"}, "give both, or neither"),
        (lambda t: {"temperature": 0}, "temperature"),
        (lambda t: {"alpha": 7}, "alpha"),
        (lambda t: {"student": always(mlp(8))}, "same module at each call"),
        (lambda t: {"student": lambda: shared_with(t)}, "shares weights with the teacher"),
        (lambda t: {"student": nn.Linear}, "student: the function that makes it failed"),
        (lambda t: {"student": None, "train": None}, "train is None"),
        (lambda t: {"test": (torch.zeros(9, 5), torch.zeros(9).long())}, "cannot take a sample of test"),
        (lambda t: {"train": (blobs(50, 0)[0].double(), blobs(50, 0)[1])}, "cannot take a sample of train .*float64"),
        (lambda t: {"train": dict(zip(("input", "labels"), blobs(50, 0), strict=True))}, "Rename 'labels'"),
        (lambda t: {"optimizer": "adam"}, "is not an Optim"),
        (lambda t: {"batch_size": 0}, "batch_size=0"),
        (lambda t: {"accept": "accuracy>=1"}, "no mapping"),
        (lambda t: {"classes": "abc"}, "no list of names"),
        (lambda t: {"folder": ""}, "folder of its own"),
    ],
)
def test_more_bad_input_is_refused_before_training(
    make: Any, words: str, teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "train", None)  # a stage would fail with a TypeError
    options = make(teacher)
    student = options.pop("student", lambda: mlp(8))
    train = options.pop("train", blobs(100, 1))
    options = {"test": None, "seeds": 1, "epochs": 1, "progress": False, "device": "cpu", **options}
    with pytest.raises(InputError, match=words):
        us.distill(student, teacher, train, blobs(50, 3), **options)


def test_a_job_is_not_gone_on_with_on_other_data(teacher: nn.Module, tmp_path: Path) -> None:
    inputs, labels = blobs(100, 1)
    run(teacher, (inputs, labels), folder=tmp_path / "run", epochs=1)
    with pytest.raises(InputError, match="data 'train'"):
        run(teacher, (inputs, labels.roll(1)), folder=tmp_path / "run", epochs=1, resume=True)
    with pytest.raises(InputError, match="already holds a job"):
        run(teacher, (inputs, labels), folder=tmp_path / "run", epochs=1)


def test_a_folder_with_other_files_is_left_alone(teacher: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "student.safetensors").write_text("mine")
    with pytest.raises(InputError, match="which no job made"):
        run(teacher, folder=tmp_path, epochs=1)
    assert (tmp_path / "student.safetensors").read_text() == "mine"


def test_batch_norm_survives_a_last_batch_of_one(teacher: nn.Module) -> None:
    def normed() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    assert run(teacher, blobs(65, 1), student=normed, epochs=2).rows[2]["steps"] == 2


def test_the_seconds_of_the_kept_student_are_those_of_all_that_went_into_it(result: Distilled) -> None:
    trial = result.evidence.trials[0]
    stages = {"distilled", trial.chosen}
    assert evaluate_module._seconds(trial, "kept") == sum(trial.results[s].seconds for s in stages)
    assert result.rows[-1]["seconds"] >= min(t.results["distilled"].seconds for t in result.evidence.trials)


def test_a_page_and_an_export_go_only_where_their_names_say(result: Distilled, tmp_path: Path) -> None:
    for bad in ("notes.txt", ""):
        with pytest.raises(InputError, match=r"ends in \.html"):
            result.report(tmp_path / bad)
    with pytest.raises(InputError, match=r"ends in '\.pt'"):
        result.export(tmp_path / "student.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_is_loaded_from_a_file_and_what_was_given_is_not_changed(teacher: nn.Module, tmp_path: Path) -> None:
    save_tensors(tmp_path / "teacher.safetensors", teacher.state_dict())
    fresh = mlp(64)
    before = copy.deepcopy(fresh.state_dict())
    result = run(fresh, teacher_weights=tmp_path / "teacher.safetensors", epochs=1)
    assert all(torch.equal(v, teacher.state_dict()[k]) for k, v in result.teacher.state_dict().items())
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())
    with pytest.raises(InputError, match="nosuch"):
        run("nosuch:model")


def test_the_exported_folder_takes_the_preprocessing_it_is_given(result: Distilled, tmp_path: Path) -> None:
    result.export(tmp_path / "deploy", preprocessing={"scale": 0.5})
    assert '"scale": 0.5' in (tmp_path / "deploy" / "preprocessing.json").read_text()


def test_under_torchrun_it_is_refused_before_anything_is_begun(
    teacher: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"distill: .* this is one of 2\. Start it without torchrun\. .*understudy\.train"
    ):
        run(teacher, folder=tmp_path / "run", epochs=1)
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(job_module, "one_process", lambda what: None)
    with pytest.raises(ValueError, match="RANK"):  # torch's, when it is about to train
        run(teacher, folder=tmp_path / "run", epochs=1)
    assert (tmp_path / "run").exists(), "control"


def test_the_teacher_is_where_students_train_before_it_is_asked(
    teacher: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        pass

    def check_teacher(given: material.Material) -> None:
        raise Asked(device_of(given.teacher).type)

    there = property(lambda self: torch.device("meta"))
    monkeypatch.setattr(job_module, "check_teacher", check_teacher)
    for place, told in ((material.Material.device, "cpu"), (there, "meta")):
        monkeypatch.setattr(material.Material, "device", place)
        with pytest.raises(Asked, match=told):
            run(copy.deepcopy(teacher), epochs=1)
