"""DAFL and DeepInversion: students of a teacher whose data nobody has."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Progress, Settings, methods, train
from understudy.errors import InputError
from understudy.losses import batch_norm_statistics
from understudy.methods.deep_inversion import synthesize
from understudy.methods.generator import Generator
from understudy.state import digest


class Net(nn.Module):
    """Of pictures of 6 by 6, in which one of four quarters is bright."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            self.second = nn.Sequential(nn.Conv2d(width, width, 3, 2, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            self.head = nn.Linear(9 * width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).flatten(1))


def data(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(4, (rows,), generator=g)
    x = 0.5 * torch.randn(rows, 1, 6, 6, generator=g)
    for i, c in enumerate(label.tolist()):
        x[i, :, 3 * (c // 2) : 3 * (c // 2) + 3, 3 * (c % 2) : 3 * (c % 2) + 3] += 1.5
    return x, label


@functools.cache
def teacher() -> nn.Module:
    torch.manual_seed(0)
    model = Net(8, seed=1)
    run = Settings(steps=60, batch_size=64, optimizer=Optim("Adam", lr=0.01), device="cpu")
    train(methods.alone(model), data(256), run)
    return model.eval()


def accuracy(model: nn.Module) -> float:
    x, label = data(400, seed=1)
    with torch.no_grad():
        return float((model.eval()(x).argmax(1) == label).float().mean())


NOTHING = torch.zeros(32, 1, 6, 6)
"""What is given as data: only its rows are counted."""


def test_a_student_of_dafl_learns_without_data_what_its_teacher_knows():
    torch.manual_seed(0)
    student = Net(4, seed=2)
    before, big = digest(teacher()), teacher()
    method = methods.dafl(student, big, latent=16, example=NOTHING, generator=Generator((1, 6, 6), latent=16, width=16))
    run = Settings(
        steps=150,
        batch_size=32,
        optimizer={"generator": Optim("Adam", lr=0.01), "student": Optim("Adam", lr=0.01)},
        device="cpu",
    )
    assert accuracy(student) < 0.5
    assert accuracy(big) > 0.95
    train(method, NOTHING, run)
    assert accuracy(student) > 0.7
    with torch.no_grad():
        method.generator.eval()
        made = big(method.generator(torch.randn(400, 16))).argmax(1)
    assert made.bincount(minlength=4).min() > 20, "all classes are generated"
    assert digest(big) == before


def test_the_generator_learns_through_the_frozen_teacher_and_the_student_does_not_reach_it():
    method = methods.dafl(Net(4, 2), teacher(), latent=8, example=NOTHING)
    method.dry_run(NOTHING)
    moves = method.moves(method.prepare(NOTHING, Progress()), Progress())
    first = next(moves)
    first.loss.backward()
    assert first.player == "generator"
    assert list(first.parts) == [
        "one_hot(teacher@generated)", "information_entropy(teacher@generated)", "activation(teacher@generated.head<)"
    ]  # fmt: skip
    assert all(p.grad is not None for p in method.generator.parameters())
    assert all(p.grad is None for p in (*method.student.parameters(), *teacher().parameters()))
    method.zero_grad()
    second = next(moves)
    second.loss.backward()
    assert second.player == "student"
    assert all(p.grad is None for p in (*method.generator.parameters(), *teacher().parameters()))
    assert all(p.grad is not None for p in method.student.parameters())


def test_the_generator_is_saved_and_its_noise_is_new_at_each_step():
    method = methods.dafl(Net(4, 2), teacher(), latent=8, example=NOTHING)
    assert any(k.startswith("generator.") for k in method.state_dict())
    a, b = (method.prepare(NOTHING, Progress())["noise"] for _ in range(2))
    assert a.shape == (32, 8)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 7, 5), (1, 1, 1), (9,)])
