"""`kvperf models`: what it prints in each format, and how it ends."""

from __future__ import annotations

import csv
import io
import json
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
    assert printed(capsys, "import", str(FOLDER / "glm-5.2.json"), "--output", str(output)) == ""
    assert shape(load_yaml(output)) == shape(load_model("glm-5.2"))
    assert printed(capsys, "import", str(FOLDER / "glm-5.2.json")) == output.read_text()


def test_mistakes_end_in_two_lines_and_exit_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (["show", "llama-9"], ["import", str(tmp_path)], ["import", "x.yaml"], ["show"]):
        assert run(["models", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        error, hint = captured.err.splitlines()
        assert error.startswith("error: ") and hint.startswith("hint: ")
