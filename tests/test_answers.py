"""What a teacher says, asked once: the same students as when it is asked in every step, and no pixel of another draw."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Optim, Settings, Term, answers, distill, inference, job, methods, train
from understudy.answers import Answers, asked_of
from understudy.batch import Batch
from understudy.data.augment import Augment, Pictures
from understudy.errors import AddressError, InputError
from understudy.losses import cross_entropy, dkd, kl, kl_standardized, mse
from understudy.material import Material
from understudy.plan import Plan
from understudy.state import digest
from understudy.store import Store
from understudy.taps import Tapped
from understudy.teachers.stored import InMemory, Stored
from understudy.writing import bytes_of
from understudy.zoo import CNN

FEW: dict[str, Any] = {
    "epochs": 3, "seeds": 2, "fine_tune": False, "progress": False, "batch_size": 16, "device": "cpu",
    "optimizer": Optim("SGD", lr=0.05),
}  # fmt: skip


def data(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (samples,), generator=generator)
    return torch.randn(samples, 1, 8, 8, generator=generator) + label[:, None, None, None], label


TRAIN, VALID = data(48, 0), data(32, 1)


def moving() -> Pictures:
    return Pictures(TRAIN, augment=Augment(crop=2, flip=True))


class Counted(nn.Module):
    """A teacher that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = CNN(4, classes=3)
        optimizer = torch.optim.Adam(self.net.parameters(), lr=0.01)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(self.net(TRAIN[0]), TRAIN[1]).backward()
            optimizer.step()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        logits: Tensor = self.net(x)
        return logits


def student() -> nn.Module:
    torch.manual_seed(3)
    return CNN(2, classes=3)


def done(teacher: nn.Module, train: Any, **options: Any) -> Any:
    return distill(student(), teacher, train, VALID, **(FEW | options))


LAYERS = {"method": "attention_transfer", "layers": [("layer2", "net.layer2")]}


@pytest.mark.parametrize("method", [{"method": "kd"}, LAYERS, {"method": "dkd"}], ids=["kd", "attention", "dkd"])
@pytest.mark.parametrize("moves", [False, True])
@pytest.mark.parametrize("kept", ["memory", "disk"])
def test_students_are_those_that_a_live_teacher_makes(method: Any, moves: bool, kept: str, tmp_path: Path) -> None:
    train = moving() if moves else TRAIN
    place = {"folder": tmp_path / "run"} if kept == "disk" else {}
    stored, live = done(Counted(), train, **method, **place), done(Counted(), train, store=None, **method)
    for name, weights in stored.student.state_dict().items():
        assert torch.allclose(weights, live.student.state_dict()[name], atol=2e-5), name


def test_answers_of_another_draw_would_make_another_student(monkeypatch: pytest.MonkeyPatch) -> None:
    live = done(Counted(), moving(), store=None)

    class Shifted(InMemory):
        def rows(self, ids: Tensor, draw: int = 0) -> dict[str, Tensor]:
            return super().rows(ids, (draw + 1) % 3)

    monkeypatch.setattr(answers, "InMemory", Shifted)
    off = done(Counted(), moving())
    apart = [
        float((a - b).abs().max())
        for a, b in zip(off.student.state_dict().values(), live.student.state_dict().values(), strict=True)
    ]
    assert max(apart) > 1e-3


def test_the_teacher_is_asked_once_for_all_seeds() -> None:
    def asked(**options: Any) -> int:
        teacher = Counted()
        before = teacher.asked
        done(teacher, **options)
        return teacher.asked - before

    live = asked(train=TRAIN, store=None)
    stored = asked(train=TRAIN)
    # Three epochs and a dry run of two seeds, against every sample once; two more show the shapes. Before that each is timed:
    # on five batches of a step, and on three of as many rows as are asked for at once.
    assert live - stored == 2 * (48 * 3 + 16) - (48 + 2) + 5 * 16 - 3 * 48
    assert asked(train=moving(), draws=2) - stored == 48


