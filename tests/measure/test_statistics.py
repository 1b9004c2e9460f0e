import math

import pytest
import torch
from scipy import special, stats

from understudy.errors import InputError
from understudy.measure import gap_closed, holm, interval, paired
from understudy.measure.statistics import _beta_share, _t95


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


# -- paired ------------------------------------------------------------------------------------------------------------


def seeds(n: int, gain: float, seed: int = 0) -> tuple[list[float], list[float]]:
    generator = torch.Generator().manual_seed(seed)
    ease = torch.randn(n, generator=generator, dtype=torch.float64) * 0.05  # what a seed does to both
    noise = torch.randn(2, n, generator=generator, dtype=torch.float64) * 0.01
    return (0.9 + ease + noise[0] + gain).tolist(), (0.9 + ease + noise[1]).tolist()


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30, 200])
@pytest.mark.parametrize("gain", [-0.05, -0.001, 0.0, 0.003, 0.02, 0.3])
def test_the_paired_test_is_scipys(n: int, gain: float) -> None:
    a, b = seeds(n, gain)
    got, expected = paired(a, b), stats.ttest_rel(a, b)
    assert got.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    low, high = expected.confidence_interval(0.95)
    assert got.difference.mean == pytest.approx((low + high) / 2)
    assert got.difference.half == pytest.approx((high - low) / 2, rel=1e-3)
    assert got.better is (None if expected.pvalue > 0.05 else bool(expected.statistic > 0))
    assert paired(b, a).p_value == pytest.approx(got.p_value)
    assert paired(b, a).better is (None if got.better is None else not got.better)


def test_control_without_pairing_the_seeds_the_difference_is_not_seen() -> None:
    a, b = seeds(5, 0.02)
    assert paired(a, b).better is True
    assert stats.ttest_ind(a, b).pvalue > 0.05
    assert paired(a, b[::-1]).better is None


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 29, 500])
def test_students_p_keeps_its_digits_from_a_half_to_the_far_tail(freedom: int) -> None:
    for t in (1e-6, 1e-2, 0.5, 1.0, 2.0, 5.0, 30.0, 1e3, 1e6):
        p = _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)
        assert p == pytest.approx(2 * special.stdtr(freedom, -t), rel=1e-9, abs=1e-290)


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (3.0, 0.5), (0.5, 3.0), (2.0, 7.0), (40.0, 0.5)])
def test_the_incomplete_beta_function_is_scipys(a: float, b: float) -> None:
    for x in (0.0, 1e-9, 0.1, 0.3, 0.5, 0.7, 0.9, 1 - 1e-9, 1.0):
        assert _beta_share(x, a, b) == pytest.approx(special.betainc(a, b, x), rel=1e-9)


def test_a_single_seed_proves_nothing() -> None:
    got = paired([0.99], [0.5])
    assert (got.p_value, got.better, got.difference.half) == (None, None, None)
    assert got.difference.mean == pytest.approx(0.49)


def test_equal_values_are_no_difference() -> None:
    got = paired([0.9, 0.95, 0.8], [0.9, 0.95, 0.8])
    assert (got.p_value, got.better) == (1.0, None)
    assert paired([0.0] * 4, [0.0] * 4).p_value == 1.0


@pytest.mark.parametrize(("n", "better"), [(2, None), (5, None), (6, True), (20, True)])
def test_differences_that_are_all_the_same_are_judged_by_their_sign_alone(n: int, better: bool | None) -> None:
    # With these decimals rounding leaves a spread of some 1e-17, of which the t-test alone would make p = 1e-15 and less.
    b = [0.1 + 0.07 * i for i in range(n)]
    a = [y + 0.01 for y in b]
    got = paired(a, b)
    assert got.p_value == pytest.approx(2 ** (1 - n))
    assert got.p_value == pytest.approx(stats.binomtest(n, n).pvalue)
    assert got.better is better
    assert paired(b, a).better is (None if better is None else False)


def test_control_the_t_test_takes_what_rounding_left_for_a_spread() -> None:
    b = [0.1 + 0.07 * i for i in range(5)]
    differences = torch.tensor([(y + 0.01) - y for y in b], dtype=torch.float64)
    assert 0 < differences.std() < 1e-15
    assert differences.mean() / differences.std() * math.sqrt(5) > 1e14


def test_a_spread_that_is_small_but_there_is_judged_by_the_t_test() -> None:
    a, b = [1 + 1e-9, 1 + 2e-9, 1 + 1.5e-9], [1.0, 1.0, 1.0]
    assert paired(a, b).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_run_that_failed_leaves_nothing_to_test(value: float) -> None:
    got = paired([0.9, value, 0.8], [0.7, 0.7, 0.7])
    assert (got.p_value, got.better) == (None, None)


@pytest.mark.parametrize(("a", "b"), [([], []), ([0.9], []), ([0.9, 0.8], [0.9])])
def test_each_seed_needs_both_values(a: list[float], b: list[float]) -> None:
    with pytest.raises(InputError, match=f"paired: {len(a)} and {len(b)} values; allowed: one of each for every seed"):
        paired(a, b)


def test_holms_correction_rejects_what_his_procedure_rejects() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        values = (torch.rand(8, generator=generator) ** 3 / 2).tolist()
        rejected = set()
        for rank, i in enumerate(sorted(range(8), key=values.__getitem__)):  # from the smallest, until one is too large
            if values[i] > 0.05 / (8 - rank):
                break
            rejected.add(i)
        assert {i for i, p in enumerate(holm(values)) if p is not None and p <= 0.05} == rejected


def test_holms_correction_is_no_bonferroni_and_leaves_out_what_was_not_tested() -> None:
    assert holm([0.01, 0.04, None, 0.03]) == pytest.approx([0.03, 0.06, None, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([None]) == [None]
