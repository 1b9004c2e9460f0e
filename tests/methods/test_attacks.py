"""Robust distillation: ARD and RSLAD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Progress, Settings, methods, train
from understudy.batch import Batch
from understudy.errors import InputError
from understudy.losses import cross_entropy, kl
from understudy.methods.attack import Attack, attacked
from understudy.state import digest


class Net(nn.Module):
    def __init__(self, seed: int = 0, width: int = 24) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, 3)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def data(rows: int = 256, seed: int = 0) -> tuple[Tensor, Tensor]:
    """In [0, 1]: one feature that is right by a wide margin, now and then wrong, and many weak ones that an attack turns round."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(3, (rows,), generator=g)
    x = 0.5 + 0.05 * torch.randn(rows, 8, generator=g)
    x[:, 0] = label / 2 * 0.8 + 0.1
    wrong = torch.rand(rows, generator=g) < 0.15
    x[wrong, 0] = 0.5
    x[:, 1:] += (label[:, None] - 1) * 0.06
    return x.clamp(0, 1), label


METHODS = {"ard": methods.ard, "rslad": methods.rslad}
both = pytest.mark.parametrize("name", METHODS)


def moved(name: str, student: nn.Module, x: Tensor, label: Tensor | None, seed: int = 0, **options: object) -> Tensor:
    torch.manual_seed(seed)
    method = METHODS[name](student, Net(9), **options)
    return method.prepare({"input": x, "label": label} if label is not None else x, Progress())["attacked"]


@both
def test_what_is_attacked_stays_within_eps_and_within_bounds_and_reaches_both(name):
    x, label = data()
    x[:8] = torch.tensor([0.0, 1.0]).repeat(4)
    got = moved(name, Net(), x, label)
    assert (got - x).abs().max() <= 8 / 255 + 1e-6
    assert (got - x).abs().max() > 7.9 / 255
    assert got.min() >= 0
    assert got.max() <= 1
    wide = moved(name, Net(), x, label, eps=0.2, stride=0.05, bounds=None)
    assert (wide - x).abs().max() > 0.19
    assert wide.min() < 0 < 1 < wide.max(), "control: without bounds it leaves them"


@both
def test_an_attack_raises_its_loss_more_than_noise_of_the_same_size(name):
    x, label = data()
    student, big = Net().eval(), Net(9).eval()
    got = moved(name, student, x, label, bounds=None)

    def loss(at: Tensor) -> float:
        with torch.no_grad():
            value = cross_entropy(student(at), label) if name == "ard" else kl(student(at), big(x))
            return float(value.mean())

    noise = x + 8 / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).sign()
    assert loss(got) - loss(x) > 3 * abs(loss(noise) - loss(x))


def test_one_step_is_the_stride_along_the_sign_of_the_gradient():
    x = torch.tensor([[0.5, 0.5, 0.5]])
    slope = torch.tensor([2.0, -0.1, 0.0])
    attack = Attack(eps=0.1, steps=1, stride=0.03, start="none")
    torch.testing.assert_close(attacked(lambda at: at @ slope, x, attack), torch.tensor([[0.53, 0.47, 0.5]]))
    far = Attack(eps=0.1, steps=10, stride=0.03, start="none")
    torch.testing.assert_close(attacked(lambda at: at @ slope, x, far), torch.tensor([[0.6, 0.4, 0.5]]))


def test_an_input_that_is_out_of_bounds_is_not_pulled_in():
    x = torch.tensor([[-2.0, 3.0]])
    got = attacked(lambda at: at.sum(1), x, Attack(eps=0.1, stride=0.1))
    assert (got - x).abs().max() <= 0.1 + 1e-6


@both
def test_an_attack_leaves_no_trace_in_the_student(name):
    student = Net().train()
    before = digest(student)
    moved(name, student, *data())
    assert digest(student) == before
    assert student.training
    assert all(p.grad is None and p.requires_grad for p in student.parameters())
    student(data()[0])
    assert digest(student) != before, "control: a forward in train mode leaves one"


def test_a_sample_without_a_label_is_attacked_at_the_class_that_the_teacher_ranks_first():
    x, _ = data()
    student, big = Net(), Net(9).eval()
    with torch.no_grad():
        best = big(x).argmax(1)
    none, told = moved("ard", student, x, None), moved("ard", student, x, best)
    torch.testing.assert_close(none, told)
    assert not torch.equal(told, moved("ard", student, x, (best + 1) % 3))
    half = torch.where(torch.arange(len(x)) % 2 == 0, best, -100)
    torch.testing.assert_close(moved("ard", student, x, half), told)


@both
def test_without_weight_nothing_is_moved_and_no_random_number_drawn(name):
    x, label = data()
    method = METHODS[name](Net(), Net(9), **({"alpha": 0} if name == "ard" else {"weight": 0}))
    state = torch.get_rng_state()
    assert method.prepare((x, label), Progress())["attacked"] is x
    assert torch.equal(torch.get_rng_state(), state)


def certain(x: Tensor) -> Tensor:
    """What the wide feature says: a teacher of the teacher, that no attack within eps moves."""
    return 8.0 * nn.functional.one_hot((x[:, 0] * 2.5).round().long().clamp(0, 2), 3)


def robust(student: nn.Module) -> float:
    x, label = data(400, seed=1)
    student.eval()
    torch.manual_seed(0)
    attack = Attack(eps=0.15, steps=10, stride=0.04)
    at = attacked(lambda moved: cross_entropy(student(moved), label), x, attack)
    with torch.no_grad():
        return float((student(at).argmax(1) == label).float().mean())


def test_a_student_of_a_robust_teacher_is_more_robust_than_one_of_labels():
    torch.manual_seed(0)
    x, label = data()
    run = Settings(steps=100, batch_size=64, optimizer=Optim("Adam", lr=0.01), device="cpu")
    more = {"eps": 0.15, "steps": 4, "stride": 0.06}
    big = Net(9, width=48)
    torch.manual_seed(0)
    train(methods.ard(big, certain, temperature=1.0, **more), (x, label), run)
    found = {}
    for name, make in {
        "alone": lambda s: methods.alone(s),
        "ard": lambda s: methods.ard(s, big, temperature=1.0, **more),
        "rslad": lambda s: methods.rslad(s, big, **more),
    }.items():
        torch.manual_seed(0)
        student = Net(1)
        train(make(student), (x, label), run)
        found[name] = robust(student)
    assert min(found["ard"], found["rslad"]) > found["alone"] + 0.05, found


def test_what_cannot_be_attacked_is_refused():
    with pytest.raises(InputError, match=r"ard: alpha 2 must be in \[0, 1\]"):
        methods.ard(Net(), Net(9), alpha=2)
    with pytest.raises(InputError, match="rslad: eps=0"):
        methods.rslad(Net(), Net(9), eps=0)
    with pytest.raises(InputError, match="lower value and a higher"):
        methods.ard(Net(), Net(9), bounds=(1.0, 0.0))
    with pytest.raises(InputError, match="one tensor of real numbers"):
        methods.ard(Net(), Net(9)).prepare(Batch.of({"input": torch.zeros(2, 8).long()}), Progress())
