"""Every named method by itself. A new method needs an entry in a file ``method_cases_<family>.py``, and nothing else here.

What is checked of a method is a function that gives what is wrong with it, so that each has its control: a broken method
that it finds out.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from understudy import Batch, Distillation, Method, Move, Optim, Progress, Settings, Term, methods, train
from understudy.errors import InputError
from understudy.losses import cross_entropy, kl, mse
from understudy.play import build_players, prepare
from understudy.progress import START
from understudy.state import digest

from .method_case import Case, joined, merged, student

CASES = merged()
every_method = pytest.mark.parametrize("name", methods.__all__)
WEIGHTS = {"weight", "weights", "alpha", "beta", "gamma"}
"""Options of methods by which the distillation may be weighed."""


def settings(steps: int = 3) -> Settings:
    return Settings(steps=steps, batch_size=4, optimizer=Optim("SGD", lr=0.01, momentum=0.9), device="cpu")


def made(case: Case, *, student: nn.Module | None = None, teacher: Any = None, **options: Any) -> Method:
    """The method, tried on a batch, as it is when it trains."""
    torch.manual_seed(0)  # of its projectors
    method = case.of(student, teacher, **options)
    method.dry_run(case.batch())
    return method.train()


def played(method: Method, batch: Any, progress: Progress = START) -> Iterator[Move]:
    """The moves of a step, with the gradient of each of them alone."""
    torch.manual_seed(1)  # of dropout
    with torch.no_grad():
        prepared = method.prepare(batch, progress)
    for move in method.moves(prepared, progress):
        method.zero_grad()
        move.loss.backward()
        yield move


def gradients(method: Method, batch: Any, progress: Progress = START) -> dict[str, Tensor]:
    """By the player and the parameter; each player's own, summed over its moves."""
    found: dict[str, Tensor] = {}
    names = {p: n for n, p in method.named_parameters()}
    for move in played(method, batch, progress):
        for p in method.players()[move.player]:
            if p.grad is not None:
                name = f"{move.player}: {names[p]}"
                found[name] = found.get(name, torch.zeros_like(p)) + p.grad
    return found


# -- the list ----------------------------------------------------------------------------------------------------------


def without_entry(names: Sequence[str]) -> set[str]:
    return set(names) ^ set(CASES)


def test_every_named_method_has_an_entry_and_every_entry_is_a_named_method():
    assert without_entry(methods.__all__) == set()
    assert without_entry([*methods.__all__, "new"]) == {"new"}


def test_no_method_has_two_entries():
    with pytest.raises(ValueError, match="two entries: \\['kd'\\]"):
        joined([{"kd": methods.kd}, {"alone": methods.alone}, {"kd": methods.kd}])


@every_method
def test_docstring_says_what_it_is_and_where_it_comes_from(name):
    text = getattr(methods, name).__doc__
    for section in ("Args:", *(("Source:", "Differs:") if name != "alone" else ())):
        assert section in text, f"{name} has no {section!r}"


# -- gradients ---------------------------------------------------------------------------------------------------------


def unreached(case: Case) -> list[str]:
    """Parameters that train, and get no gradient, or none but zeros."""
    method = made(case)
    found = gradients(method, case.batch())
    names = {p: n for n, p in method.named_parameters()}
    owned = {f"{player}: {names[p]}" for player, parameters in method.players().items() for p in parameters}
    assert owned
    assert {name.partition(": ")[2] for name in owned} == {n for p, n in names.items() if p.requires_grad}
    idle = [n for n in owned if n not in found or not found[n].ne(0).any() or not found[n].isfinite().all()]
    return sorted(n for n in idle if not n.partition(": ")[2].startswith(case.idle or ("\n",)))


@every_method
def test_gradient_reaches_every_parameter_that_trains(name):
    assert unreached(CASES[name]) == []


class Idle(nn.Module):
    """A loss with a scale that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl(student, teacher)


def with_loss(*losses: Any, at: tuple[str, ...] = ("student", "teacher")) -> Case:
    """A method of these losses beside the labels'."""

    def make(student: nn.Module, teacher: nn.Module) -> Distillation:
        terms = [Term(loss() if inspect.isclass(loss) else loss, *at) for loss in losses]
        return Distillation(Term(cross_entropy, "student", "batch.label"), *terms, student=student, teacher=teacher)

    return Case(make)


def test_control_a_parameter_that_no_gradient_reaches_is_named():
    assert unreached(with_loss(Idle)) == ["student: terms.1.loss.scale"]


def second_gradients(method: Method, batch: dict[str, Any]) -> dict[str, Tensor]:
    """After a step: a bank that begins at random knows no teacher before that."""
    gradients(method, batch)
    method.after(START)
    return gradients(method, batch)


def same_for_another_teacher(case: Case) -> bool:
    one, again, other = (
        second_gradients(made(case, teacher=case.teacher(seed=seed)), case.batch()).items() for seed in (2, 2, 3)
    )
    one, again, other = ({n: g for n, g in found if "models." in n} for found in (one, again, other))
    assert all(torch.equal(one[n], again[n]) for n in one), "the gradient is not the same twice"
    return all(torch.equal(one[n], other[n]) for n in one)


