"""One run: where it happens, and a record that is rewritten whole after every group of cases."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import kvperf
from kvperf import files
from kvperf.bench.consistency import disagreements
from kvperf.bench.record import Case, Environment, Record, check_place, claim, write
from kvperf.bench.rig import Facts, Rig
from kvperf.errors import KvperfError
from kvperf.hardware import Architecture, Gpu, load_gpu
from kvperf.hardware.loading import load_architecture


class Run:
    """The record of a run as it grows. No file is touched before the first case is there.

    path   where the record stands; None: nothing is written. Only another record is overwritten
    fresh  the file must be a new one: where its name is taken, a number is added
    kept   cases that stand in the file
    """

    def __init__(
        self, rig: Rig, gpu: Gpu | None, command: str, seed: int, path: Path | None, *, fresh: bool = False
    ) -> None:
        self.path = path
        self.kept = 0
        self._fresh = fresh
        self.record = Record(
            schema_version="kvperf.bench/1",
            version=kvperf.__version__,
            command=command,
            seed=seed,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            emulated=rig.emulated,
            complete=False,
            environment=environment(rig.facts, gpu),
        )
        if path is not None:
            check_place(self.record, path.parent / "new" if fresh else path)

    def add(self, cases: Iterable[Case]) -> None:
        """Append cases and write the record. What contradicts itself is no measurement."""
        self._grow(cases=(*self.record.cases, *(_believed(case) for case in cases)))

    def leave_out(self, messages: Iterable[str]) -> tuple[str, ...]:
        """Say who does not take part, and why. Gives those messages that the record did not have."""
        new = tuple(dict.fromkeys(message for message in messages if message not in self.record.left_out))
        self._grow(left_out=(*self.record.left_out, *new))
        return new

    def finish(self) -> Record:
        """Mark the record as complete."""
        self._grow(complete=True)
        return self.record

    def _grow(self, **fields: Any) -> None:
        self.record = msgspec.structs.replace(self.record, **fields)
        if self.path is None or not self.record.cases:
            return
        if self.kept:
            write(self.record, self.path)
        else:
            self._write_first(self.path)
        self.kept = len(self.record.cases)

    def _write_first(self, path: Path) -> None:
        """The file may have come to be since the run began."""
        if not self._fresh:
            check_place(self.record, path)
            write(self.record, path)
            return
        self.path = claim(path)
        try:
            write(self.record, self.path)
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise


def _believed(case: Case) -> Case:
    """The case, refused where `read` would refuse the record for it."""
    problem = next(disagreements(case), None)
    return case if problem is None or case.refused else msgspec.structs.replace(case, refused=problem)


def environment(facts: Facts, gpu: Gpu | None) -> Environment:
    """The GPU, its driver, and the code that runs on it."""
    from kvperf.kernel import toolkit

    try:
        nvrtc = toolkit.nvrtc().library.name
    except KvperfError:
        nvrtc = None
    return Environment(
        gpu=facts.name,
        profile=gpu.name if gpu else None,
        capability=facts.capability,
        sms=facts.sms,
        l2_bytes=facts.l2_bytes,
        memory_bytes=facts.memory_bytes,
        sm_clock_max_hz=facts.sm_clock_max_hz,
        memory_clock_max_hz=facts.memory_clock_max_hz,
        memory_bus_bits=facts.memory_bus_bits,
        driver=facts.driver,
        cuda=facts.cuda,
        nvrtc=nvrtc,
        cupy=facts.cupy,
        python=platform.python_version(),
        platform=f"{sys.platform} {platform.machine()}",
        code_hash=code_hash(),
        ecc=facts.ecc,
        mig=facts.mig,
        power_cap_w=facts.power_cap_w,
    )


def code_hash() -> str:
    """Of every source and header of the kernels, with its name."""
    digest = hashlib.sha256()
    root = files.folder("kernels")
    for file in sorted(root.rglob("*.cu*")):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def profile_of(facts: Facts, name: str | None) -> Gpu | None:
    """The profile called `name`, or the one that goes by the driver's name for this GPU; None where there is none."""
    if name is not None:
        return load_gpu(name)
    try:
        return load_gpu(facts.name)
    except KvperfError:
        return None


def architecture_of(facts: Facts) -> Architecture:
    """Limits and rates of the GPU's compute capability. Raises KvperfError where nobody has described it."""
    file = files.folder("hardware") / "architectures" / f"sm_{facts.capability}.yaml"
    if not file.is_file():
        raise KvperfError(f"{facts.name} is sm_{facts.capability}, which no file describes", f"add {file.name}")
    return load_architecture(file)
