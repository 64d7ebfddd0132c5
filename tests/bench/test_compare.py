"""Verdicts of made-up samples with a known ratio; what cannot be compared is said, never guessed."""

from __future__ import annotations

import math

import pytest
from msgspec.structs import replace

from kvperf.bench.compare import compare, failures, verdict
from kvperf.bench.pairs import against, within
from kvperf.bench.record import Case
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


def test_a_gate_passes_what_is_as_fast() -> None:
    a, b = made_up_record(made_up_case()), made_up_record(made_up_case(seconds=made_up(8, 33.5e-6)))
    assert failures(compare(a, b), 0.03) == ()
    assert failures(compare(a, a), 0.0) == ()


def test_a_gate_names_what_is_slower_or_may_be() -> None:
    a = made_up_record(made_up_case(), made_up_case("flash", made_up(1, noise=0.4)), made_up_case("few", made_up(3)))
    slow, loud = made_up_case(seconds=made_up(8, 35e-6)), made_up_case("flash", made_up(2, 36e-6, noise=0.4))
    found = compare(a, made_up_record(slow, loud, made_up_case("few", (40e-6,) * 3)))
    assert [one.verdict for one in found.cases] == ["SLOWER", "AMBIGUOUS", "AMBIGUOUS"]
    first, second, third = failures(found, 0.03)
    assert first.startswith("slower: split_kv cold batch=4") and first.endswith("times as long, over 3%")
    assert second.startswith("ambiguous: flash cold") and third.startswith("ambiguous: few cold")
    assert failures(found, 0.5) == ()


def test_a_gate_names_what_b_did_not_measure() -> None:
    good = made_up_case("good")
    a = made_up_record(good, made_up_case("refused"), made_up_case("silent"), made_up_case("gone"), made_up_case("bad"))
    a = replace(a, cases=(*a.cases[:-1], made_up_case("bad", refused="warm cache"), made_up_case("x", refused="no")))
    b = made_up_record(
        good,
        made_up_case("refused", refused="warm cache"),
        made_up_case("silent", ()),
        made_up_case("bad", refused="no"),
    )
    found = compare(a, b)
    sizes = "cold batch=4 heads=32 kv_heads=8 head_dim=128 seq=4096 dtype=bf16"
    assert failures(found, 0.03) == (
        f"lost: refused {sizes}: refused in B: warm cache",
        f"lost: silent {sizes}: no reading in B",
        f"lost: gone {sizes}: missing in B",
    )
    assert found.only_a == (f"gone {sizes}", f"x {sizes}")


def test_a_gate_does_not_pass_half_a_run() -> None:
    whole = made_up_record(made_up_case())
    found = compare(whole, replace(whole, complete=False))
    assert failures(found, 0.03) == ("incomplete: the run of B was interrupted or ran out of time",)
    assert failures(compare(replace(whole, complete=False), whole), 0.03) == ()


def test_a_record_whose_readings_are_all_refused_is_judged() -> None:
    found = compare(made_up_record(made_up_case()), made_up_record(made_up_case(refused="above the roof")))
    assert (found.cases, found.geometric_mean) == ((), None)
    assert len(failures(found, 0.03)) == 1


def ceiling(seed: int, repeats: int, turn_s: float = 1e-6) -> Case:
    seconds = made_up(seed, repeats * turn_s)
    fields = {"bound_s": None, "gap": {}, "error": None, "bytes_per_s": None, "share_of_read": None}
    return made_up_case("fma_fp32", seconds, family="ceiling", regime="warm", shape={"repeats": repeats}, **fields)


def test_a_loop_is_compared_by_its_turns() -> None:
    found = compare(made_up_record(ceiling(1, 300)), made_up_record(ceiling(2, 400, 1.05e-6)))
    (one,) = found.cases
    assert (found.only_a, one.verdict) == ((), "SLOWER")
    assert one.ratio.ratio == pytest.approx(1.05, rel=0.002)


