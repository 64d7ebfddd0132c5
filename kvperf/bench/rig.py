"""What a bench runs on: a GPU (`device`), or the interpreter in its place (`standin`), which times nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from kvperf.kernel.compile import Compiled

Call = Callable[[], None]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver says of the GPU. Unknown is None."""

    name: str
    capability: str
    sms: int
    l2_bytes: int
    memory_bytes: int
    sm_clock_max_hz: float | None = None
    memory_clock_max_hz: float | None = None
    memory_bus_bits: int | None = None
    driver: str | None = None
    cuda: str | None = None
    cupy: str | None = None
    ecc: bool | None = None
    mig: bool | None = None
    power_cap_w: float | None = None


class Sample(NamedTuple):
    """One reading: device seconds of a call, and the SM clock right before it."""

    seconds: float
    sm_clock_hz: float | None


class Conditions(NamedTuple):
    """The state of the GPU at one moment."""

    memory_clock_hz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttled: str | None = None


class Rig(Protocol):
    """The device boundary. Buffers are arrays of the rig; a Call enqueues work and returns at once."""

    emulated: bool
    facts: Facts
    stream_pointer: int

    def upload(self, array: Any) -> Any: ...
    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any: ...
    def poison(self, buffer: Any) -> None: ...
    def clear(self, buffer: Any) -> None: ...
    def copy(self, source: Any) -> Any: ...
    def download(self, buffer: Any) -> Any: ...
    def checksum(self, buffer: Any) -> int: ...
    def adopt_torch(self) -> None: ...
    def free_bytes(self) -> int: ...
    def launch(
        self,
        compiled: Compiled,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        names: Sequence[str] = (),
    ) -> Call: ...
    def host_copy(self, size_bytes: int, to_device: bool) -> Call: ...
    def product(self, x: Any, weight: Any, out: Any, dtype: str) -> Call: ...
    def graph(self, calls: Sequence[Call]) -> Call: ...
    def wait(self) -> None: ...
    def sample(self, call: Call, before: Call | None = None) -> Sample: ...
    def conditions(self) -> Conditions: ...


def typed(argument: Any) -> Any:
    """Python's int as int32, its float as fp32: what the kernels' scalars are, unless a NumPy type says otherwise."""
    import numpy as np

    if isinstance(argument, bool | int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument


def in_turn(calls: Sequence[Call]) -> Call:
    """Several calls as one."""
    if len(calls) == 1:
        return calls[0]

    def all_of_them() -> None:
        for call in calls:
            call()

    return all_of_them
