from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Progress, Settings, methods, train
from understudy.errors import InputError
from understudy.losses import cross_entropy, kl
from understudy.methods.bss import moved_to_boundary
from understudy.state import digest


class Linear(nn.Module):
    """Three classes in the plane, whose boundaries are known."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[2.0, 0.0], [-1.0, 1.5], [-1.0, -1.5]]))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.t()


def points(rows: int = 60) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, 2, generator=torch.Generator().manual_seed(0))
    return x, Linear()(x).argmax(-1)


def drawn(*given: object, **options: object) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return moved_to_boundary(*given, **options)


# -- moving ------------------------------------------------------------------------------------------------------------


def margin(x: Tensor) -> Tensor:
    """How far the first class is above the second."""
    best = Linear()(x).topk(2).values
    return (best[:, 0] - best[:, 1]).detach()


def test_samples_come_to_lie_beside_the_boundary_and_most_beyond_it():
    x, label = points()
    moved, supports = drawn(Linear(), x, label)
    assert supports.all()
    assert margin(moved).median() < 0.1 * margin(x).median()
    assert (Linear()(moved).argmax(-1) != label).float().mean() > 0.5
    noise = torch.randn(moved.shape, generator=torch.Generator().manual_seed(1))
    as_far = x + noise / noise.norm(dim=1, keepdim=True) * (moved - x).norm(dim=1, keepdim=True)
    assert margin(as_far).median() > 0.3 * margin(x).median()


def test_a_sample_moves_along_the_gradient_of_two_logits_by_their_difference_times_the_stride():
    model = Linear()
    x, label = torch.tensor([[1.0, 0.2]]), torch.tensor([0])
    (moved, _), logits = drawn(model, x, label, steps=1, stride=0.1), model(x)[0]
    towards = []
    for goal in (1, 2):
        slope = model.weight[0] - model.weight[goal]
        towards.append(x - 0.1 * (logits[0] - logits[goal] + 1e-4) * slope / slope.norm())
    assert any(torch.allclose(moved, t, atol=1e-6) for t in towards)
    classes = {int((torch.stack([(drawn_once(x, label) - t).norm() for t in towards])).argmin()) for _ in range(40)}
    assert classes == {0, 1}


def drawn_once(x: Tensor, label: Tensor) -> Tensor:
    return moved_to_boundary(Linear(), x, label, steps=1, stride=0.1)[0]


def test_a_sample_that_has_changed_class_moves_no_more():
    x, label = points()
    few, many = (drawn(Linear(), x, label, steps=n, stride=0.5)[0] for n in (10, 40))
    changed = Linear()(few).argmax(-1) != label
    assert changed.sum() > 20
    assert torch.equal(few[changed], many[changed])


def test_samples_that_the_model_gets_wrong_or_that_have_no_label_stay():
    x, label = points(6)
    label[1], label[4] = (label[1] + 1) % 3, -100
    moved, supports = drawn(Linear(), x, label)
    assert supports.tolist() == [True, False, True, True, False, True]
    assert torch.equal(moved[[1, 4]], x[[1, 4]])
    assert (moved[[0, 2, 3, 5]] != x[[0, 2, 3, 5]]).any(1).all()


def test_bounds_are_kept_and_bite():
    x, label = points()
    x = x.clamp(-0.5, 0.5)
    label = Linear()(x).argmax(-1)
    bounded, free = (drawn(Linear(), x, label, bounds=b)[0] for b in ((-0.5, 0.5), None))
    assert bounded.abs().max() <= 0.5
    assert free.abs().max() > 0.5


def test_no_parameter_gets_a_gradient_and_nothing_comes_back_with_one():
    model = Linear()
    x, label = points()
    with torch.no_grad():
        moved, _ = drawn(model, x, label)
    assert model.weight.grad is None
    assert not moved.requires_grad


def test_a_teacher_without_a_gradient_is_refused():
    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Linear()(x).detach()

    with pytest.raises(InputError, match="bss: no gradient flows through the teacher to its input"):
        moved_to_boundary(Table(), *points())


# -- the method --------------------------------------------------------------------------------------------------------


def student() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("fraction", "soft", "boundary"), [(0.0, 4.0, 2.0), (0.5, 2.5, 2 / 3), (0.75, 1.75, 0.0), (0.9, 1.3, 0.0)]
)
def test_the_sum_is_the_papers(fraction, soft, boundary):
    learns, teacher, (x, y) = student(), Linear(), points()
    method = methods.bss(learns, teacher)
    progress = Progress(step=round(1000 * fraction), steps=1000)
    torch.manual_seed(0)
    value = method.loss((x, y), progress)
    moved, _ = drawn(teacher, x, y)
    parts = [kl(learns(at), teacher(at).detach(), temperature=3).mean() / 9 for at in (x, moved)]
    expected = cross_entropy(learns(x), y).mean() + soft * parts[0] + boundary * parts[1]
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    assert abs(parts[0] - parts[1]) > 1e-3


def test_nothing_is_moved_once_the_boundarys_weight_is_0():
    class Counting(Linear):
        forwards = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.forwards += 1
            return super().forward(x)

    def forwards(fraction: float) -> int:
        Counting.forwards = 0
        methods.bss(student(), Counting()).loss(points(), Progress(step=round(100 * fraction), steps=100))
        return Counting.forwards

    assert forwards(0.8) == 1
    assert forwards(0.5) == 1 + 1 + 11  # the inputs, the moved ones, and the way there


def test_only_samples_that_were_moved_count_at_the_boundary():
    x, y = points(8)
    y[:3] = -100
    y[3] = (y[3] + 1) % 3
    method = methods.bss(student(), Linear())
    prepared = method.prepare((x, y), Progress())
    assert prepared.counts.tolist() == [5, 8, 4, 8]
    assert torch.equal(prepared["boundary"][:4], x[:4])


def test_training_leaves_the_teacher_as_it_was_and_is_the_same_twice():
    found = set()
    for _ in range(2):
        teacher, learns = Linear().train(), student()
        before = digest(teacher)
        settings = Settings(steps=4, batch_size=16, optimizer=Optim("SGD", lr=0.1), device="cpu")
        train(methods.bss(learns, teacher), points(), settings)
        assert digest(teacher) == before
        assert teacher.training
        assert teacher.weight.grad is None
        found.add(digest(learns))
    assert len(found) == 1


def test_inputs_that_cannot_be_moved_and_wrong_options_are_refused():
    with pytest.raises(InputError, match="bss: moves inputs that are one tensor of real numbers"):
        methods.bss(student(), Linear()).loss((torch.zeros(2, 2, dtype=torch.long), torch.tensor([0, 1])))
    for options in ({"steps": 0}, {"stride": 0.0}):
        with pytest.raises(InputError, match=f"bss: .*{next(iter(options))}="):
            methods.bss(student(), Linear(), **options)
    with pytest.raises(InputError, match=r"bss: teacher='batch.soft' must be a module"):
        methods.bss(student(), "batch.soft")
