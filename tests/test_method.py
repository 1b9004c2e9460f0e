from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import Tensor, nn

from understudy import Batch, Distillation, Ema, Method, Move, Progress, Term
from understudy.errors import AddressError, InputError
from understudy.losses import cross_entropy, kl, mse
from understudy.measure.quality import agreement
from understudy.progress import START
from understudy.projectors import Linear

soft = functools.partial(kl, temperature=2.0)


class Net(nn.Module):
    """All that could leave a trace: BatchNorm's statistics and dropout's randomness."""

    def __init__(self, width: int = 6, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layer1 = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU())
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.layer1(x)))


def batch(rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 4, generator=generator), torch.randint(3, (rows,), generator=generator)


def distillation(**more: object) -> Distillation:
    terms = (Term(cross_entropy, "student", "batch.label", weight=0.1), Term(soft, "student", "teacher", weight=0.9))
    return Distillation(*terms, **{"student": Net(), "teacher": Net(10, seed=1), **more})


def state(model: nn.Module) -> dict[str, object]:
    """Everything about a model that must come back as it was."""
    modules = dict(model.named_modules())
    return {
        "tensors": {k: v.detach().clone() for k, v in model.state_dict().items()},
        "training": {n: m.training for n, m in modules.items()},
        "requires_grad": {n: p.requires_grad for n, p in model.named_parameters()},
        "hooks": {n: (len(m._forward_hooks), len(m._forward_pre_hooks)) for n, m in modules.items()},
        "classes": {n: type(m) for n, m in modules.items()},
        "forward": {n: "forward" in vars(m) for n, m in modules.items()},
    }


def assert_same(model: nn.Module, before: dict[str, object]) -> None:
    after = state(model)
    tensors, kept = after.pop("tensors"), {k: v for k, v in before.items() if k != "tensors"}
    assert after == kept
    assert tensors.keys() == before["tensors"].keys()
    for name, value in tensors.items():
        assert torch.equal(value, before["tensors"][name]), name


# -- what trains and what is frozen ------------------------------------------------------------------------------------


def test_what_trains_are_the_parameters_and_what_is_frozen_is_nowhere_among_them():
    student, teacher = Net(), Net(10, seed=1)
    method = distillation(student=student, teacher=teacher)
    ours = {id(p) for p in method.parameters()}
    assert ours == {id(p) for p in student.parameters()}
    assert not ours & {id(p) for p in teacher.parameters()}
    assert not {id(m) for m in method.modules()} & {id(m) for m in teacher.modules()}
    assert not any("teacher" in k for k in method.state_dict())
    assert len(method.state_dict()) == len(student.state_dict())
    assert method.players() == {"student": list(student.parameters())}
    assert method.frozen == {"teacher": teacher}


def test_the_student_is_bare():
    student = Net()
    method = distillation(student=student)
    assert method.student is student
    assert method.trained == {"student": student}
    assert list(method.student.state_dict()) == list(Net().state_dict())


@pytest.mark.parametrize("mode", [True, False])
def test_train_and_eval_do_not_reach_a_frozen_model(mode):
    teacher = Net(10).train(mode)
    method = distillation(teacher=teacher)
    for change in (method.train, method.eval):
        change()
        assert all(m.training == mode for m in teacher.modules())
    assert not method.student.training


def test_placement_reaches_a_frozen_model_and_its_dtype_stays():
    teacher = Net(10)
    method = distillation(teacher=teacher)
    method.to(torch.float64)
    assert {p.dtype for p in method.student.parameters()} == {torch.float64}
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    method.to("meta", torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in method.student.parameters()} == {("meta", torch.bfloat16)}
    assert {(p.device.type, p.dtype) for p in teacher.parameters()} == {("meta", torch.float32)}
    assert {b.device.type for b in teacher.buffers()} == {"meta"}


def test_placement_leaves_a_quantized_or_spread_model_where_it_is():
    quantized, mapped, spread = Net(10), Net(10), Net(10)
    quantized.is_quantized, mapped.hf_device_map = True, {"": "cpu"}
    spread.head.to("meta")
    method = Distillation(
        Term(cross_entropy, "student", "batch.label"), student=Net(), quantized=quantized, mapped=mapped, spread=spread
    )
    method.to("meta")
    assert {p.device.type for p in method.parameters()} == {"meta"}
    for model in (quantized, mapped, spread):
        assert model.layer1[0].weight.device.type == "cpu"


