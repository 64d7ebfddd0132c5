"""`kvperf validate` and `kvperf calibrate`: what they print, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvperf.cli import run


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(arguments) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 2 and streams.err.startswith("error: ") and "\nhint: " in streams.err
    return streams.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("validate", "--gpu", "h100x"), "unknown GPU"),
        (("validate", "--gpu", "mi300x"), "no table was measured on mi300x"),
        (("validate", "--stack", "vlm"), "unknown stack 'vlm'"),
        (("validate", "--family", "gem"), "unknown kernel family 'gem'"),
        (("validate", "--serving", "--ablate"), "three different replays"),
        (("validate", "--serving", "--family", "gemm"), "--family with whole load tests"),
        (("validate", "--fail-over", "nan"), "is no error in percent"),
        (("validate", "--rows", "mine.csv"), "--rows without --gpu and --stack"),
        (("calibrate", "--stack", "none", "--gpu", "h100"), "unknown stack 'none'"),
        (("calibrate",), "nothing says what to calibrate"),
        (("calibrate", "--gpu", "a10"), "no table was measured on a10"),
        (("calibrate", "--gpu", "h100", "--entrant", "x"), "--entrant without a record"),
        (("calibrate", "--gpu", "h100", "--family", "x"), "unknown kernel family 'x'"),
        (("calibrate", "mine.csv"), "a CSV does not say what it was measured on"),
    ],
)
def test_bad_input_is_one_error_and_one_hint(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(capsys, *arguments)


def test_without_the_tables_there_is_a_way_to_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvperf.silicon import tables

    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda _name: None)
    assert "aiconfigurator-core==0.12.0" in refused(capsys, "validate", "--gpu", "h100")


def test_a_gpu_and_family(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiconfigurator_core")
    arguments = ("validate", "--gpu", "h100", "--stack", "vllm", "--family", "collective", "--format", "json")
    assert run(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["schema"] == "kvperf.validation/1"
    assert {line["group"] for line in record["lines"]} == {"nccl", "vllm"}
    for line in record["lines"]:
        assert 0 < line["mean"] < line["naive"] and line["calibration"] == "h100-sxm/vllm"
    assert run((*arguments, "--fail-over", "50")) == 0
    capsys.readouterr()
    assert run((*arguments, "--fail-over", "0.1")) == 1
    assert "over 0.1 %: collective h100-sxm vllm nccl: " in capsys.readouterr().err


def test_lint_counts_what_each_rule_takes(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiconfigurator_core")
    assert run(("validate", "lint", "--gpu", "a100", "--stack", "trtllm", "--format", "json")) == 0
    dropped = json.loads(capsys.readouterr().out)["dropped"]
    rule = next(d for d in dropped if d["rule"] == "trtllm_decode_reads_k_only")
    assert rule["rows"] == rule["of"] > 1000 and "1.0.0" in rule["table"]


def test_calibrating_again_gives_the_shipped_constants(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiconfigurator_core")
    pytest.importorskip("scipy")
    from kvperf.predict.calibration import folder, load

    assert run(("calibrate", "--gpu", "h100", "--stack", "trtllm", "--family", "collective")) == 0
    streams = capsys.readouterr()
    assert "collective trtllm" in streams.err
    shipped = load(folder() / "h100-sxm.trtllm.yaml").families["collective"]
    for name, value in shipped.constants.items():
        assert f"{name}: {value}" in streams.out


ROWS = "family,us,batch,heads,kv_heads,head_dim,context\n"


def _rows(scale: float) -> str:
    """Made up: the bytes of the cache at 2 TB/s and 5 µs."""
    shapes = [(b, h, s) for b in (1, 4, 16) for h in (8, 32) for s in (1024, 4096)]
    times = [(b, h, s, (5 + b * s * 8 * 128 * 4 / 2e6) * scale) for b, h, s in shapes]
    return ROWS + "".join(f"decode_attention,{us},{b},{h},8,128,{s}\n" for b, h, s, us in times)


def test_calibrating_into_a_file_keeps_its_other_families(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    from kvperf.predict.calibration import folder, load

    own, rows = tmp_path / "own.yaml", tmp_path / "rows.csv"
    shipped = folder() / "h100-sxm.vllm.yaml"
    own.write_bytes(shipped.read_bytes())
    rows.write_text(_rows(1.0), encoding="utf-8")
    arguments = ("calibrate", str(rows), "--gpu", "h100", "--stack", "vllm", "--output", str(own))
    assert run(arguments) == 0
    assert "kept from" in capsys.readouterr().err
    kept, before = load(own).families, load(shipped).families
    assert set(kept) == set(before)
    assert {name for name in kept if kept[name] != before[name]} == {"decode_attention"}
    assert run((*arguments[:-3], "sglang", "--output", str(own))) == 2
    assert f"error: {own} is the calibration of h100-sxm and vllm" in capsys.readouterr().err


def test_milliseconds_in_a_column_of_microseconds_are_noticed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("scipy")
    rows = tmp_path / "rows.csv"
    for scale, noticed in ((1.0, False), (1e-3, True)):
        rows.write_text(_rows(scale), encoding="utf-8")
        code = run(("calibrate", str(rows), "--gpu", "h100", "--stack", "vllm"))
        said = capsys.readouterr().err
        assert ("seconds?" in said or code == 2) == noticed, said
