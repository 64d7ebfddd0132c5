"""A kernel with a fault must not pass: each fault is put in, and the case that should notice it is run."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kvperf.emulator import Fault
from kvperf.files import folder
from kvperf.kernel.catalogue import kernel
from kvperf.kernel.trial import execute
from kvperf.kernel.verify import LIMIT, agrees
from tests.kernel.faults import FAULTS, USUAL, Injected
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
FULL = bool(os.environ.get("KVPERF_TEST_FULL"))
SCHEDULES = ("greedy", "reverse", "random", "forward")


def _put_in(fault: Injected, place: Path) -> Path:
    """A copy of the kernels with the fault in it; the path of the kernel that the case runs."""
    shutil.copytree(folder("kernels"), place, dirs_exist_ok=True)
    file = place / fault.file
    parts = file.read_text().split(fault.old)
    assert len(parts) > fault.occurrence + 1, f"{fault.file} has no '{fault.old}' number {fault.occurrence}"
    before, after = parts[: fault.occurrence + 1], parts[fault.occurrence + 1 :]
    file.write_text(fault.old.join(before) + fault.new + fault.old.join(after))
    return place / kernel(fault.case.kernel).source.name


def _noticed(fault: Injected, place: Path) -> bool:
    source = _put_in(fault, place)
    for schedule in SCHEDULES:
        try:
            result = execute(replace(fault.case, schedule=schedule), source)
        except Fault:
            return True
        if not (result.error <= LIMIT) or not agrees(result):
            return True
    return False


@pytest.mark.parametrize(
    "fault",
    [f for f in FAULTS if FULL or f.what in USUAL],
    ids=lambda f: f"{f.file}: {f.what}",
)
def test_a_fault_is_noticed(fault: Injected, tmp_path: Path) -> None:
    assert _noticed(fault, tmp_path) or fault.ordering


def test_there_are_enough_faults() -> None:
    assert len([f for f in FAULTS if not f.ordering]) >= 15
    assert len({f.case.kernel for f in FAULTS}) >= 12
