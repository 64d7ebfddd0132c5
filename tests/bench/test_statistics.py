"""The intervals hold as often as they say, on made-up samples of a known median; NaN is no sample."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest

from kvperf.bench.statistics import Running, confident, interval, median, paired, rank, summary, unpaired
from kvperf.errors import KvperfError
from tests.bench.made_up import in_rounds, made_up


def rank_by_counting(count: int) -> int:
    """The largest r with at most 2.5 % of all outcomes below it, in whole numbers."""
    outcomes, found = 0, 0
    for below in range(count // 2):
        outcomes += comb(count, below)
        if 40 * outcomes > 2**count:
            break
        found = below + 1
    return found


def test_the_rank_is_that_of_the_binomial_sum() -> None:
    assert [rank(count) for count in range(1, 400)] == [rank_by_counting(count) for count in range(1, 400)]
    assert rank(5) == 0 and rank(6) == 1
    assert rank(3000) == rank_by_counting(3000)


@pytest.mark.parametrize("count", [6, 10, 41, 200])
def test_the_interval_holds_the_true_median(count: int) -> None:
    random, trials = np.random.default_rng(count), 2000
    held = 0
    for sample in random.lognormal(0, 0.01, (trials, count)).tolist():
        low, high = interval(sample) or (math.nan, math.nan)
        held += low <= 1 <= high
    assert held / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


def test_too_few_samples_have_no_interval() -> None:
    assert interval(made_up(1, count=5)) is None
    found = summary(made_up(1, count=5), "budget")
    assert (found.low_s, found.high_s) == (min(made_up(1, count=5)), max(made_up(1, count=5)))


def test_the_summary_agrees_with_numpy() -> None:
    for count in (1, 2, 7, 60, 101):
        sample = made_up(count, count=count)
        found = summary(sample, "confident")
        expected = np.quantile(sample, (0.25, 0.5, 0.75))
        assert [found.lower_quartile_s, found.median_s, found.upper_quartile_s] == pytest.approx(expected, rel=1e-14)
        assert (found.count, found.minimum_s, found.stopped) == (count, min(sample), "confident")
        assert found.low_s <= found.median_s <= found.high_s


def test_reading_stops_when_the_interval_is_narrow() -> None:
    assert not confident(made_up(3, count=9, noise=1e-6))  # too few, however close
    assert confident(made_up(3, count=10, noise=1e-6))
    assert not confident(made_up(3, count=60, noise=0.05))
    assert confident(made_up(3, count=60, noise=0.05), width=0.1)


def test_running_samples_are_those_of_the_whole_column() -> None:
    column, running = made_up(11, count=80, noise=0.01), Running()
    for i, sample in enumerate(column, 1):
        running.add(sample)
        assert running.count == i
        assert running.median == median(column[:i])
        assert running.interval == interval(column[:i])
        assert running.confident() == confident(column[:i])


def test_stopping_at_a_narrow_interval_costs_little_of_its_confidence() -> None:
    random, trials, held = np.random.default_rng(5), 300, 0
    for column in random.lognormal(0, 0.008, (trials, 1000)).tolist():
        running = Running()
        for sample in column:
            running.add(sample)
            if running.confident():
                break
        low, high = running.interval or (math.nan, math.nan)
        assert running.confident()
        held += low <= 1 <= high
    assert 0.89 <= held / trials <= 0.97


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -1e-6, 0.0])
def test_what_is_no_time_is_refused(wrong: float) -> None:
    column = (*made_up(1), wrong)
    for take in (interval, median, confident, lambda c: summary(c, "budget")):
        with pytest.raises(KvperfError, match="is no time"):
            take(column)
    with pytest.raises(KvperfError, match="is no time"):
        Running().add(wrong)
    for ratio in (paired, unpaired):
        for columns in ((made_up(1), column), (column, made_up(1))):
            with pytest.raises(KvperfError, match="is no time"):
                ratio(*columns)


def test_no_samples_are_refused() -> None:
    with pytest.raises(KvperfError, match="no samples"):
        summary((), "budget")


def test_drift_cancels_in_pairs_only() -> None:
    a, b = in_rounds(20, ratio=1.02)
    with_pairs, without = paired(a, b), unpaired(a, b)
    assert with_pairs.paired and with_pairs.pairs == 60 and not without.paired and without.pairs == 0
    assert with_pairs.low and with_pairs.high and without.low and without.high
    assert 1.01 < with_pairs.low < with_pairs.ratio < with_pairs.high < 1.03
    assert without.high - without.low > 5 * (with_pairs.high - with_pairs.low)


def test_the_common_rounds_are_paired() -> None:
    a, b = in_rounds(21, ratio=0.9)
    assert paired(a, b[:31]) == paired(a[:31], b[:31])
    assert paired(a, b[:31]).pairs == 31


@pytest.mark.parametrize("counts", [(6, 6), (12, 31), (40, 40)])
def test_the_unpaired_interval_holds_the_true_ratio(counts: tuple[int, int]) -> None:
    random, trials, held = np.random.default_rng(counts[1]), 250, 0
    for _ in range(trials):
        a, b = (random.lognormal(0, 0.01, count).tolist() for count in counts)
        found = unpaired(a, b)
        assert found.low and found.high
        held += found.low <= 1 <= found.high
    assert held / trials >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / trials)


def test_the_same_samples_give_the_same_ratio() -> None:
    assert unpaired(made_up(1), made_up(2)) == unpaired(made_up(1), made_up(2))


def test_few_samples_have_a_ratio_without_an_interval() -> None:
    for ratio in (paired, unpaired):
        found = ratio(made_up(1, count=5), made_up(2, count=60))
        assert (found.low, found.high) == (None, None)
        assert found.ratio == pytest.approx(1, abs=0.01)


def test_a_resampled_median_is_drawn_in_one_step() -> None:
    """Against resampling as it is defined."""
    from kvperf.bench.statistics import _resampled_medians

    for count in (7, 8):
        ordered, random = sorted(made_up(1, count=count)), np.random.default_rng(1)
        plain = np.median(random.choice(ordered, (20_000, count)), axis=1)
        direct = _resampled_medians(ordered, random)
        for value in sorted(set(plain.tolist())):
            assert np.mean(plain <= value) == pytest.approx(np.mean(direct <= value), abs=0.02)
