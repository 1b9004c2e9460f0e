"""A comparison asks its teacher once: the same students as with the teacher in every step, and no sample asked twice."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from understudy import answers, choices, evaluate, registry, shared, trained
from understudy.answers import Answers
from understudy.errors import InputError, Interrupted
from understudy.inference import Inference
from understudy.losses import cross_entropy, mse
from understudy.method import Distillation, Method
from understudy.preflight import check_store
from understudy.progress import Progress
from understudy.projectors import Linear
from understudy.ranking.compare import Compared, compare
from understudy.recipe.examine import examine
from understudy.recipe.text import read, read_setting
from understudy.store import Store
from understudy.teachers.stored import InMemory, Joined
from understudy.term import Term

RECIPE = """\
task: classification
data: {name: digits, train: 150, valid: 60, labelled: 100}
student: {name: CNN, channels: 2}
teacher: {model: {name: Rowwise}, epochs: 3, data: {name: digits, train: 300, valid: 60}}
method: kd
epochs: 2
seeds: 1
batch_size: 50
optimizer: {name: AdamW, lr: 1e-2}
device: cpu
threads: 1
"""

SAMPLES = 150


class Sum(nn.Module):
    """A linear layer that gives each row the same bits, whatever rows stand beside it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None, :] * self.weight).sum(-1)


class Rowwise(nn.Module):
    """A teacher that counts the samples that it is asked about."""

    asked = 0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Sum(64, 24), Sum(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            Rowwise.asked += len(x)
        logits: Tensor = self.second(self.first(x.flatten(1)).relu())
        return logits


def hint(student: nn.Module, teacher: Any) -> Method:
    """A layer of the teacher."""
    return Distillation(
        Term(cross_entropy, "student", "batch.label"),
        Term(mse, "student", "teacher.first", project=Linear()),
        student=student,
        teacher=teacher,
    )


class Own(Distillation):
    """A method that may ask whatever it likes."""


def own(student: nn.Module, teacher: Any) -> Method:
    return Own(Term(mse, "student", "teacher"), student=student, teacher=teacher)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    before = dict(registry._PLUGGED)
    registry.register("model")(Rowwise)
    for method in (hint, own):
        registry.register("method")(method)
    yield
    registry._PLUGGED.clear()
    registry._PLUGGED.update(before)


@pytest.fixture(autouse=True)
def _no_export_for_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "_memory", lambda model, one: None)


def compared(folder: Path, *names: str, settings: tuple[str, ...] = (), **more: Any) -> Compared:
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(RECIPE)
    document = read(folder / "small.yaml")
    for where, value, place in map(read_setting, settings):
        document.set(where, value, place)
    console = more.pop("console", Console(quiet=True))
    return compare(document, folder / "out", names=names, console=console, **more)


LIVE = ("teacher.store=null",)
NAMES = ("kd", "hint", "own", "dkd")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "_memory", lambda model, one: None)
        return compared(tmp_path_factory.mktemp("live"), *NAMES, settings=LIVE)


def weights(made: Compared) -> dict[str, bytes]:
    return {str(f.relative_to(made.folder)): f.read_bytes() for f in made.folder.rglob("student.safetensors")}


def plain(made: Compared) -> list[dict[str, Any]]:
    """All but times."""
    return [{k: v for k, v in row.items() if not k.startswith("step_")} for row in made.ranking.rows]