def test_a_teacher_in_train_mode_is_read_in_eval_mode_and_comes_back_in_train_mode():
    teacher = Net(10, seed=1).train()
    before = state(teacher)
    method = distillation(teacher=teacher)
    values = {method.eval().loss(batch()).item() for _ in range(3)}
    assert len(values) == 1  # dropout would make three of it
    assert_same(teacher, before)
    expected = distillation(teacher=copy.deepcopy(teacher).eval()).eval().loss(batch())
    assert values == {expected.item()}


def test_no_gradient_reaches_a_frozen_model():
    teacher = Net(10, seed=1)
    method = distillation(teacher=teacher)
    method.loss(batch()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters())


def test_any_callable_can_be_the_teacher():
    method = distillation(teacher=lambda x: 2 * x[:, :3])
    expected = cross_entropy_and_kl(method.student.eval(), 2 * batch()[0][:, :3])
    assert method.eval().loss(batch()).item() == pytest.approx(expected.item(), rel=1e-6)
    assert method.to("cpu") is method


def cross_entropy_and_kl(student: nn.Module, teacher: Tensor) -> Tensor:
    x, y = batch()
    s = student(x)
    return (0.1 * cross_entropy(s, y) + 0.9 * soft(s, teacher)).mean()


def test_the_loss_is_the_weighted_sum_of_the_terms_means():
    method = distillation()
    x, _ = batch()
    method.eval()
    teacher = method.frozen["teacher"].eval()(x)
    assert method.loss(batch()).item() == pytest.approx(cross_entropy_and_kl(method.student, teacher).item(), rel=1e-6)
    assert method(batch()).item() == method.loss(batch()).item()


def test_a_copy_of_a_method_shares_nothing_with_it():
    method = distillation(ema=Ema(Net(), 0.5))
    method.loss(batch())
    twin = copy.deepcopy(method)
    assert twin.reader.models["student"] is twin.student
    assert twin.reader.models["student"] is not method.student
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    assert method.eval().loss(batch()).item() != twin.eval().loss(batch()).item()


# -- the dry run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
def test_the_dry_run_leaves_the_models_untouched(mode):
    student, teacher = Net().train(mode), Net(10, seed=1).train(mode)
    student.layer1[1].eval()
    teacher.head.weight.requires_grad_(False)
    before = state(student), state(teacher)
    method = distillation(student=student, teacher=teacher)
    modes = {n: m.training for n, m in method.named_modules()}
    method.dry_run(batch())
    assert_same(student, before[0])
    assert_same(teacher, before[1])
    assert {n: m.training for n, m in method.named_modules()} == modes
    assert all(p.grad is None for p in method.parameters())


def test_control_a_forward_in_train_mode_does_leave_a_trace():
    student = Net()
    before = state(student)
    distillation(student=student).loss(batch())
    with pytest.raises(AssertionError, match="running_mean"):
        assert_same(student, before)


def test_the_dry_run_leaves_the_models_untouched_when_it_fails_too():
    student, teacher = Net().train(), Net(10, classes=4, seed=1).train()
    before = state(student), state(teacher)
    method = distillation(student=student, teacher=teacher)
    with pytest.raises(InputError):
        method.dry_run(batch())
    assert_same(student, before[0])
    assert_same(teacher, before[1])
    assert method.training


def test_the_dry_run_gives_a_line_for_each_term():
    method = distillation()
    lines = method.dry_run(batch())
    assert [line.term for line in lines] == ["cross_entropy(student, batch.label)", "kl(student, teacher)"]
    assert lines[0].shapes == {"student": (8, 3), "batch.label": (8,)}
    assert lines[1].shapes == {"student": (8, 3), "teacher": (8, 3)}
    assert 0.1 * lines[0].value + 0.9 * lines[1].value == pytest.approx(method.eval().loss(batch()).item(), rel=1e-6)


