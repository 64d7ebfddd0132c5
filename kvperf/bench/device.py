"""The GPU. No other file calls it: CuPy's launches, graphs, events and cuBLAS.

A call enqueues work on the device's stream. `sample` times one call behind a gate, so that the host's own time is
not in it: the gate holds the stream until start event, call and end event are all enqueued.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from kvperf.bench.cublas import WORKSPACE_BYTES, Cublas
from kvperf.bench.facts import facts
from kvperf.bench.monitor import monitor
from kvperf.bench.rig import Call, Conditions, Facts, Sample, typed
from kvperf.errors import KvperfError, NoGpuError
from kvperf.kernel.compile import Compiled, compile_kernel

GATE_LEAST_NS, GATE_LIMIT_NS = 300_000, 2_000_000_000


class Device:
    """The first visible GPU, through CuPy. Raises NoGpuError without a driver, a GPU or CuPy."""

    emulated = False

    def __init__(self) -> None:
        try:
            import cupy  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise NoGpuError("CuPy is not installed: pip install 'kvperf[gpu]'") from None
        try:
            count = cupy.cuda.runtime.getDeviceCount()
        except cupy.cuda.runtime.CUDARuntimeError as problem:
            raise NoGpuError(str(problem).split(":")[-1].strip()) from None
        if not count:
            raise NoGpuError("the driver shows no GPU")
        self._cupy: Any = cupy
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._stream.use()
        self.stream_pointer = int(self._stream.ptr)
        self._folder = tempfile.TemporaryDirectory()
        self._loaded: dict[tuple[bytes, str], Any] = {}
        self._turn = 0
        self._flag = cupy.cuda.alloc_pinned_memory(64)
        self._clocks = cupy.zeros(2, cupy.uint64)
        self._monitor = monitor(cupy.cuda.Device().pci_bus_id)
        self.facts = self._facts()
        self._gate: Any = None
        self._cublas: Cublas | None = None
        self.adopt_torch()

    def _facts(self) -> Facts:
        device, runtime = self._cupy.cuda.Device(), self._cupy.cuda.runtime
        name = runtime.getDeviceProperties(device.id)["name"].decode()
        known = facts(name, device.compute_capability, device.attributes, runtime.driverGetVersion(), self._monitor)
        return structs.replace(known, memory_bytes=int(device.mem_info[1]), cupy=self._cupy.__version__)

    # Buffers are CuPy arrays: DLPack, so that PyTorch and a user's kernel take them as they are.
    def upload(self, array: Any) -> Any:
        return self._cupy.asarray(array)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._cupy.empty(shape, dtype)

    def poison(self, buffer: Any) -> None:
        """All bits set: NaN in every float format."""
        self._cupy.cuda.runtime.memsetAsync(buffer.data.ptr, 0xFF, buffer.nbytes, self._stream.ptr)

    def clear(self, buffer: Any) -> None:
        self._cupy.cuda.runtime.memsetAsync(buffer.data.ptr, 0, buffer.nbytes, self._stream.ptr)

    def copy(self, source: Any) -> Any:
        return source.copy()

    def download(self, buffer: Any) -> Any:
        return self._cupy.asnumpy(buffer)

    def checksum(self, buffer: Any) -> int:
        flat = buffer.reshape(-1).view(self._cupy.uint8)
        return int(flat.view(self._cupy.uint64).sum() if flat.size % 8 == 0 else flat.sum(dtype=self._cupy.uint64))

    def adopt_torch(self) -> None:
        """PyTorch, where it is imported, works on this stream: the gate and the events then hold for it, too."""
        if torch := sys.modules.get("torch"):
            torch.cuda.set_stream(torch.cuda.ExternalStream(self.stream_pointer))

    def free_bytes(self) -> int:
        self._cupy.get_default_memory_pool().free_all_blocks()
        if torch := sys.modules.get("torch"):
            torch.cuda.empty_cache()
        return int(self._cupy.cuda.Device().mem_info[0])

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
        """A call of one kernel. Python's int is an int32 and its float an fp32; NumPy scalars are what they are."""
        kernel = self._loaded.get((compiled.cubin, entry))
        if kernel is None:
            file = Path(self._folder.name) / f"{len(self._loaded)}.cubin"
            file.write_bytes(compiled.cubin)
            kernel = self._cupy.RawModule(path=str(file)).get_function(entry)
            self._loaded[(compiled.cubin, entry)] = kernel
        if shared_bytes:
            kernel.max_dynamic_shared_size_bytes = max(shared_bytes, kernel.max_dynamic_shared_size_bytes)
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        given = tuple(typed(argument) for argument in arguments)
        return lambda: kernel(grid, block, given, shared_mem=shared_bytes)

    def host_copy(self, size_bytes: int, to_device: bool) -> Call:
        """A copy between pinned host memory and the device."""
        runtime, host = self._cupy.cuda.runtime, self._cupy.cuda.alloc_pinned_memory(size_bytes)
        device = self._cupy.empty(size_bytes, self._cupy.uint8)
        ends = (device.data.ptr, host.ptr) if to_device else (host.ptr, device.data.ptr)
        kind = runtime.memcpyHostToDevice if to_device else runtime.memcpyDeviceToHost
        return lambda _keep=(host, device): runtime.memcpyAsync(*ends, size_bytes, kind, self._stream.ptr)

    def product(self, x: Any, weight: Any, out: Any, dtype: str) -> Call:
        """A call of cuBLAS: out [T, n] = x [T, k] · weight [n, k]ᵀ, sums in fp32, out in `dtype` or fp32."""
        if self._cublas is None:
            self._cublas = Cublas(self.stream_pointer, self._cupy.empty(WORKSPACE_BYTES, self._cupy.uint8))
        product = self._cublas.product
        (T, k), n, out_dtype = x.shape, weight.shape[0], "fp32" if out.dtype == "float32" else dtype
        pointers = (x.data.ptr, weight.data.ptr, out.data.ptr)
        return lambda _keep=(x, weight, out): product(*pointers, T, n, k, dtype, out_dtype)

    def graph(self, calls: Sequence[Call]) -> Call:
        """One call that replays these, captured as a CUDA graph."""
        for call in calls:
            call()  # what loads lazily must be there before the capture
        self.wait()
        self._stream.begin_capture()
        try:
            for call in calls:
                call()
        except BaseException:
            with contextlib.suppress(Exception):  # the capture is broken; why stands in the first exception
                self._stream.end_capture()
            raise
        captured = self._stream.end_capture()
        captured.upload(self._stream)
        return lambda: captured.launch(self._stream)

    def wait(self) -> None:
        self._stream.synchronize()

    def sample(self, call: Call, before: Call | None = None) -> Sample:
        """Device time of one call between two events; `before` runs ahead of the gate. Reads the SM clock, too."""
        import numpy as np

        if self._gate is None:
            self._gate = self._load_gate()
        if before:
            before()
        cuda, self._turn = self._cupy.cuda, self._turn + 1
        start, end = cuda.Event(), cuda.Event()
        self._gate(self._turn)
        start.record(self._stream)
        call()
        end.record(self._stream)
        np.frombuffer(self._flag, np.uint32, 1)[0] = self._turn
        end.synchronize()
        clocks, passed_ns = (int(x) for x in self._clocks.get())
        if passed_ns >= GATE_LIMIT_NS:
            raise KvperfError("the gate gave up before the host opened it", "is the machine overloaded? run it again")
        seconds = cuda.get_elapsed_time(start, end) * 1e-3
        return Sample(seconds, clocks / passed_ns * 1e9)

    def _load_gate(self) -> Callable[[int], None]:
        import numpy as np

        from kvperf.files import folder

        compiled = compile_kernel(folder("kernels") / "gate.cu", {}, self.facts.capability)
        limits = (np.uint64(GATE_LEAST_NS), np.uint64(GATE_LIMIT_NS))
        np.frombuffer(self._flag, np.uint32, 1)[0] = 0

        def close(turn: int) -> None:
            arguments = (np.uint64(self._flag.ptr), np.uint32(turn), *limits, self._clocks)
            self.launch(compiled, "gate", (1,), (1,), arguments)()

        return close

    def conditions(self) -> Conditions:
        """Clocks, power, temperature and slowdowns of this moment; unknown without NVML."""
        return self._monitor.conditions() if self._monitor else Conditions()
