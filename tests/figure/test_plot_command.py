"""`kvperf plot`: files, formats, mistakes; the same input gives the same bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvperf.bench.record import write
from kvperf.cli import run
from tests.figure.test_other_figures import ladder_record

STARTS = {"png": b"\x89PNG\r\n", "svg": b"<?xml", "pdf": b"%PDF-"}


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["plot", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_without_anything_it_writes_the_default_roofline_here_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ran(capsys) == (0, "roofline.png\n", "")
    first = Path("roofline.png").read_bytes()
    assert first.startswith(STARTS["png"])
    assert ran(capsys) == (
        2,
        "",
        "error: roofline.png exists\nhint: --force overwrites it, --output FILE writes another\n",
    )
    Path("roofline.png").write_bytes(b"old")
    assert ran(capsys, "--force")[0] == 0
    assert Path("roofline.png").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["roofline.png"]


@pytest.mark.parametrize(
    "arguments",
    [("--gpu", "h1000"), ("--batch", "0"), ("--record", "none.json"), ("ladder", "--record", "none.json")],
)
def test_a_wrong_argument_is_told_before_a_file_that_exists(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(b"old")
    code, _, err = ran(capsys, *arguments, "--output", "a.png")
    assert code == 2 and "exists" not in err
    assert ran(capsys, "--tp", "2", "--output", "a.png")[2].startswith("error: a.png exists\n")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "foo"])
def test_a_backend_of_the_environment_stops_nothing(backend: str, tmp_path: Path) -> None:
    target = tmp_path / "a.svg"
    subprocess.run(
        [sys.executable, "-m", "kvperf", "plot", "--output", str(target)],
        check=True,
        capture_output=True,
        env={"HOME": str(tmp_path), "MPLBACKEND": backend},
    )
    assert target.read_bytes().startswith(STARTS["svg"])


@pytest.mark.parametrize("format", list(STARTS))
def test_the_same_input_gives_the_same_bytes(format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In this process, and in another with other hashes and another time."""
    here, there = tmp_path / f"here.{format}", tmp_path / f"there.{format.upper()}"
    assert ran(capsys, "--batch", "64", "--output", str(here))[0] == 0
    command = [sys.executable, "-m", "kvperf", "plot", "--batch", "64", "--output", str(there)]
    subprocess.run(
        command,
        check=True,
        capture_output=True,
        env={"PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1", "HOME": str(tmp_path)},
    )
    assert here.read_bytes() == there.read_bytes()
    assert here.read_bytes().startswith(STARTS[format])


def test_text_of_an_svg_can_be_selected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "a.svg"
    assert ran(capsys, "--theme", "dark", "--output", str(target)) == (0, f"{target}\n", "")
    assert ">HBM3  3.35 TB/s (spec)</text>" in target.read_text(encoding="utf-8")


def test_the_users_own_settings_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib

    ran(capsys, "--output", str(tmp_path / "a.svg"))
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "savefig.bbox": "tight", "font.family": "serif"}):
        ran(capsys, "--output", str(tmp_path / "b.svg"))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("sweep", "--over", "seq", "--show", "bytes", "--model", "gpt2"),
        ("memory", "--over", "batch", "--theme", "dark"),
        ("gap", "--phase", "prefill"),
        ("--heads", "32", "--batch", "4"),
        ("--levels", "--contexts", "100,2000"),
        ("ladder", "--record", "RECORD"),
        ("gap", "--record", "RECORD", "--case", "flash cold batch=8"),
    ],
)
def test_every_figure(arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(ladder_record(), tmp_path / "run.json")
    given = [str(tmp_path / "run.json") if a == "RECORD" else a for a in arguments]
    target = tmp_path / "figure.svg"
    assert ran(capsys, *given, "--output", str(target)) == (0, f"{target}\n", "")
    assert target.read_bytes().startswith(STARTS["svg"])


@pytest.mark.parametrize(("figure", "theme"), [("memory", "light"), ("memory", "dark"), ("gap", "light")])
def test_an_svg_is_small(figure: str, theme: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Small enough to lie inside a page: a hatch of dots alone would be a quarter of a megabyte."""
    target = tmp_path / "figure.svg"
    assert ran(capsys, figure, "--theme", theme, "--tp", "2", "--output", str(target))[0] == 0
    assert target.stat().st_size < 120_000


def test_a_warning_stands_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ran(capsys, "--model", "gpt2", "--output", str(tmp_path / "a.svg"))
    assert (code, err) == (0, "warning: context 4096 is beyond gpt2's maximum of 1024 tokens\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "a.gif"), "a.gif: '.gif' says no format of a figure"),
        (("--output", "figure"), "figure: no extension says no format of a figure"),
        (("--output", "nowhere/a.png"), "cannot write nowhere/a.png: No such file or directory"),
        (("--record", "other.json"), "other.json is no record of kvperf bench"),
        (("--record", "none.json"), "none.json: No such file or directory"),
        (("--record", "run.json"), "the record measured no stage of llama-3.1-8b"),
        (("ladder",), "ladder draws measurements"),
        (("accuracy", "--record", "run.json"), "no case of the record has a predicted time"),
        (("memory", "--show", "time"), "--show means nothing for memory"),
        (("sweep", "--levels"), "--levels means nothing for sweep"),
        (("gap", "--case", "flash"), "--case without --record"),
        (("sweep", "--batch", "4"), "--batch 4 beside --over batch"),
        (("ladder", "--record", "run.json", "--batch", "3"), "--batch means nothing for ladder of a record"),
        (("accuracy", "--record", "run.json", "--gpu", "h100"), "--gpu means nothing for accuracy of a record"),
        (("gap", "--record", "run.json", "--kv-dtype", "fp8"), "--kv-dtype means nothing for gap of a record"),
        (("pie",), "invalid value for '"),
        (("--gpu", "h1000"), "unknown GPU 'h1000'"),
    ],
)
def test_a_mistake_is_one_error_and_leaves_no_file(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write(ladder_record(), tmp_path / "run.json")
    (tmp_path / "other.json").write_text('{"schema": "kvperf.analysis/1"}')
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {message}"), err
    assert err.count("\n") == 2 and "\nhint: " in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "run.json"]


def test_matplotlib_is_loaded_by_drawing_alone() -> None:
    script = (
        "import sys, kvperf.cli.plot, kvperf.render.figure.sheet, kvperf.render.figure.roofline; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert not {"matplotlib", "numpy"} & set(done.stdout.split())
