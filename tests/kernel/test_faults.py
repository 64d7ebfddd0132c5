"""A kernel with a fault must not pass: each fault is put in, and must show as it is said to, where it is said to."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kvperf.emulator import SCHEDULES, Fault
from kvperf.files import folder
from kvperf.kernel.catalogue import kernel
from kvperf.kernel.trial import execute
from kvperf.kernel.verify import LIMIT, agrees
from tests.kernel.faults import FAULTS, RISING, UNSEEN, USUAL, Injected
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
FULL = bool(os.environ.get("KVPERF_TEST_FULL"))
ORDER = ("greedy", "halves", "reverse", "random", "forward")


def _put_in(fault: Injected, place: Path) -> Path:
    """A copy of the kernels with the fault in it; the path of the kernel that the case runs."""
    shutil.copytree(folder("kernels"), place, dirs_exist_ok=True)
    file = place / fault.file
    parts = file.read_text().split(fault.old)
    assert len(parts) > fault.occurrence + 1, f"{fault.file} has no '{fault.old}' number {fault.occurrence}"
    before, after = parts[: fault.occurrence + 1], parts[fault.occurrence + 1 :]
    file.write_text(fault.old.join(before) + fault.new + fault.old.join(after))
    return place / kernel(fault.case.kernel).source.name


def _shown(fault: Injected, source: Path, schedule: str) -> set[str]:
    """What one run shows. A gap of the interpreter shows nothing of the kernel, and is raised."""
    try:
        result = execute(replace(fault.case, schedule=schedule), source)
    except Fault as found:
        if found.kind == "unknown":
            raise
        return {found.kind}
    wrong = {"result": not (result.error <= LIMIT), "counts": not agrees(result)}
    return {what for what, here in wrong.items() if here}


@pytest.mark.parametrize(
    "fault",
    [f for f in FAULTS if FULL or f.what in USUAL],
    ids=lambda f: f"{f.file}: {f.what} ({f.case.kernel})",
)
def test_a_fault_shows_as_expected(fault: Injected, tmp_path: Path) -> None:
    source = _put_in(fault, tmp_path)
    seen: set[str] = set()
    for schedule in ORDER:
        seen |= _shown(fault, source, schedule)
        if fault.shows in seen:
            return
    assert fault.shows == UNSEEN, f"expected {fault.shows}, found {seen or 'nothing'}"
    assert not seen, f"it is seen now: let `shows` say so: {seen}"


def test_what_the_interpreter_does_not_know_is_no_fault_of_the_kernel(tmp_path: Path) -> None:
    what = "an instruction that the interpreter does not know"
    unknown = Injected(what, "flash.cuh", "softmax.o *= rescale;", 'asm volatile("brkpt;");', RISING, "unknown")
    source = _put_in(unknown, tmp_path)
    with pytest.raises(Fault, match="does not know `brkpt`"):
        _shown(unknown, source, "forward")


def test_there_are_enough_faults() -> None:
    assert set(ORDER) == set(SCHEDULES)
    assert set(USUAL) <= {f.what for f in FAULTS}
    assert len([f for f in FAULTS if f.shows != UNSEEN]) >= 15
    assert len({f.case.kernel for f in FAULTS}) >= 12
