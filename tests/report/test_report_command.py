"""`kvperf report` on the command line: defaults, formats, files, mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvperf.bench.record import Case, Record, Samples, Work, write
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


def test_a_record_of_another_step_is_listed_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = _said(capsys, "--batch", "8", "--record", str(_record(tmp_path / "run.json")))
    assert code == 0
    assert "No stage of this step was measured: the record measured another step" in out


def test_an_emulated_record_is_no_measurement(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = _said(capsys, "--record", str(_record(tmp_path / "run.json", emulated=True)))
    assert code == 0
    assert "made on the interpreter" in out
    assert "Readings" not in out


def test_a_figure_says_why_it_has_no_readings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    record = str(_record(tmp_path / "run.json"))
    code, out, _ = _said(capsys, "--batch", "8", "--format", "html", "--record", record)
    assert code == 0
    assert "No reading is drawn: " in out
    code, out, _ = _said(capsys, "--format", "html", "--record", record)
    assert code == 0
    assert "No reading is drawn: " not in out