@every_method
def test_another_teacher_changes_the_gradient(name):
    taught = "teacher" in inspect.signature(getattr(methods, name)).parameters
    assert same_for_another_teacher(CASES[name]) == (not taught)


def test_control_a_method_that_does_not_ask_its_teacher_has_the_same_gradient():
    assert same_for_another_teacher(with_loss(kl, at=("student", "stop student")))


@every_method
def test_players_are_a_partition_of_what_trains(name):
    method = made(CASES[name])
    players = build_players(method, lambda player: Optim("SGD"), scaled=False)
    owned = [p for player in players.values() for p in player.parameters]
    assert len(owned) == len(set(owned))
    assert set(owned) == {p for p in method.parameters() if p.requires_grad}


class Greedy(Distillation):
    """Its students train twice, its losses never."""

    def players(self) -> dict[str, list[nn.Parameter]]:
        return {"student": list(self.student.parameters()), "again": list(self.student.parameters())}


def test_control_players_that_are_no_partition_are_refused():
    method = Greedy(
        Term(cross_entropy, "student", "batch.label"), Term(Idle(), "student", "stop student"), student=student()
    )
    with pytest.raises(InputError, match=r"no player trains terms\.1\.loss\.scale(.|\n)*several players train"):
        build_players(method, lambda player: Optim("SGD"), scaled=False)


# -- what is changed, and what is not ----------------------------------------------------------------------------------


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


def touched(case: Case, teacher_mode: bool = True) -> list[str]:
    """What a training does to the models beyond teaching the student."""
    learns, frozen = case.student(), case.teacher().train(teacher_mode)
    next(iter(frozen.parameters())).requires_grad_(False)
    before, frozen_before = digest(learns), digest(frozen)
    traces = trace(learns), trace(frozen)
    train(case.of(learns, frozen), case.data(), settings())
    problems = [] if digest(learns) != before else ["the student has not learnt"]
    problems += [] if digest(frozen) == frozen_before else ["the teacher's weights or buffers have changed"]
    for who, was, now in (("student", traces[0], trace(learns)), ("teacher", traces[1], trace(frozen))):
        problems += [f"the {who}'s {what}" for what in was if was[what] != now[what]]
    return problems


@every_method
@pytest.mark.parametrize("teacher_mode", [True, False])
def test_training_changes_the_student_and_nothing_of_what_is_frozen(name, teacher_mode):
    assert touched(CASES[name], teacher_mode) == []


def test_control_a_teacher_that_is_read_in_train_mode_does_not_come_back_as_it_was():
    careless = Case(lambda student, teacher: methods.kd(student, lambda x: teacher(x)))
    assert "the teacher's weights or buffers have changed" in touched(careless)
    marks = Case(lambda student, teacher: (setattr(teacher, "mark", 1), methods.kd(student, teacher))[1])
    assert touched(marks) == ["the teacher's own"]


def wrong_keys(case: Case) -> list[str]:
    """Of the student's, as it would be saved: those that the bare model does not have, or has not got."""
    method = case.of(case.student(), case.teacher())
    method.dry_run(case.batch())
    return sorted(set(method.student.state_dict()) ^ set(case.student().state_dict()))


@every_method
def test_the_students_keys_are_bare_and_load_into_the_bare_model(name, tmp_path):
    case = CASES[name]
    assert wrong_keys(case) == []
    learns = case.student()
    method = case.of(learns)
    train(method, case.data(), settings(), folder=tmp_path / "run")
    assert method.student is learns
    fresh = case.student()
    fresh.load_state_dict(method.student.state_dict())
    assert digest(fresh) == digest(learns)


def test_control_a_student_in_a_wrapper_has_other_keys():
    wrapped = Case(lambda student, teacher: methods.kd(nn.Sequential(student), teacher))
    assert wrong_keys(wrapped)[0].startswith("0.")


# -- the same again ----------------------------------------------------------------------------------------------------


@every_method
def test_a_run_is_the_same_twice(name):
    case, digests = CASES[name], set()
    for _ in range(2):
        torch.manual_seed(0)
        learns = case.student()
        train(case.of(learns), case.data(), settings())
        digests.add(digest(learns))
    assert len(digests) == 1
    torch.manual_seed(0)
    learns = case.student()
    train(case.of(learns), case.data(), settings(4))
    assert digest(learns) not in digests


def trained(case: Case, **options: Any) -> str:
    """The student after a few steps."""
    torch.manual_seed(0)
    learns = case.student()
    train(case.of(learns, **options), case.data(), settings())
    return digest(learns)


def alone_like(case: Case) -> Case:
    """Plain training of the same student on the same data."""
    return Case(lambda student, teacher: methods.alone(student), student=case.student, data=case.data)


