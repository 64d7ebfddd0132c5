"""`kvperf analyze` starts without what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"numpy", "matplotlib", "cupy", "scipy", "pandas", "huggingface_hub", "pydantic", "difflib"}


def imported(*arguments: str) -> set[str]:
    command = [sys.executable, "-X", "importtime", "-m", "kvperf", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in lines}


@pytest.mark.parametrize("format", ["table", "json", "csv", "md"])
def test_analyze_imports_nothing_heavy(format: str) -> None:
    found = imported("analyze", "--gpu", "h100", "--seq", "4096", "--format", format)
    assert {"kvperf", "msgspec", "yaml", "typer"} <= found  # the reader sees imports at all
    assert not found & (HEAVY - {"difflib"})
    assert "rich" not in found  # only a terminal needs it


def test_importing_the_package_costs_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, kvperf; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "kvperf" in done.stdout.split()
    assert not {"yaml", "msgspec", "typer", "numpy"} & set(done.stdout.split())
