"""`kvperf bench show` and `compare`: tables within 80 columns, data in base units, a gate by exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from kvperf.bench.record import Case, Record, write
from kvperf.bench.statistics import summary
from kvperf.cli import run
from kvperf.render.bench import waterfall
from tests.bench.made_up import made_up, made_up_case, made_up_record


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["bench", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def kept(folder: Path, record: Record, name: str = "run.json") -> str:
    write(record, folder / name)
    return str(folder / name)


def grid() -> list[Case]:
    """Kernels over regimes, batches and lengths, sizes of every width."""
    return [
        made_up_case(subject, made_up(i, 3.3e-9 * batch * seq), shape={"batch": batch, "seq": seq, "dtype": "bf16"})
        if regime == "cold"
        else made_up_case(subject, made_up(i), shape={"batch": batch, "seq": seq, "dtype": "bf16"}, regime=regime)
        for i, subject in enumerate(("split_kv", "cached_attention"))
        for regime in ("cold", "warm")
        for batch in (1, 4, 128)
        for seq in (1024, 131072)
    ]


def test_a_grid_in_80_columns(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = ran(capsys, "show", kept(tmp_path, made_up_record(*grid())))
    assert (code, err) == (0, "")
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "attention · cold · dtype bf16 · all confident" in out
    assert "attention · warm · dtype bf16 · all confident" in out
    assert "unknown: predicted µs" in out
    assert out.count("cached_attention") == 12


def test_with_every_column_still_in_80(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cases = [replace(case, predicted_s=31e-6) for case in grid()]
    cases[0] = replace(cases[0], statistics=summary(cases[0].samples.seconds, "budget"))
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(*cases)))
    assert max(len(line) for line in out.splitlines()) <= 80
    rows = [line for line in out.splitlines() if line.startswith("cached_attention ")]
    assert len(rows) == 12 and sum(line.endswith(" no") for line in out.splitlines()) == 1


def test_what_is_unknown_is_a_dash_and_what_is_refused_has_no_time(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    refused = made_up_case("flash", refused="5.1 TB/s is above the roof at 1755 MHz: a warm cache", predicted_s=3e-5)
    record = made_up_record(made_up_case(predicted_s=31e-6), made_up_case("three_pass", made_up(3, count=5)), refused)
    _, out, _ = ran(capsys, "show", kept(tmp_path, record))
    split, three = (next(line for line in out.splitlines() if line.startswith(name)) for name in ("split", "three"))
    assert "31.00" in split
    assert three.split()[2] == "–" and "–" in three.split()[3:]  # no interval of five samples, no prediction
    (said,) = [line for line in out.splitlines() if "flash" in line]
    assert said.startswith("refused: flash cold batch=4")
    assert "a warm cache" in out.replace("\n  ", " ")


def test_ceilings_have_a_rate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    read = made_up_case("read", family="ceiling", regime="stream", shape={"footprint_bytes": 2 << 30})
    flops = made_up_case("mma_bf16", family="ceiling", regime="stream", shape={}, rate=811e12, rate_of="flop")
    exponents = made_up_case("exp2", family="ceiling", regime="stream", shape={}, rate=4.1e12, rate_of="exp2")
    chase = made_up_case("chase", family="ceiling", regime="warm", shape={}, rate=1.5e6, rate_of="steps")
    cases = [read, *(replace(case, bytes_per_s=None) for case in (flops, exponents, chase))]
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(*cases)))
    for said in ("2 GiB", "2.04 TB/s", "811 TFLOP/s", "4.10 T exp2/s", "667 ns each"):
        assert said in out


def test_the_gap_of_a_case(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = kept(tmp_path, made_up_record(*grid(), made_up_case()))
    code, out, _ = ran(capsys, "show", path, "--case", "split_kv cold batch=4 heads=32")
    assert code == 0
    (bound,) = [line.split() for line in out.splitlines() if line.startswith("bound")]
    assert bound == ["bound", "20.050", "60.8", "%"]
    assert [name in out for name in ("launch", "ramp and tail", "unexplained", "measured")] == [True] * 4
    assert "mostly ramp and tail" in out and "SM clock 1755 MHz" in out and "64 registers" in out
    assert "cached_attention" not in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_the_printed_gap_sums_exactly() -> None:
    for parts in range(1, 40):
        gap = {f"part {i}": 1e-6 / 3 + i * 0.77e-9 * (-1) ** i for i in range(parts)}
        table = waterfall(20.0504e-6, gap, 20.0504e-6 + sum(gap.values()))
        times = [round(float(row[1]) * 1000) for row in table.rows]
        shares = [round(float(row[2].removesuffix(" %")) * 10) for row in table.rows]
        assert sum(times[:-1]) == times[-1] and sum(shares[:-1]) == shares[-1] == 1000
        assert "not accounted for" not in [row[0] for row in table.rows]


def test_a_gap_that_does_not_sum_says_so() -> None:
    rows = {row[0]: row for row in waterfall(20e-6, {"launch": 2e-6}, 25e-6).rows}
    assert rows["not accounted for"] == ("not accounted for", "3.000", "12.0 %")
    assert rows["measured"] == ("measured", "25.000", "100.0 %")


def test_a_record_as_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = made_up_record(made_up_case(), made_up_case("flash", seconds=(), counts={"instructions": 9}))
    path = kept(tmp_path, record)
    _, out, _ = ran(capsys, "show", path, "--format", "json")
    assert json.loads(out) == json.loads(Path(path).read_text())
    _, out, _ = ran(capsys, "show", path, "--case", "flash", "--format", "json")
    assert [case["subject"] for case in json.loads(out)["cases"]] == ["flash"]
    _, out, _ = ran(capsys, "show", path, "--format", "csv")
    first, second = csv.DictReader(io.StringIO(out))
    assert float(first["statistics_median_s"]) == record.cases[0].statistics.median_s  # type: ignore[union-attr]
    assert (first["shape_batch"], first["gap_ramp_and_tail_s"], first["resources_registers"]) == (
        "4",
        "3.3333e-06",
        "64",
    )
    assert (second["statistics_median_s"], second["counts_instructions"], second["refused"]) == ("", "9.0", "")
    assert not any(name.startswith("samples") for name in first)


def test_markdown_and_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = kept(tmp_path, made_up_record(*grid()))
    target = tmp_path / "table.md"
    code, out, err = ran(capsys, "show", path, "--format", "md", "--output", str(target))
    assert (code, out, err) == (0, "", "")
    assert "\n\n| subject | batch | seq |" in target.read_text(encoding="utf-8")


def test_an_emulated_record_says_that_nothing_was_timed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    case = made_up_case(seconds=(), counts={"load bytes": 67_108_864})
    path = kept(tmp_path, made_up_record(case, emulated=True, complete=False))
    _, out, _ = ran(capsys, "show", path)
    assert "emulated: counts and errors of the interpreter; nothing was timed" in out
    assert "incomplete: " in out and "4e-04" in out and "GB/s" not in out
    _, out, _ = ran(capsys, "show", path, "--case", "split")
    assert "load bytes 67,108,864" in out and "no reading" in out


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    """Records of three cases: B is slower by 5 % in one, faster in one, the same in one."""
    a = [made_up_case(name, made_up(i)) for i, name in enumerate(("split_kv", "flash", "vector_loads"))]
    b = [
        made_up_case(name, made_up(10 + i, 33e-6 * factor))
        for i, (name, factor) in enumerate((("split_kv", 1.05), ("flash", 0.9), ("vector_loads", 1.0)))
    ]
    only = made_up_case("bulk_copy", refused="warm cache")
    return kept(tmp_path, made_up_record(*a, only), "a.json"), kept(tmp_path, made_up_record(*b, seed=2), "b.json")


def test_two_records_side_by_side(capsys: pytest.CaptureFixture[str], two: tuple[str, str]) -> None:
    code, out, err = ran(capsys, "compare", *two)
    assert (code, err) == (0, "")
    for name, said in (("split_kv", "SLOWER"), ("flash", "FASTER"), ("vector_loads", "SAME")):
        assert next(line for line in out.splitlines() if line.startswith(name)).split()[-1] == said
    assert "geometric mean of 3 ratios B / A: 0.98" in out
    assert "warning: seed differs: 1 in A, 2 in B" in out and "only in A: bulk_copy cold" in out
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize(("limit", "expected"), [("3%", 1), ("2.5%", 1), ("3 %", 1), ("0%", 1), ("6%", 0), ("100%", 0)])
def test_the_gate(capsys: pytest.CaptureFixture[str], two: tuple[str, str], limit: str, expected: int) -> None:
    code, out, err = ran(capsys, "compare", *two, "--fail-over", limit)
    assert code == expected
    assert "SLOWER" in out
    assert err.startswith("slower: split_kv cold batch=4") == bool(expected)
    assert err.count("\n") == expected


@pytest.mark.parametrize("format", ["json", "csv", "md"])
def test_the_gate_in_other_formats(capsys: pytest.CaptureFixture[str], two: tuple[str, str], format: str) -> None:
    code, out, err = ran(capsys, "compare", *two, "--fail-over", "3%", "--format", format)
    assert code == 1 and "slower: split_kv" in err
    if format == "json":
        found = json.loads(out)
        assert found["schema"] == "kvperf.bench-comparison/1"
        assert [one["verdict"] for one in found["cases"]] == ["SLOWER", "FASTER", "SAME"]
    elif format == "csv":
        rows = list(csv.DictReader(io.StringIO(out)))
        assert [row["verdict"] for row in rows] == ["SLOWER", "FASTER", "SAME"]
        assert 1.04 < float(rows[0]["low"]) < float(rows[0]["ratio"]) < float(rows[0]["high"]) < 1.06
        assert "warning: seed differs" in err
    else:
        assert "| subject |" in out and "\n\nwarning: seed differs" in out


@pytest.mark.parametrize("wrong", ["3", "0.03", "three%", "-3%", "3 percent", "nan%", ""])
def test_a_limit_that_is_no_percentage(capsys: pytest.CaptureFixture[str], two: tuple[str, str], wrong: str) -> None:
    code, out, err = ran(capsys, "compare", *two, f"--fail-over={wrong}")
    assert (code, out) == (2, "")
    assert err == f"error: --fail-over '{wrong}' is not a percentage\nhint: write it like 3% or 2.5%\n"


def test_mistakes_end_in_two_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"schema": "kvperf.analysis/1"}')
    good = kept(tmp_path, made_up_record(made_up_case()))
    empty = kept(tmp_path, made_up_record(complete=False), "empty.json")
    emulated = kept(tmp_path, made_up_record(made_up_case(seconds=()), emulated=True), "emulated.json")
    mistakes = (
        (("show", str(tmp_path / "none.json")), "No such file"),
        (("show", str(tmp_path / "other.json")), "is no record of kvperf bench"),
        (("show", empty), "holds no case"),
        (("show", good, "--case", "nobody"), "no case of"),
        (("compare", good, emulated), "B is emulated"),
        (("compare", good, empty), "nothing to compare"),
    )
    for arguments, message in mistakes:
        code, out, err = ran(capsys, *arguments)
        assert (code, out) == (2, "")
        first, second = err.splitlines()
        assert first.startswith("error: ") and message in first and "failed" not in first
        assert second.startswith("hint: ")


def test_a_terminal_draws_the_same_cells(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, two: tuple[str, str]
) -> None:
    from kvperf.render import table

    monkeypatch.setattr(table, "is_terminal", lambda: True)
    code, out, _ = ran(capsys, "compare", *two)
    assert code == 0 and "SLOWER" in out and "geometric mean of 3 ratios" in out