@every_method
def test_without_weight_it_is_the_student_alone_to_the_last_bit(name):
    case = CASES[name]
    if case.plain is None:
        pytest.skip(case.why_not_plain)
    assert trained(case, **case.plain) == trained(alone_like(case))
    assert trained(case) != trained(alone_like(case))


def unweighed(name: str, case: Case) -> bool:
    """Whether it has a weight that could be 0, and says neither so nor why not."""
    return bool(
        case.plain is None
        and not case.why_not_plain
        and WEIGHTS & set(inspect.signature(getattr(methods, name)).parameters)
    )


@every_method
def test_a_method_with_a_weight_says_how_it_is_taken_away(name):
    assert not unweighed(name, CASES[name])


def test_controls_of_plain_training():
    assert trained(CASES["kd"], alpha=1e-4) != trained(alone_like(CASES["kd"]))
    assert unweighed("kd", Case(methods.kd))
    assert not unweighed("alone", Case(methods.kd))


# -- state -------------------------------------------------------------------------------------------------------------


def forgotten(case: Case) -> list[str]:
    """Gradients that are not the same where the state of a training is loaded into a new method."""
    method = made(case)
    train(method, case.data(), settings(4))
    fresh = made(case)
    fresh.load_state_dict(copy.deepcopy(method.state_dict()))
    later = Progress(2, 8)
    one, two = (gradients(m.train(), case.batch(), later) for m in (method, fresh))
    assert one
    return sorted(n for n in one.keys() | two.keys() if n not in one or n not in two or not torch.equal(one[n], two[n]))


@every_method
def test_all_that_it_has_learnt_is_in_its_state_dict(name):
    assert forgotten(CASES[name]) == []


class Bank(nn.Module):
    """Draws to the mean of what the teacher has said so far, which it keeps where no state_dict sees it."""

    def __init__(self, buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("mean", torch.zeros(5))
        else:
            self.mean = torch.zeros(5)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.seen = teacher.mean(0)
        return mse(student, self.mean.expand_as(student))

    def after(self, progress: Progress) -> None:
        self.mean = self.mean.lerp(self.seen, 0.5)


def test_control_a_bank_that_is_no_buffer_is_found():
    assert forgotten(with_loss(Bank))
    kept = Case(
        lambda student, teacher: Distillation(
            Term(Bank(buffer=True), "student", "teacher"), student=student, teacher=teacher
        )
    )
    assert forgotten(kept) == []


# -- batches -----------------------------------------------------------------------------------------------------------


def double(batch: Any) -> Any:
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def unequal_in_parts(case: Case) -> list[str]:
    """Gradients that depend on how the batch is split: without BatchNorm and dropout, which look at it and at chance."""
    torch.manual_seed(0)
    models = [case.student(batch_norm=False), case.teacher(batch_norm=False)]
    whole = case.of(*models).double()
    for model in whole.frozen.values():
        model.double()
    batch = double(case.batch())
    whole.dry_run(batch)
    whole.double().train()

    def summed(method: Method, *sizes: int) -> dict[str, Tensor]:
        parts = zip(*(v.split(sizes) for v in batch.values()), strict=True)
        micro = [Batch.of(dict(zip(batch, part, strict=True))) for part in parts]
        found: dict[str, Tensor] = {}
        torch.manual_seed(1)
        games = [method.moves(b, START) for b in prepare(method, micro, START, False)[0]]
        for moves in zip(*games, strict=True):
            method.zero_grad()
            for move in moves:
                move.loss.backward()
            for n, p in method.named_parameters():
                if p.grad is not None:
                    found[n] = found.get(n, torch.zeros_like(p)) + p.grad
        return found

    rows = len(batch["index"])
    expected = summed(copy.deepcopy(whole), rows)
    wrong = set()
    for sizes in ((rows // 2, rows - rows // 2), (1, rows - 1), (1,) * rows):
        got = summed(copy.deepcopy(whole), *sizes)
        close = {n: n in got and torch.allclose(got[n], g, rtol=1e-9, atol=1e-11) for n, g in expected.items()}
        wrong |= {n for n, equal in close.items() if not equal}
    return sorted(wrong)


@every_method
def test_the_gradient_is_the_same_with_accumulation(name):
    if not CASES[name].per_sample:
        pytest.skip("a loss of the batch as a whole")
    assert unequal_in_parts(CASES[name]) == []


def similarity(student: Tensor, teacher: Tensor) -> Tensor:
    """Of the samples with each other, as a loss of the whole batch."""
    return (student @ student.T - teacher @ teacher.T).square().mean()


def test_control_a_loss_of_the_whole_batch_depends_on_how_it_is_split():
    assert unequal_in_parts(with_loss(kl)) == []
    assert len(unequal_in_parts(with_loss(similarity))) > 2


@every_method
def test_a_batch_of_unlabelled_samples_trains_without_an_error(name):
    case = CASES[name]
    if not case.unlabelled:
        pytest.skip("it cannot do without labels")
    method, batch = made(case), case.batch()
    for label in (torch.full_like(batch["label"], -100), None):
        for move in played(method, {**batch, "label": label}):
            assert move.loss.isfinite()
            assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
