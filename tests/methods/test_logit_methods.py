"""Methods of the last outputs: what each default is, as the papers have it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from understudy import Optim, Progress, Settings, losses, methods, train
from understudy.errors import InputError
from understudy.losses import cross_entropy, kl
from understudy.progress import linear
from understudy.tasks import TASKS

CLASSES = 5


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(width: int, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, CLASSES)).double()
        nn.init.normal_(layers[2].weight, std=3)  # logits far enough apart for temperatures to matter
    return layers


X, Y = randn(9, 4), torch.arange(9) % CLASSES
STUDENT, TEACHER = net(3), net(8, seed=1)
LATE = Progress(step=50, steps=100, epoch=50)  # after every warm-up


def ce(s: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(s, y).mean()


PAPER: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "logit_regression": lambda s, t, y: ((s - t) ** 2).mean(),
    "dkd": lambda s, t, y: ce(s, y) + losses.dkd(s, t, y, temperature=4, alpha=1, beta=8).mean(),
    "nkd": lambda s, t, y: ce(s, y) + losses.nkd(s, t, y, temperature=1, gamma=1.5).mean(),
    "wsld": lambda s, t, y: ce(s, y) + 2.5 * losses.wsld(s, t, y, temperature=2).mean(),
    "logit_standardization": lambda s, t, y: 0.1 * ce(s, y) + 9 * losses.kl_standardized(s, t, temperature=2).mean(),
    "ctkd": lambda s, t, y: (
        0.1 * ce(s, y) + 0.9 * kl(s, t, temperature=1 + 20 * float(torch.ones(()).sigmoid())).mean()
    ),
    "dist": lambda s, t, y: ce(s, y) + losses.dist_inter(s, t).mean() + losses.dist_intra(s, t),
    "mlkd": lambda s, t, y: (
        0.1 * ce(s, y)
        + 0.9 * sum(kl(s, t, temperature=T).mean() for T in (2, 3, 4, 5, 6))
        + 0.9 * losses.class_correlation(s, t, temperatures=(2, 3, 4, 5, 6))
        + 0.9 * losses.batch_correlation(s, t, temperatures=(2, 3, 4, 5, 6))
    ),
    "deit": lambda s, t, y: 0.5 * ce(s, y) + 0.5 * ce(s, t.argmax(-1)),
    "tf_kd": lambda s, t, y: 0.9 * ce(s, y) + 0.1 * losses.tf_kd(s, y, temperature=20, correct=0.99).mean(),
    "uskd": lambda s, t, y: ce(s, y) + losses.uskd(s, y, alpha=1, beta=0.1),
}
ALONE = {"tf_kd", "uskd"}
each = pytest.mark.parametrize("name", PAPER)
taught = pytest.mark.parametrize("name", [n for n in PAPER if n not in ALONE])


def of(name: str, teacher: object = TEACHER, **options: object) -> methods.Distillation:
    models = (STUDENT,) if name in ALONE else (STUDENT, teacher)
    return getattr(methods, name)(*models, **options)


def gradient(loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(STUDENT.parameters()))])


@each
def test_the_default_is_the_papers_sum(name):
    value = of(name).double().loss((X, Y), LATE)
    expected = PAPER[name](STUDENT(X), TEACHER(X).detach(), Y)
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=0)
    right = gradient(expected)
    torch.testing.assert_close(gradient(value), right, rtol=1e-6, atol=1e-12)
    wrong = PAPER[name](STUDENT(X), TEACHER(X).detach().roll(1, 0), Y.roll(1))
    assert (gradient(wrong) - right).norm() > 1e-3 * right.norm()


@taught
def test_the_teachers_logits_may_lie_in_the_batch(name):
    stored = of(name, "batch.soft").double()
    batch = {"input": X, "label": Y, "soft": TEACHER(X).detach()}
    assert stored.frozen == {}
    value, expected = stored.loss(batch, LATE), of(name).double().loss((X, Y), LATE)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", [n for n in PAPER if n != "logit_regression"])
@pytest.mark.parametrize("task", ["regression", "multi-label"])
def test_a_task_without_classes_is_refused_by_name(name, task):
    with pytest.raises(
        InputError, match=f"{name}: is a method for one of several classes, and this task is {TASKS[task].name}"
    ):
        of(name, task=TASKS[task])


def test_logit_regression_is_for_every_task():
    values = randn(9, CLASSES, seed=2)
    method = methods.logit_regression(STUDENT, TEACHER, alpha=0.25, task=TASKS["regression"])
    expected = 0.75 * ((STUDENT(X) - values) ** 2).mean() + 0.25 * ((STUDENT(X) - TEACHER(X)) ** 2).mean()
    torch.testing.assert_close(method.loss((X, values)), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["logit_regression", "deit", "tf_kd"])
@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(name, alpha):
    with pytest.raises(InputError, match=rf"{name}: alpha {alpha} must be in \[0, 1\]"):
        of(name, alpha=alpha)


@pytest.mark.parametrize("name", ["logit_regression", "deit"])
def test_with_the_teacher_alone_no_label_is_needed(name):
    assert of(name, alpha=1.0).loss({"input": X}).isfinite()


@pytest.mark.parametrize("name", ["nkd", "wsld", "logit_standardization", "ctkd"])
def test_the_weight_may_be_a_curve(name):
    method = of(name, weight=linear(1, 0), label_weight=0.25)
    weights = [[t.weight_at(p) for t in method.terms] for p in (Progress(0, 4), Progress(2, 4))]
    assert weights == [[0.25, 1.0], [0.25, 0.5]]


# -- dkd ---------------------------------------------------------------------------------------------------------------


def test_dkds_weight_rises_over_twenty_epochs():
    term = of("dkd", weight=2.0).terms[1]
    found = [term.weight_at(Progress(step=e, steps=300, epoch=e)) for e in (0, 9, 19, 20, 250)]
    assert found == pytest.approx([0.1, 1.0, 2.0, 2.0, 2.0])
    assert [of("dkd", warmup=0).terms[1].weight_at(Progress()), of("dkd", warmup=1).terms[1].weight_at(Progress())] == [
        1,
        1,
    ]
    with pytest.raises(InputError, match="dkd: warmup=-1"):
        of("dkd", warmup=-1)


# -- ctkd --------------------------------------------------------------------------------------------------------------


def test_ctkd_trains_its_temperature_saves_it_and_turns_more_of_it_round_each_epoch():
    method = methods.ctkd(net(3), TEACHER)
    loss = method.terms[1].loss
    before = loss.theta.detach().clone(), loss.strength.clone()
    train(method.double(), (X, Y), Settings(epochs=4, batch_size=5, optimizer=Optim("SGD", lr=0.1), device="cpu"))
    assert loss.theta != before[0]
    assert float(loss.strength) == pytest.approx(loss.strength_at(3))
    assert loss.strength > before[1]
    assert {"terms.1.loss.theta", "terms.1.loss.strength"} <= set(method.state_dict())


# -- mlkd --------------------------------------------------------------------------------------------------------------


def test_mlkd_has_its_terms_for_each_view_and_labels_both():
    weak, strong = X + 0.1, X * 1.5
    method = of("mlkd", views=["weak", "strong"])
    value = method.loss({"weak": weak, "strong": strong, "label": Y})
    expected = sum(PAPER["mlkd"](STUDENT(x), TEACHER(x).detach(), Y) for x in (weak, strong))
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    assert len(method.names) == len(set(method.names)) == 8
    with pytest.raises(InputError, match=r"mlkd: views=\['weak'\] need a teacher that can be called; 'batch.soft'"):
        of("mlkd", "batch.soft", views=["weak"])


# -- deit --------------------------------------------------------------------------------------------------------------


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output, self.token = net(3), net(3, seed=5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.output(x), self.token(x)


def test_deits_token_learns_from_the_teacher_and_the_output_from_labels():
    student = TwoHeads()
    method = methods.deit(student, TEACHER, output="student/0", token="student/1")
    value = method.loss((X, Y))
    value.backward()
    hard = TEACHER(X).argmax(-1)
    expected = 0.5 * ce(student.output(X), Y) + 0.5 * ce(student.token(X), hard)
    torch.testing.assert_close(value, expected)
    grad = student.token[0].weight.grad.clone()
    student.zero_grad()
    (0.5 * ce(student.token(X), hard)).backward()
    torch.testing.assert_close(grad, student.token[0].weight.grad)
    assert not torch.isclose(0.5 * ce(student.output(X), hard) + 0.5 * ce(student.token(X), Y), value)


# -- uskd --------------------------------------------------------------------------------------------------------------


class Early(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body, self.early, self.head = nn.Linear(4, 6), nn.Linear(6, CLASSES), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.body(x).tanh()
        self.early(inner)
        return self.head(inner)


def test_uskds_weak_head_learns_where_it_is_named():
    student = Early().double()
    value = methods.uskd(student, weak="student.early").loss((X, Y))
    value.backward()
    inner = student.body(X).tanh()
    expected = ce(student.head(inner), Y) + losses.uskd(student.head(inner), Y, student.early(inner))
    torch.testing.assert_close(value, expected)
    assert student.early.weight.grad.ne(0).any()
    student.zero_grad(set_to_none=True)
    methods.uskd(student).loss((X, Y)).backward()
    assert student.early.weight.grad is None


def test_mlkds_correlations_may_weigh_less():
    s, t = STUDENT(X), TEACHER(X).detach()
    none, whole = (of("mlkd", correlation=c).loss((X, Y)) for c in (0.0, 1.0))
    torch.testing.assert_close(none, 0.1 * ce(s, Y) + 0.9 * losses.kl_multi_temperature(s, t).mean())
    torch.testing.assert_close(of("mlkd", correlation=0.5).loss((X, Y)), (none + whole) / 2)
    assert not torch.isclose(none, whole)
