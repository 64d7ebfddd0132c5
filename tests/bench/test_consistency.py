"""A record that contradicts itself is refused by one line that names the case and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kvperf.bench.consistency import disagreements
from kvperf.bench.record import Case, Work, read, write
from kvperf.cli import run
from kvperf.errors import KvperfError
from tests.bench.made_up import made_up, made_up_case, made_up_record

GOOD = made_up_case(work=Work(compulsory_bytes=67.17e6, kv_bytes=67.11e6, operations={"flop": 2e9}))
assert GOOD.statistics is not None
GOOD = replace(GOOD, rate=2e9 / GOOD.statistics.median_s, rate_of="flop")


def changed(part: str | None = None, **fields: Any) -> Case:
    """The good case with fields of a part of it replaced."""
    return replace(GOOD, **({part: replace(getattr(GOOD, part), **fields)} if part else fields))


LIES = {
    "a median": (changed("statistics", median_s=20e-6), "median_s is 2e-05, its samples give"),
    "a count": (changed("statistics", count=61), "count is 61, its samples give 60"),
    "an interval": (changed("statistics", low_s=32e-6), "low_s is 3.2e-05"),
    "a minimum": (changed("statistics", minimum_s=1e-6), "minimum_s is 1e-06"),
    "no statistics": (changed(statistics=None), "it has samples and no statistics"),
    "no samples": (changed("samples", seconds=(), sm_clock_hz=(), power_w=()), "statistics of no samples"),
    "a short column": (changed("samples", power_w=(500.0,) * 3), "power_w has 3 entries for 60 samples"),
    "a zero": (changed("samples", seconds=(0.0, *GOOD.samples.seconds[1:])), "sample 0 of 0.0 s is no time"),
    "a negative": (changed("samples", seconds=(*GOOD.samples.seconds[1:], -1e-6)), "sample 59 of -1e-06 s is no time"),
    "an error": (changed(error=3e-3), "error 0.003 is above its limit 0.002, and it is not refused"),
    "a rate": (changed(rate=61e12), "rate is 6.1e+13, its work over the median"),
    "a rate of nothing": (changed(rate_of="exp2"), "rate is of exp2, which its work does not count"),
    "bytes": (changed(bytes_per_s=3e12), "bytes_per_s is 3e+12, its bytes over the median"),
    "compulsory bytes": (changed("work", kv_bytes=0.0), "bytes_per_s is"),
    "a share": (changed(share_of_read=0.99), "share_of_read is 0.99, its rates give"),
    "a share of nothing": (changed(read_bytes_per_s=None), "share_of_read is"),
    "a bound": (changed(bound_s=34e-6, gap={}), "is below its bound of 3.4e-05 s, and it is not refused"),
    "a gap": (changed(gap={"launch": 2e-6}), "its gap does not sum to its median less its bound"),
}


@pytest.mark.parametrize(("case", "said"), LIES.values(), ids=LIES)
def test_a_case_that_contradicts_itself_is_not_read(tmp_path: Path, case: Case, said: str) -> None:
    path = tmp_path / "run.json"
    write(made_up_record(made_up_case("flash"), case), path)
    with pytest.raises(KvperfError) as problem:
        read(path)
    assert problem.value.message.startswith(f"{path}: split_kv cold batch=4")
    assert said in problem.value.message


def test_what_agrees_is_read(tmp_path: Path) -> None:
    warm = made_up_case("warm", regime="warm", bound_s=90e-6, gap={})
    refused = made_up_case("refused", refused="above the roof", error=1.0, bound_s=90e-6, rate=1.0, rate_of="flop")
    silent = made_up_case("silent", seconds=())
    record = made_up_record(GOOD, warm, refused, silent, made_up_case("short", made_up(1, 3e-6, count=3)))
    write(record, tmp_path / "run.json")
    assert read(tmp_path / "run.json") == record
    assert list(disagreements(GOOD)) == []


def test_a_refused_case_keeps_samples_that_are_its_own(tmp_path: Path) -> None:
    write(made_up_record(replace(LIES["a median"][0], refused="above the roof")), tmp_path / "run.json")
    with pytest.raises(KvperfError, match="median_s is 2e-05"):
        read(tmp_path / "run.json")


def test_a_gpu_has_one_datasheet(tmp_path: Path) -> None:
    flattered = changed(share_of_datasheet=0.9)
    write(made_up_record(made_up_case("flash"), flattered), tmp_path / "run.json")
    with pytest.raises(KvperfError, match=r"split_kv cold.*share_of_datasheet is of 2\.2.*e\+12 B/s, .* of 3\.35e\+12"):
        read(tmp_path / "run.json")


def test_the_interpreter_times_nothing(tmp_path: Path) -> None:
    write(made_up_record(GOOD, emulated=True), tmp_path / "run.json")
    with pytest.raises(KvperfError, match="the interpreter times nothing"):
        read(tmp_path / "run.json")


@pytest.mark.parametrize("place", [(), ("environment",), ("cases", 0), ("cases", 0, "work"), ("cases", 0, "samples")])
def test_a_field_that_nobody_knows_is_refused(tmp_path: Path, place: tuple[Any, ...]) -> None:
    path = tmp_path / "run.json"
    write(made_up_record(GOOD), path)
    whole = json.loads(path.read_text())
    part = whole
    for step in place:
        part = part[step]
    part["median"] = 1
    path.write_text(json.dumps(whole))
    with pytest.raises(KvperfError, match="unknown field `median`"):
        read(path)


def test_show_says_so_in_two_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write(made_up_record(LIES["a median"][0]), path)
    assert run(["bench", "show", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 2 and "median_s is 2e-05" in err
