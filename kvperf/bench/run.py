"""One run: where it happens, and a record that is rewritten whole after every case."""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

import kvperf
from kvperf import files
from kvperf.bench.record import Case, Environment, Record, write
from kvperf.bench.rig import Facts, Rig
from kvperf.errors import KvperfError
from kvperf.hardware import Architecture, Gpu, load_gpu
from kvperf.hardware.loading import load_architecture


class Run:
    """The record of a run as it grows. `path` None: nothing is written."""

    def __init__(self, rig: Rig, gpu: Gpu | None, command: str, seed: int, path: Path | None) -> None:
        self.path = path
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
        self._save()

    def add(self, cases: Iterable[Case]) -> None:
        """Append cases and write the record."""
        self.record = msgspec.structs.replace(self.record, cases=(*self.record.cases, *cases))
        self._save()

    def finish(self) -> Record:
        """Mark the record as complete."""
        self.record = msgspec.structs.replace(self.record, complete=True)
        self._save()
        return self.record

    def _save(self) -> None:
        if self.path is not None:
            write(self.record, self.path)


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
    if name:
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
