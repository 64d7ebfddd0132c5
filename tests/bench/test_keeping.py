"""What a measuring command keeps: whole groups of cases, under a name of its own, also where somebody asks to stop."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvperf.bench.record import Case, read
from kvperf.cli import run as kvperf
from kvperf.cli.interruption import stopped
from tests.bench.made_up import made_up_case
from tests.nvrtc import needs_nvrtc


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = kvperf(["bench", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@needs_nvrtc
def test_an_interrupted_run_keeps_what_it_has(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvperf.bench import attention

    whole, file = attention.bench, tmp_path / "r.json"

    def interrupted(rig, gpu, shape, *rest):  # type: ignore[no-untyped-def]
        if shape.seq == 33:
            raise KeyboardInterrupt
        return whole(rig, gpu, shape, *rest)

    monkeypatch.setattr(attention, "bench", interrupted)
    code, _, err = ran(capsys, "attention", "--emulate", "--seq", "5,33", "--kernel", "split_kv", "--record", str(file))
    assert code == 130
    assert f"kept 1 case in {file}\n" in err
    record = read(file)
    assert not record.complete and len(record.cases) == 1


def counted(*subjects: str) -> list[Case]:
    return [made_up_case(subject, ()) for subject in subjects]


@needs_nvrtc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_asks_to_stop_keeps_what_is_being_read(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    from kvperf.bench import attention

    file, before = tmp_path / "r.json", [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def asked(rig: Any, gpu: Any, shape: Any, entrants: Any, how: attention.Plan) -> Iterator[list[Case]]:
        yield counted("flash")
        assert not how.stopped()
        os.kill(os.getpid(), number)
        assert how.stopped()
        yield counted("split_kv", "persistent")  # what is being read is finished
        raise AssertionError("the next group is not")

    monkeypatch.setattr(attention, "bench", asked)
    code = kvperf(["bench", "attention", "--emulate", "--seq", "5,33", "--kernel", "flash", "--record", str(file)])
    err = capfd.readouterr().err
    assert code == 130
    assert err == f"\nstopping after the readings that run; once more stops at once\nkept 3 cases in {file}\n"
    assert not read(file).complete and len(read(file).cases) == 3
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert not stopped()


@needs_nvrtc
def test_who_asks_twice_stops_at_once(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvperf.bench import attention

    def asked(*_: Any) -> Iterator[list[Case]]:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it goes on")
        yield []

    monkeypatch.setattr(attention, "bench", asked)
    monkeypatch.chdir(tmp_path)
    assert kvperf(["bench", "attention", "--emulate", "--kernel", "flash"]) == 130
    assert capfd.readouterr().err.endswith("nothing was kept: no case was read\n")
    assert list(tmp_path.iterdir()) == []


@needs_nvrtc
def test_who_asks_before_the_first_case_leaves_no_file(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvperf.bench import attention

    def asked(*_: Any) -> Iterator[list[Case]]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.setattr(attention, "bench", asked)
    file = tmp_path / "r.json"
    assert kvperf(["bench", "attention", "--emulate", "--kernel", "flash", "--record", str(file)]) == 130
    assert "nothing was kept" in capfd.readouterr().err and not file.exists()


@needs_nvrtc
def test_a_bench_without_cases_says_that_nothing_was_kept(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvperf.bench import attention

    monkeypatch.setattr(attention, "bench", lambda *_: iter(()))
    monkeypatch.chdir(tmp_path)
    for format in ("table", "csv", "json"):
        code, _, err = ran(capsys, "attention", "--emulate", "--kernel", "flash", "--format", format)
        assert (code, err) == (0, "nothing was kept: there is no case\n")
    assert list(tmp_path.iterdir()) == []


@needs_nvrtc
def test_the_command_stands_in_the_record_as_a_shell_takes_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my run.json"
    given = ["bench", "attention", "--emulate", "--seq", "5", "--kernel", "flash", "--record", str(file)]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/kvperf", *given])
    assert kvperf(given) == 0
    assert shlex.split(read(file).command) == ["kvperf", *given]


@needs_nvrtc
def test_a_run_without_a_name_takes_one_of_its_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(3):  # within one second, or two
        assert ran(capsys, "attention", "--emulate", "--seq", "5", "--kernel", "flash")[0] == 0
    assert len(list(tmp_path.glob("kvperf-bench-*.json"))) == 3


@needs_nvrtc
def test_kernels_that_share_a_reason_are_left_out_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def zero(q, k, v, out):\n    out[...] = 0\n")
    names = [part for name in ("flash", "split_kv", "paged") for part in ("--kernel", name)]
    arguments = ["--dtype", "fp16", "--head-dim", "96", "--seq", "5,7", *names, "--kernel", f"{mine}:zero"]
    _, _, err = ran(capsys, "attention", "--emulate", *arguments, "--record", str(tmp_path / "r.json"))
    (line,) = [line for line in err.splitlines() if "left out" in line]
    assert line.startswith("left out: 3 kernels, each ") and line.endswith(": flash, split_kv, paged")
    assert len(read(tmp_path / "r.json").left_out) == 3


@needs_nvrtc
@pytest.mark.parametrize("text", ["", "notes\n", "{}"])
def test_a_file_that_is_no_record_survives(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text(text)
    code, _, err = ran(capsys, "attention", "--emulate", "--record", str(file))
    assert code == 2 and "is no record" in err and "hint: name another file" in err
    assert file.read_text() == text
