"""Quantities with units: what is read, what is refused, and that printing and reading agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvperf.errors import KvperfError
from kvperf.units import EXAMPLES, binary, decimal, like, parse, significant


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("3.35 TB/s", "B/s", 3.35e12),
        ("50 MiB", "B", 52_428_800),
        ("80 GB", "B", 80_000_000_000),
        ("1830 MHz", "Hz", 1_830_000_000),
        ("219 cycles", "cycles", 219),
        ("989.4 TFLOP/s", "FLOP/s", 989_400_000_000_000),
        ("1.27 us", "s", 1.27e-6),
        ("1.27 µs", "s", 1.27e-6),
        ("5120 bit", "bit", 5120),
        ("700 W", "W", 700),
    ],
)
def test_parses_to_base_units(text: str, unit: str, value: float) -> None:
    assert parse(text, unit) == value


def test_whole_results_are_exact_integers() -> None:
    assert isinstance(parse("126.5 MiB", "B"), int)
    assert parse("126.5 MiB", "B") == 132_644_864


@pytest.mark.parametrize(
    ("text", "unit", "message", "hint"),
    [
        (3.35e12, "B/s", "has no unit", "3.35 TB/s"),
        (80, "B", "has no unit", "80 GiB"),
        ("3.35e12", "B/s", "not a number with a unit", "3.35 TB/s"),
        ("3.35e12 B/s", "B/s", "not a number with a unit", "3.35 TB/s"),
        ("1_000 B", "B", "not a number with a unit", "80 GiB"),
        ("80 gb", "B", "not in B", "80 GB"),
        ("3 tb/s", "B/s", "not in B/s", "3 TB/s"),
        ("80 Gb", "B", "not in B", "80 GB"),
        ("3.35 TB", "B/s", "not in B/s", "3.35 TB/s"),
        ("50 MiB", "FLOP/s", "not in FLOP/s", "989.4 TFLOP/s"),
        ("700 kW", "W", "not in W", "700 W"),
        ("80GiB", "B", "not a number with a unit", "80 GiB"),
        ("٣ GB", "B", "not a number with a unit", "80 GiB"),
        (None, "B", "not a number with a unit", "80 GiB"),
        (True, "B", "has no unit", "80 GiB"),
    ],
)
def test_refuses(text: object, unit: str, message: str, hint: str) -> None:
    with pytest.raises(KvperfError, match=message) as problem:
        parse(text, unit)
    assert hint in problem.value.hint


@given(st.sampled_from(sorted(EXAMPLES)))
def test_every_example_parses(unit: str) -> None:
    assert parse(EXAMPLES[unit], unit) > 0


@given(st.floats(min_value=1, max_value=1e17), st.sampled_from(["B/s", "FLOP/s", "Hz"]), st.integers(2, 9))
def test_decimal_prints_what_parse_reads(value: float, unit: str, digits: int) -> None:
    assert parse(decimal(value, unit, digits), unit) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))


@given(st.floats(min_value=1e-9, max_value=1e6))
def test_times_print_what_parse_reads(seconds: float) -> None:
    assert parse(decimal(seconds, "s", 6), "s") == pytest.approx(seconds, rel=1e-5)


@given(st.integers(1, 1 << 49))
def test_binary_prints_what_parse_reads(size: int) -> None:
    assert parse(binary(size, 6), "B") == pytest.approx(size, rel=1e-5)


@given(st.integers(1, 1023), st.sampled_from(["KiB", "MiB", "GiB", "TiB"]))
def test_whole_capacities_print_as_written(count: int, unit: str) -> None:
    text = f"{count} {unit}"
    assert binary(parse(text, "B")) == text


@given(st.floats(min_value=1e-12, max_value=1e15), st.integers(1, 9))
def test_significant_keeps_its_digits_and_never_an_exponent(value: float, digits: int) -> None:
    text = significant(value, digits)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))
    assert len(text.replace(".", "").lstrip("0")) >= digits


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (3.35e12, "B/s", "3.35 TB/s"),
        (999.96e9, "B/s", "1.00 TB/s"),
        (0, "B/s", "0 B/s"),
        (1.27e-6, "s", "1.27 µs"),
        (9.999e-7, "s", "1.00 µs"),
        (1200, "s", "1200 s"),
        (5e17, "B/s", "500 PB/s"),
    ],
)
def test_decimal_examples(value: float, unit: str, text: str) -> None:
    assert decimal(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(52_428_800, "50 MiB"), (128, "128 B"), (150_754_820_096, "140.4 GiB"), (1_048_570, "1.000 MiB"), (0, "0 B")],
)
def test_binary_examples(value: float, text: str) -> None:
    assert binary(value) == text


@pytest.mark.parametrize(
    ("text", "value", "unit", "printed"),
    [
        ("760 GB/s", 7e11, "B/s", "700 GB/s"),
        ("3013 GB/s", 3.35e12, "B/s", "3350 GB/s"),
        ("0.76 TB/s", 7e11, "B/s", "0.7 TB/s"),
        ("1 MB/s", 2e12, "B/s", "2000000 MB/s"),
        ("1978.9 TFLOP/s", 989.43e12, "FLOP/s", "989.4 TFLOP/s"),
    ],
)
def test_a_value_in_the_unit_of_another(text: str, value: float, unit: str, printed: str) -> None:
    assert like(text, value, unit) == printed
