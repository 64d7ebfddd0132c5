"""Verdicts of made-up samples with a known ratio; what cannot be compared is said, never guessed."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from kvperf.bench.compare import compare, verdict, within
from kvperf.bench.statistics import Ratio, paired, unpaired
from kvperf.errors import KvperfError
from tests.bench.made_up import ENVIRONMENT, in_rounds, made_up, made_up_case, made_up_record


def ratio(low: float | None, high: float | None) -> Ratio:
    return Ratio(ratio=1.0, low=low, high=high, pairs=60, paired=True)


VERDICTS = [
    (0.995, 1.004, "SAME"),
    (0.99, 1.01, "SAME"),
    (0.992, 0.998, "SAME"),  # faster for sure, and by less than matters
    (0.95, 0.97, "FASTER"),
    (0.985, 0.995, "FASTER"),
    (1.03, 1.04, "SLOWER"),
    (1.005, 1.02, "SLOWER"),
    (0.98, 1.005, "AMBIGUOUS"),
    (0.9, 1.1, "AMBIGUOUS"),
    (0.985, 1.0, "AMBIGUOUS"),
    (None, None, "AMBIGUOUS"),
    (math.nan, math.nan, "AMBIGUOUS"),
    (0.999, math.nan, "AMBIGUOUS"),
    (math.nan, 1.001, "AMBIGUOUS"),
    (math.nan, 0.9, "AMBIGUOUS"),
    (1.1, math.nan, "AMBIGUOUS"),
]


@pytest.mark.parametrize(("low", "high", "expected"), VERDICTS)
def test_the_verdict_is_of_the_interval(low: float | None, high: float | None, expected: str) -> None:
    assert verdict(ratio(low, high)) == expected


@pytest.mark.parametrize(
    ("factor", "noise", "expected"),
    [(1.0, 0.002, "SAME"), (0.9, 0.002, "FASTER"), (1.05, 0.002, "SLOWER"), (1.0, 0.1, "AMBIGUOUS")],
)
def test_two_records(factor: float, noise: float, expected: str) -> None:
    a = made_up_record(made_up_case(seconds=made_up(1, noise=noise)))
    b = made_up_record(made_up_case(seconds=made_up(2, 33e-6 * factor, count=80, noise=noise)))
    found = compare(a, b)
    (one,) = found.cases
    assert one.verdict == expected
    assert one.ratio == unpaired(a.cases[0].samples.seconds, b.cases[0].samples.seconds)
    assert (one.against, one.ratio.paired, found.warnings) == (None, False, ())
    assert found.geometric_mean == pytest.approx(one.ratio.ratio, rel=1e-12)


def test_cases_are_matched_by_what_they_are_in_the_order_of_a() -> None:
    split, flash, warm = made_up_case(), made_up_case("flash"), made_up_case(regime="warm")
    turned = replace(split, shape=dict(reversed(split.shape.items())))
    other = made_up_case(shape={"batch": 8})
    found = compare(made_up_record(split, flash, warm), made_up_record(warm, other, turned))
    assert [one.label for one in found.cases] == [turned.label, warm.label]
    assert found.only_a == (flash.label,)
    assert found.only_b == (other.label,)
    assert found.geometric_mean == pytest.approx(1, abs=1e-12)


def test_the_mean_of_ratios_is_geometric() -> None:
    a = made_up_record(made_up_case(), made_up_case("flash"))
    b = made_up_record(made_up_case(seconds=made_up(7, 66e-6)), made_up_case("flash", seconds=made_up(7, 16.5e-6)))
    found = compare(a, b)
    assert [one.verdict for one in found.cases] == ["SLOWER", "FASTER"]
    assert found.geometric_mean == pytest.approx(1, rel=1e-9)


def test_a_refused_reading_is_not_compared() -> None:
    good, refused = made_up_case("flash"), made_up_case(refused="above the roof of its clock")
    silent = made_up_case("flash", regime="warm", seconds=())
    found = compare(made_up_record(good, refused, silent), made_up_record(good, made_up_case(), silent))
    assert [one.subject for one in found.cases] == ["flash"]
    assert [(one.case, one.reason) for one in found.left_out] == [
        (refused.label, "refused in A: above the roof of its clock"),
        (silent.label, "no reading in A"),
    ]
    found = compare(made_up_record(good, made_up_case()), made_up_record(good, refused))
    assert found.left_out[0].reason == "refused in B: above the roof of its clock"


def test_what_else_differs_is_warned_of() -> None:
    case = made_up_case()
    other = replace(ENVIRONMENT, gpu="Another", driver=None, code_hash="ff", power_cap_w=350.0, sm_clock_max_hz=1.2e9)
    found = compare(made_up_record(case), made_up_record(case, environment=other, seed=2, complete=False))
    assert found.warnings == (
        "GPU differs: Made-up GPU in A, Another in B",
        "driver differs: 0.0 in A, unknown in B",
        "kernel code differs: 0123456789ab in A, ff in B",
        "SM clock limit differs: unknown in A, 1200000000.0 in B",
        "power cap differs: 700.0 in A, 350.0 in B",
        "seed differs: 1 in A, 2 in B",
        "B is incomplete: its run was interrupted or ran out of time",
    )


def test_nothing_in_common_is_no_success() -> None:
    with pytest.raises(KvperfError, match="1 cases are only in A, 1 only in B, 0 have no valid reading"):
        compare(made_up_record(made_up_case()), made_up_record(made_up_case("flash")))
    refused = made_up_record(made_up_case(refused="warm cache"))
    with pytest.raises(KvperfError, match="0 cases are only in A, 0 only in B, 1 have no valid reading"):
        compare(refused, refused)


def test_emulated_records_hold_nothing_to_compare() -> None:
    measured = made_up_record(made_up_case())
    emulated = replace(measured, emulated=True)
    for name, records in (("A", (emulated, measured)), ("B", (measured, emulated))):
        with pytest.raises(KvperfError, match=f"{name} is emulated"):
            compare(*records)
    with pytest.raises(KvperfError, match="the record is emulated"):
        within(emulated)


def test_a_case_that_is_there_twice() -> None:
    twice = made_up_record(made_up_case(), made_up_case())
    with pytest.raises(KvperfError, match=r"B has 'split_kv cold batch=4.* twice"):
        compare(made_up_record(made_up_case()), twice)


def test_a_column_with_nan_is_refused_by_name() -> None:
    broken = made_up_record(replace(made_up_case(), samples=replace(made_up_case().samples, seconds=(math.nan,) * 9)))
    with pytest.raises(KvperfError, match=r"split_kv cold batch=4.*a sample of nan s is no time"):
        compare(broken, broken)


def test_subjects_of_one_record_are_compared_in_pairs() -> None:
    a, b = in_rounds(30, ratio=0.95)
    ours, torch = made_up_case("split_kv", a), made_up_case("torch", b[:40])
    third = made_up_case("flash", made_up(5))
    elsewhere = made_up_case("torch", b, regime="warm")
    refused = made_up_case("flashinfer", b, refused="warm cache")
    found = within(made_up_record(ours, elsewhere, torch, refused, third))
    assert [(one.against, one.subject) for one in found] == [
        ("split_kv", "torch"),
        ("split_kv", "flash"),
        ("torch", "flash"),
    ]
    assert found[0].ratio == paired(a, b[:40])
    assert (found[0].ratio.paired, found[0].ratio.pairs, found[0].verdict) == (True, 40, "FASTER")
