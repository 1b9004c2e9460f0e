"""Students for another domain, and for other labels, than their teacher's."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Progress, Settings, methods, train
from understudy.errors import InputError
from understudy.losses import DomainCritic, coral, mmd

RUN = Settings(steps=150, batch_size=64, optimizer=Optim("Adam", lr=0.01), device="cpu")


class Net(nn.Module):
    def __init__(self, classes: int = 2, width: int = 16, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
            self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def domain(rows: int, seed: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Two classes along the first feature; the domain moves all of them along the others, and a little along the first."""
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (rows,), generator=g)
    x = 0.4 * torch.randn(rows, 6, generator=g)
    x[:, 0] += 2.0 * label - 1
    x[:, 0] += shift
    x[:, 1:3] += 2 * shift
    return x, label


def two_domains() -> dict[str, Tensor]:
    x, label = domain(300, 0)
    return {"input": x, "label": label, "target": domain(300, 1, shift=1.2)[0]}


def adapted(run: Settings = RUN, **options: object) -> Net:
    torch.manual_seed(0)
    student, data = Net(), two_domains()
    teacher = Net(seed=5)
    train(methods.domain_adaptation(student, teacher, example=data, soft_weight=0.0, **options), data, run)
    return student


def accuracy(model: nn.Module, x: Tensor, label: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == label).float().mean())


def discrepancy(model: Net) -> float:
    with torch.no_grad():
        return float(mmd(model.body(domain(300, 2)[0]), model.body(domain(300, 3, shift=1.2)[0])))


@functools.cache
def unaligned() -> tuple[float, float]:
    student = adapted(weight=0.0)
    return discrepancy(student), accuracy(student, *domain(400, 4, shift=1.2))


@pytest.mark.parametrize(("align", "weight"), [("mmd", 1.0), ("coral", 30.0), ("critic", 1.0)])
def test_aligned_features_tell_the_domains_less_and_the_source_is_still_learnt(align, weight):
    # Adam's momentum has two players chase each other round.
    plain = Settings(steps=400, batch_size=64, optimizer=Optim("SGD", lr=0.1), device="cpu")
    student = adapted(plain if align == "critic" else RUN, align=align, weight=weight)
    assert accuracy(student, *domain(400, 5)) > 0.9
    if align != "coral":  # which aligns no means
        assert discrepancy(student) < 0.6 * unaligned()[0]


def test_mmd_helps_where_the_teacher_is_silent():
    assert accuracy(adapted(), *domain(400, 4, shift=1.2)) > unaligned()[1] + 0.05


def test_soft_labels_of_a_teacher_of_the_target_domain_are_learnt_there():
    torch.manual_seed(0)
    big, data = Net(width=32, seed=5), two_domains()
    train(methods.alone(big), domain(300, 6, shift=1.2), RUN)
    student = Net()
    train(methods.domain_adaptation(student, big, example=data), data, RUN)
    assert accuracy(student, *domain(400, 4, shift=1.2)) > 0.95 > unaligned()[1]


def test_its_terms_read_labels_at_the_source_and_both_others_at_the_target():
    data = two_domains()
    for align, loss in (("mmd", mmd), ("coral", coral), ("critic", DomainCritic)):
        method = methods.domain_adaptation(Net(), Net(seed=5), align=align, example=data)
        found = [reading.shapes for reading in method.dry_run(data)]
        assert [sorted(shapes) for shapes in found] == [
            ["batch.label", "student"],
            ["student@target", "teacher@target"],
            ["student.body", "student@target.body"],
        ]
        assert method.terms[2].loss is loss or isinstance(method.terms[2].loss, DomainCritic)
    with pytest.raises(InputError, match="Did you mean 'coral'"):
        methods.domain_adaptation(Net(), Net(seed=5), align="corall", example=data)


def test_the_critic_learns_with_the_student_in_one_move():
    data = two_domains()
    method = methods.domain_adaptation(Net(), Net(seed=5), align="critic", example=data)
    method.dry_run(data)
    assert [m.player for m in method.moves(method.prepare(data, Progress()), Progress())] == ["student"]
    assert set(method.terms[2].loss.parameters()) < set(method.players()["student"])


# -- other labels ------------------------------------------------------------------------------------------------------


def seven(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Seven classes, by two features that no linear map finds; the first three of a coarser kind are another task."""
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    angle = torch.atan2(x[:, 0] * x[:, 1], x[:, 2]) + torch.pi
    return x, (angle / (2 * torch.pi) * 7).long().clamp(max=6)


@functools.cache
def of_seven() -> Net:
    torch.manual_seed(0)
    model = Net(classes=7, width=48, seed=3)
    run = Settings(steps=500, batch_size=128, optimizer=Optim("Adam", lr=0.01), device="cpu")
    train(methods.alone(model), seven(3000, 0), run)
    return model


def three(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    x, label = seven(rows, seed)
    return x, label.clamp(max=5) // 2


def test_features_of_a_teacher_of_seven_classes_help_a_student_of_three():
    x, label = three(1000, 5)
    label[30:] = -100  # the hint is for all samples, a label for few
    found = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        student = Net(classes=3, width=24)
        train(methods.feature_transfer(student, of_seven(), weight=weight, example=x), (x, label), RUN)
        found[weight] = accuracy(student, *three(800, 6))
    assert found[1.0] > found[0.0] + 0.03, found


def test_heads_may_differ_where_soft_labels_may_not():
    x, label = three(8, 0)
    method = methods.feature_transfer(Net(classes=3, width=24), of_seven(), example=x)
    readings = method.dry_run((x, label))
    assert list(readings[1].shapes.values()) == [(8, 24), (8, 48)]
    assert [a for reading in readings for a in reading.shapes if a == "teacher"] == []
    with pytest.raises(InputError, match=r"\[8, 3\] .* \[8, 7\]"):
        methods.kd(Net(classes=3), of_seven()).dry_run((x, label))
