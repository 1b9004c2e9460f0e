from __future__ import annotations

import math

import pytest
import torch
from sklearn import metrics as sk

from understudy.errors import InputError, ShapeError
from understudy.losses import squared_error
from understudy.tasks import Regression

NAN = math.nan


def material(rows: int = 50, width: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    label = (
        torch.randn(rows, width, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10, 0.1])[:width] + 5
    )
    return label + 0.3 * torch.randn(rows, width, generator=generator, dtype=torch.float64), label


@pytest.mark.parametrize(("width", "seed"), [(1, 0), (3, 0), (3, 1)])
def test_the_figures_are_scikit_learns(width, seed):
    value, label = material(width=width, seed=seed)
    figures = Regression().metrics(value, label)
    assert figures["r2"] == pytest.approx(sk.r2_score(label, value), rel=1e-10)
    assert figures["rmse"] == pytest.approx(sk.root_mean_squared_error(label, value), rel=1e-12)
    assert figures["mae"] == pytest.approx(sk.mean_absolute_error(label, value), rel=1e-12)
    assert figures["loss"] == pytest.approx(sk.mean_squared_error(label, value), rel=1e-12)


@pytest.mark.parametrize("label_axis", [True, False])
@pytest.mark.parametrize("value_axis", [True, False])
def test_a_column_and_a_row_are_the_same(value_axis, label_axis):
    value, label = material(width=1)
    expected = Regression().metrics(value, label)
    given = value if value_axis else value[:, 0], label if label_axis else label[:, 0]
    assert Regression().metrics(*given) == expected
    assert torch.equal(Regression().divergence(*given), (value - label).square()[:, 0])
    assert Regression().agreement(*given).shape == (50,)
    torch.testing.assert_close(Regression().soft_loss(4.0)(*given), (value - label).square()[:, 0])


def test_what_was_not_measured_is_left_out_of_its_column():
    value, label = material()
    missing = torch.rand(label.shape, generator=torch.Generator().manual_seed(2)) < 0.3
    missing[:, 1] = True
    value[missing] = 1e9
    figures = Regression().metrics(value, label.masked_fill(missing, NAN))
    columns = [(label[:, i][~missing[:, i]], value[:, i][~missing[:, i]]) for i in (0, 2)]
    assert figures["r2"] == pytest.approx(sum(sk.r2_score(*c) for c in columns) / 2)
    assert figures["rmse"] == pytest.approx(sum(sk.root_mean_squared_error(*c) for c in columns) / 2)
    assert figures["mae"] == pytest.approx(sum(sk.mean_absolute_error(*c) for c in columns) / 2)
    assert figures["loss"] == pytest.approx(float((value - label)[~missing].square().mean()))


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 + 0.1])
def test_there_is_no_r2_where_the_label_does_not_vary(constant):
    label = torch.full((30, 1), constant, dtype=torch.float64)
    figures = Regression().metrics(label + 0.5, label)
    assert math.isnan(figures["r2"])
    assert figures["rmse"] == pytest.approx(0.5)
    assert math.isnan(Regression().chance(label))


def test_a_label_that_hardly_varies_has_its_r2():
    label = 1000 + 1e-6 * torch.arange(10, dtype=torch.float64)
    value = label + 1e-7
    assert Regression().metrics(value, label)["r2"] == pytest.approx(sk.r2_score(label, value), rel=1e-4)


def test_a_column_that_does_not_vary_leaves_r2_to_the_others():
    value, label = material()
    label[:, 1] = 3
    assert Regression().metrics(value, label)["r2"] == pytest.approx(sk.r2_score(label[:, [0, 2]], value[:, [0, 2]]))


def test_figures_of_float32_keep_their_digits_around_a_large_mean():
    value, label = (t.float() + 1e4 for t in material(width=1))
    assert Regression().metrics(value, label)["r2"] == pytest.approx(
        sk.r2_score(label.double(), value.double()), rel=1e-9
    )


def test_chance_is_the_mean_or_the_median():
    label = torch.tensor([1.0, 2, 6, NAN])
    assert Regression().chance(label) == 0
    assert Regression("rmse").chance(label) == pytest.approx(math.sqrt((4 + 1 + 9) / 3))
    assert Regression("loss").chance(label) == pytest.approx((4 + 1 + 9) / 3)
    assert Regression("mae").chance(label) == pytest.approx((1 + 0 + 4) / 3)  # the mean would give 2


def test_models_agree_within_the_tolerance():
    student, teacher = torch.tensor([1.0, 2.0, 3.5]), torch.tensor([1.0, 2.25, 3.0])
    assert Regression(tolerance=0.25).agreement(student, teacher).tolist() == [1, 1, 0]
    assert Regression(tolerance=0.0).agreement(student, teacher).tolist() == [1, 0, 0]


def test_without_a_tolerance_it_is_a_tenth_of_the_teachers_deviation_in_each_column():
    teacher = torch.tensor([[0.0, 0.0], [2.0, 200.0]])  # deviations 1 and 100
    student = teacher + torch.tensor([[0.09, 9.0], [0.11, 9.0]])
    assert Regression().agreement(student, teacher).tolist() == [1, 0.5]
    assert Regression().agreement(student[:1], teacher[:1]).tolist() == [0]  # one value has no deviation
    teacher[0, 0] = NAN
    assert Regression().agreement(student, teacher).tolist() == [0.5, 0.5]


def test_the_losses_are_squared_differences_whatever_the_temperature():
    assert Regression().label_loss is squared_error
    value, label = material()
    torch.testing.assert_close(Regression().soft_loss(1.0)(value, label), (value - label).square().mean(1))
    assert torch.equal(Regression().soft_loss(9.0)(value, label), Regression().soft_loss(1.0)(value, label))


def test_the_prediction_is_the_value():
    value, _ = material()
    assert Regression().predict(value) is value


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(ShapeError, match="squared_error"):
        Regression().metrics(torch.zeros(4, 2), torch.zeros(4))
    with pytest.raises(InputError, match="regression: metric 'mse' is not known"):
        Regression("mse")
