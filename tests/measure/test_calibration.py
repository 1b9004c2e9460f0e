from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch
from sklearn.calibration import calibration_curve

from understudy.errors import InputError, ShapeError
from understudy.measure import calibration

NAN = math.nan


def material(rows: int = 500, classes: int = 4, scale: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    label = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]  # the model knows how sure it may be
    return logits, label


def loops(probabilities: torch.Tensor, labels: torch.Tensor, bins: int) -> tuple[list[list[float]], float]:
    held: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        if label == -100:
            continue
        sure = max(row)
        i = next(i for i in range(bins) if sure <= (i + 1) / bins or i == bins - 1)
        held[i].append((sure, row.index(sure) == label))
    total = sum(map(len, held))
    found, error = [], 0.0
    for i, inside in enumerate(held):
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(r for _, r in inside) / len(inside)
            found.append([i / bins, (i + 1) / bins, confidence, accuracy, len(inside)])
            error += len(inside) / total * abs(accuracy - confidence)
    return found, error


@pytest.mark.parametrize("bins", [1, 2, 10, 15, 1000])
@pytest.mark.parametrize("classes", [2, 4])
def test_bins_and_error_are_those_of_plain_loops(bins: int, classes: int) -> None:
    logits, label = material(classes=classes)
    label[::7] = -100
    got = calibration(logits.softmax(1), label, bins)
    expected, error = loops(logits.softmax(1), label, bins)
    assert [list(dataclasses.astuple(b)) for b in got.bins] == [pytest.approx(row) for row in expected]
    assert got.error == pytest.approx(error)


def test_a_model_that_knows_how_sure_it_may_be_is_calibrated_and_one_that_exaggerates_is_not() -> None:
    logits, label = material(5000)
    honest, exaggerating, shy = (calibration((s * logits).softmax(1), label) for s in (1, 4, 0.25))
    assert honest.error < 0.03
    assert exaggerating.error > 0.1
    assert shy.error > 0.1
    assert sum(b.count * (b.confidence - b.accuracy) for b in exaggerating.bins) > 0
    assert sum(b.count * (b.confidence - b.accuracy) for b in shy.bins) < 0


def test_known_cases() -> None:
    always_right = calibration(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert (always_right.error, len(always_right.bins)) == (0, 1)
    assert dataclasses.asdict(always_right.bins[0]) == {
        "low": 14 / 15, "high": 1, "confidence": 1, "accuracy": 1, "count": 2,
    }  # fmt: skip
    always_wrong = calibration(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([1, 0]))
    assert always_wrong.error == 1
    coin = calibration(torch.full((10, 2), 0.5), torch.tensor([0, 1] * 5))
    assert coin.error == 0


def test_a_confidence_on_an_edge_is_in_the_bin_below() -> None:
    sure = torch.tensor([0.5, 0.25, 0.75, 1.0, 0.0, 0.5000001], dtype=torch.float64)
    got = calibration(sure, torch.ones(6), bins=4)
    assert [(b.low, b.count) for b in got.bins] == [(0.0, 2), (0.25, 1), (0.5, 2), (0.75, 1)]


def test_answers_of_yes_or_no_are_scikit_learns_curve() -> None:
    generator = torch.Generator().manual_seed(1)
    sure = torch.rand(300, 3, generator=generator, dtype=torch.float64)
    label = (torch.rand(300, 3, generator=generator, dtype=torch.float64) < sure.sqrt()).long()
    got = calibration(sure, label, bins=10)
    accuracy, confidence = calibration_curve(label.flatten(), sure.flatten(), n_bins=10)
    assert [b.accuracy for b in got.bins] == pytest.approx(list(accuracy))
    assert [b.confidence for b in got.bins] == pytest.approx(list(confidence))
    assert calibration(sure[:, 0], label[:, 0]) == calibration(sure[:, :1], label[:, :1])
    unknown = torch.rand(300, 3, generator=generator) < 0.5
    for sign in (-1, NAN):
        left = calibration(sure, label.double().masked_fill(unknown, sign), bins=10)
        assert left == calibration(sure[~unknown], label[~unknown], bins=10)
        assert left != got


def test_nothing_labelled_gives_no_bin_and_nan() -> None:
    for probabilities, labels in [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([-100])),
        (torch.tensor([[0.5, 0.5]]), torch.tensor([[-1, -1]])),
    ]:
        got = calibration(probabilities, labels)
        assert got.bins == ()
        assert math.isnan(got.error)


def test_one_sample_is_one_bin() -> None:
    got = calibration(torch.tensor([[0.75, 0.25]]), torch.tensor([1]))
    assert [dataclasses.astuple(b)[2:] for b in got.bins] == [(0.75, 0.0, 1)]
    assert got.error == 0.75


def test_the_result_goes_into_strict_json() -> None:
    logits, label = material()
    plain = dataclasses.asdict(calibration(logits.softmax(1).float().requires_grad_(), label))
    assert json.loads(json.dumps(plain, allow_nan=False))["bins"][0].keys() >= {"confidence", "accuracy", "count"}


def test_half_precision_is_wide_enough() -> None:
    logits, label = material()
    half = logits.softmax(1).bfloat16()
    assert calibration(half, label).error == pytest.approx(calibration(logits.softmax(1), label).error, abs=0.02)


@pytest.mark.parametrize(
    ("probabilities", "labels", "told"),
    [
        ([[2.0, -1.0]], [0], r"not all are in \[0, 1\]. Apply softmax or sigmoid"),
        ([[NAN, 0.5]], [0], "not all are in"),
        ([[0.5, 0.48]], [0], "rows do not add up to 1. Apply softmax"),
        ([[0.9, 0.9]], [0], "rows do not add up to 1"),
        ([3.0], [1], "not all are in"),
    ],
)
def test_what_is_no_probability_is_refused(probabilities: list, labels: list, told: str) -> None:
    with pytest.raises(InputError, match=f"calibration: these are no probabilities.*{told}"):
        calibration(torch.tensor(probabilities), torch.tensor(labels))


def test_shapes_and_bins_are_checked() -> None:
    with pytest.raises(ShapeError, match=r"probabilities \[2, 2\] and labels \[3\] do not go together"):
        calibration(torch.full((2, 2), 0.5), torch.zeros(3))
    with pytest.raises(ShapeError, match=r"probabilities \[2\] and labels \[2, 1\]"):
        calibration(torch.full((2,), 0.5), torch.zeros(2, 1))
    with pytest.raises(InputError, match="bins=0 is not allowed"):
        calibration(torch.full((2, 2), 0.5), torch.zeros(2), bins=0)
