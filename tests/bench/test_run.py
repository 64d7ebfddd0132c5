"""A run touches no file before its first case, overwrites nothing but records, and takes a new name whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvperf.bench import run as runs
from kvperf.bench.record import read, write
from kvperf.bench.run import Run, profile_of
from kvperf.bench.standin import Standin
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from tests.bench.made_up import made_up, made_up_case, made_up_record

COUNTED = made_up_case(seconds=())


def started(path: Path | None, fresh: bool = False) -> Run:
    gpu = load_gpu("h100")
    return Run(Standin(gpu, small=True), gpu, "kvperf bench", 0, path, fresh=fresh)


def test_the_first_case_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    run = started(path)
    run.leave_out(["mla does not take head_dim 64"])
    assert not path.exists() and run.kept == 0
    run.add([COUNTED])
    found = read(path)
    assert (found.cases, found.left_out, found.complete) == ((COUNTED,), ("mla does not take head_dim 64",), False)
    assert run.kept == 1
    assert run.finish() == read(path) and read(path).complete


def test_without_a_case_there_is_no_file(tmp_path: Path) -> None:
    for fresh in (False, True):
        run = started(tmp_path / "run.json", fresh)
        run.leave_out(["flash does not"])
        assert run.finish().complete and run.kept == 0
    assert list(tmp_path.iterdir()) == []


def test_who_is_left_out_is_said_once(tmp_path: Path) -> None:
    run = started(tmp_path / "run.json")
    assert run.leave_out(["a", "b", "a"]) == ("a", "b")
    assert run.leave_out(["b", "c"]) == ("c",)
    assert run.record.left_out == ("a", "b", "c")


@pytest.mark.parametrize("text", ["", "name: h100\n", '{"schema": "kvperf.analysis/1"}', "[1]"])
def test_what_is_no_record_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(KvperfError) as problem:
        started(path)
    assert (problem.value.message, problem.value.hint) == (
        f"{path} is there, and is no record of kvperf bench",
        "name another file",
    )
    assert path.read_text() == text


def test_nor_is_what_came_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    run = started(path)
    path.write_text("notes")
    with pytest.raises(KvperfError, match="is no record"):
        run.add([COUNTED])
    assert path.read_text() == "notes" and run.kept == 0


def test_a_record_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write(made_up_record(made_up_case("flash")), path)
    run = started(path)
    assert read(path).cases[0].subject == "flash"
    run.add([COUNTED])
    assert [case.subject for case in read(path).cases] == ["split_kv"]


def test_where_nothing_can_be_written_is_said_at_once(tmp_path: Path) -> None:
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "none" / "run.json", "No such file")):
        with pytest.raises(KvperfError, match=f"cannot write .*: {said}"):
            started(path)
    (tmp_path / "reports").mkdir()
    for fresh in (False, True):
        with pytest.raises(KvperfError, match="an emulated record is no measurement"):
            started(tmp_path / "reports" / "run.json", fresh)


def test_a_new_name_is_nobody_else_s(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("notes")
    first, second = started(path, fresh=True), started(path, fresh=True)
    first.add([COUNTED])
    second.add([COUNTED])
    first.finish()
    assert (first.path, second.path) == (tmp_path / "run-2.json", tmp_path / "run-3.json")
    assert path.read_text() == "notes"
    assert [read(tmp_path / name).complete for name in ("run-2.json", "run-3.json")] == [True, False]


def test_a_new_name_is_given_back_where_nothing_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "write", interrupted)
    run = started(tmp_path / "run.json", fresh=True)
    with pytest.raises(KeyboardInterrupt):
        run.add([COUNTED])
    assert list(tmp_path.iterdir()) == [] and run.kept == 0


def test_a_record_is_as_private_as_its_owner_wants(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        started(tmp_path / "run.json", fresh=True).add([COUNTED])
    finally:
        os.umask(before)
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_read_again_is_refused(tmp_path: Path) -> None:
    write(made_up_record(), tmp_path / "run.json")
    run = started(None)
    run.add([made_up_case(seconds=made_up(1), bound_s=40e-6, gap={})])
    assert "is below its bound" in (run.record.cases[0].refused or "")


def test_an_empty_name_is_no_gpu() -> None:
    with pytest.raises(KvperfError, match="unknown GPU ''"):
        profile_of(Standin(load_gpu("h100"), small=True).facts, "")
