from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Distillation, Progress, linear, methods
from understudy.errors import AddressError, InputError
from understudy.progress import START
from understudy.projectors import Conv1x1, Linear


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(width: int, classes: int = 5, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes)).double()
        nn.init.normal_(layers[2].weight, std=3)  # logits far enough apart for the temperature to matter
    return layers


X, Y = randn(9, 4), torch.arange(9) % 5
BATCH = (X, Y)


def value_and_gradient(model: nn.Module, loss: Callable[[], Tensor]) -> tuple[float, Tensor]:
    model.zero_grad()
    value = loss()
    value.backward()
    return value.item(), torch.cat([p.grad.flatten() for p in model.parameters()])


def through(method: Distillation, batch: object = BATCH) -> tuple[float, Tensor]:
    return value_and_gradient(method.student, lambda: method.loss(batch))


def textbook(student: Tensor, teacher: Tensor, label: Tensor, temperature: float, alpha: float) -> Tensor:
    log_q, log_p = (F.log_softmax(x / temperature, -1) for x in (student, teacher))
    soft = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean") * temperature**2
    return (1 - alpha) * F.cross_entropy(student, label) + alpha * soft


# -- kd ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0, 20.0])
def test_kd_is_the_textbook_formula_in_value_and_gradient(temperature, alpha):
    student, teacher = net(3), net(8, seed=1)
    value, grad = through(methods.kd(student, teacher, temperature=temperature, alpha=alpha))
    expected, expected_grad = value_and_gradient(
        student, lambda: textbook(student(X), teacher(X).detach(), Y, temperature, alpha)
    )
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-13)
    if alpha:
        wrong, wrong_grad = value_and_gradient(
            student, lambda: textbook(student(X), teacher(X).detach(), Y, temperature + 1, alpha)
        )
        assert wrong != pytest.approx(value, rel=1e-4)
        assert (wrong_grad - grad).norm() > 1e-4 * grad.norm()


