"""What this GPU reaches at best: bandwidths, arithmetic, latencies, launches, each from a kernel made for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from kvperf.bench.ceiling_calls import WORD, ceiling_call, empty_call, noise
from kvperf.bench.outcome import agreed, failed, judged, timed
from kvperf.bench.record import Case, Work
from kvperf.bench.rig import Call, Rig, in_turn
from kvperf.bench.standin import Standin
from kvperf.bench.timing import COLD_L2_CAPACITIES, STREAM_CALLS, Contestant, alone, measure
from kvperf.hardware import Gpu
from kvperf.kernel.ceiling_kernels import CEILINGS, launch
from kvperf.kernel.declared import Launch

FOOTPRINT_BYTES = 2 << 30  # of all arrays of a stream together: far beyond the L2
LONG_ENOUGH_S = 3e-4  # an arithmetic loop runs at least this long
LINE_BYTES = 128
AGREEMENT = 0.03  # of the gate and of a graph, which leave the host out in two ways
HOST_BYTES = 256 << 20
L2_SHARES = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
# Each with its loads in flight per thread.
STREAMS = (("read", 1), ("read", 2), ("read", 4), ("read", 8), ("write", 4), ("copy", 4), ("scale", 4), ("triad", 4))
ARITHMETIC = {
    "fma_fp32": "fp32",
    "fma_fp16": "fp16",
    "fma_bf16": "bf16",
    "mma_sync_fp16": "fp16",
    "mma_sync_bf16": "bf16",
    "mma_sync_int8": "int8",
    "mma_sync_e4m3": "fp8",
    "exp2": None,
    "dequantise_e4m3": None,
    "dequantise_int8": None,
    "shared_bandwidth": None,
    "wgmma": "bf16",
}


class Ceiling(NamedTuple):
    """One thing to read, and how its result is labelled."""

    subject: str
    contestant: Contestant
    work: Work
    shape: dict[str, int | float | str]


def bench(
    rig: Rig,
    gpu: Gpu | None,
    budget_s: float,
    seed: int,
    progress: Callable[[str], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[list[Case]]:
    """Every ceiling, group by group; those of a group are interleaved. `budget_s` is of all groups together."""
    # What never ran on this architecture comes last: a fault of it ends the process.
    groups = (_streams, _l2, _latencies, _launches, _host, _arithmetic)
    for group in groups:
        ceilings = group(rig)
        if rig.emulated:
            assert isinstance(rig, Standin)
            yield [_counted(rig, group, ceiling) for ceiling in ceilings]
            continue
        if stopped():
            return
        empty = alone("launch", "cold", [empty_call(rig)])
        contestants = [empty, *(c.contestant for c in ceilings)]
        found = measure(
            rig, contestants, budget_s=budget_s / len(groups), seed=seed, progress=progress, stopped=stopped
        )
        launch_s = found["launch"].median_s
        cases = []
        for ceiling in ceilings:
            readings, case = found[ceiling.contestant.name], _case(group, ceiling, gpu)
            if readings.failure:
                cases.append(failed(case, f"failed: {readings.failure}"))
                continue
            case = timed(case, ceiling.contestant, readings)
            cases.append(judged(case, rig.facts, gpu, launch_s=launch_s))
        yield _cross_checked(cases)


def _cross_checked(cases: list[Case]) -> list[Case]:
    """Where single calls behind the gate and nodes of a graph read the same bytes, say whether they agree."""
    gated = [c for c in cases if c.subject == "read" and c.regime == "cold" and c.statistics]
    return [_against_gate(c, gated) if c.subject == "read" and c.regime == "stream" else c for c in cases]


def _against_gate(case: Case, gated: list[Case]) -> Case:
    found = [c.statistics.median_s for c in gated if c.statistics and c.shape["bytes"] == case.shape["bytes"]]
    if not found or case.statistics is None:
        return case
    apart = case.statistics.median_s / min(found) - 1
    word = "agree" if abs(apart) <= AGREEMENT else "DISAGREE: one of them holds time of the host"
    said = f"{100 * apart:+.1f} % against single calls behind the gate: they {word}"
    return msgspec.structs.replace(case, verdict=said)


def _case(group: Any, ceiling: Ceiling, gpu: Gpu | None) -> Case:
    work = ceiling.work
    return Case(
        family="host" if group is _host else "ceiling",
        subject=ceiling.subject,
        regime=ceiling.contestant.regime,
        shape=ceiling.shape,
        work=work,
        bound_s=work.compulsory_bytes / gpu.hbm_bytes_per_s if gpu and group is _streams else None,
    )


def _counted(rig: Standin, group: Any, ceiling: Ceiling) -> Case:
    """What the interpreter counted in one call."""
    case = _case(group, ceiling, None)
    return agreed(case, rig.counted(ceiling.contestant.calls[0]))


def _footprint(rig: Rig) -> int:
    return FOOTPRINT_BYTES if not rig.emulated else COLD_L2_CAPACITIES * rig.facts.l2_bytes


def _sink(rig: Rig) -> Any:
    import numpy as np

    return rig.upload(np.zeros(1, np.uint32))


def _streams(rig: Rig) -> list[Ceiling]:
    """Device memory: read by 1 to 8 loads in flight, write, copy, scale, triad."""
    size, sink = _footprint(rig), _sink(rig)
    words = size // WORD
    data = [noise(rig, size)]
    data += [rig.copy(data[0]) for _ in range(2)]
    found = []
    for name, in_flight in STREAMS:
        arrays = [b.name for b in (*CEILINGS[name].loads, *CEILINGS[name].stores)]
        planned = launch(name, rig.facts.sms, count=words, in_flight=in_flight)
        call = ceiling_call(rig, planned, dict(zip(arrays, data, strict=False)), sink)
        label = f"{name} {in_flight}"
        work = Work(compulsory_bytes=planned.bytes, requested_bytes=planned.bytes)
        shape: dict[str, int | float | str] = {"bytes": planned.bytes, "in_flight": in_flight}
        found.append(Ceiling(name, alone(label, "cold", [call], planned.bytes), work, shape))
    # The same reads once more as nodes of a graph: two ways to leave the host's time out should agree.
    if not rig.emulated:
        planned = launch("read", rig.facts.sms, count=words)
        call = ceiling_call(rig, planned, {"data": data[0]}, sink)
        work = Work(compulsory_bytes=planned.bytes, requested_bytes=planned.bytes)
        found.append(
            Ceiling("read", alone("read in a graph", "stream", [call], planned.bytes), work, {"bytes": planned.bytes})
        )
    return found


def _l2(rig: Rig) -> list[Ceiling]:
    """The L2 by footprint: beyond half of it, an SM reads from the far partition."""
    sink, found = _sink(rig), []
    for share in L2_SHARES:
        size = int(share * rig.facts.l2_bytes) // LINE_BYTES * LINE_BYTES
        passes = 1 if rig.emulated else max(1, int(64e6 // size))
        planned = launch("l2_read", rig.facts.sms, count=size // WORD, passes=passes)
        call = ceiling_call(rig, planned, {"data": noise(rig, size)}, sink)
        work = Work(requested_bytes=planned.bytes, operations={"l2_bytes": planned.bytes})
        shape: dict[str, int | float | str] = {"bytes": size}
        found.append(Ceiling("l2_read", alone(f"l2 {share}", "warm", [call], size), work, shape))
    return found


def _arithmetic(rig: Rig) -> list[Ceiling]:
    """Vector units, tensor cores, special function units, conversions, shared memory: registers only."""
    import numpy as np

    sink, found = _sink(rig), []
    words = np.random.default_rng(11).integers(0, 1 << 32, (32, 6), np.uint32) & 0x3F3F3F3F | 0x30303030
    fragments = rig.upload(words.astype(np.uint32))
    for name, operand in ARITHMETIC.items():
        kernel = CEILINGS[name]
        arch = rig.facts.capability
        needs_90a = kernel.runs == ("90a",)
        if (arch not in kernel.runs and not (needs_90a and arch == "90")) or (needs_90a and rig.emulated):
            continue  # the interpreter does not know wgmma
        buffers = {"fragments": fragments} if kernel.loads else {}
        try:
            call, planned = _long_enough(rig, name, buffers, sink)
        except Exception as problem:  # it fails again when it is measured, and is named there
            call, planned = _raising(problem), launch(name, rig.facts.sms, repeats=1)
        work = Work(operations={kernel.measures: planned.operations[kernel.measures]}, operand=operand)
        shape: dict[str, int | float | str] = {"repeats": planned.symbols["repeats"]}
        found.append(Ceiling(name, alone(name, "warm", [call], 0), work, shape))
    return found


def _raising(problem: Exception) -> Call:
    said = str(problem)

    def call() -> None:
        raise RuntimeError(said)

    return call


def _long_enough(rig: Rig, name: str, buffers: dict[str, Any], sink: Any) -> tuple[Call, Launch]:
    """Turns of the loop until one launch lasts long enough to hide its own cost."""
    repeats = 1 if rig.emulated else 64
    while True:
        planned = launch(name, rig.facts.sms, repeats=repeats)
        call = ceiling_call(rig, planned, buffers, sink)
        if rig.emulated:
            return call, planned
        call()
        taken_s = rig.sample(call).seconds
        if taken_s >= LONG_ENOUGH_S or repeats >= 1 << 22:
            return call, planned
        repeats = int(repeats * max(2.0, 1.2 * LONG_ENOUGH_S / taken_s))


def _latencies(rig: Rig) -> list[Ceiling]:
    """One thread along a random cycle of cache lines, by footprint."""
    if rig.emulated:
        return []  # a chain of addresses does not outlive a launch on the interpreter
    l2 = rig.facts.l2_bytes
    sizes = {
        "l1": 16 << 10,
        "l2": l2 // 8,
        "l2_far": int(0.45 * l2),
        "l2_full": int(0.8 * l2),
        "memory": 4 * l2,
        "memory_wide": _footprint(rig),
    }
    return [_latency(rig, level, size) for level, size in sizes.items()]


def _latency(rig: Rig, level: str, size: int) -> Ceiling:
    import numpy as np

    count, stride = size // LINE_BYTES, LINE_BYTES // 8
    order = np.random.default_rng(13).permutation(count).astype(np.uint32)
    following = np.empty(count, np.uint32)
    following[order] = np.roll(order, -1)
    chain = rig.empty((count * stride,), np.uint64)
    linked = launch("link", rig.facts.sms, count=count, stride=stride)
    ceiling_call(rig, linked, {"chain": chain, "next": rig.upload(following)})()
    rig.wait()
    steps = min(count, 20_000) if size > rig.facts.l2_bytes or rig.emulated else max(count, 20_000)
    planned = launch("chase", rig.facts.sms, steps=steps)
    clocks = rig.empty((2,), np.uint64)
    # Beyond the L2 every call starts elsewhere on the cycle, so that no line is met again while it is cached.
    beyond = size > rig.facts.l2_bytes
    wanted = COLD_L2_CAPACITIES * rig.facts.l2_bytes // (steps * LINE_BYTES) + 1 if beyond else 1
    starts = order[:: max(1, count // wanted)][:wanted]
    calls = [ceiling_call(rig, planned, {"chain": chain[int(start) * stride :], "clocks": clocks}) for start in starts]
    work = Work(operations={"steps": steps})
    contestant = alone(f"latency {level}", "cold" if beyond else "warm", calls, steps * LINE_BYTES)
    return Ceiling("latency", contestant, work, {"level": level, "bytes": size, "steps": steps})


def _launches(rig: Rig) -> list[Ceiling]:
    """One small kernel after another: in a stream, and as nodes of a graph."""
    empty = empty_call(rig)
    many = in_turn([empty] * STREAM_CALLS)
    one, of_many = Work(operations={"launches": 1}), Work(operations={"launches": STREAM_CALLS})
    return [
        Ceiling("launch alone", alone("one", "warm", [empty], 0), one, {}),
        Ceiling("launch in a stream", alone("stream", "warm", [many], 0), of_many, {"launches": STREAM_CALLS}),
        Ceiling("graph node", alone("graph", "stream", [empty], 0), one, {"nodes": STREAM_CALLS}),
    ]


def _host(rig: Rig) -> list[Ceiling]:
    """Copies between pinned host memory and the device."""
    found = []
    for name, to_device in (("host to device", True), ("device to host", False)):
        call = rig.host_copy(HOST_BYTES, to_device)
        work = Work(operations={"host_bytes": HOST_BYTES})
        found.append(Ceiling(name, alone(name, "cold", [call], HOST_BYTES), work, {"bytes": HOST_BYTES}))
    return found
