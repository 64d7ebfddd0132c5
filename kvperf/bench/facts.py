"""What the driver and NVML say of a GPU, as the facts of a rig."""

from __future__ import annotations

from collections.abc import Mapping

from kvperf.bench.monitor import MEMORY, SM, Monitor
from kvperf.bench.rig import Facts


def facts(
    name: str, capability: str, attributes: Mapping[str, int], cuda_number: int, monitor: Monitor | None
) -> Facts:
    """Device attributes go by CUDA's names, clocks in kHz. NVML's clocks win: newer drivers stopped saying theirs."""
    clocks = [1e3 * attributes.get(key, 0) or None for key in ("ClockRate", "MemoryClockRate")]
    if monitor:
        clocks = [monitor.max_clock_hz(domain) or known for domain, known in zip((SM, MEMORY), clocks, strict=True)]
    return Facts(
        name=name,
        capability=capability,
        sms=int(attributes["MultiProcessorCount"]),
        l2_bytes=int(attributes["L2CacheSize"]),
        memory_bytes=0,
        sm_clock_max_hz=clocks[0],
        memory_clock_max_hz=clocks[1],
        memory_bus_bits=attributes.get("GlobalMemoryBusWidth"),
        driver=monitor.driver() if monitor else None,
        cuda=f"{cuda_number // 1000}.{cuda_number % 1000 // 10}",
        ecc=bool(attributes["EccEnabled"]) if "EccEnabled" in attributes else None,
        mig=monitor.mig() if monitor else None,
        power_cap_w=monitor.power_cap_w() if monitor else None,
    )