@pytest.mark.parametrize("place", ["memory", "disk", "given"])
def test_students_are_those_that_a_live_teacher_makes_to_the_bit(
    place: str, live: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "disk":
        monkeypatch.setattr(answers, "IN_MEMORY", 0)
    settings = (f"teacher.store={tmp_path / 'said'}",) if place == "given" else ()
    made = compared(tmp_path, *NAMES, settings=settings)
    assert weights(made) == weights(live)
    assert plain(made) == plain(live)
    found = {str(file.parent.relative_to(tmp_path)) for file in tmp_path.rglob("store.json")}
    assert found == {"memory": set(), "disk": {"out/store/0"}, "given": {"said"}}[place]
    assert made.ranking.protocol["teacher"].endswith("asked once about every sample for 3 methods; for others it runs in every step")  # fmt: skip
    assert live.ranking.protocol["teacher"].endswith("; it runs in every step")


def test_answers_of_other_samples_would_make_other_students(
    live: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shifted(Joined):
        def rows(self, ids: Tensor, draw: int = 0) -> dict[str, Tensor]:
            return super().rows((ids + 1) % SAMPLES, draw)

    monkeypatch.setattr(shared, "Joined", Shifted)
    made, wanted = weights(compared(tmp_path, *NAMES)), weights(live)
    apart = {name.split("/")[1] for name in made if made[name] != wanted[name]}
    assert apart == {"kd", "hint", "dkd"}


def test_the_teacher_is_asked_once_about_every_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings, table = [0], [0]
    real_stage, real_table = trained.train_stage, Answers.in_memory

    def counted(into: list[int], real: Any) -> Any:
        def called(*args: Any, **more: Any) -> Any:
            before = Rowwise.asked
            try:
                return real(*args, **more)
            finally:
                into[0] += Rowwise.asked - before if args[1:2] != ("teacher",) else 0

        return called

    monkeypatch.setattr(trained, "train_stage", counted(trainings, real_stage))
    monkeypatch.setattr(Answers, "in_memory", counted(table, real_table))
    Rowwise.asked = 0
    compared(tmp_path / "shared", "kd", "dkd", "hint")
    whole = Rowwise.asked
    assert (table[0], trainings[0]) == (SAMPLES, 0)

    table[0] = Rowwise.asked = 0
    compared(tmp_path / "live", "kd", "dkd", "hint", settings=LIVE)
    assert (table[0], trainings[0]) == (0, 3 * (2 * SAMPLES + 50))  # two epochs and a dry run, of three students
    # The rest is alike, but for the two samples that show the shapes and the two batches of the table's size that are timed.
    assert Rowwise.asked - trainings[0] - whole + SAMPLES in range(-2 - 4 * 256, 1)


def test_layers_that_methods_read_which_are_added_are_added_to_the_table(
    live: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "IN_MEMORY", 0)
    compared(tmp_path, "kd")
    assert [*Store.open(tmp_path / "out/store/0").manifest.fields] == [""]
    runs: list[str] = []
    make = trained.train_stage

    def noted(*args: Any, **more: Any) -> Any:
        runs.append(str(more["folder"].relative_to(tmp_path / "out")))
        return make(*args, **more)

    monkeypatch.setattr(trained, "train_stage", noted)
    made = compared(tmp_path, *NAMES, resume=True)
    assert [*Store.open(tmp_path / "out/store/1").manifest.fields] == ["first"]
    assert [run for run in runs if run.startswith(("methods/kd", "teacher", "alone"))] == []
    assert weights(made) == weights(live)


def test_a_comparison_that_is_broken_off_goes_on_with_more_methods_to_the_same_bits(
    live: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped, left = trained.Shown.stepped, [3 * 6 + 2 * 3 + 4]  # of the teacher, the student alone, and some of kd's

    def counted(self: Any, progress: Progress) -> None:
        stepped(self, progress)
        left[0] -= 1
        if left[0] == 0:
            raise Interrupted("stopped.")

    with monkeypatch.context() as patch:
        patch.setattr(trained.Shown, "stepped", counted)
        with pytest.raises(Interrupted):
            compared(tmp_path, "kd")
    assert list((tmp_path / "out/methods/kd").rglob("checkpoints"))
    made = compared(tmp_path, *NAMES, resume=True)
    assert weights(made) == weights(live)


@pytest.mark.long
def test_what_there_is_no_room_for_is_asked_in_every_step(
    live: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MOST", 4 * 10 * SAMPLES)  # for logits, and not for the layer's 24 values
    made = compared(tmp_path, *NAMES)
    assert json.loads((made.folder / "choices.json").read_text())["soft labels"]["fields"] == [""]
    assert "for 2 methods" in made.ranking.protocol["teacher"]
    assert weights(made) == weights(live)


@pytest.mark.long
def test_two_comparisons_read_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = Store.fill
    monkeypatch.setattr(Store, "fill", lambda *args, **more: made.append(real(*args, **more)) or made[-1])
    settings = (f"teacher.store={tmp_path / 'said'}",)
    first = compared(tmp_path / "a", "kd", settings=settings)
    second = compared(tmp_path / "b", "kd", "hint", settings=(*settings, "student.channels=4"))
    assert made == [SAMPLES, 0]
    assert not (second.folder / "store").exists()  # what it lacked is in memory
    assert weights(first)["methods/kd/seed-0/student.safetensors"]
    with pytest.raises(InputError, match=r"(?s)holds outputs of something else.*teacher was"):
        compared(tmp_path / "c", "kd", settings=(*settings, "teacher.epochs=1"))


def test_how_the_teacher_runs_is_chosen_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[list[str]] = []
    ran: list[str] = []
    real, asked = choices.choose, Answers.in_memory

    def noted(*args: Any, **more: Any) -> Any:
        chosen.append(more["taps"])
        return real(*args, **more)

    def running(self: Answers) -> InMemory:
        ran.append(self.teacher.name if isinstance(self.teacher, Inference) else "fp32")
        return asked(self)

    monkeypatch.setattr(choices, "choose", noted)
    monkeypatch.setattr(Answers, "in_memory", running)
    made = compared(tmp_path, "kd", "hint")
    assert chosen == [["first"]]  # of all that any method reads
    file = made.folder / "choices.json"
    kept = json.loads(file.read_text())
    assert (kept["teacher"]["way"], kept["precision"]["name"]) == ("fp32", "fp32")
    file.write_text(json.dumps(kept | {"teacher": {**kept["teacher"], "way": "bf16"}}))
    compared(tmp_path, "kd", "hint", "dkd", resume=True)
    assert len(chosen) == 1
    assert ran == ["fp32", "bf16"]


def test_one_whose_answers_others_read_must_be_known_again(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(RECIPE)
    material = examine(read(tmp_path / "small.yaml"), progress=False, console=Console(file=io.StringIO())).material
    material.teacher = lambda x: x
    check_store(material)  # with a table of its own
    material.plan = type(material.plan)(**{**vars(material.plan), "store": tmp_path / "said"})
    with pytest.raises(InputError, match="cannot be known again"):
        check_store(material)


def test_tables_of_the_same_samples_are_read_as_one() -> None:
    one, two = InMemory({"": torch.arange(6.0)[:, None]}, draws=2), InMemory({"layer": -torch.arange(6.0)}, draws=2)
    joined = Joined(one, two)
    assert joined.fields == ["", "layer"]
    rows = joined.rows(torch.tensor([2, 0]), 1)
    assert rows[""].flatten().tolist() == [5, 3]
    assert rows["layer"].tolist() == [-5, -3]
