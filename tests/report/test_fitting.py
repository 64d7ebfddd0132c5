"""What the report says would make a step fit does, and less of it does not."""

from __future__ import annotations

import re

import pytest

import kvperf
from kvperf.cli import run

PLACES = [("a100-sxm-40gb", "llama-3.1-405b", {}), ("h100", "llama-3.1-70b", {"batch": 8})]


def printed(gpu: str, model: str, step: dict[str, int], capsys: pytest.CaptureFixture[str]) -> str:
    options = [part for name, value in step.items() for part in (f"--{name}", str(value))]
    assert run(["report", "--gpu", gpu, "--model", model, *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("gpu", "model", "step"), PLACES)
def test_the_fewest_gpus_that_fit(
    gpu: str, model: str, step: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(gpu, model, step, capsys)
    (said,) = re.findall(r"(\d+) GPUs with tensor parallelism", text)
    given = {"batch": 4, "seq": 4096, **step}
    assert kvperf.analyze(gpu, model, tp=int(said), **given).memory.fits
    assert not kvperf.analyze(gpu, model, tp=int(said) // 2, **given).memory.fits


def test_nothing_is_said_where_it_fits(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("h100", "llama-3.1-8b", {}, capsys)
    assert "What makes it fit" not in text and "does not fit into memory" not in text


def test_a_unit_without_bf16_is_named_once_and_has_no_tiles(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed("t4", "llama-3.1-8b", {}, capsys)
    assert text.count("bf16 is not native to the matrix units of this GPU") == 1
    assert "takes unknown" not in text
    assert "empty rows" not in text
