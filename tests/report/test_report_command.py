"""`kvperf report` on the command line: defaults, formats, files, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kvperf.bench.record import Case, Record, Samples, Work, read, write
from kvperf.bench.statistics import summary
from kvperf.cli import run
from kvperf.kernel import target
from tests.bench.made_up import ENVIRONMENT, made_up


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "obstacle", lambda gpu: "not compiled here")


def _said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["report", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _said(capsys)
    assert (code, err) == (0, "")
    assert out.startswith("# llama-3.1-8b on NVIDIA H100 SXM5 80 GB\n\nA decode step: 4 sequences, context 4,096")


def test_help_says_its_own_default_of_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _said(capsys, "--help")
    assert code == 0
    assert "Sequences of the step. [default: 4]" in " ".join(out.split())


def test_a_ragged_batch_has_no_default(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _said(capsys, "--contexts", "100,2000")
    assert code == 0
    assert "2 sequences, context 2,000" in out


def test_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = _said(capsys, "--format", "text", "--output", str(tmp_path / "report.txt"))
    assert (code, out) == (0, "")
    assert (tmp_path / "report.txt").read_text(encoding="utf-8").startswith("llama-3.1-8b on NVIDIA H100")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--heads", "32"], "--heads is attention without a model"),
        (["--gpu", "h1000"], "unknown GPU 'h1000'"),
        (["--model", "lama"], "unknown model 'lama'"),
        (["--tp", "3"], "--tp 3 does not divide"),
        (["--memory-fraction", "2"], "--memory-fraction 2.0 is no share"),
        (["--record", "no-such-file.json"], "no-such-file.json"),
        (["--output", "no/such/folder/report.md"], "cannot write"),
        (["--format", "pdf"], "pdf"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = _said(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[0]
    assert err.splitlines()[1].startswith("hint: ")


def test_a_record_of_another_schema(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"schema": "kvperf.analysis/1"}')
    code, _, err = _said(capsys, "--record", str(tmp_path / "other.json"))
    assert code == 2
    assert "is no record of kvperf bench" in err


def _read(seed: int, median_s: float, kv_bytes: float = 0) -> dict[str, Any]:
    taken = made_up(seed, median_s)
    found = summary(taken, "confident")
    rate = kv_bytes / found.median_s if kv_bytes else None
    work = Work(kv_bytes=kv_bytes, compulsory_bytes=kv_bytes)
    return {"samples": Samples(seconds=taken), "statistics": found, "work": work, "bytes_per_s": rate}


def _record(path: Path, emulated: bool = False) -> Path:
    """A made-up run: one stage of the default step, one kernel, one refused reading."""
    shape = {"model": "llama-3.1-8b", "batch": 4, "seq": 4096, "new_tokens": 1, "dtype": "bf16", "layers": 32}
    stage = Case(
        family="stage",
        subject="attention",
        regime="cold",
        shape=dict(shape),
        **({} if emulated else _read(1, 24e-6)),
        bound_s=20.04e-6,
    )
    kernel = Case(
        family="attention",
        subject="async_ring",
        regime="warm",
        shape={"batch": 4, "seq": 4096},
        **({} if emulated else _read(2, 22e-6, kv_bytes=66e6)),
    )
    wrong = Case(family="attention", subject="flash", regime="warm", refused="faster than the roof of its regime")
    write(
        Record(
            schema_version="kvperf.bench/1",
            version="0",
            command="made up",
            seed=0,
            started="",
            emulated=emulated,
            complete=True,
            environment=ENVIRONMENT,
            cases=(stage, kernel, wrong),
        ),
        path,
    )
    return path


def test_measurements_stand_beside_the_bound(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = _said(capsys, "--record", str(_record(tmp_path / "run.json")))
    assert (code, err) == (0, "")
    section = out[out.index("## Measured") : out.index("## Sources")]
    assert "Made-up GPU; driver 0.0, CUDA 13.0; made up." in section
    assert "| attention | " in section
    assert "async_ring warm batch=4 seq=4096" in section
    assert "3.00 TB/s" in section
    assert "faster than the roof of its regime" in section


@pytest.mark.parametrize("option", [("--batch", "8"), ("--model", "llama-3-70b"), ("--seq", "8192")])
def test_a_record_of_another_step_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: tuple[str, str]
) -> None:
    edited = Record(**{**_fields(_record(tmp_path / "run.json")), "environment": ENVIRONMENT})
    write(edited, tmp_path / "run.json")
    code, out, err = _said(capsys, *option, "--record", str(tmp_path / "run.json"))
    assert (code, out) == (2, "")
    assert "the record is of another step" in err
    assert "model=llama-3.1-8b batch=4 seq=4096" in err


def _fields(path: Path) -> dict[str, Any]:
    """A record whose attention case says its heads, so that no other model's report takes it."""
    found = read(path)
    cases = tuple(
        replace(c, shape={**c.shape, "heads": 32}) if c.family == "attention" and c.shape else c for c in found.cases
    )
    return {name: getattr(found, name) for name in found.__struct_fields__} | {"cases": cases}


def test_a_record_of_another_gpu_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = _record(tmp_path / "run.json")
    write(replace(read(path), environment=replace(ENVIRONMENT, profile="l4")), path)
    code, out, err = _said(capsys, "--record", str(path))
    assert (code, out) == (2, "")
    assert "the record is of l4" in err


@pytest.mark.parametrize(("name", "begins"), [("r.html", "<!DOCTYPE html>"), ("r.md", "# llama"), ("r.txt", "llama")])
def test_the_name_of_the_file_decides(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, begins: str
) -> None:
    code, out, err = _said(capsys, "--output", str(tmp_path / name))
    assert (code, out, err) == (0, "", f"written: {tmp_path / name}\n")
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(begins)


def test_an_emulated_record_is_no_measurement(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = _said(capsys, "--record", str(_record(tmp_path / "run.json", emulated=True)))
    assert code == 0
    assert "made on the interpreter" in out
    assert "Readings" not in out


def test_a_figure_draws_the_readings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = _said(capsys, "--format", "html", "--record", str(_record(tmp_path / "run.json")))
    assert code == 0
    assert "No reading is drawn: " not in out
