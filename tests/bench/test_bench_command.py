"""`kvperf bench show` and `compare`: tables within 80 columns, data in base units, a gate by exit code."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kvperf.bench.record import Case, Record, Work, write
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


def rated(subject: str, amount: float, kind: str, **fields: Any) -> Case:
    """A case that is quoted by what it counts."""
    unknown = dict.fromkeys(("bytes_per_s", "share_of_read", "share_of_datasheet"))
    figures = unknown | {"family": "ceiling", "work": Work(operations={kind: amount})} | fields
    case = made_up_case(subject, **figures)
    assert case.statistics is not None
    return replace(case, rate=amount / case.statistics.median_s, rate_of=kind)


def test_ceilings_have_a_rate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    read = made_up_case("read", family="ceiling", regime="stream", shape={"footprint_bytes": 2 << 30})
    small = made_up_case("read", family="ceiling", regime="stream", shape={"bytes": 10485760})
    flops = rated("mma_bf16", 811e12 * 33e-6, "flop", regime="stream", shape={})
    exponents = rated("exp2", 4.1e12 * 33e-6, "exp2", regime="stream", shape={})
    chase = rated("chase", 1.5e6 * 33e-6, "steps", regime="warm", shape={})
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(read, small, flops, exponents, chase)))
    for said in ("2 GiB", "10 MiB", "2.03 TB/s", "811 TFLOP/s", "4.10 T exp2/s", "667 ns each"):
        assert said in out
    assert "10485760" not in out


def test_host_copies_have_a_rate(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = rated("host to device", 55e9 * 33e-6, "host_bytes", family="host", shape={"bytes": 256 << 20}, bound_s=None)
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(copy)))
    assert "host · cold · bytes 256 MiB" in out and "55.0 GB/s" in out


def test_what_emptied_the_l2_is_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ("rotation", "memset", "memset-read")
    cases = [made_up_case(seconds=made_up(i), flush=flush) for i, flush in enumerate(names)]
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(*cases)))
    rows = [line.split() for line in out.splitlines() if line.startswith("split_kv")]
    assert [row[1] for row in rows] == list(names)
    assert "flush" in out
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(*cases[1:2])))
    assert "cold · flush memset · batch 4" in out
    warm = made_up_case("flash", regime="warm", flush="memset")
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(cases[0], warm)))
    assert "flush" not in out  # nothing but the rotation made anything cold
    path = kept(tmp_path, made_up_record(*cases), "a.json")
    _, out, _ = ran(capsys, "compare", path, path)
    assert [line.split()[1] for line in out.splitlines() if line.startswith("split_kv")] == list(names)


def test_a_step_stands_beside_its_stages(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    beside = {"mlp": 2e-3, "attention": 1e-3, "sum of stages": 3e-3}
    step = made_up_case("step", (2.5e-3,) * 7, family="step", shape={"layers": 32}, beside=beside)
    code, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(step)))
    assert code == 0 and "each stage over its layers, read alone" in out
    rows = [line.split() for line in out.splitlines()]
    for row in (["mlp", "2000", "80.0"], ["attention", "1000", "40.0"], ["sum", "of", "stages", "3000", "120.0"]):
        assert row in rows
    assert ["step,", "whole", "2500", "100.0"] in rows


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


def test_an_emulated_record_has_no_empty_rows(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    counted = made_up_case(seconds=(), counts={"loads k": 9.0})
    nothing = {"family": "ceiling", "error": None, "work": Work(), "bound_s": None, "shape": {}}
    silent = [made_up_case(name, (), **nothing) for name in ("launch alone", "graph node")]  # type: ignore[arg-type]
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(counted, *silent, emulated=True)))
    assert "nothing to count: launch alone, graph node" in out
    assert out.count("subject") == 1 and not any(line.startswith("launch alone") for line in out.splitlines())


def test_who_was_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = ("three_pass", "flash", "split_kv")
    messages = (*(f"{name} does not take head_dim 96" for name in names), "mla takes 576", "torch cudnn: no kernel")
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(made_up_case(), left_out=messages)))
    flat = out.replace("\n  ", " ")
    assert "left out: 3 kernels, each does not take head_dim 96: three_pass, flash, split_kv\n" in flat
    assert "left out: mla takes 576\n" in flat and "left out: torch cudnn: no kernel\n" in flat


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
        (("show", good, "--output", good), "RECORD and --output are one file"),
        (("show", good, "--against", "torch"), "the record has no subject 'torch'"),
        (("show", good, "--against", "split"), "nothing was read beside 'split'"),
        (("show", emulated, "--against", "split"), "the record is emulated"),
        (("show", empty, "--against", "split"), "holds no case"),
        (("compare", good, good, "--output", good), "A and --output are one file"),
        (("compare", good, emulated), "B is emulated"),
        (("compare", good, empty), "nothing to compare"),
    )
    for arguments, message in mistakes:
        code, out, err = ran(capsys, *arguments)
        assert (code, out) == (2, "")
        first, second = err.splitlines()
        assert first.startswith("error: ") and message in first and "failed" not in first
        assert second.startswith("hint: ")


def test_a_size_stays_with_its_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shape = {"batch": 1, "heads": 32, "kv_heads": 8, "head_dim": 128, "seq": 4096, "dtype": "bf16", "kv_dtype": "bf16"}
    _, out, _ = ran(capsys, "show", kept(tmp_path, made_up_record(made_up_case(shape=shape))))
    assert any(line.endswith("seq 4096 ·") for line in out.splitlines()) and "\n  dtype bf16 · kv_dtype bf16" in out