def test_kd_defaults_to_temperature_4_and_nine_tenths_of_soft_labels():
    student, teacher = net(3), net(8, seed=1)
    value, _ = through(methods.kd(student, teacher))
    assert value == pytest.approx(textbook(student(X), teacher(X), Y, 4.0, 0.9).item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kd_without_soft_labels_is_the_student_alone_to_the_last_bit(dtype):
    class Refuses(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the teacher must not run")

    student = net(3).to(dtype)
    batch = (X.to(dtype), Y)
    value, grad = through(methods.kd(student, Refuses(), alpha=0), batch)
    expected, expected_grad = through(methods.alone(student), batch)
    assert value == expected
    assert torch.equal(grad, expected_grad)


def test_kd_from_an_equal_teacher_has_no_gradient():
    student = net(3)
    for temperature in (0.5, 1, 4, 20):
        value, grad = through(methods.kd(student, copy.deepcopy(student), alpha=1, temperature=temperature))
        assert value == 0
        assert grad.abs().max() < 1e-6
    _, grad = through(methods.kd(student, net(3, seed=1), alpha=1))
    assert grad.abs().max() > 1e-3


def test_another_teacher_gives_another_gradient():
    student = net(3)
    _, one = through(methods.kd(student, net(8, seed=1)))
    _, same = through(methods.kd(student, net(8, seed=1)))
    _, two = through(methods.kd(student, net(8, seed=2)))
    assert torch.equal(one, same)
    assert (one - two).abs().max() > 1e-3


def test_kd_at_a_high_temperature_compares_centred_logits():
    """T² KL goes to the squared difference of the logits, less their means, over 2 C."""
    student, teacher = net(3), net(8, seed=1)

    def limit() -> Tensor:
        gap = student(X) - teacher(X).detach()
        return (gap - gap.mean(1, keepdim=True)).square().mean(1).mean() / 2

    value, grad = through(methods.kd(student, teacher, alpha=1, temperature=1e4))
    expected, expected_grad = value_and_gradient(student, limit)
    assert value == pytest.approx(expected, rel=1e-3)
    assert (grad - expected_grad).norm() < 1e-3 * expected_grad.norm()
    cold, _ = through(methods.kd(student, teacher, alpha=1, temperature=1))
    assert cold != pytest.approx(expected, rel=1e-2)


def test_kd_from_stored_logits_equals_kd_from_the_live_teacher():
    student, teacher = net(3), net(8, seed=1)
    value, grad = through(methods.kd(student, teacher))
    batch = {"input": X, "label": Y, "soft": teacher(X).detach()}
    stored = methods.kd(student, "batch.soft")
    assert stored.frozen == {}
    assert through(stored, batch)[0] == value
    assert torch.equal(through(stored, batch)[1], grad)
    watched = stored.move(stored.prepare(batch, START), START).watched["agreement"]
    assert watched == (student(X).argmax(1) == teacher(X).argmax(1)).float().mean()


def test_kd_with_unlabelled_samples_averages_each_term_over_what_it_counts():
    student, teacher = net(3), net(8, seed=1)
    label = Y.clone()
    label[2:] = -100
    value, _ = through(methods.kd(student, teacher, alpha=0.5, temperature=2), (X, label))
    hard = F.cross_entropy(student(X[:2]), Y[:2])
    soft = textbook(student(X), teacher(X), Y, 2.0, 1.0)
    assert value == pytest.approx((0.5 * hard + 0.5 * soft).item(), rel=1e-12)


def test_kd_on_soft_labels_alone_needs_no_label():
    method = methods.kd(net(3), net(8, seed=1), alpha=1)
    for batch in (X, {"input": X, "labels": Y}):
        method.dry_run(batch)
        assert through(method, batch)[0] == through(method)[0]


def test_kd_with_a_mask_counts_what_is_under_it():
    student, teacher = net(3), net(8, seed=1)
    mask = torch.arange(9) < 4
    value, _ = through(methods.kd(student, teacher, mask="batch.mask"), {"input": X, "label": Y, "mask": mask})
    assert value == pytest.approx(through(methods.kd(student, teacher), (X[:4], Y[:4]))[0], rel=1e-12)


def test_kd_reads_labels_where_it_is_told_to():
    student, teacher = net(3), net(8, seed=1)
    value, _ = through(methods.kd(student, teacher, label="batch.targets"), {"input": X, "targets": Y})
    assert value == through(methods.kd(student, teacher))[0]


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_kd_refuses_a_share_that_is_none(alpha):
    with pytest.raises(InputError, match=r"kd: alpha .* must be in \[0, 1\]: the share of the soft labels"):
        methods.kd(net(3), net(8), alpha=alpha)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_kd_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(InputError, match=r"kd: temperature .* must be finite and above 0; 1 to 8 is usual"):
        methods.kd(net(3), net(8), temperature=temperature)


def test_kd_refuses_a_teacher_of_other_classes_before_training():
    with pytest.raises(InputError, match=r"Both models must score the same classes in the same order"):
        methods.kd(net(3), net(8, classes=6)).dry_run(BATCH)


# -- alone -------------------------------------------------------------------------------------------------------------


def test_alone_is_cross_entropy():
    student = net(3)
    value, grad = through(methods.alone(student))
    expected, expected_grad = value_and_gradient(student, lambda: F.cross_entropy(student(X), Y))
    assert value == pytest.approx(expected, rel=1e-14)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-15)
    assert through(methods.alone(student, label="batch.y"), {"input": X, "y": Y})[0] == value


# -- fitnets -----------------------------------------------------------------------------------------------------------


def hinted(**more: object) -> Distillation:
    options = {"student_layer": "0", "teacher_layer": "1", "project": Linear(3, 8).double(), **more}
    return methods.fitnets(net(3), net(8, seed=1), **options)


def test_fitnets_is_cross_entropy_and_the_projected_hint():
    method = hinted(weight=7.0)
    student, teacher, project = method.student, method.frozen["teacher"], method.terms[1].project.layer
    value, grad = through(method)
    projected = project.weight.grad.clone()
    method.zero_grad()
    expected, expected_grad = value_and_gradient(
        student,
        lambda: F.cross_entropy(student(X), Y) + 7 * F.mse_loss(project(student[0](X)), teacher[:2](X).detach()),
    )
    assert value == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(project.weight.grad, projected, rtol=1e-10, atol=1e-13)


def test_fitnets_hint_weighs_a_hundred_unless_it_is_told_otherwise():
    assert hinted().terms[1].weight == 100
    assert hinted(weight=linear(1, 0)).terms[1].weight_at(Progress(1, 4)) == 0.75


def test_fitnets_projects_maps_by_a_convolution_that_the_dry_run_fits():
    student, teacher = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 5, 3)
    student = nn.Sequential(student, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 5))
    teacher = nn.Sequential(teacher, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 5))
    method = methods.fitnets(student, teacher, student_layer="0", teacher_layer="0")
    method.dry_run((torch.zeros(2, 1, 6, 6), torch.tensor([0, 1])))
    project = method.terms[1].project
    assert isinstance(project, Conv1x1)
    assert project.layer.weight.shape == (5, 2, 1, 1)


def test_fitnets_names_a_layer_that_is_not_there():
    with pytest.raises(AddressError, match=r"teacher has no submodule 'layer3'"):
        hinted(teacher_layer="layer3")


# -- all ---------------------------------------------------------------------------------------------------------------


def test_methods_pass_options_on_to_distillation():
    student = net(3)
    doubled = methods.alone(student, call=lambda model, batch: model(2 * batch[0]))
    assert through(doubled)[0] == pytest.approx(F.cross_entropy(student(2 * X), Y).item())