def test_the_dry_run_lists_every_problem_at_once():
    method = Distillation(
        Term(cross_entropy, "student", "batch.label"),
        Term(kl, "student", "teacher"),
        Term(mse, "student.layer1", "teacher.layer1"),
        Term(mse, "student.layer1", "teacher.layer1", project=Linear(2, 2)),
        Term(kl, "student", "batch.soft"),
        student=Net(),
        teacher=Net(10, classes=4),
    )
    x, y = batch()
    with pytest.raises(InputError) as error:
        method.dry_run((x, y + 7))
    told = str(error.value).splitlines()
    assert [line.split(" ")[0] for line in told] == [f"terms[{i}]" for i in range(5)]
    for line, words in zip(
        told,
        [
            "label 7 at [0] is not a class",
            "kl: shapes [8, 3] (student) and [8, 4] (teacher) differ in axis 1",
            "Add `project=Linear()` to the term (6 -> 10 features)",
            "use Linear(6, 10), or Linear() to have the sizes fitted",
            "has no field 'soft'",
        ],
        strict=True,
    ):
        assert words in line


@pytest.mark.parametrize("name", ["labels", "target", "targets", "y"])
def test_a_label_under_another_name_is_an_error_of_the_dry_run(name):
    x, y = batch()
    with pytest.raises(InputError) as error:
        distillation().dry_run({"input": x, name: y})
    assert str(error.value) == (
        f"term cross_entropy(student, batch.label) finds no label in a batch with fields input, {name}. "
        f"Say 'batch.{name}', or rename the field."
    )


def test_a_batch_that_has_no_label_and_nothing_like_one_is_unlabelled():
    x, _ = batch()
    for unlabelled in (x, {"input": x}, {"input": x, "label": None}):
        lines = distillation().dry_run(unlabelled)
        assert lines[0].shapes == {}
        assert lines[0].value == 0
        assert lines[1].value > 0


def test_a_label_that_no_term_of_any_weight_reads_may_have_any_name():
    x, y = batch()
    terms = (Term(cross_entropy, "student", "batch.label", weight=0.0), Term(kl, "student", "teacher"))
    Distillation(*terms, student=Net(), teacher=Net(10)).dry_run({"input": x, "labels": y})


# -- mistakes in what a method is made of ------------------------------------------------------------------------------


def test_all_mistakes_in_models_are_told_at_once():
    net = Net()
    with pytest.raises(InputError) as error:
        Distillation("kl", student=net, teacher=net, batch=Net(), stop=Net(), number=3, train=("studnt",))
    told = str(error.value)
    for words in (
        "model name 'batch' is taken",
        "model name 'stop' is taken",
        "train='studnt': there is no such model. Did you mean 'student'?",
        "model 'number' is a int, which cannot be called",
        "models 'student' and 'teacher' are the same object. To read a model without gradient say 'stop student'",
        "terms[0] is a str; give a Term",
    ):
        assert words in told
    assert len(told.splitlines()) == 6


def test_the_same_model_twice_is_refused_even_behind_compile():
    net = Net()
    with pytest.raises(InputError, match="are the same object"):
        distillation(student=net, teacher=torch.compile(net))
    distillation(student=net, teacher=copy.deepcopy(net))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"train": ()}, r"train=\(\): at least one model must train"),
        ({"student": lambda x: x}, "model 'student' is a function; what trains must be an nn.Module"),
    ],
)
def test_what_trains_must_be_there_and_a_module(more, told):
    with pytest.raises(InputError, match=told):
        distillation(**more)


def test_a_method_without_terms_is_refused():
    with pytest.raises(InputError, match=r"Distillation\(\) has no term, so that there is nothing to minimise"):
        Distillation(student=Net())


def test_addresses_that_can_never_be_read_are_told_all_at_once():
    with pytest.raises(AddressError) as error:
        Distillation(
            Term(mse, "student.layr1", "teacher.layer1"),
            Term(mse, "student", "teachr"),
            student=Net(),
            teacher=Net(10),
            watch={"agreement": (agreement, "student", "master")},
        )
    told = str(error.value)
    assert "student has no submodule 'layr1'. Did you mean 'layer1'?" in told
    assert "there is no model 'teachr'. Did you mean 'teacher'?" in told
    assert "there is no model 'master'" in told


@pytest.mark.parametrize(
    "addresses", [("stop student", "teacher"), ("teacher", "stop student.head"), ("teacher", "batch.soft")]
)
def test_a_loss_that_no_gradient_flows_from_is_an_error(addresses):
    method = Distillation(Term(kl, *addresses), student=Net(), teacher=Net(10, seed=1))
    x, _ = batch()
    with pytest.raises(InputError) as error:
        method.loss({"input": x, "soft": x[:, :3]})
    assert f"no gradient flows from kl({addresses[0]}, {addresses[1]}) into what trains (student)" in str(error.value)


