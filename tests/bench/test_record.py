"""A record comes back as it was written, whole or not at all; what is none is refused in two lines."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from kvperf.bench.record import Record, read, write
from kvperf.errors import KvperfError
from tests.bench.made_up import made_up, made_up_case, made_up_record


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    record = made_up_record(made_up_case(), made_up_case("flash", regime="warm", seconds=made_up(2), predicted_s=3e-5))
    write(record, tmp_path / "run.json")
    assert read(tmp_path / "run.json") == record
    assert json.loads((tmp_path / "run.json").read_text())["schema"] == "kvperf.bench/1"
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_half_written_record_is_never_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    first = made_up_record(made_up_case())
    second = made_up_record(made_up_case(), made_up_case("flash"))
    write(first, path)
    move = os.replace

    def looks(source: str, target: Path) -> None:
        assert read(path) == first  # until the last moment
        assert read(Path(source)) == second  # and the next one is whole before it takes the place
        move(source, target)

    monkeypatch.setattr(os, "replace", looks)
    write(second, path)
    assert read(path) == second


def test_an_interrupted_write_leaves_the_record_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first = tmp_path / "run.json", made_up_record(made_up_case())
    write(first, path)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(made_up_record(), path)
    assert read(path) == first


def test_an_emulated_record_does_not_stand_among_measured_ones(tmp_path: Path) -> None:
    folder = tmp_path / "reports" / "h200"
    folder.mkdir(parents=True)
    emulated = made_up_record(made_up_case(seconds=()), emulated=True)
    with pytest.raises(KvperfError, match="an emulated record is no measurement"):
        write(emulated, folder / "run.json")
    assert list(folder.iterdir()) == []
    write(emulated, tmp_path / "run.json")
    assert read(tmp_path / "run.json").emulated
    (tmp_path / "run.json").rename(folder / "run.json")
    with pytest.raises(KvperfError, match="an emulated record is no measurement"):
        read(folder / "run.json")
    write(replace(emulated, emulated=False), folder / "run.json")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KvperfError) as problem:
        write(made_up_record(), tmp_path / "nowhere" / "run.json")
    assert problem.value.message.startswith("cannot write") and "folder that exists" in problem.value.hint


TEXTS = {
    "nothing": "",
    "truncated": '{"schema": "kvperf.bench/1", "version": "0.',
    "another record": '{"schema": "kvperf.analysis/1"}',
    "another file": "name: h100\n",
    "a list": "[]",
    "no text": "\udcff",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(KvperfError, match=r"is no record of kvperf bench") as problem:
        read(path)
    assert problem.value.hint == "its schema is kvperf.bench/1"


def test_a_truncated_record_is_refused_at_every_length(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write(made_up_record(made_up_case(seconds=made_up(1, count=6))), path)
    whole = path.read_bytes().rstrip()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(KvperfError, match="is no record"):
            read(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(KvperfError) as problem:
            read(path)
        assert problem.value.hint == "give a record that kvperf bench wrote"


def test_a_device_is_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    record = made_up_record()
    write(record, pipe)
    assert msgspec.json.decode(os.read(reader, 1 << 20), type=Record) == record
    os.close(reader)
    assert pipe.is_fifo()


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write(made_up_record(), tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert read(tmp_path / "real.json") == made_up_record()