def test_the_generator_makes_any_size_of_picture_and_vectors(shape):
    made = Generator(shape, latent=5, width=8)(torch.randn(6, 5))
    assert made.shape == (6, *shape)
    torch.testing.assert_close(made.mean(0).mean(), torch.tensor(0.0), atol=1e-4, rtol=0)


def test_what_dafl_cannot_make_is_refused():
    with pytest.raises(InputError, match="Give a generator of your own"):
        Generator((3, 4))
    with pytest.raises(InputError, match="give shape="):
        methods.dafl(Net(4, 2), teacher(), layer="head<")
    wrong = nn.Linear(8, 8)
    wrong.forward = lambda noise: (noise, noise)
    method = methods.dafl(Net(4, 2), teacher(), layer="head<", latent=8, generator=wrong)
    with pytest.raises(InputError, match="makes one tensor"):
        method.dry_run(NOTHING)


# -- pictures that are recalled ----------------------------------------------------------------------------------------


def off(model: nn.Module, x: Tensor) -> float:
    """How far a batch's statistics are from those that the layers keep."""
    seen: list[Tensor] = []
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.append(args[0])) for m in norms]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return sum(float(batch_norm_statistics(s, m.running_mean, m.running_var)) for s, m in zip(seen, norms, strict=True))


def recalled(label: Tensor, **options: object) -> Tensor:
    torch.manual_seed(0)
    return synthesize(teacher(), label, (1, 6, 6), **{"steps": 120, "jitter": 0, **options})


def test_pictures_are_recalled_of_the_classes_asked_for_with_the_statistics_of_real_ones():
    big, label = teacher(), torch.arange(32) % 4
    before = digest(big)
    made = recalled(label)
    real, noise = data(32)[0], torch.randn(32, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert (big(made).argmax(1) == label).float().mean() > 0.95
    assert off(big, made) < 0.5 * off(big, noise)
    assert off(big, made) < 2 * off(big, real) + 0.5
    without = recalled(label, norm_weight=0.0)
    assert off(big, without) > 2 * off(big, made), "control: it is the statistics' loss that does it"
    assert digest(big) == before
    assert not made.requires_grad
    assert all(p.grad is None and p.requires_grad for p in big.parameters())


def test_a_student_learns_from_recalled_pictures():
    torch.manual_seed(0)
    student = Net(4, seed=2)
    method = methods.deep_inversion(student, teacher(), example=NOTHING, pool=64, steps=60, jitter=0)
    run = Settings(steps=80, batch_size=32, optimizer=Optim("Adam", lr=0.01), device="cpu")
    assert accuracy(student) < 0.5
    train(method, NOTHING, run)
    assert accuracy(student) > 0.8
    assert int(method.filled) == 64
    full = method.pool.clone()
    method.prepare(NOTHING, Progress())
    assert torch.equal(method.pool, full)


def test_the_pool_is_saved_and_a_dry_run_makes_no_picture():
    method = methods.deep_inversion(Net(4, 2), teacher(), example=NOTHING, pool=40, steps=1)
    method.dry_run(NOTHING)
    assert int(method.filled) == 0
    method.prepare(NOTHING, Progress())
    assert int(method.filled) == 32
    method.prepare(NOTHING, Progress())
    assert int(method.filled) == 40
    other = methods.deep_inversion(Net(4, 2), teacher(), example=NOTHING, pool=40, steps=1)
    other.load_state_dict(copy.deepcopy(method.state_dict()))
    assert torch.equal(other.pool, method.pool)


def test_a_teacher_without_statistics_is_refused_unless_they_have_no_weight():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(InputError, match="no BatchNorm layer"):
        synthesize(plain, torch.arange(4), (1, 6, 6), steps=1)
    assert synthesize(plain, torch.arange(4), (1, 6, 6), steps=1, norm_weight=0).shape == (4, 1, 6, 6)
    with pytest.raises(InputError, match="pool=0"):
        methods.deep_inversion(Net(4, 2), teacher(), example=NOTHING, pool=0)
