import math

import pytest
import torch

from understudy.errors import InputError
from understudy.measure import gap_closed, interval
from understudy.measure.statistics import _t95


def test_the_interval_is_students() -> None:
    values = [0.91, 0.94, 0.92, 0.95]
    got = interval(values)
    deviation = float(torch.tensor(values, dtype=torch.float64).std())
    assert got.mean == pytest.approx(0.93)
    assert got.half == pytest.approx(3.182 * deviation / math.sqrt(4))


def test_the_series_for_many_seeds_meets_the_table() -> None:
    assert _t95(30) == pytest.approx(2.042, abs=5e-4)
    assert _t95(31) == pytest.approx(2.0395, abs=2e-4)
    assert _t95(10_000) == pytest.approx(1.9602, abs=1e-4)


def test_a_single_seed_has_no_interval() -> None:
    assert interval([0.9]).half is None
    assert str(interval([0.9])) == "0.900"


def test_no_value_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one"):
        interval([])


def test_the_share_of_the_gap_is_zero_for_the_student_alone_and_one_for_the_teacher() -> None:
    teacher, alone = [0.99, 0.99, 0.99], [0.90, 0.91, 0.89]
    assert gap_closed(teacher, alone, alone) == pytest.approx(0)
    assert gap_closed(teacher, alone, teacher) == pytest.approx(1)
    assert gap_closed(teacher, alone, [0.85, 0.85, 0.85]) < 0


def test_there_is_no_share_where_there_is_no_gap() -> None:
    assert gap_closed([0.90, 0.90], [0.91, 0.92], [0.95, 0.95]) is None
    assert gap_closed([0.90, 0.90, 0.90], [0.80, 0.99, 0.88], [0.95, 0.95, 0.95]) is None  # within the noise