def test_a_student_whose_parameters_are_frozen_is_an_error():
    method = distillation(student=Net().requires_grad_(False))
    with pytest.raises(InputError, match="are the student's parameters frozen"):
        method.loss(batch())
    with torch.no_grad():
        method.loss(batch())


# -- several trained models --------------------------------------------------------------------------------------------


def mutual() -> Distillation:
    return Distillation(
        Term(cross_entropy, "a", "batch.label"),
        Term(cross_entropy, "b", "batch.label"),
        Term(kl, "a", "stop b"),
        Term(kl, "b", "stop a"),
        train=("a", "b"),
        a=Net(seed=1),
        b=Net(8, seed=2),
    )


def test_two_models_teach_each_other():
    method = mutual().eval()
    a, b = method.trained["a"], method.trained["b"]
    assert method.student is a
    assert not method.frozen
    assert set(method.parameters()) == {*a.parameters(), *b.parameters()}
    method.loss(batch()).backward()
    got = [p.grad.clone() for p in method.parameters()]
    method.zero_grad()
    x, y = batch()
    for own, other in ((a, b), (b, a)):
        s, t = own(x), other(x).detach()
        (cross_entropy(s, y) + kl(s, t)).mean().backward()
    for mine, p in zip(got, method.parameters(), strict=True):
        torch.testing.assert_close(mine, p.grad)


def test_control_without_stop_the_gradient_flows_into_the_other_model_too():
    terms = [Term(kl, "a", "b")]
    method = Distillation(*terms, train=("a", "b"), a=Net(seed=1), b=Net(8, seed=2))
    method.loss(batch()).backward()
    assert all(p.grad.ne(0).any() for p in method.trained["b"].head.parameters())
    stopped = Distillation(Term(kl, "a", "stop b"), train=("a", "b"), a=Net(seed=1), b=Net(8, seed=2))
    stopped.loss(batch()).backward()
    assert all(p.grad is None for p in stopped.trained["b"].parameters())


def test_student_names_the_first_of_the_trained_models():
    method = Distillation(Term(mse, "student", "b"), train=("a",), a=Net(seed=1), b=Net(seed=2))
    named = Distillation(Term(mse, "a", "b"), train="a", a=Net(seed=1), b=Net(seed=2))
    assert method.eval().loss(batch()).item() == named.eval().loss(batch()).item()


def test_a_model_teaches_itself_from_its_deeper_layers():
    method = Distillation(Term(mse, "student.layer1.0", "stop student.layer1.1"), student=Net())
    method.loss(batch()).backward()
    assert method.student.layer1[0].weight.grad.ne(0).any()
    assert method.student.layer1[1].weight.grad is None


# -- moves -------------------------------------------------------------------------------------------------------------


def test_a_move_tells_its_terms_with_their_weights():
    method = distillation()
    move = next(method.moves(method.prepare(batch(), START), START))
    assert move.player == "student"
    assert {n: p.weight for n, p in move.parts.items()} == {
        "cross_entropy(student, batch.label)": 0.1,
        "kl(student, teacher)": 0.9,
    }
    assert sum(p.weight * p.value.item() for p in move.parts.values()) == pytest.approx(move.loss.item(), rel=1e-6)


def test_terms_of_the_same_name_are_numbered():
    method = Distillation(
        Term(kl, "student", "teacher"), Term(kl, "student", "teacher"), student=Net(), teacher=Net(10)
    )
    move = method.move(Batch.of(batch()), START)
    assert list(move.parts) == ["kl(student, teacher)", "kl(student, teacher) #2"]


def test_a_move_of_some_of_the_terms():
    method = distillation().eval()
    both, soft_only = method.move(Batch.of(batch()), START), method.move(Batch.of(batch()), START, player="x", only=[1])
    assert soft_only.player == "x"
    assert list(soft_only.parts) == ["kl(student, teacher)"]
    assert soft_only.loss.item() == pytest.approx(0.9 * both.parts["kl(student, teacher)"].value.item(), rel=1e-6)


