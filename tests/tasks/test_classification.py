from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sk

from understudy.errors import InputError, ShapeError
from understudy.losses import cross_entropy, kl
from understudy.tasks import Classification


def material(rows: int = 200, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (rows,), generator=generator) * torch.randint(2, (rows,), generator=generator)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), label] += 1
    return logits, label  # class 0 is more than half of them


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_scikit_learns(seed):
    logits, label = material(seed=seed)
    figures = Classification().metrics(logits, label)
    said = logits.argmax(-1)
    assert figures["accuracy"] == pytest.approx(sk.accuracy_score(label, said), abs=1e-12)
    assert figures["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, said), abs=1e-12)
    assert figures["loss_nats"] == pytest.approx(sk.log_loss(label, logits.softmax(-1)), rel=1e-10)
    assert figures["accuracy"] != pytest.approx(figures["balanced_accuracy"], abs=0.005)


def test_balanced_accuracy_is_the_mean_over_the_classes_that_occur():
    said = torch.tensor([0, 0, 0, 0, 2, 3])
    label = torch.tensor([0, 0, 0, 2, 2, 2])
    figures = Classification().metrics(torch.eye(4)[said], label)
    assert figures["balanced_accuracy"] == pytest.approx((1 + 1 / 3) / 2)
    assert figures["accuracy"] == pytest.approx(4 / 6)


def test_labels_of_one_byte_are_read_as_they_are():
    logits, label = torch.eye(200), torch.arange(200)
    assert Classification().metrics(logits, label.to(torch.uint8))["accuracy"] == 1
    assert Classification().labelled(label.to(torch.uint8)).all()


def test_chance_is_the_share_of_the_most_frequent_class():
    label = torch.tensor([0, 0, 0, 2, -100, -100])
    assert Classification().chance(label) == 0.75
    assert Classification("balanced_accuracy").chance(label) == 0.5
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert Classification("loss_nats").chance(label) == pytest.approx(entropy)


def test_the_prediction_is_the_class_ranked_first():
    logits = torch.tensor([[0.0, 3, 1], [9, 2, 1]])
    assert Classification().predict(logits).tolist() == [1, 0]


def test_agreement_is_on_the_class_ranked_first():
    student, teacher = torch.tensor([[2.0, 1], [0, 1], [5, 1]]), torch.tensor([[9.0, 1], [1, 0], [0, 3]])
    assert Classification().agreement(student, teacher).tolist() == [1, 0, 0]


def test_the_losses_are_cross_entropy_and_kl_at_the_temperature():
    task = Classification()
    assert task.label_loss is cross_entropy
    logits, _ = material(4)
    assert torch.equal(task.soft_loss(3.0)(logits, -logits), kl(logits, -logits, temperature=3.0))
    assert torch.equal(task.divergence(logits, -logits), kl(logits, -logits))


def test_a_label_that_is_no_class_is_refused():
    with pytest.raises(InputError, match=r"label 5 at \[0\] is not a class of a student with 5 outputs"):
        Classification().metrics(torch.zeros(2, 5), torch.tensor([5, 0]))
    with pytest.raises(ShapeError, match="do not go together"):
        Classification().metrics(torch.zeros(2, 5), torch.tensor([1]))


def test_the_margin_is_the_lead_of_the_first_class_in_log_odds() -> None:
    logits, _ = material()
    ordered = logits.sort(1).values
    assert torch.equal(Classification().margin(logits), ordered[:, -1] - ordered[:, -2])
    odds = logits.softmax(1).sort(1).values
    assert torch.allclose(Classification().margin(logits), (odds[:, -1] / odds[:, -2]).log())
    assert not torch.allclose(Classification().margin(logits), ordered[:, -1] - ordered[:, -3])
