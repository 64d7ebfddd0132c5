"""The record of a run, `kvperf.bench/1`: every sample, what it was taken of, and where.

A reading is in seconds of device time. `emulated` records hold counts and errors of the interpreter and no reading.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from pathlib import Path
from typing import Literal

import msgspec

from kvperf.errors import KvperfError

SCHEMA = "kvperf.bench/1"
Regime = Literal["cold", "warm", "stream"]


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how. Unknown is null.

    gpu        as the driver calls it;  profile: the GPU profile that datasheet figures come from
    code_hash  of all of kernels/;  power_cap_w, ecc, mig: as NVML says
    """

    gpu: str
    profile: str | None
    capability: str
    sms: int
    l2_bytes: int | None
    memory_bytes: int | None
    sm_clock_max_hz: float | None = None
    memory_clock_max_hz: float | None = None
    memory_bus_bits: int | None = None
    driver: str | None = None
    cuda: str | None = None
    nvrtc: str | None = None
    cupy: str | None = None
    python: str | None = None
    platform: str | None = None
    code_hash: str | None = None
    ecc: bool | None = None
    mig: bool | None = None
    power_cap_w: float | None = None


class Samples(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of each column for each sample; a column is empty where nothing could be read."""

    seconds: tuple[float, ...] = ()
    sm_clock_hz: tuple[float | None, ...] = ()
    memory_clock_hz: tuple[float | None, ...] = ()
    power_w: tuple[float | None, ...] = ()
    temperature_c: tuple[float | None, ...] = ()
    throttled: tuple[str | None, ...] = ()


class Statistics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the seconds. low_s and high_s bracket the median with 95 % confidence.

    stopped  confident: the interval is narrower than asked for; budget: time ran out first
    """

    count: int
    median_s: float
    low_s: float
    high_s: float
    minimum_s: float
    lower_quartile_s: float
    upper_quartile_s: float
    stopped: Literal["confident", "budget"]


class Work(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one call has to do, and what it asks for.

    compulsory_bytes  cross HBM in any implementation;  kv_bytes: those of them that are K and V
    requested_bytes   by threads, from global memory
    operations        by kind: flop, fma, mma, exp2, conversion, shared_bytes, launches, steps …
    operand           number format of the flop
    """

    compulsory_bytes: float = 0
    kv_bytes: float = 0
    requested_bytes: float = 0
    operations: dict[str, float] = {}
    operand: str | None = None


class Resources(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the compiler made of the kernel, and how it fills the GPU."""

    registers: int
    spill_bytes: int
    shared_bytes: int
    blocks: int
    blocks_per_sm: int
    waves: float
    code_hash: str


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One subject on one shape in one regime.

    family       ceiling, attention, stage, step, host, kernel (a user's own)
    launch_s     an empty kernel, read the same way beside it
    rotation     sets of buffers that calls go through;  rotated_bytes: their total
    error        relative norm against float64, within error_limit
    rate         operations a second, of the kind in rate_of
    bytes_per_s  K and V, or else compulsory bytes, over the median;  read_bytes_per_s: the read ceiling beside it
    bound_s      the floor from the datasheet;  predicted_s: of a calibrated model
    gap          parts of median - bound that sum to it, in seconds;  verdict: the gap in words
    refused      why the reading cannot be right; then it is not a measurement
    beside       seconds to compare with: of a step, its stages read alone, and their sum
    counts       of the interpreter, where emulated
    """

    family: Literal["ceiling", "attention", "stage", "step", "host", "kernel"]
    subject: str
    regime: Regime
    shape: dict[str, int | float | str] = {}
    samples: Samples = Samples()
    statistics: Statistics | None = None
    work: Work = Work()
    resources: Resources | None = None
    launch_s: float | None = None
    rotation: int = 1
    rotated_bytes: int = 0
    flush: str = "rotation"
    error: float | None = None
    error_limit: float | None = None
    rate: float | None = None
    rate_of: str | None = None
    bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    share_of_datasheet: float | None = None
    share_of_read: float | None = None
    bound_s: float | None = None
    predicted_s: float | None = None
    gap: dict[str, float] = {}
    verdict: str = ""
    refused: str | None = None
    beside: dict[str, float] = {}
    counts: dict[str, float] = {}

    @property
    def key(self) -> tuple[str, str, str, str, tuple[tuple[str, int | float | str], ...]]:
        """What makes two cases of two records the same case. How often a loop turns in one reading does not."""
        sizes = tuple(sorted((name, size) for name, size in self.shape.items() if name != "repeats"))
        return self.family, self.subject, self.regime, self.flush, sizes

    @property
    def label(self) -> str:
        """The case in one line."""
        return label(self.subject, self.regime, self.flush, self.shape)


class Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}
):
    """One run. `complete` is false where it was interrupted or ran out of time.

    left_out  who did not take part, and why
    """

    schema_version: Literal["kvperf.bench/1"]
    version: str
    command: str
    seed: int
    started: str
    emulated: bool
    complete: bool
    environment: Environment
    cases: tuple[Case, ...] = ()
    left_out: tuple[str, ...] = ()


def label(subject: str, regime: str, flush: str, shape: dict[str, int | float | str]) -> str:
    """A case in one line."""
    sizes = " ".join(f"{name}={value}" for name, value in shape.items())
    return f"{subject} {regime if flush == 'rotation' else f'{regime} by {flush}'} {sizes}".strip()


def write(record: Record, path: Path) -> None:
    """All of it or nothing: written beside its place and moved there; a link is followed. Raises KvperfError.

    A folder called `reports` takes no emulated record: what stands there was measured.
    """
    refuse_emulated(record, path)
    for case in record.cases:
        if not all(math.isfinite(s) for s in case.samples.seconds):
            raise KvperfError(f"{case.label}: a sample is no number", "nothing was written; measure it again")
    text = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    target, scratch = path.resolve(), None
    try:
        if target.exists() and not target.is_file():  # a device or a pipe is written to, never replaced
            target.write_bytes(text)
            return
        handle, scratch = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(scratch, 0o666 & ~umask)
        os.replace(scratch, target)
        scratch = None
    except OSError as problem:
        raise _unwritable(path, problem.strerror) from None
    finally:
        if scratch is not None:
            Path(scratch).unlink(missing_ok=True)


def check_place(record: Record, path: Path) -> None:
    """Raises KvperfError where the record cannot stand there, and touches nothing.

    Only another record is overwritten; a device or a pipe is written to.
    """
    refuse_emulated(record, path)
    target = path.resolve()
    if target.is_dir():
        raise _unwritable(path, "Is a directory")
    if not target.parent.is_dir():
        raise _unwritable(path, "No such file or directory")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise _unwritable(path, "Permission denied")
    if target.is_file() and not _is_record(target):
        raise KvperfError(f"{path} is there, and is no record of kvperf bench", "name another file")


def claim(path: Path) -> Path:
    """A new, empty file of this name, or of the next with a number that is free. Raises KvperfError."""
    for number in itertools.count(1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            continue
        except OSError as problem:
            raise _unwritable(path, problem.strerror) from None
        return name
    raise AssertionError("numbers do not end")


def refuse_emulated(record: Record, path: Path) -> None:
    """Raises KvperfError where an emulated record would stand among measured ones."""
    if record.emulated and "reports" in path.resolve().parent.parts:
        raise KvperfError(f"{path}: an emulated record is no measurement", "write it outside of reports/")


def read(path: Path) -> Record:
    """A record from its file. Raises KvperfError where it is none, or contradicts itself."""
    from kvperf.bench.consistency import check

    try:
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except OSError as problem:
        raise KvperfError(f"{path}: {problem.strerror}", "give a record that kvperf bench wrote") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise KvperfError(f"{path} is no record of kvperf bench: {problem}", f"its schema is {SCHEMA}") from None
    refuse_emulated(record, path)
    check(record, str(path))
    return record


class _Head(msgspec.Struct):
    schema: Literal["kvperf.bench/1"]


def _is_record(file: Path) -> bool:
    """Whether the file says so; it may be one that `read` refuses."""
    try:
        msgspec.json.decode(file.read_bytes(), type=_Head)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return False
    return True


def _unwritable(path: Path, why: str | None) -> KvperfError:
    return KvperfError(f"cannot write {path}: {why}", "name a file in a folder that exists")
