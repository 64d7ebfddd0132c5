"""Where the time between the bound and the reading goes, part by part; the parts sum to it exactly.

Every part but the last follows from something that was measured or counted; what they leave is unexplained, and may
be negative where parts overlap.
"""

from __future__ import annotations

from kvperf.bench.record import Resources, Work

PARTS = ("launch", "ramp and tail", "waves", "bandwidth efficiency", "re-reads", "clock", "unexplained")
WORDS = {
    "launch": "starting the kernel",
    "ramp and tail": "filling and draining the memory pipeline",
    "waves": "a last wave that leaves SMs idle",
    "bandwidth efficiency": "memory that delivers less than its datasheet says",
    "re-reads": "bytes requested more than once, from L2",
    "clock": "a memory clock below the one of the datasheet",
    "unexplained": "what none of these explains",
}


def waterfall(
    *,
    bound_s: float,
    measured_s: float,
    work: Work,
    launch_s: float | None,
    launches: int = 1,
    read_bytes_per_s: float | None = None,
    l2_bytes_per_s: float | None = None,
    latency_s: float | None = None,
    resources: Resources | None = None,
    clock_ratio: float | None = None,
) -> dict[str, float]:
    """Seconds of each of PARTS; their sum in this order is measured_s − bound_s.

    launch                an empty kernel read the same way, for the first launch; later ones start behind it
    ramp and tail         one latency of device memory until the first bytes come, for each launch
    waves                 of the time at the read ceiling, what ⌈waves⌉ / waves adds, above one wave
    bandwidth efficiency  compulsory bytes at the read ceiling measured beside it, less the bound
    re-reads              requested bytes at the L2 bandwidth, where that takes longer than the ceiling
    clock                 of the bound, what the recorded memory clock adds against the highest
    """
    at_ceiling_s = work.compulsory_bytes / read_bytes_per_s if read_bytes_per_s else bound_s
    slower_clock_s = bound_s * (1 / clock_ratio - 1) if clock_ratio else 0.0
    efficiency_s = max(0.0, at_ceiling_s - bound_s - slower_clock_s)
    l2_s = work.requested_bytes / l2_bytes_per_s if l2_bytes_per_s else 0.0
    waves = resources.waves if resources else 0.0
    parts = {
        "launch": launch_s or 0.0,
        "ramp and tail": launches * (latency_s or 0.0),
        "waves": at_ceiling_s * (-(-waves // 1) / waves - 1) if waves > 1 else 0.0,
        "bandwidth efficiency": efficiency_s,
        "re-reads": max(0.0, l2_s - max(at_ceiling_s, bound_s)),
        "clock": slower_clock_s,
    }
    return parts | {"unexplained": _rest(measured_s - bound_s, parts)}


def _rest(whole: float, parts: dict[str, float]) -> float:
    """What is missing, such that adding it last gives the whole again to the bit, or to its last one."""
    explained = 0.0
    for part in parts.values():
        explained += part
    return whole - explained


def in_words(gap: dict[str, float], bound_s: float, measured_s: float) -> str:
    """The gap in one sentence: how far from the bound, and the largest parts."""
    times = measured_s / bound_s
    if times < 1.02:
        return f"{times:.2f} × the bound: there is nothing to gain but fewer bytes"
    largest = sorted((name for name in gap if gap[name] > 0), key=lambda name: -gap[name])[:2]
    shares = " and ".join(f"{gap[name] / (measured_s - bound_s):.0%} is {WORDS[name]}" for name in largest)
    return f"{times:.2f} × the bound: of the gap {shares}"
