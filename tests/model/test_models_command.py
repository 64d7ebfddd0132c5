"""`kvperf models`: what it prints in each format, and how it ends."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from kvperf.cli import run
from kvperf.model import load_model, model_names
from kvperf.model.library import load_yaml
from tests.model.configs import FOLDER, shape


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["models", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_the_list_fits_80_columns_and_names_every_model(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert [line.split()[0] for line in lines[3:]] == model_names()
    assert "KV grows" in lines[0] and "KiB/tok" in lines[1]
    gemma = next(line for line in lines if line.startswith("gemma-3-4b "))
    assert gemma.split()[5] == "20.0", "windows are full in a long context"
    llama = next(line for line in lines if line.startswith("llama-3.1-8b "))
    assert llama.split() == ["llama-3.1-8b", "gqa", "8.03", "8.03", "32", "128", "128K"]


def test_the_list_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(printed(capsys, "--format", "json"))
    assert record["schema"] == "kvperf.models/1"
    assert [model["name"] for model in record["models"]] == model_names()
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "--format", "csv"))))
    mixtral = next(row for row in rows if row["name"] == "mixtral-8x7b")
    assert (mixtral["parameters"], mixtral["layers"]) == ("46702792704", "32")
    assert printed(capsys, "--format", "md").startswith("| model |")


@pytest.mark.parametrize("name", model_names())
def test_every_model_can_be_shown(capsys: pytest.CaptureFixture[str], name: str) -> None:
    text = printed(capsys, "show", name)
    tables = [line for line in text.splitlines() if "  " in line and "_config.json" not in line]
    assert max(len(line) for line in tables) <= 80
    assert "active, streamed a token" in text and "source: " in text


def test_show_says_whether_the_count_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "published: 8,030,261,248 parameters, the same" in printed(capsys, "show", "llama-3.1-8b")
    assert "published: no exact count, advertised as 314 B" in printed(capsys, "show", "grok-1")
    assert "| total | 8,030,261,248 | 100.0 |" in printed(capsys, "show", "llama-3.1-8b", "--format", "md")


def test_show_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(printed(capsys, "show", "deepseek-v3", "--format", "json"))
    assert record["schema"] == "kvperf.model_summary/1"
    assert record["agrees"] is True and record["active_streamed_parameters"] < record["active_parameters"]
    total = 0
    for value in record["modules"].values():
        total += value
    assert total == record["parameters"] == 671_026_419_200
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "show", "deepseek-v3", "--format", "csv"))))
    assert {"module": "total", "parameters": "671026419200"} in rows
    unknown = json.loads(printed(capsys, "show", "grok-1", "--format", "json"))
    assert unknown["published_parameters"] is None and unknown["agrees"] is None


def test_an_imported_config_reads_back_as_the_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "model.yaml"
    config = str(FOLDER / "glm-5.2.json")
    assert run(["models", "import", config, "--output", str(output)]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"wrote {output}: 743 B parameters, 90.46 KiB KV a token\n"
    assert shape(load_yaml(output)) == shape(load_model("glm-5.2"))
    assert load_yaml(output).name == "model", "named after the file it is written to"
    told = printed(capsys, "import", config)
    assert told == output.read_text().replace("name: model\n", "name: glm-5.2\n")
    assert printed(capsys, "import", config, "--output", "-") == told


def test_an_import_does_not_overwrite(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("precious")
    arguments = ["models", "import", str(FOLDER / "qwen3-8b.json"), "--output", str(output)]
    assert run(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: {output} exists already",
        "hint: name another file, or overwrite it with --force",
    ]
    assert output.read_text() == "precious"
    assert run([*arguments, "--force"]) == 0
    assert load_yaml(output).name == "mine"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("list", "`kvperf models` lists the models"),
        ("llama-3.1-8b", "`kvperf models show llama-3.1-8b` shows that model"),
        ("Llama-3.1-8B", "`kvperf models show Llama-3.1-8B` shows that model"),
        ("meta-llama/Llama-3.1-8B", "`kvperf models show meta-llama/Llama-3.1-8B` shows that model"),
        ("shwo", "did you mean `kvperf models show`?"),
        ("llama-3.1-8", "did you mean `kvperf models show llama-3.1-8b`?"),
        ("zzz", "`kvperf models --help` lists what it takes"),
    ],
)
def test_a_word_that_is_no_command_is_sent_to_one(capsys: pytest.CaptureFixture[str], word: str, hint: str) -> None:
    assert run(["models", word]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"error: '{word}' is no command of `kvperf models`",
        f"hint: {hint}",
    ]
    for command in re.findall("`kvperf (.*?)`", hint):
        assert run(shlex.split(command)) == 0 or command == "models show"


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v4-flash"])
def test_a_source_is_never_broken_on_a_terminal(name: str) -> None:
    """A terminal of 80 columns may fold the line; the text that is copied from it must be whole."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    # No COLUMNS: the program asks the terminal.
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "kvperf", "models", "show", name]
    with subprocess.Popen(command, stdout=side, stderr=side, env=environment):
        os.close(side)
        told = b""
        while True:
            try:
                piece = os.read(main, 1 << 16)
            except OSError:  # Linux: the other side has gone
                break
            if not piece:
                break
            told += piece
    os.close(main)
    text = told.decode()
    assert "\x1b[" in text or "─" in text, "it did not take this for a terminal"
    words = [word for source in load_model(name).source for word in source.split()]
    assert any(len(word) > 80 for word in words)
    for word in words:
        assert word in text


def test_mistakes_end_in_two_lines_and_exit_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["show", "llama-9"], ["import", str(tmp_path)], ["import", "x.yaml"], ["show"]):
        assert run(["models", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        error, hint = captured.err.splitlines()
        assert error.startswith("error: ") and hint.startswith("hint: ")
