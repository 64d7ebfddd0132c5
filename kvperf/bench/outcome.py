"""From readings to a case of the record: shares of the roofs, the gap, and whether to believe it."""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.bench import gap
from kvperf.bench.record import Case, Record
from kvperf.bench.rig import Facts
from kvperf.bench.roofs import refusal
from kvperf.bench.timing import Contestant, Readings
from kvperf.hardware import Gpu

# Operations that a reading is quoted by, the first that a case has.
RATED = ("flop", "l2_bytes", "host_bytes", "shared_bytes", "exp2", "conversion", "steps", "launches")


class Levels(msgspec.Struct, frozen=True):
    """What was read of this GPU's memories, where a profile does not know: for the gap."""

    l2_bytes_per_s: float | None = None
    latency_s: float | None = None


def levels_of(record: Record) -> Levels:
    """From the ceilings of a record: the best L2 bandwidth, and the latency of device memory."""
    l2 = [c.rate for c in record.cases if c.subject == "l2_read" and c.rate and not c.refused]
    chases = [c for c in record.cases if c.subject == "latency" and c.rate and not c.refused]
    memory = [1 / c.rate for c in chases if c.rate and str(c.shape.get("level")) == "memory"]
    return Levels(max(l2, default=None), min(memory, default=None))


def failed(case: Case, problem: str) -> Case:
    """The case with the reason why there is no reading of it."""
    return msgspec.structs.replace(case, refused=problem)


def timed(case: Case, contestant: Contestant, readings: Readings) -> Case:
    """The case with its samples and statistics."""
    return msgspec.structs.replace(
        case,
        regime=contestant.regime,
        samples=readings.samples,
        statistics=readings.statistics,
        rotation=contestant.rotation.sets,
        rotated_bytes=contestant.rotation.total_bytes,
    )


def judged(
    case: Case,
    facts: Facts,
    gpu: Gpu | None,
    *,
    launch_s: float | None = None,
    read_bytes_per_s: float | None = None,
    launches: int = 1,
    levels: Levels = Levels(),
) -> Case:
    """The case with rates, shares and gap; or with the reason why its reading is refused."""
    if case.statistics is None or case.refused:
        return case
    median_s, work = case.statistics.median_s, case.work
    problem = refusal(case.regime, work, case.samples, median_s, facts, gpu)
    if problem:
        return msgspec.structs.replace(case, refused=problem, launch_s=launch_s)
    found: dict[str, Any] = {"launch_s": launch_s, "read_bytes_per_s": read_bytes_per_s}
    if kind := next((k for k in RATED if work.operations.get(k)), None):
        found |= {"rate": work.operations[kind] / median_s, "rate_of": kind}
    if work.compulsory_bytes:
        found |= _rates(case, gpu, median_s, read_bytes_per_s)
    if case.bound_s and case.regime != "warm":
        parts = gap.waterfall(
            bound_s=case.bound_s,
            measured_s=median_s,
            work=work,
            launch_s=launch_s,
            launches=launches,
            read_bytes_per_s=read_bytes_per_s,
            l2_bytes_per_s=levels.l2_bytes_per_s or (gpu.l2_bytes_per_s if gpu else None),
            latency_s=levels.latency_s or _latency_s(gpu),
            resources=case.resources,
            clock_ratio=_clock_ratio(case, facts),
        )
        found |= {"gap": parts, "verdict": gap.in_words(parts, case.bound_s, median_s) + _slowed(case)}
    return msgspec.structs.replace(case, **found)


def agreed(case: Case, counts: dict[str, float]) -> Case:
    """The case with what the interpreter counted; refused where that is not what the closed form says."""
    found = sum(amount for name, amount in counts.items() if name.startswith(("loads", "stores")))
    said = case.work.requested_bytes
    case = msgspec.structs.replace(case, counts=counts)
    if not said:
        return case
    if found != said:
        problem = f"counted {found:.0f} bytes, the closed form says {said:.0f}"
        return msgspec.structs.replace(case, refused=problem)
    return msgspec.structs.replace(case, verdict="requests what the closed form says")


def _slowed(case: Case) -> str:
    """How many samples were taken while the GPU held its clocks down, and why."""
    reasons = [reason for reason in case.samples.throttled if reason]
    if not reasons:
        return ""
    return f"; slowed down in {len(reasons)} of {len(case.samples.seconds)} samples ({', '.join(sorted(set(reasons)))})"


def _rates(case: Case, gpu: Gpu | None, median_s: float, read_bytes_per_s: float | None) -> dict[str, float | None]:
    """Bytes over the median: K and V alone where the case has them, as attention kernels are compared by."""
    counted = case.work.kv_bytes or case.work.compulsory_bytes
    rate = counted / median_s
    return {
        "bytes_per_s": rate,
        "share_of_datasheet": rate / gpu.hbm_bytes_per_s if gpu else None,
        "share_of_read": rate / read_bytes_per_s if read_bytes_per_s else None,
    }


def _latency_s(gpu: Gpu | None) -> float | None:
    """Unloaded latency of device memory, the lowest that was measured."""
    latency = gpu.levels()[-1].latency_ns if gpu else None
    return latency[0] * 1e-9 if latency else None


def _clock_ratio(case: Case, facts: Facts) -> float | None:
    """The memory clock of the readings over the highest the driver allows."""
    known = [clock for clock in case.samples.memory_clock_hz if clock]
    if not known or not facts.memory_clock_max_hz:
        return None
    return min(1.0, sorted(known)[len(known) // 2] / facts.memory_clock_max_hz)