@pytest.mark.parametrize("place", ["auto", "said"])
def test_a_compiled_teacher_is_compiled_for_the_batches_that_it_is_asked_about(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[bool] = []

    def tapped(name: str, model: nn.Module, taps: frozenset[str], wished: bool) -> Tapped:
        compiled.append(wished)
        return Tapped(name, model, taps, False)

    monkeypatch.setattr(inference, "Tapped", tapped)
    done(Counted(), TRAIN, teacher_run="compiled", store=place if place == "auto" else tmp_path / place)
    assert compiled == [True]  # with another shape before it there would be a second, which is not


def test_another_job_reads_the_same_store(tmp_path: Path) -> None:
    students, counts = [], []
    for name in ("a", "b", "c"):
        teacher = Counted()
        teacher.asked = 0
        students.append(done(teacher, TRAIN, folder=tmp_path / name, store=tmp_path / "said").student)
        counts.append(teacher.asked)
    # And three batches that show that asking is cheap; of what is there already a few rows are asked anew.
    assert counts[0] - counts[1] == 48 + 3 * 48 - answers.SPOT
    assert counts[1] == counts[2]  # what checks and measures the teacher
    assert len(set(map(digest, students))) == 1


@pytest.mark.parametrize("other", ["teacher", "data", "views"])
def test_a_store_of_something_else_is_refused_by_name(other: str, tmp_path: Path) -> None:
    teacher, train = Counted(), moving()
    done(teacher, train, store=tmp_path / "said")
    told = {"teacher": "teacher was", "data": "data was", "views": "seed of the samples was"}[other]
    more: dict[str, Any] = {"seed": 7} if other == "views" else {}
    if other == "teacher":
        with torch.no_grad():
            teacher.net.head.bias += 1e-3
    if other == "data":
        train = Pictures(TRAIN, augment=Augment(crop=1, flip=True))
    with pytest.raises(InputError, match=f"(?s)holds outputs of something else.*{told}"):
        done(teacher, train, store=tmp_path / "said", **more)


class Scaled(nn.Module):
    """A teacher whose weights do not tell all that it does."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.net, self.factor = Counted(), factor

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = self.factor * self.net(x)
        return scaled


def test_a_teacher_of_the_same_weights_and_other_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(Scaled(1.0), TRAIN, store=tmp_path / "said")
    done(Scaled(1.0), TRAIN, store=tmp_path / "said")
    with pytest.raises(InputError, match="the output is not what is made now"):
        done(Scaled(3.0), TRAIN, store=tmp_path / "said")
    monkeypatch.setattr(answers, "APART", float("inf"))
    done(Scaled(3.0), TRAIN, store=tmp_path / "said")  # which nothing but the rows asked anew has told apart


def test_every_draw_is_stored_where_the_last_sample_of_an_epoch_would_be_a_batch_by_itself(tmp_path: Path) -> None:
    train = Pictures((TRAIN[0][:33], TRAIN[1][:33]), augment=Augment(crop=2))
    made = [done(Counted(), train, store=store).student for store in (None, "auto", tmp_path / "said")]
    assert len(set(map(digest, made))) == 1


def test_a_store_needs_a_name() -> None:
    for store in ("", ".", 5, True, False):
        with pytest.raises(InputError, match="is not the name of a folder of its own"):
            done(Counted(), TRAIN, store=store)


class Negated(nn.Module):
    """What a method makes of the teacher that it is given."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        against: Tensor = -self.net(x)
        return against


def plainly(student: nn.Module, teacher: nn.Module) -> Distillation:
    return Distillation(Term(kl, "student", "teacher"), student=student, teacher=teacher)


def negated(student: nn.Module, teacher: nn.Module) -> Distillation:
    return plainly(student, Negated(teacher))


def test_a_model_that_a_method_makes_of_the_teacher_is_the_one_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(method: Any, store: Any) -> str:
        made = done(Counted(), TRAIN, method=method, store=store)
        return digest(made.evidence.trials[0].students["distilled"])

    taught = ended(plainly, None)
    against = {ended(negated, store) for store in (None, "auto", tmp_path / "said")}
    assert len(against) == 1
    assert taught not in against
    for module in (answers, job):
        monkeypatch.setattr(module, "reads", lambda method, teacher: True)
    assert ended(negated, "auto") == taught


@pytest.mark.parametrize("loss", [mse, partial(kl_standardized, temperature=2.0)], ids=["mse", "standardized"])
def test_topk_is_for_losses_that_soften(loss: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(loss: Any) -> None:
        def method(student: nn.Module, teacher: nn.Module) -> Distillation:
            return Distillation(Term(loss, "student", "teacher"), student=student, teacher=teacher)

        done(Counted(), TRAIN, method=method, store=tmp_path / "said")

    real = Answers._store
    monkeypatch.setattr(Answers, "_store", lambda self, place, encoding: real(self, place, "topk:2"))
    with pytest.raises(InputError, match=r"reads them otherwise\. Take another encoding"):
        fill(loss)
    fill(partial(kl, temperature=4.0))


def test_a_loss_that_is_given_no_temperature_softens_at_its_own(tmp_path: Path) -> None:
    def method(student: nn.Module, teacher: nn.Module) -> Distillation:
        return Distillation(Term(dkd, "student", "teacher", "batch.label"), student=student, teacher=teacher)

    done(Counted(), TRAIN, method=method, store=tmp_path / "said")
    assert Store.open(tmp_path / "said").manifest.fields[""].temperatures == (4.0,)


def test_a_function_cannot_fill_a_store_for_others(tmp_path: Path) -> None:
    net = Counted().net

    def teacher(x: Tensor) -> Tensor:
        return net(x)  # type: ignore[no-any-return]

    with pytest.raises(InputError, match="cannot be known again"):
        done(teacher, TRAIN, store=tmp_path / "said")  # type: ignore[arg-type]
    done(teacher, TRAIN, folder=tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "store").exists()


def test_what_augments_is_known_by_the_type_and_shape_of_what_it_makes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = inspect.signature(distill).bind(student(), Counted(), moving(), VALID, **FEW)
    bound.apply_defaults()
    made = Answers(material := Material(Plan(**bound.arguments)), material.teacher, of(Term(kl, "student", "teacher")))
    pixels = torch.arange(64.0).view(1, 1, 8, 8)
    other = {"uint8": pixels.view(torch.uint8), "flat": pixels.flatten(1), "as it is": pixels.clone()}
    assert len({bytes(bytes_of(tensor)) for tensor in (pixels, *other.values())}) == 1  # all that would tell them apart

    def fact(tensor: Tensor) -> str:
        monkeypatch.setattr(type(made.data.source), "rows", lambda *_: {"input": tensor})
        return made.facts()["augmentation"]

    same = {name: fact(tensor) == fact(pixels) for name, tensor in other.items()}
    assert same == {"uint8": False, "flat": False, "as it is": True}


def test_a_broken_job_goes_on_with_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = done(Counted(), moving(), folder=tmp_path / "whole")
    real = Answers.ask

    def dying(self: Answers, ids: Tensor, draw: int) -> dict[str, Tensor]:
        if draw == 2:
            raise KeyboardInterrupt
        return real(self, ids, draw)

    monkeypatch.setattr(Answers, "ask", dying)
    with pytest.raises(KeyboardInterrupt):
        done(Counted(), moving(), folder=tmp_path / "broken")
    monkeypatch.setattr(Answers, "ask", real)
    teacher = Counted()
    again = done(teacher, moving(), folder=tmp_path / "broken", resume=True)
    assert digest(again.student) == digest(whole.student)


# -- which methods can be served ---------------------------------------------------------------------------------------


def of(*terms: Term, **options: Any) -> Distillation:
    return Distillation(*terms, student=student(), teacher=Counted(), **options)


def test_what_terms_read_is_what_is_asked() -> None:
    made = of(
        Term(cross_entropy, "student", "batch.label"),
        Term(kl, "student", "teacher"),
        Term(mse, "student.layer2", "teacher.net.layer1", weight=0.5),
        Term(mse, "student.layer2", "teacher.net.layer2", weight=0),
    )
    assert [str(a) for a in asked_of(made)] == ["teacher", "teacher.net.layer1"]


def test_what_depends_on_more_than_the_sample_is_asked_in_every_step() -> None:
    assert asked_of(of(Term(kl, "student", "teacher@other"))) == []
    assert asked_of(of(Term(mse, "student:head.bias", "teacher:net.head.bias"))) == []
    assert asked_of(methods.adversarial_kd(student(), Counted())) == []
    assert asked_of(methods.alone(student())) == []


def test_a_table_has_what_was_stored_and_nothing_else() -> None:
    made = of(Term(mse, "student.layer2", "teacher.net.layer2"))
    with pytest.raises(
        AddressError, match=r"teacher\.net\.layer2.*stored outputs, and this is not among them: the last"
    ):
        made.supply("teacher", Stored(torch.zeros(4, 3)))


def test_a_batch_without_its_draw_is_not_served_that_of_another() -> None:
    table = Stored(InMemory({"": torch.arange(8.0)[:, None]}, draws=2), fixed=False)
    found = table(Batch.of({"input": torch.zeros(2)}, index=torch.tensor([3, 0]), draw=torch.tensor(1)))
    assert found.flatten().tolist() == [7, 4]
    with pytest.raises(AddressError, match="draw"):
        table(Batch.of({"input": torch.zeros(2)}, index=torch.tensor([3, 0])))


def test_plain_training_with_a_table_needs_no_job() -> None:
    teacher = Counted().eval()
    with torch.no_grad():
        table = teacher(TRAIN[0])
    ends = []
    for given in (teacher, Stored(table)):
        made = methods.kd(student(), given)
        train(made, TRAIN, Settings(steps=3, batch_size=16, optimizer=Optim("SGD", lr=0.1), device="cpu"))
        ends.append(made.student.state_dict()["head.weight"])
    assert torch.allclose(ends[0], ends[1], atol=1e-6)
