"""The interpreter in a GPU's place: the same calls run the kernels' PTX on NumPy, counted and untimed.

It shows that everything up to the device boundary works. Its records say `emulated` and hold no reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvperf.bench.rig import Call, Conditions, Facts, Sample, in_turn, typed
from kvperf.emulator import Counts, run
from kvperf.errors import KvperfError
from kvperf.hardware import Gpu
from kvperf.kernel import reference
from kvperf.kernel.compile import Compiled
from kvperf.kernel.verify import capability

SMALL_L2_BYTES = 1 << 16


class Standin:
    """A rig whose limits are those of a GPU profile; `small`: of one SM and 64 KiB of L2, for ceilings."""

    emulated = True
    stream_pointer = 0

    def __init__(self, gpu: Gpu, small: bool = False) -> None:
        self.facts = Facts(
            name=f"interpreter as {gpu.name}",
            capability=capability(gpu),
            sms=1 if small else gpu.sms or 1,
            l2_bytes=SMALL_L2_BYTES if small else gpu.l2_capacity_bytes or 0,
            memory_bytes=gpu.hbm_capacity_bytes,
        )
        self._counts: list[Counts] = []

    def counted(self, call: Call) -> dict[str, float]:
        """Run a call: bytes by direction and buffer, matrix instructions by shape, FMAs, exponentials."""
        self._counts = []
        call()
        found: dict[str, float] = {}
        for launch in self._counts:
            parts = {f"loads {name}": asked.bytes for name, asked in launch.loads.items()}
            parts |= {f"stores {name}": asked.bytes for name, asked in launch.stores.items()}
            parts |= dict(launch.mma) | {"fma": launch.fma}
            for name, amount in parts.items():
                found[name] = found.get(name, 0) + amount
        return {name: amount for name, amount in found.items() if amount}

    def upload(self, array: Any) -> Any:
        return array.copy()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import numpy as np

        return np.zeros(shape, dtype)

    def poison(self, buffer: Any) -> None:
        import numpy as np

        buffer.reshape(-1).view(np.uint8)[:] = 0xFF

    def clear(self, buffer: Any) -> None:
        buffer[...] = 0

    def copy(self, source: Any) -> Any:
        return source.copy()

    def download(self, buffer: Any) -> Any:
        return buffer.copy()

    def checksum(self, buffer: Any) -> int:
        import zlib

        return zlib.crc32(buffer.tobytes())

    def adopt_torch(self) -> None:
        return

    def free_bytes(self) -> int:
        return 1 << 30  # of the host, not of the GPU it stands in for

    def launch(
        self,
        compiled: Compiled,
        entry: str,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        names: Sequence[str] = (),
    ) -> Call:
        given = [typed(argument) for argument in arguments]

        def call() -> None:
            done = run(
                compiled.ptx,
                entry,
                grid=tuple(grid),
                block=tuple(block),
                arguments=given,
                shared_bytes=shared_bytes,
                schedule="greedy",
                names=names,
            )
            self._counts.append(done.counts)

        return call

    def host_copy(self, size_bytes: int, to_device: bool) -> Call:
        return lambda: None  # host and device are one here

    def product(self, x: Any, weight: Any, out: Any, dtype: str) -> Call:
        def call() -> None:
            exact = reference.decode(x, dtype) @ reference.decode(weight, dtype).T
            out[...] = exact if out.dtype == "float32" else reference.encode(exact, dtype)

        return call

    def graph(self, calls: Sequence[Call]) -> Call:
        return in_turn(calls)

    def wait(self) -> None:
        return

    def sample(self, call: Call, before: Call | None = None) -> Sample:
        raise KvperfError("the interpreter has no time to read", "time is read on a GPU")

    def conditions(self) -> Conditions:
        return Conditions()
