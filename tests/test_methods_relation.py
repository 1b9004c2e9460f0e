"""Methods of relations: the papers' weights, the layers that they choose, and what they need besides."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy import Distillation, losses, methods, train
from understudy.errors import InputError
from understudy.method import Method
from understudy.optimize import Optim
from understudy.progress import START, Progress
from understudy.settings import Settings


class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.Tanh())
        self.layer2 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.Tanh())
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer2(self.layer1(x)).mean((2, 3)))


def net(width: int) -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        return Net(width)


def batch(rows: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "input": torch.randn(rows, 1, 6, 6, generator=generator),
        "label": torch.arange(rows) % 5,
        "index": torch.arange(rows),
    }


def parts(method: Method) -> dict[str, tuple[float, float]]:
    (move,) = method.moves(method.prepare(batch(), START), START)
    return {name: (part.weight, part.value.item()) for name, part in move.parts.items()}


def made(make: Callable[..., Distillation], **options: Any) -> Distillation:
    method = make(net(3), net(7), example=batch(), **options)
    method.dry_run(batch())
    return method


WEIGHTS = {
    "similarity_preserving": {"similarity(student.layer2, teacher.layer2)": 3000.0},
    "rkd": {
        "rkd_distance(student.head<, teacher.head<)": 25.0,
        "rkd_angle(student.head<, teacher.head<)": 50.0,
    },
    "pkt": {"pkt(student.head<, teacher.head<)": 30000.0},
    "correlation_congruence": {"correlation_congruence(student.head<, teacher.head<)": 100.0},
    "ickd": {"ickd(student.layer2, teacher.layer2)": 2.5},
    "cka": {"cka(student.head<, teacher.head<)": 1.0},
    "crd_in_batch": {"crd_in_batch(student.head<, teacher.head<)": 0.8},
    "crd": {"CRD(student.head<, teacher.head<, batch.index)": 0.8},
    "neighbour_graph": {"neighbour_graph(student.head<, teacher.head<)": 0.2},
}
NEEDS = {"crd": {"samples": 8}}


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_layers_are_found_and_weighed_as_in_the_paper(name):
    found = parts(made(getattr(methods, name), **NEEDS.get(name, {})))
    weights = {term: weight for term, (weight, _) in found.items() if "label" not in term}
    assert weights == WEIGHTS[name]
    assert found["cross_entropy(student, batch.label)"][0] == 1.0
    assert all(value > 0 for _, value in found.values())


@pytest.mark.parametrize("name", WEIGHTS)
def test_named_layers_are_taken_without_an_example(name):
    make = getattr(methods, name)
    method = make(net(3), net(7), layers=[("layer1", "layer2")], **NEEDS.get(name, {}))
    assert any("student.layer1, teacher.layer2" in term for term in method.names)
    with pytest.raises(InputError, match="example"):
        make(net(3), net(7), **NEEDS.get(name, {}))


def test_rkd_is_the_formula_on_the_pooled_features():
    method = made(methods.rkd)
    given = batch()
    pooled = [m.layer2(m.layer1(given["input"])).mean((2, 3)) for m in (method.student, method.frozen["teacher"])]
    expected = (
        F.cross_entropy(method.student(given["input"]), given["label"])
        + 25 * losses.rkd_distance(*pooled)
        + 50 * losses.rkd_angle(*pooled)
    )
    assert method.loss(given).item() == pytest.approx(expected.item(), rel=1e-5)
    assert method.loss(given).item() != pytest.approx((expected - 24 * losses.rkd_distance(*pooled)).item(), rel=1e-3)


def test_crd_says_that_it_needs_the_number_of_samples():
    with pytest.raises(InputError, match="samples="):
        methods.crd(net(3), net(7), example=batch())
    method = methods.crd(net(3), net(7), example=batch(), samples=4)
    with pytest.raises(InputError, match="4 samples of the bank"):
        method.dry_run(batch())


def test_crd_s_banks_move_in_a_run_to_the_features_of_the_data():
    torch.manual_seed(0)
    method = made(methods.crd, samples=8, negatives=4, features=8)
    bank = method.terms[1].loss
    before = bank.bank_teacher.clone()
    data = (batch()["input"], batch()["label"])
    settings = Settings(steps=4, batch_size=4, optimizer=Optim("SGD", lr=0.0), device="cpu")
    train(method, data, settings)
    assert int(bank.step) == 4
    teacher = method.frozen["teacher"]
    with torch.no_grad():
        features = bank.embed_teacher(teacher.layer2(teacher.layer1(data[0])).mean((2, 3)))
    now, then = (F.cosine_similarity(b, features).mean() for b in (bank.bank_teacher, before))
    assert now > 0.8
    assert abs(then) < 0.6


def test_every_option_has_a_default_and_is_explained():
    for name in (*WEIGHTS, "sskd"):
        make = getattr(methods, name)
        for parameter in inspect.signature(make).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                assert parameter.default is not inspect.Parameter.empty
                assert f"        {parameter.name}: " in make.__doc__


# -- turned pictures ---------------------------------------------------------------------------------------------------


def test_sskd_turns_the_pictures_by_what_the_step_says():
    method = made(methods.sskd)
    given = batch()
    for step, quarters in enumerate((1, 2, 3, 1)):
        view = method.prepare(given, Progress(step, 10))["turned"]
        assert torch.equal(view, torch.rot90(given["input"], quarters, (2, 3)))
    own = method.prepare({**given, "turned": given["input"]}, START)["turned"]
    assert torch.equal(own, given["input"])


def test_sskd_is_the_sum_of_its_four_terms_with_the_papers_weights():
    found = parts(made(methods.sskd))
    assert [weight for weight, _ in found.values()] == [0.1, 0.9, 2.7, 10.0]
    assert list(found)[-1].startswith(
        "view_relations(student.head<, student@turned.head<, teacher.head<, teacher@turned.head<"
    )
    assert all(value > 0 for _, value in found.values())


def test_sskd_says_what_it_cannot_turn():
    method = made(methods.sskd)
    for wrong in (torch.randn(4, 1, 6, 5), torch.randn(4, 9)):
        with pytest.raises(InputError, match="turned"):
            method.prepare({"input": wrong}, START)
