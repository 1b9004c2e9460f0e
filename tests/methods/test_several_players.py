"""A critic and a student: adversarial distillation, of classifiers and of generators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Progress, Settings, methods, train
from understudy.errors import InputError, ShapeError
from understudy.losses import l1
from understudy.measure import fresh_discriminator
from understudy.methods.players import Critic
from understudy.state import digest


class Net(nn.Module):
    def __init__(self, width: int, seed: int, outputs: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(6, width), nn.Tanh())
            self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def inputs(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))


def teacher() -> Net:
    """Certain of its answers."""
    model = Net(16, seed=7)
    with torch.no_grad():
        model.head.weight *= 6
    return model


def settings(steps: int, lr: float = 0.01) -> Settings:
    return Settings(steps=steps, batch_size=64, optimizer=Optim("Adam", lr=lr), device="cpu")


def told_apart(student: nn.Module, big: nn.Module) -> float:
    held_out = inputs(300, seed=1)
    with torch.no_grad():
        return fresh_discriminator(student(held_out), big(held_out), 1).mean


# -- the game ----------------------------------------------------------------------------------------------------------


def test_the_critic_moves_first_and_the_student_reads_the_critic_that_has_moved():
    method = methods.adversarial_kd(Net(4, 0), teacher())
    batch = (inputs(8), torch.zeros(8).long())
    method.dry_run(batch)
    moves = method.moves(method.prepare(batch, Progress()), Progress())
    first = next(moves)
    assert (first.player, list(first.parts)) == ("critic", ["critic"])
    first.loss.backward()
    assert all(p.grad is None for p in method.student.parameters()), "the critic's loss is no business of the student's"
    with torch.no_grad():
        for p in method.players()["critic"]:
            p.zero_()
    second = next(moves)
    assert second.player == "student"
    assert second.parts["fool critic"].value.item() == pytest.approx(0.693147, rel=1e-5)
    assert next(moves, None) is None


def test_each_player_steps_with_its_own_gradient_only():
    method = methods.adversarial_kd(Net(4, 0), teacher())
    still = {"critic": Optim("SGD", lr=0.0), "student": Optim("SGD", lr=0.1)}
    data = (inputs(64), torch.zeros(64).long())
    torch.manual_seed(0)
    method.dry_run(data)
    before = digest(method.terms[0]), digest(method.student)
    train(method, data, Settings(steps=3, batch_size=64, optimizer=still, device="cpu"))
    assert digest(method.terms[0]) == before[0]
    assert digest(method.student) != before[1]


def test_a_critic_alone_learns_to_tell_and_against_a_student_that_learns_it_does_not():
    torch.manual_seed(0)
    big, critic = teacher(), Critic(hidden=16)
    student, x = Net(16, seed=1), inputs(256)
    with torch.no_grad():
        critic(student(x), big(x))
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.01)
    with torch.no_grad():
        ours, theirs = student(x), big(x)
    for _ in range(100):
        optimizer.zero_grad()
        critic(ours, theirs).mean().backward()
        optimizer.step()
    with torch.no_grad():
        assert critic(ours, theirs).mean() < 0.7
    plain = told_apart(student, big)
    method = methods.adversarial_kd(student, big, weight=1.0, soft_weight=0.0, label_weight=0.0, hidden=32)
    slow = Optim("Adam", lr=0.003, betas=(0.5, 0.99))  # with more momentum they chase each other round
    run = Settings(steps=300, batch_size=128, optimizer=slow, device="cpu")
    train(method, (x, torch.full((256,), -100)), run)
    against = told_apart(student, big)
    assert plain > 0.9
    assert against < 0.7


def test_layers_get_a_critic_of_their_own_and_must_have_one_shape():
    alike = methods.adversarial_kd(Net(16, 0), teacher(), layers=[("body", "body")])
    assert [reading.term for reading in alike.dry_run((inputs(4), torch.zeros(4).long()))] == [
        "critic", "critic(body, body)", "cross_entropy(student, batch.label)", "kl(student, teacher)", "fool critic",
        "fool critic(body, body)",
    ]  # fmt: skip
    unlike = methods.adversarial_kd(Net(4, 0), teacher(), layers=[("body", "body")])
    with pytest.raises((ShapeError, InputError), match="body"):
        unlike.dry_run((inputs(4), torch.zeros(4).long()))


def test_a_critic_has_convolutions_for_maps_and_may_be_the_users():
    critic = Critic()
    with torch.no_grad():
        assert critic(torch.zeros(2, 3, 5, 5), torch.ones(2, 3, 5, 5)).shape == (2,)
    assert isinstance(critic.net[0], nn.Conv2d)
    with pytest.raises(ShapeError, match="was made for"):
        critic(torch.zeros(2, 4, 5, 5), torch.ones(2, 4, 5, 5))
    own = nn.Sequential(nn.Linear(3, 1))
    method = methods.adversarial_kd(Net(4, 0), teacher(), critic=own)
    assert set(method.players()["critic"]) == set(own.parameters())


def test_one_critic_is_saved_once():
    method = methods.adversarial_kd(Net(4, 0), teacher())
    method.dry_run((inputs(4), torch.zeros(4).long()))
    assert len([k for k in method.state_dict() if k.endswith("net.1.weight")]) == 1


def test_while_the_critic_has_no_weight_it_does_not_move():
    late = methods.adversarial_kd(Net(4, 0), teacher(), weight=lambda progress: float(progress.step >= 5))
    batch = (inputs(4), torch.zeros(4).long())
    late.dry_run(batch)
    moves = [[m.player for m in late.moves(late.prepare(batch, p), p)] for p in (Progress(4, 10), Progress(5, 10))]
    assert moves == [["student"], ["critic", "student"]]


# -- generators --------------------------------------------------------------------------------------------------------


class Painter(nn.Module):
    """From noise to pictures of 8 by 8."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.start = nn.Sequential(nn.Linear(6, width * 16), nn.Unflatten(1, (width, 4, 4)))
            self.up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1), nn.ReLU())
            self.paint = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, noise: Tensor) -> Tensor:
        return self.paint(self.up(self.start(noise))).tanh()


def test_a_small_generator_learns_a_big_ones_pictures():
    small, big = Painter(4, 0), Painter(16, 1)
    noise, held_out = inputs(128), inputs(64, seed=1)
    torch.manual_seed(0)
    method = methods.gan_distillation(small, big, layers=[("up", "up")], hidden=8)
    with torch.no_grad():
        before = float(l1(small(held_out), big(held_out)).mean())
    kept = digest(big)
    train(method, noise, settings(60))
    with torch.no_grad():
        after = float(l1(small(held_out), big(held_out)).mean())
    assert after < 0.6 * before
    assert digest(big) == kept


def test_its_terms_are_pictures_features_and_a_critic_that_may_prefer_real_pictures():
    batch = {"input": inputs(4), "picture": torch.rand(4, 1, 8, 8)}
    method = methods.gan_distillation(Painter(4, 0), Painter(16, 1), example=batch, real="batch.picture")
    names = [reading.term for reading in method.dry_run(batch)]
    assert names[:2] == ["critic", "l1(student, teacher)"]
    assert [n for n in names if n.startswith("mse(")]
    assert str(method.terms[0].addresses[1]) == "batch.picture"
    bare = methods.gan_distillation(Painter(4, 0), Painter(16, 1), feature_weight=0)
    assert [reading.term for reading in bare.dry_run(batch)] == ["critic", "l1(student, teacher)", "fool critic"]
    with pytest.raises(InputError, match="example"):
        methods.gan_distillation(Painter(4, 0), Painter(16, 1))
