from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from understudy.errors import InputError
from understudy.losses import binary_cross_entropy, binary_kl
from understudy.tasks import MultiLabel


def material(rows: int = 100, labels: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(rows, labels, generator=generator) < torch.linspace(0.1, 0.8, labels)).long()
    logits = torch.randn(rows, labels, generator=generator, dtype=torch.float64) + 2 * label - 1
    return logits, label


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_scikit_learns(seed):
    logits, label = material(seed=seed)
    said, sure = (logits > 0).long(), torch.sigmoid(logits)
    figures = MultiLabel().metrics(logits, label)
    assert figures["f1_macro"] == pytest.approx(sk.f1_score(label, said, average="macro"), abs=1e-12)
    assert figures["subset_accuracy"] == pytest.approx(sk.accuracy_score(label, said), abs=1e-12)
    each = [sk.log_loss(label[:, i], sure[:, i]) for i in range(4)]
    assert figures["loss_nats"] == pytest.approx(sum(each) / 4, rel=1e-10)
    assert figures["f1_macro"] != pytest.approx(sk.f1_score(label, said, average="micro"), abs=1e-3)


def test_with_answers_missing_each_label_is_scikit_learns_over_what_is_known():
    logits, label = material()
    missing = torch.rand(label.shape, generator=torch.Generator().manual_seed(9)) < 0.4
    missing[:5] = True
    figures = MultiLabel().metrics(logits, label.double().masked_fill(missing, math.nan))
    columns = [(label[:, i][~missing[:, i]], logits[:, i][~missing[:, i]]) for i in range(4)]
    f1 = [sk.f1_score(y, s > 0) for y, s in columns]
    assert figures["f1_macro"] == pytest.approx(sum(f1) / 4, abs=1e-12)
    rows = [
        all((s > 0) == bool(y) for s, y, gone in zip(*row, strict=True) if not gone)
        for row in zip(logits.tolist(), label.tolist(), missing.tolist(), strict=True)
        if not all(row[2])
    ]
    assert len(rows) < 100
    assert figures["subset_accuracy"] == pytest.approx(sum(rows) / len(rows))
    losses = [
        -math.log(1 / (1 + math.exp(-s if y else s))) for y, s in zip(label[~missing], logits[~missing], strict=True)
    ]
    assert figures["loss_nats"] == pytest.approx(sum(losses) / len(losses))
    assert figures == MultiLabel().metrics(logits, label.masked_fill(missing, -1))


def test_a_label_that_nobody_says_and_nothing_has_is_left_out_of_f1():
    label = torch.tensor([[1, 0, 0], [0, 0, 0]])
    logits = torch.tensor([[1.0, -1, -1], [1.0, -1, 1]])
    said = (logits > 0).long()
    expected = sk.f1_score(label, said, average="macro", zero_division=np.nan)
    assert MultiLabel().metrics(logits, label)["f1_macro"] == pytest.approx(expected)
    assert expected == pytest.approx((2 / 3 + 0) / 2)


def test_labels_of_nothing_but_no_have_no_f1_but_other_figures():
    figures = MultiLabel().metrics(-torch.ones(3, 2), torch.zeros(3, 2))
    assert math.isnan(figures["f1_macro"])
    assert figures["subset_accuracy"] == 1
    assert math.isnan(MultiLabel().chance(torch.zeros(3, 2)))


def test_a_single_label_may_do_without_its_axis():
    logits, label = material(labels=1)
    task = MultiLabel()
    flat = logits[:, 0], label[:, 0]
    assert task.metrics(*flat) == task.metrics(logits, label)
    assert task.chance(flat[1]) == task.chance(label)
    assert torch.equal(task.labelled(flat[1]), task.labelled(label))
    assert torch.equal(task.agreement(flat[0], -flat[0]), task.agreement(logits, -logits))
    assert torch.equal(task.divergence(flat[0], -flat[0]), task.divergence(logits, -logits))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16])
def test_answers_of_any_type_give_the_same(dtype):
    logits, label = material()
    assert MultiLabel().metrics(logits, label.to(dtype)) == MultiLabel().metrics(logits, label)
    assert MultiLabel().chance(label.to(dtype)) == MultiLabel().chance(label)


def test_chance_says_always_yes_for_f1():
    label = torch.tensor([[1, 0], [1, 0], [0, 0], [-1, 1]])
    p = torch.tensor([2 / 3, 1 / 4])
    assert MultiLabel().chance(label) == pytest.approx(float((2 * p / (1 + p)).mean()))
    always = sk.f1_score(label[:3, 0], [1, 1, 1]), sk.f1_score(label[:, 1], [1, 1, 1, 1])
    assert MultiLabel().chance(label) == pytest.approx(sum(always) / 2)


def test_chance_of_a_subset_is_the_most_frequent_complete_row():
    label = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 0], [-1, 1]])
    assert MultiLabel("subset_accuracy").chance(label) == 0.5
    assert math.isnan(MultiLabel("subset_accuracy").chance(label[4:]))


def test_chance_of_the_loss_is_the_entropy_of_each_labels_share():
    label = torch.tensor([[1, 0], [1, 0], [0, 0], [-1, 1]])
    entropy = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (2 / 3, 1 / 4)]
    assert MultiLabel("loss_nats").chance(label) == pytest.approx((3 * entropy[0] + 4 * entropy[1]) / 7)


def test_the_prediction_is_what_is_likelier():
    assert MultiLabel().predict(torch.tensor([[0.1, -0.1], [0.0, 7]])).tolist() == [[1, 0], [0, 1]]


def test_agreement_is_the_share_of_equal_answers_and_divergence_their_mean_kl():
    student, teacher = torch.tensor([[1.0, -1, 2, 3]]), torch.tensor([[5.0, 1, 2, -3]])
    assert MultiLabel().agreement(student, teacher).tolist() == [0.5]
    assert torch.equal(MultiLabel().divergence(student, teacher), binary_kl(student, teacher).mean(1))


def test_the_losses_are_the_binary_ones():
    assert MultiLabel().label_loss is binary_cross_entropy
    logits, _ = material(4)
    assert torch.equal(MultiLabel().soft_loss(3.0)(logits, -logits), binary_kl(logits, -logits, temperature=3.0))


def test_class_indices_are_refused():
    with pytest.raises(InputError, match="is not an answer"):
        MultiLabel().metrics(torch.zeros(1, 2), torch.tensor([[0, 3]]))


def test_the_margin_is_that_of_the_least_certain_answer() -> None:
    logits = torch.tensor([[3.0, -0.5], [-2.0, 4.0]])
    assert MultiLabel().margin(logits).tolist() == [0.5, 2.0]
    assert MultiLabel().margin(logits[:, 0]).tolist() == [3.0, 2.0]