def test_the_ceiling_beside_each_shape_meets_its_own() -> None:
    first, second = (
        made_up_case("read", made_up(i, t), family="ceiling", shape={"bytes": 1 << 24})
        for i, t in ((1, 33e-6), (2, 36e-6))
    )
    found = compare(made_up_record(first, second), made_up_record(first, second))
    assert [one.ratio.ratio for one in found.cases] == [1, 1]
    assert compare(made_up_record(first, second), made_up_record(first)).only_a == (second.label,)
    assert within(made_up_record(first, second)) == ()  # they were not read in the same rounds


def test_flushes_are_told_apart() -> None:
    cases = [made_up_case(seconds=made_up(i), flush=flush) for i, flush in enumerate(("rotation", "memset"))]
    found = compare(made_up_record(*cases), made_up_record(*cases))
    assert [one.flush for one in found.cases] == ["rotation", "memset"]
    assert found.cases[1].label.startswith("split_kv cold by memset batch=4")
    assert within(made_up_record(*cases)) == ()


def test_a_user_s_kernel_is_paired_with_ours_and_a_library_s() -> None:
    a, b = in_rounds(30, ratio=0.95)
    ours = made_up_case("paged", a, shape={"batch": 4, "kv_dtype": "bf16", "page_tokens": 64})
    mine = made_up_case("mine.py:f", b, family="kernel", shape={"batch": 4})
    (one,) = within(made_up_record(ours, mine))
    assert (one.against, one.subject, one.verdict) == ("paged", "mine.py:f", "FASTER")


def test_everybody_against_one() -> None:
    a, b = in_rounds(30, ratio=0.95)
    other = made_up_case("flash", made_up(5))
    record = made_up_record(made_up_case("split_kv", b), made_up_case("torch", a), other, made_up_case("torch math", a))
    found = against(record, "torch")  # a subject of this very name is meant alone
    assert [(one.against, one.subject) for one in found.cases] == [
        ("torch", "split_kv"),
        ("torch", "flash"),
        ("torch", "torch math"),
    ]
    assert (found.cases[0].verdict, found.cases[0].ratio) == ("FASTER", paired(a, b))
    assert found.cases[2].verdict == "SAME" and found.cases[2].ratio.ratio == 1


def test_against_the_fastest_of_a_library_on_each_shape() -> None:
    def cell(batch: int, flash_s: float, cudnn_s: float) -> list[Case]:
        times = {"split_kv": 33e-6, "torch flash": flash_s, "torch cudnn": cudnn_s}
        return [made_up_case(n, made_up(i, t), shape={"batch": batch}) for i, (n, t) in enumerate(times.items())]

    torchless = made_up_case("split_kv", shape={"batch": 64})
    refused = made_up_case("flash", shape={"batch": 1}, refused="warm cache")
    cold = [*cell(1, 40e-6, 36e-6), *cell(16, 35e-6, 38e-6), torchless, refused]
    found = against(made_up_record(*cold), "torch")
    assert [(one.subject, one.against, one.shape["batch"]) for one in found.cases] == [
        ("split_kv", "torch cudnn", 1),
        ("split_kv", "torch flash", 16),
    ]
    assert [(one.case, one.reason) for one in found.left_out] == [
        ("flash cold batch=1", "refused: warm cache"),
        ("1 subjects cold batch=64", "no reading of torch beside them"),
    ]


def test_against_nobody() -> None:
    record = made_up_record(made_up_case("split_kv"), made_up_case("torch flash", refused="warm cache"))
    with pytest.raises(KvperfError) as problem:
        against(record, "flashinfer")
    assert problem.value.message == "the record has no subject 'flashinfer'"
    assert problem.value.hint == "it has split_kv, torch flash"
    for name in ("torch", "split_kv"):
        with pytest.raises(KvperfError, match=f"nothing was read beside '{name}'"):
            against(record, name)
    with pytest.raises(KvperfError, match="no subject ''"):
        against(record, "")
    with pytest.raises(KvperfError, match="the record is emulated"):
        against(replace(record, emulated=True), "torch")
