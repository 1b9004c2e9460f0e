"""Methods without a teacher, or with one that learns along: who learns from whom, and in which order."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Optim, Progress, Settings, losses, methods, train
from understudy.errors import InputError
from understudy.losses import consistency, cross_entropy, kl
from understudy.methods.byot import exits_of
from understudy.methods.dml import another
from understudy.progress import START
from understudy.tasks import TASKS

X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(8) % 3
BATCH = {"input": X, "label": Y, "index": torch.arange(8)}


class Net(nn.Module):
    """Maps of three resolutions."""

    def __init__(self, width: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            widths = [1, width, 2 * width, 4 * width]
            for i in range(3):
                body = [
                    nn.Conv2d(widths[i], widths[i + 1], 3, 1 + (i > 0), 1),
                    nn.Tanh(),
                    nn.Conv2d(widths[i + 1], widths[i + 1], 3, 1, 1),
                ]
                self.add_module(f"layer{i + 1}", nn.Sequential(*body))
            self.head = nn.Linear(widths[3], 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
        return self.head(x.mean((2, 3)))


def ce(model: nn.Module) -> Tensor:
    return cross_entropy(model(X), Y).mean()


def value(method: Distillation, progress: Progress = START) -> Tensor:
    method.dry_run(BATCH)
    return method.train().loss(BATCH, progress).detach()


# -- mutual ------------------------------------------------------------------------------------------------------------


def moved(model: nn.Module, loss: Tensor, lr: float) -> None:
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= lr * p.grad


def one_step(method: Distillation, lr: float) -> None:
    settings = Settings(steps=1, batch_size=8, optimizer=Optim("SGD", lr=lr), device="cpu")
    train(method, (X, Y), settings)


def test_mutual_learners_step_one_after_the_other_and_see_what_the_others_became():
    nets = [Net(2, 0), Net(3, 1), Net(2, 2)]
    expected, together = copy.deepcopy(nets), copy.deepcopy(nets)
    one_step(methods.dml(nets[0], peers=nets[1:]), 0.5)
    for k, net in enumerate(expected):
        others = [other for j, other in enumerate(expected) if j != k]
        moved(net, ce(net) + sum(kl(net(X), other(X).detach()).mean() for other in others) / 2, 0.5)
    for net, wanted in zip(nets, expected, strict=True):
        for p, q in zip(net.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(p, q)
    # Control: all by what they were is another result, for all but the first.
    was = copy.deepcopy(together)
    for k, net in enumerate(together):
        others = [other for j, other in enumerate(was) if j != k]
        moved(net, ce(net) + sum(kl(net(X), other(X).detach()).mean() for other in others) / 2, 0.5)
    assert torch.allclose(together[0].head.weight, expected[0].head.weight)
    assert not torch.allclose(together[2].head.weight, expected[2].head.weight, rtol=1e-4)


def test_each_mutual_learner_is_a_player_with_what_it_learns_by():
    nets = [Net(2, 0), Net(3, 1)]
    method = methods.dml(nets[0], peers=[nets[1]])
    assert {name: {id(p) for p in own} for name, own in method.players().items()} == {
        "student": {id(p) for p in nets[0].parameters()},
        "peer1": {id(p) for p in nets[1].parameters()},
    }
    with pytest.raises(InputError, match="several moves"):
        method.loss(BATCH)


def test_a_number_of_peers_is_so_many_copies_with_other_weights():
    student = Net(2)
    before = copy.deepcopy(student.state_dict())
    state = torch.random.get_rng_state()
    method = methods.dml(student, peers=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert list(method.trained) == ["student", "peer1", "peer2"]
    heads = [model.head.weight for model in method.trained.values()]
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    again = methods.dml(student, peers=2)
    assert torch.equal(again.trained["peer2"].head.weight, heads[2])
    assert not torch.equal(methods.dml(student, seed=5).trained["peer1"].head.weight, heads[1])


def test_peers_that_are_none_are_refused():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    with pytest.raises(InputError, match="draw its weights anew"):
        another(Fixed(), 0)
    for peers in (0, [], ["peer"]):
        with pytest.raises(InputError, match="peers"):
            methods.dml(Net(2), peers=peers)
    with pytest.raises(InputError, match="regression"):
        methods.dml(Net(2), task=TASKS["regression"])


def test_joint_teaches_both_and_leaves_the_given_teacher_as_it_is():
    student, teacher = Net(2), Net(4, 1)
    method = methods.joint(
        student, teacher, weight=0.7, back=0.3, label_weight=0.2, teacher_weight=0.5, temperature=2.0
    )
    s, t = student(X), teacher(X)
    expected = (
        0.2 * ce(student)
        + 0.7 * kl(s, t, temperature=2.0).mean()
        + 0.5 * ce(teacher)
        + 0.3 * kl(t, s, temperature=2.0).mean()
    )
    torch.testing.assert_close(value(method), expected.detach())
    method.loss(BATCH).backward()
    theirs = method.trained["teacher"]
    assert theirs is not teacher
    assert all(p.grad is None for p in teacher.parameters())
    # Its own terms' gradient and no other's.
    (wanted,) = torch.autograd.grad(
        0.5 * ce(teacher) + 0.3 * kl(t, s.detach(), temperature=2.0).mean(), teacher.head.weight
    )
    torch.testing.assert_close(theirs.head.weight.grad, wanted)
    with pytest.raises(InputError, match="trained along"):
        methods.joint(student, lambda x: teacher(x))


# -- from itself -------------------------------------------------------------------------------------------------------


def test_the_average_teaches_and_follows():
    student = Net(2)
    method = methods.ema_teacher(student, decay=0.5, warmup=0)
    one_step(method, 0.3)
    before, after = Net(2).head.weight, student.head.weight
    average = method.averages["average"].model.head.weight
    torch.testing.assert_close(average, (before + after) / 2)
    expected = ce(student) + 100 * consistency(student(X), method.averages["average"](X)).mean()
    torch.testing.assert_close(method.loss(BATCH), expected)


def test_the_averages_weight_rises_over_epochs():
    method = methods.ema_teacher(Net(2), weight=10.0, warmup=4)
    weights = [method.terms[1].weight_at(Progress(0, 10, epoch)) for epoch in (0, 2, 4, 9)]
    assert weights == pytest.approx([10 * 2.718281828**-5, 10 * 2.718281828**-1.25, 10.0, 10.0])
    with pytest.raises(InputError, match="warmup"):
        methods.ema_teacher(Net(2), warmup=-1)


def test_the_average_may_see_another_view():
    student, other = Net(2), 2 * X
    method = methods.ema_teacher(student, warmup=0, view="strong")
    expected = ce(student) + 100 * consistency(student(X), student(other)).mean()
    torch.testing.assert_close(method.loss({**BATCH, "strong": other}), expected)


def test_earlier_predictions_take_over_from_labels_as_the_run_goes_on():
    student = Net(2)
    method = methods.ps_kd(student, samples=8, alpha=0.6)
    late = Progress(step=50, steps=100, epoch=5)
    assert [term.weight_at(late) for term in method.terms] == pytest.approx([0.7, 0.3])
    torch.testing.assert_close(value(method, late), ce(student).detach())  # nothing was said yet
    method.loss(BATCH, late).backward()
    method.after(late)
    said = student(X).detach()
    with torch.no_grad():
        student.head.weight.mul_(2)
    expected = 0.7 * ce(student) + 0.3 * losses.soft_cross_entropy(student(X), said).mean()
    torch.testing.assert_close(method.loss(BATCH, late), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(InputError, match="give samples="):
        methods.ps_kd(student)
    with pytest.raises(InputError, match="alpha"):
        methods.ps_kd(student, samples=8, alpha=1.1)


def test_predictions_of_a_class_draw_near():
    student = Net(2)
    expected = ce(student) + losses.cs_kd(student(X), Y, temperature=4.0)
    torch.testing.assert_close(value(methods.cs_kd(student)), expected.detach())


# -- exits and branches ------------------------------------------------------------------------------------------------


def test_exits_stand_on_the_stages_that_a_forward_finds():
    method = methods.byot(Net(2), example=BATCH)
    assert method.terms[1].name == "BYOT(student, batch.label, student.layer1, student.layer2, student.layer3)"
    assert method.terms[0].weight == 0.9
    method = methods.one(Net(2), example=BATCH)
    assert method.terms[1].name == "ONE(student, batch.label, student.layer2)"
    assert methods.one(Net(2), layer="layer1").terms[1].name == "ONE(student, batch.label, student.layer1)"


def test_what_has_no_stages_or_no_example_is_refused():
    with pytest.raises(InputError, match="give example="):
        methods.byot(Net(2))
    with pytest.raises(InputError, match="give example="):
        methods.one(Net(2))
    with pytest.raises(InputError, match="no two layers"):
        methods.byot(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double(), example=BATCH)
    with pytest.raises(InputError, match="two or more"):
        methods.byot(Net(2), layers=["layer1"])


def test_a_trained_student_answers_early():
    student = Net(4)
    method = methods.byot(student, layers=["layer1", "layer2", "layer3"])
    with pytest.raises(InputError, match="after its dry run"):
        exits_of(method)
    torch.manual_seed(0)
    train(method, (X, Y), Settings(steps=120, batch_size=8, optimizer=Optim("Adam", lr=0.01), device="cpu"))
    exits = exits_of(method).eval()
    answers = exits(X)
    torch.testing.assert_close(answers[-1], student(X))
    assert [tuple(a.shape) for a in answers] == [(8, 3)] * 3
    assert [bool((a.argmax(1) == Y).all()) for a in answers] == [True] * 3
    assert set(dict(exits.named_children())) == {"student", "exits"}
    assert all(len(m._forward_hooks) == 0 for m in student.modules())
