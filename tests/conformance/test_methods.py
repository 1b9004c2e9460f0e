"""Every named method by itself. A new method needs an entry in CASES, and nothing else here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from understudy import Method, Optim, Settings, methods, train
from understudy.batch import Batch
from understudy.play import build_players, prepare
from understudy.progress import START
from understudy.state import digest


class Net(nn.Module):
    """BatchNorm and dropout, so that a forward in the wrong mode leaves a trace."""

    def __init__(self, width: int, seed: int, batch_norm: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
            self.layer1 = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), norm, nn.ReLU())
            self.drop = nn.Dropout(0.3 if batch_norm else 0.0)
            self.head = nn.Linear(width * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer1(x).flatten(1)))


def student(**more: bool) -> Net:
    return Net(3, seed=1, **more)


def teacher(**more: bool) -> Net:
    return Net(8, seed=2, **more).train()  # in train mode, as a careless user leaves it


CASES: dict[str, Callable[..., Method]] = {
    "alone": lambda student, teacher: methods.alone(student),
    "kd": methods.kd,
    "fitnets": lambda student, teacher: methods.fitnets(
        student, teacher, student_layer="layer1", teacher_layer="layer1"
    ),
}
every_method = pytest.mark.parametrize("name", methods.__all__)


def data(rows: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(5, (rows,), generator=generator)
    label[::3] = -100
    return torch.randn(rows, 1, 6, 6, generator=generator), label


def settings(steps: int = 3) -> Settings:
    return Settings(steps=steps, batch_size=4, optimizer=Optim("SGD", lr=0.1, momentum=0.9), device="cpu")


def trace(model: nn.Module) -> dict[str, object]:
    """What must come back as it was even of a model that trains."""
    modules = dict(model.named_modules())
    return {
        "classes": {n: type(m) for n, m in modules.items()},
        "training": {n: m.training for n, m in modules.items()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules.values()],
        "grad": [p.grad is None for p in model.parameters()],
        "keys": list(model.state_dict()),
        "own": {n: sorted(k for k in vars(m) if k != "training") for n, m in modules.items()},
    }


def without_entry(names: Sequence[str]) -> set[str]:
    return set(names) ^ set(CASES)


def test_every_named_method_has_an_entry_and_every_entry_is_a_named_method():
    assert without_entry(methods.__all__) == set()
    assert without_entry([*methods.__all__, "new"]) == {"new"}


@every_method
def test_docstring_says_what_it_is_and_where_it_comes_from(name):
    text = getattr(methods, name).__doc__
    for section in ("Args:", *(("Source:", "Differs:") if name != "alone" else ())):
        assert section in text, f"{name} has no {section!r}"


@every_method
def test_gradient_reaches_every_parameter_that_trains(name):
    method = CASES[name](student(), teacher())
    method.dry_run(data())
    method.loss(data()).backward()
    trained = dict(method.named_parameters())
    assert trained
    assert [n for n, p in trained.items() if p.grad is None or not p.grad.ne(0).any()] == []


@every_method
def test_players_are_a_partition_of_what_trains(name):
    method = CASES[name](student(), teacher())
    method.dry_run(data())
    players = build_players(method, lambda player: Optim("SGD"), scaled=False)
    owned = [p for player in players.values() for p in player.parameters]
    assert len(owned) == len(set(owned))
    assert set(owned) == {p for p in method.parameters() if p.requires_grad}


@every_method
@pytest.mark.parametrize("teacher_mode", [True, False])
def test_training_changes_the_student_and_nothing_of_what_is_frozen(name, teacher_mode):
    learns, frozen = student(), teacher().train(teacher_mode)
    frozen.head.bias.requires_grad_(False)
    before, frozen_before = digest(learns), digest(frozen)
    traces = trace(learns), trace(frozen)
    train(CASES[name](learns, frozen), data(), settings())
    assert digest(learns) != before
    assert digest(frozen) == frozen_before
    assert trace(frozen) == traces[1]
    assert trace(learns) == traces[0]


def test_control_a_teacher_that_is_read_in_train_mode_does_not_come_back_as_it_was():
    frozen = teacher()
    before = digest(frozen)
    method = methods.kd(student(), lambda x: frozen(x))
    train(method, data(), settings())
    assert digest(frozen) != before


@every_method
def test_the_students_keys_are_bare_and_load_into_the_bare_model(name, tmp_path):
    learns = student()
    method = CASES[name](learns, teacher())
    train(method, data(), settings(), folder=tmp_path / "run")
    assert method.student is learns
    assert list(method.student.state_dict()) == list(student().state_dict())
    fresh = student()
    fresh.load_state_dict(method.student.state_dict())
    assert digest(fresh) == digest(learns)


@every_method
def test_a_run_is_the_same_twice(name):
    digests = set()
    for _ in range(2):
        learns = student()
        train(CASES[name](learns, teacher()), data(), settings())
        digests.add(digest(learns))
    assert len(digests) == 1
    learns = student()
    train(CASES[name](learns, teacher()), data(), settings(4))
    assert digest(learns) not in digests


@every_method
def test_the_gradient_is_the_same_with_accumulation(name):
    """Without BatchNorm and dropout, which look at the batch and at chance."""
    whole = CASES[name](student(batch_norm=False), teacher(batch_norm=False)).double()
    for model in whole.frozen.values():
        model.double()
    x, y = data()
    x = x.double()
    torch.manual_seed(0)
    whole.dry_run((x, y))

    def gradients(method: Method, *sizes: int) -> list[Tensor]:
        micro = [Batch.of(pair) for pair in zip(x.split(sizes), y.split(sizes), strict=True)]
        method.zero_grad()
        games = [method.moves(b, START) for b in prepare(method, micro, START, False)[0]]
        for moves in zip(*games, strict=True):
            for move in moves:
                move.loss.backward()
        return [p.grad.clone() for p in method.parameters()]

    expected = gradients(whole, 12)
    for sizes in ((6, 6), (1, 11), (1,) * 12):
        for got, wanted in zip(gradients(copy.deepcopy(whole), *sizes), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@every_method
def test_a_batch_of_unlabelled_samples_trains_without_an_error(name):
    x, y = data()
    method = CASES[name](student(), teacher())
    method.dry_run((x, y))
    for label in (torch.full_like(y, -100), None):
        value = method.loss({"input": x, "label": label})
        value.backward()
        assert value.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
