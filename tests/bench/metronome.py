"""A rig for tests whose times are made up by a rule, so that what is done with times can be checked.

It computes on the interpreter where it is asked to; `seconds_of` says how long a call takes. Its records never leave
a test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kvperf.bench.rig import Call, Conditions, Facts, Sample
from kvperf.bench.standin import Standin
from kvperf.hardware import load_gpu

L2_BYTES = 1 << 16


class Metronome(Standin):
    """Launches are not executed where `silent`; every sample asks `seconds_of` how long it took."""

    emulated = False

    def __init__(self, seconds_of: Callable[[Call], float], gpu: str = "h100", silent: bool = False) -> None:
        super().__init__(load_gpu(gpu))
        self.seconds_of, self.silent = seconds_of, silent
        self.sampled: list[Call] = []
        self.now = Conditions(memory_clock_hz=2619e6, power_w=500.0, temperature_c=50.0)
        self.facts = Facts(
            name="metronome",
            capability="90",
            sms=4,
            l2_bytes=L2_BYTES,
            memory_bytes=80 << 30,
            sm_clock_max_hz=1.98e9,
            memory_clock_max_hz=2619e6,
            memory_bus_bits=5120,
        )

    def launch(self, compiled: Any, entry: str, grid: Any, block: Any, arguments: Sequence[Any], *rest: Any) -> Call:
        if self.silent:
            return lambda: None
        return super().launch(compiled, entry, grid, block, arguments, *rest)

    def host_copy(self, size_bytes: int, to_device: bool) -> Call:
        return lambda: None

    def sample(self, call: Call, before: Call | None = None) -> Sample:
        self.sampled.append(call)
        return Sample(self.seconds_of(call), 1.7e9)

    def conditions(self) -> Conditions:
        return self.now