def test_what_is_watched_is_told_but_not_trained_on():
    watched = distillation(watch={"agreement": (agreement, "student", "teacher")}).eval()
    move = watched.move(Batch.of(batch()), START)
    x, _ = batch()
    same = watched.student(x).argmax(1) == watched.frozen["teacher"].eval()(x).argmax(1)
    assert move.watched["agreement"].item() == pytest.approx(same.double().mean().item())
    assert move.loss.item() == distillation().eval().loss(batch()).item()


def test_what_is_watched_has_no_gradient_even_if_it_could_have_one():
    method = distillation(
        watch={"distance": (mse, "student", "teacher"), "agreement": (agreement, "student", "teacher")}
    )
    watched = method.move(Batch.of(batch()), START).watched
    assert list(watched) == ["distance", "agreement"]
    assert not any(value.requires_grad for value in watched.values())


def test_what_is_watched_runs_no_model_that_the_terms_do_not():
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("this model must not run")

    method = Distillation(
        Term(cross_entropy, "student", "batch.label"),
        student=Net(),
        teacher=Refuses(),
        watch={"agreement": (agreement, "student", "teacher")},
    )
    assert method.move(Batch.of(batch()), START).watched == {}


class TwoMoves(Method):
    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    @property
    def student(self) -> nn.Module:
        return self.net

    def moves(self, batch, progress):
        x, y = batch["input"], batch["label"]
        for player in ("critic", "student"):
            yield Move(batch.mean(cross_entropy(self.net(x), y)), player)


def test_loss_refuses_a_method_of_several_moves():
    with pytest.raises(
        InputError, match=r"TwoMoves\.loss: this method makes several moves in a step\. Use moves\(\) or"
    ):
        TwoMoves().loss(batch())


def test_a_method_of_ones_own_gets_a_batch_in_its_normal_form_with_its_samples_counted():
    class OneMove(TwoMoves):
        def moves(self, batch, progress):
            yield next(super().moves(batch, progress))

    method = OneMove().eval()
    prepared = method.prepare(batch(), START)
    assert prepared.counts.tolist() == prepared.totals.tolist() == [8]
    x, y = batch()
    assert method.loss(batch()).item() == pytest.approx(cross_entropy(method.net(x), y).mean().item())
    assert method.dry_run(batch()) == []


def test_a_method_that_does_not_say_its_student_or_its_moves_is_told_so():
    with pytest.raises(TypeError, match="Method does not say which model is its student"):
        _ = Method().student
    with pytest.raises(TypeError, match="Method must say its moves"):
        Method().loss(batch())


# -- after -------------------------------------------------------------------------------------------------------------


class Bank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def forward(self, student: Tensor) -> Tensor:
        return student.square().mean(1)

    def after(self, progress: Progress) -> None:
        self.steps.append(progress.step)


@pytest.mark.parametrize("made_of_terms", [True, False])
def test_after_reaches_losses_with_state_once_and_the_users_models_never(made_of_terms):
    class Own(nn.Module):
        """A user's model with a layer, and another with a function, that happen to be called so."""

        def __init__(self) -> None:
            super().__init__()
            self.after = nn.Linear(4, 3)
            self.bank = Bank()

        def forward(self, x: Tensor) -> Tensor:
            return self.after(x)

    student, bank = Own(), Bank()
    if made_of_terms:
        method = Distillation(Term(bank, "student"), Term(bank, "student"), student=student)
    else:
        method = TwoMoves()
        method.net, method.bank = student, bank
    method.after(Progress(3, 10))
    assert bank.steps == [3]
    assert student.bank.steps == []


def test_a_term_that_counted_nothing_in_the_first_epoch_is_warned_of_once():
    x, _ = batch()
    method = distillation()
    method.loss((x, torch.full((8,), -100)))
    method.after(Progress(0, 4, epoch=0))
    with pytest.warns(UserWarning, match=r"cross_entropy\(student, batch\.label\) counted nothing in the first epoch"):
        method.after(Progress(1, 4, epoch=1))
    method.after(Progress(2, 4, epoch=1))


def test_nothing_is_warned_of_where_every_term_counted_something():
    method = distillation()
    method.loss(batch())
    method.after(Progress(0, 1))


def test_a_loss_that_is_not_finite_is_not_hidden():
    method = distillation(teacher=lambda x: torch.full((8, 3), math.nan))
    assert math.isnan(method.loss(batch()).item())
