"""The commands and the Python of docs/figures.md run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import kvperf
from kvperf.cli import run

DOCUMENT = (Path(kvperf.__file__).parent.parent / "docs" / "figures.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def test_every_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [line for language, body in BLOCKS if language == "sh" for line in body.splitlines()]
    for command in commands:
        assert run(shlex.split(command)[1:]) == 0, command
    assert len(list(tmp_path.iterdir())) == len(commands) == 6


def test_the_python_runs() -> None:
    (script,) = (body for language, body in BLOCKS if language == "python")
    names: dict[str, object] = {}
    exec(script, names)
    assert str(names["content"]).startswith("b'<?xml")


def test_the_table_names_every_figure() -> None:
    from kvperf.cli.plot import TAKEN_BY

    rows = re.findall(r"^\| `(\w+)`", DOCUMENT, re.MULTILINE)
    assert {figure for figures in TAKEN_BY.values() for figure in figures} == set(rows)
