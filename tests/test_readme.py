"""The README's examples are what the program prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pytest

import kvperf
from kvperf.cli import run

ROOT = Path(kvperf.__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CONSOLE = [body for language, body in BLOCKS if language == "console"]
SHELL = [line for language, body in BLOCKS if language == "sh" for line in body.splitlines()]


def printed(command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert run(shlex.split(command)[1:]) in (0, 1)
    return out.getvalue()


@pytest.mark.parametrize("block", CONSOLE, ids=lambda block: block.splitlines()[0])
def test_a_console_block_shows_what_the_command_prints(block: str) -> None:
    command, _, shown = block.partition("\n")
    assert command.startswith("$ kvperf ")
    assert shown == printed(command.removeprefix("$ "))


@pytest.mark.parametrize("command", [line for line in SHELL if line.startswith("kvperf") and "mine" not in line])
def test_a_command_of_the_readme_runs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command, comments=True)
    if words[1] in ("validate", "calibrate"):
        pytest.importorskip("aiconfigurator_core")
    assert run(words[1:]) == 0, capsys.readouterr().err


def test_a_model_and_a_profile_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ROOT / "tests" / "data" / "configs" / "llama-3.1-8b.json"
    monkeypatch.chdir(tmp_path)
    own = [line for line in SHELL if "mine" in line]
    assert own[0] == "cp hardware/l40s.yaml mine-gpu.yaml"
    shutil.copy(ROOT / "hardware" / "l40s.yaml", "mine-gpu.yaml")
    assert len(own) == 4
    for command in own[1:]:
        assert run(shlex.split(command.replace("path/to/config.json", str(config)))[1:]) == 0, capsys.readouterr().err


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = (body for language, body in BLOCKS if language == "python")
    exec(example, {})
    assert capsys.readouterr().out.startswith("7.045 ms, bound by hbm\n")


def test_the_bounds_it_names_are_those_of_the_program() -> None:
    named = re.search(r"<!--bounds-->(.*?)<!--/bounds-->", README)
    assert named is not None
    bounds = [kvperf.analyze(gpu="h100", batch=batch, seq=4096).step.bound_s for batch in (1, 16, 64)]
    assert named.group(1) == ", ".join(f"{bound * 1e3:.3f}" for bound in bounds)


def test_the_counts_it_names_are_those_of_the_folders() -> None:
    from kvperf.hardware import gpu_names
    from kvperf.model import model_names

    assert f"{len(gpu_names())} GPU profiles and {len(model_names())} models" in README


def test_the_ci_script_runs_the_readmes_test_command() -> None:
    (command,) = (line for line in SHELL if line.startswith("python3") and "pytest" in line)
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for step in command.replace(".venv/", "$venv/").replace("-m venv .venv", '-m venv "$venv"').split(" && "):
        assert step.split()[-1].strip('"') in script
