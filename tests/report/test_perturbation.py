"""One input changed at a time changes exactly the figures that depend on it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from kvperf.kernel import compile as compiler
from kvperf.report.document import Document
from tests.nvrtc import needs_nvrtc
from tests.report.dependence import (
    BANDWIDTH,
    KV_HEADS,
    L2_CAPACITY,
    NOT_BANDWIDTH,
    NOT_KV_HEADS,
    NOT_L2_CAPACITY,
    NOT_SMS,
    SMS,
    UNDECIDED,
    VERDICTS,
)
from tests.report.subjects import H100, LLAMA, changed, document, skeleton


def _half_the_sms() -> list[tuple[str, str]]:
    """Edits of the profile: half of the SMs, and of each dense peak, which is what they do together."""
    peaks = H100.read_text(encoding="utf-8").partition("\npeaks:")[2].partition("\nmemory:")[0]
    stated = re.findall(r"dtype: (\w+), accumulator: (\w+), path: ([\w.]+), value: ([\d.]+)", peaks)
    assert len(stated) == peaks.count("dtype:") == 12
    edits = [(r"^sms: \{value: 132", "sms: {value: 66")]
    for dtype, accumulator, path, value in stated:
        found = rf"(dtype: {dtype}, accumulator: {accumulator}, path: {re.escape(path)}, value:) {value}"
        edits.append((found, rf"\g<1> {float(value) / 2}"))
    return edits


CASES = {
    "HBM bandwidth": ("gpu", H100, [(r"3\.35 TB/s", "3.36 TB/s")], BANDWIDTH, NOT_BANDWIDTH),
    "SM count": ("gpu", H100, _half_the_sms(), SMS, NOT_SMS),
    "L2 capacity": (
        "gpu",
        H100,
        [(r"capacity: \{value: 50 MiB", "capacity: {value: 12 MiB")],
        L2_CAPACITY,
        NOT_L2_CAPACITY,
    ),
    "KV heads": (
        "model",
        LLAMA,
        [("kv_heads: 8", "kv_heads: 4"), (r"^published:\n(  .*\n)+", "")],
        KV_HEADS,
        NOT_KV_HEADS,
    ),
}


@pytest.fixture(scope="module")
def as_shipped() -> Iterator[Document]:
    with pytest.MonkeyPatch.context() as patch:
        _without_machine_code(patch)
        yield document()


@needs_nvrtc
@pytest.mark.parametrize("case", CASES)
def test_exactly_the_figures_that_depend_on_it_change(
    case: str, as_shipped: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_machine_code(monkeypatch)
    option, source, edits, patterns, spared = CASES[case]
    found = document(**{option: _beside(source, tmp_path, edits)})
    before, after = as_shipped.figures, found.figures
    assert set(after) == set(before)
    decided = [name for name in before if not _any(name, (*VERDICTS, *UNDECIDED.get(case, ())))]
    different = {name for name in decided if not _same(before[name], after[name])}
    expected = {name for name in decided if _any(name, patterns) and not _any(name, spared)}
    assert different == expected
    unused = [pattern for pattern in (*patterns, *spared) if not any(fnmatchcase(name, pattern) for name in before)]
    assert unused == []


@needs_nvrtc
@pytest.mark.parametrize("case", CASES)
def test_nothing_but_named_figures_changes(
    case: str, as_shipped: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_machine_code(monkeypatch)
    option, source, edits, *_ = CASES[case]
    found = document(**{option: _beside(source, tmp_path, edits)})
    assert skeleton(found) == skeleton(as_shipped)


def _beside(source: Path, tmp_path: Path, edits: list[tuple[str, str]]) -> Path:
    """A changed copy where its architecture is found too."""
    target = tmp_path / source.name
    if source == H100:
        (tmp_path / "architectures").symlink_to(source.parent / "architectures")
    return changed(source, target, *edits)


def _without_machine_code(patch: pytest.MonkeyPatch) -> None:
    """Issue slots need a disassembler, which not every machine has."""
    patch.setattr(compiler, "disassemble", lambda cubin: None)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _same(before: Any, after: Any) -> bool:
    """Equal, but for the last bits of a quotient."""
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=1e-12)
    return before == after
