"""Methods of several teachers: whom they ask, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from understudy import Distillation, Optim, Settings, losses, methods, train
from understudy.errors import InputError
from understudy.losses import cross_entropy
from understudy.progress import linear
from understudy.tasks import TASKS
from understudy.teachers import Ensemble

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.arange(9) % 5
KNOWN = [[0, 1, 2], [2, 3, 4]]


def net(width: int, seed: int = 0, classes: int = 5) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes)).double()
        nn.init.normal_(layers[2].weight, std=3)
    return layers


STUDENT, ONE, TWO, THREE = net(3), net(8, 1), net(6, 2), net(5, 3)


def hard(label: Tensor = Y) -> Tensor:
    return cross_entropy(STUDENT(X), label).sum() / (label >= 0).sum()


@pytest.mark.parametrize("teacher", [[ONE, TWO, THREE], Ensemble(ONE, TWO, THREE, weights=[1, 0, 0], of="logits")])
@pytest.mark.parametrize(
    ("weighting", "loss"),
    [
        ("average", losses.average_kl),
        ("entropy", losses.ebkd),
        ("confidence", lambda s, *t: losses.ca_mkd(s, Y, *t)),
        ("gradient", losses.aekd),
    ],
)
def test_weightings_are_these_losses_of_the_members(teacher, weighting, loss):
    method = methods.multi_teacher(STUDENT, teacher, weighting=weighting)
    told = [model(X) for model in (ONE, TWO, THREE)]
    torch.testing.assert_close(method.loss((X, Y)), hard() + loss(STUDENT(X), *told).mean())
    assert not torch.allclose(method.loss((X, Y)), hard() + loss(STUDENT(X), *told[:2]).mean(), rtol=1e-4)


def test_the_named_ones_are_weightings_with_the_papers_numbers():
    told = [model(X) for model in (ONE, TWO)]
    torch.testing.assert_close(
        methods.ebkd(STUDENT, [ONE, TWO]).loss((X, Y)), hard() + losses.ebkd(STUDENT(X), *told, temperature=4).mean()
    )
    torch.testing.assert_close(
        methods.aekd(STUDENT, [ONE, TWO], cap=0.6).loss((X, Y)),
        hard() + losses.aekd(STUDENT(X), *told, temperature=4, cap=0.6),
    )


def test_options_reach_their_loss():
    told = [model(X) for model in (ONE, TWO)]
    method = methods.multi_teacher(STUDENT, [ONE, TWO], weights=[3, 1], temperature=2.0, weight=0.5, label_weight=0)
    expected = 0.5 * losses.average_kl(STUDENT(X), *told, temperature=2.0, weights=[3, 1]).mean()
    torch.testing.assert_close(method.loss((X, Y)), expected)


def test_one_teacher_is_enough_and_weighs_all():
    plain = methods.multi_teacher(STUDENT, ONE).loss((X, Y))
    for weighting in ("entropy", "confidence", "gradient"):
        torch.testing.assert_close(methods.multi_teacher(STUDENT, [ONE], weighting=weighting).loss((X, Y)), plain)


@pytest.mark.parametrize(
    ("teacher", "options", "told"),
    [
        ([ONE], {"weighting": "entropie"}, "Did you mean 'entropy'"),
        ([ONE], {"weighting": "entropy", "weights": [1]}, "weights is of weighting='average'"),
        ([ONE], {"cap": 0.5}, "cap is of weighting='gradient'"),
        ([ONE, TWO], {"weights": [1]}, "not for 2 teachers"),
        ([ONE, TWO], {"task": TASKS["regression"]}, "regression"),
        ([], {}, "no sequence"),
        ("batch.soft", {}, "no Ensemble"),
        ([ONE, 3], {}, "no sequence"),
    ],
)
def test_what_does_not_fit_is_refused(teacher, options, told):
    with pytest.raises(InputError, match=told):
        methods.multi_teacher(STUDENT, teacher, **options)


# -- confidence --------------------------------------------------------------------------------------------------------


def test_ca_mkd_finds_the_heads_and_weighs_features_by_fifty():
    method = methods.ca_mkd(STUDENT, [ONE, TWO], example=(X, Y))
    names = [term.name for term in method.terms]
    assert names[2].startswith(
        "CAMKD(student.2<, batch.label, teacher.0.2<, teacher:0.2.weight, teacher:0.2.bias, teacher.1.2<"
    )
    assert [term.weight for term in method.terms] == [1.0, 1.0, 50.0]
    method.dry_run((X, Y))
    value = method.loss((X, Y))
    told = [model(X) for model in (ONE, TWO)]
    without = hard() + losses.ca_mkd(STUDENT(X), Y, *told, temperature=4).mean()
    torch.testing.assert_close(methods.ca_mkd(STUDENT, [ONE, TWO], feature_weight=0).loss((X, Y)), without)
    assert value > without


def test_ca_mkd_takes_heads_by_name_and_refuses_what_is_none():
    assert len(methods.ca_mkd(STUDENT, [ONE, TWO], heads=["2", "2", "2"]).terms) == 3
    with pytest.raises(InputError, match="heads="):
        methods.ca_mkd(STUDENT, [ONE, TWO])
    with pytest.raises(InputError, match="that of 2 teachers"):
        methods.ca_mkd(STUDENT, [ONE, TWO], heads=["2", "2"])
    with pytest.raises(InputError, match="a Tanh, not the linear layer"):
        methods.ca_mkd(STUDENT, [ONE, TWO], heads=["2", "1", "2"])
    with pytest.raises(InputError, match="nothing, not the linear layer"):
        methods.ca_mkd(STUDENT, [ONE, lambda x: TWO(x)], heads=["2", "2", "2"])
    with pytest.raises(InputError, match="no linear layer"):
        methods.ca_mkd(STUDENT, [nn.Identity(), TWO], example=(X, Y))
    assert len(methods.ca_mkd(STUDENT, [ONE, lambda x: TWO(x)], feature_weight=0).terms) == 2


# -- specialists -------------------------------------------------------------------------------------------------------

FEW, MORE = net(8, 1, classes=3), net(6, 2, classes=3)


def specialists(**options: object) -> Distillation:
    return methods.specialists(STUDENT, [FEW, MORE], classes=KNOWN, **options)


def test_specialists_are_asked_of_samples_whose_label_they_know():
    value = 0.0
    for model, own in ((FEW, KNOWN[0]), (MORE, KNOWN[1])):
        at = torch.tensor([int(y) in own for y in Y])
        value = value + losses.specialist_kl(STUDENT(X)[at], model(X)[at], classes=[own]).mean() / 2
    torch.testing.assert_close(specialists().loss((X, Y)), hard() + value)
    everything = losses.specialist_kl(STUDENT(X), FEW(X), MORE(X), classes=KNOWN).mean()
    torch.testing.assert_close(specialists(everything=True).loss((X, Y)), hard() + everything)
    assert (everything - value).abs() > 1e-3


def test_specialists_are_asked_of_samples_without_a_label():
    none = torch.full_like(Y, -100)
    everything = losses.specialist_kl(STUDENT(X), FEW(X), MORE(X), classes=KNOWN).mean()
    torch.testing.assert_close(specialists().loss((X, none)), everything)
    torch.testing.assert_close(specialists().loss((X,)), everything)


def test_specialists_take_an_ensembles_classes_and_a_curve():
    ensemble = Ensemble(FEW, MORE, classes=KNOWN)
    torch.testing.assert_close(methods.specialists(STUDENT, ensemble).loss((X, Y)), specialists().loss((X, Y)))
    half = specialists(weight=linear(0.5, 0.5), label_weight=0).loss((X, Y))
    torch.testing.assert_close(half, 0.5 * (specialists().loss((X, Y)) - hard()))


def test_specialists_without_classes_or_with_two_say_so():
    with pytest.raises(InputError, match="give classes="):
        methods.specialists(STUDENT, [FEW, MORE])
    with pytest.raises(InputError, match="where it is made"):
        methods.specialists(STUDENT, Ensemble(ONE, TWO))
    with pytest.raises(InputError, match="where it is made"):
        methods.specialists(STUDENT, Ensemble(FEW, MORE, classes=KNOWN), classes=KNOWN)


# -- learning ----------------------------------------------------------------------------------------------------------


def rings(samples: int = 400) -> tuple[Tensor, Tensor]:
    """Four classes that no line parts."""
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.rand(samples, 2, generator=generator) - 1
    return x, (x.norm(dim=1) > 0.65).long() + 2 * (x[:, 0] * x[:, 1] > 0).long()


def mlp(width: int, classes: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, classes))


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


class Spread(nn.Module):
    """Outputs for some classes as outputs for all four."""

    def __init__(self, own: list[int]) -> None:
        super().__init__()
        self.own = own

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x), 4), -1e9).index_copy(1, torch.tensor(self.own), x)


def settings(steps: int) -> Settings:
    return Settings(steps=steps, batch_size=50, optimizer=Optim("Adam", lr=0.01), device="cpu")


def test_two_that_know_half_of_the_classes_teach_a_student_all_of_them():
    x, y = rings()
    own = [[0, 1], [2, 3]]
    teachers = []
    for seed, (first, second) in enumerate(own):
        at = (y == first) | (y == second)
        model = mlp(32, 2, seed)
        train(methods.alone(model), (x[at], (y[at] == second).long()), settings(250))
        teachers.append(model)
    few = y.clone()
    few[40:] = -100  # without labels nobody says which half a sample is of
    student = mlp(24, 4, 9)
    train(methods.specialists(student, teachers, classes=own, temperature=2.0), (x, few), settings(250))
    test = rings(1000)
    best = max(accuracy(nn.Sequential(t, Spread(k)), *test) for t, k in zip(teachers, own, strict=True))
    assert accuracy(student, *test) > 0.7 > best
