"""Medians of readings with intervals that hold whatever the noise looks like, and when to stop reading.

The interval of a median runs from one order statistic to another; how often it holds the true median is a binomial
sum, exact for independent samples. A run that stops as soon as its interval is narrow looks many times: the interval
it ends with holds the median about 93 % of the time. Slow drift is outside of any of these intervals: what is compared
is read in rounds and paired.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kvperf.bench.record import Statistics
from kvperf.errors import KvperfError

if TYPE_CHECKING:
    from numpy.random import Generator

CONFIDENCE = 0.95
# A run may stop with at least so many samples and an interval narrower than this share of the median.
FEWEST, WIDTH = 10, 0.005
# Of the bootstrap: the same samples give the same interval.
SEED, DRAWS = 20240229, 10_000


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """How long B takes over how long A takes: below 1, B is faster.

    low and high  bracket it with 95 % confidence; null where samples are too few
    paired        sample i of both was read in round i, and drift cancels;  pairs: how many, 0 where not paired
    """

    ratio: float
    low: float | None
    high: float | None
    pairs: int
    paired: bool


def rank(count: int) -> int:
    """The r for which the r-th smallest and the r-th largest of `count` samples bracket the median; 0 where none do.

    The number of samples below the median is binomial with one half. From the middle outwards, its probabilities are
    added until they cover 95 %.
    """
    below = count // 2
    chances = math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1)
    term = math.exp(chances - count * math.log(2))
    covered = term if count % 2 == 0 else 2 * term
    while below and covered < CONFIDENCE:
        term *= below / (count - below + 1)
        below -= 1
        covered += 2 * term
    return below


def interval(seconds: Sequence[float]) -> tuple[float, float] | None:
    """Bounds of the median with at least 95 % confidence; None below six samples, where there are none."""
    return _interval(_ordered(seconds))


def median(seconds: Sequence[float]) -> float:
    """The middle sample, or halfway between the two in the middle."""
    return _quantile(_ordered(seconds), 0.5)


def summary(seconds: Sequence[float], stopped: Literal["confident", "budget"]) -> Statistics:
    """What a record says of the samples. Below six of them, low and high are the fastest and the slowest."""
    ordered = _ordered(seconds)
    low, high = _interval(ordered) or (ordered[0], ordered[-1])
    return Statistics(
        count=len(ordered),
        median_s=_quantile(ordered, 0.5),
        low_s=low,
        high_s=high,
        minimum_s=ordered[0],
        lower_quartile_s=_quantile(ordered, 0.25),
        upper_quartile_s=_quantile(ordered, 0.75),
        stopped=stopped,
    )


def confident(seconds: Sequence[float], width: float = WIDTH) -> bool:
    """Whether these samples are enough: at least ten, and an interval narrower than `width` of the median."""
    return _confident(_ordered(seconds), width)


class Running:
    """Samples as they come, kept in order, so that the stopping rule costs microseconds after each."""

    def __init__(self) -> None:
        self._samples: list[float] = []

    def add(self, seconds: float) -> None:
        """Take one more sample. Raises KvperfError where it is no time."""
        insort(self._samples, _usable(seconds))

    @property
    def count(self) -> int:
        """Samples so far."""
        return len(self._samples)

    @property
    def median(self) -> float:
        """Of the samples so far, of which there is at least one."""
        return _quantile(self._samples, 0.5)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of the median so far; None below six samples."""
        return _interval(self._samples)

    def confident(self, width: float = WIDTH) -> bool:
        """Whether the samples so far are enough."""
        return _confident(self._samples, width)


def paired(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """B over A where sample i of both was read in round i: the median of the ratios, round by round.

    Where one column is longer, the rounds that only it has are left out.
    """
    for column in (a, b):
        _ordered(column)
    ratios = sorted(second / first for first, second in zip(a, b, strict=False))
    low, high = _interval(ratios) or (None, None)
    return Ratio(ratio=_quantile(ratios, 0.5), low=low, high=high, pairs=len(ratios), paired=True)


def unpaired(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """B over A of two runs: the ratio of the medians, and the middle 95 % of what resampling both makes of it."""
    first, second = _ordered(a), _ordered(b)
    ratio = _quantile(second, 0.5) / _quantile(first, 0.5)
    if not (rank(len(first)) and rank(len(second))):
        return Ratio(ratio=ratio, low=None, high=None, pairs=0, paired=False)
    import numpy as np

    random = np.random.default_rng(SEED)
    of_first = _resampled_medians(first, random)
    ratios = _resampled_medians(second, random) / of_first
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(bound) for bound in np.quantile(ratios, (tail, 1 - tail)))
    return Ratio(ratio=ratio, low=low, high=high, pairs=0, paired=False)


def _resampled_medians(ordered: list[float], random: Generator) -> Any:
    """Medians of bootstrap resamples, each in one step.

    A resample draws uniform places among the samples; its median stands where the middle one of these places is, and
    order statistics of uniform numbers are Beta distributed. Of an even count the two middle ones are averaged.
    """
    import numpy as np

    values, count = np.asarray(ordered), len(ordered)
    middle = (count + 1) // 2
    place = random.beta(middle, count + 1 - middle, DRAWS)
    following = place + (1 - place) * random.beta(1, count - middle, DRAWS) if count % 2 == 0 else place
    found = (values[np.minimum((p * count).astype(int), count - 1)] for p in (place, following))
    return (next(found) + next(found)) / 2


def _confident(ordered: list[float], width: float) -> bool:
    bounds = _interval(ordered)
    if bounds is None or len(ordered) < FEWEST:
        return False
    return bounds[1] - bounds[0] < width * _quantile(ordered, 0.5)


def _interval(ordered: list[float]) -> tuple[float, float] | None:
    place = rank(len(ordered))
    return (ordered[place - 1], ordered[-place]) if place else None


def _quantile(ordered: list[float], share: float) -> float:
    """The sample at this share of the way from the first to the last, between two on a straight line."""
    place = share * (len(ordered) - 1)
    before = math.floor(place)
    rest = place - before
    return ordered[before] if rest == 0 else ordered[before] * (1 - rest) + ordered[before + 1] * rest


def _ordered(seconds: Sequence[float]) -> list[float]:
    if not seconds:
        raise KvperfError("there are no samples", "a subject is read at least once")
    return sorted(_usable(one) for one in seconds)


def _usable(seconds: float) -> float:
    if not (0 < seconds < math.inf):
        raise KvperfError(f"a sample of {seconds} s is no time", "every reading is finite and above zero")
    return seconds
