"""What one GPU's file says: `hardware/<name>.yaml`, key for key."""

from typing import Literal

from kvperf.hardware.architecture import ComputePath
from kvperf.hardware.quantity import (
    Bits,
    Bytes,
    BytesPerSecond,
    FlopsPerSecond,
    Hertz,
    Latency,
    Seconds,
    Throughput,
    Watts,
)
from kvperf.hardware.reading import Keys, Kind, Reading, Source, Strict, positive

Operand = Literal["fp64", "fp32", "tf32", "fp16", "bf16", "fp8", "fp6", "int8", "int4", "fp4"]
Accumulator = Literal["fp64", "fp32", "fp16", "bf16", "int32"]


class Clocks(Strict, frozen=True):
    """boost: what vector peaks are quoted at; tensor: the clock that reproduces the datasheet's tensor peaks."""

    boost: Reading[Hertz] | None = None
    tensor: Reading[Hertz] | None = None


class StatedPeak(Strict, frozen=True):
    """A dense peak as its source states it.

    clock          the clock of this figure, where it is not the profile's
    stated_reason  why it may differ from SMs × clock × FLOP/clock/SM by more than 2 %
    """

    dtype: Operand
    accumulator: Accumulator
    path: ComputePath
    value: FlopsPerSecond
    kind: Kind
    source: Keys
    clock: Hertz | None = None
    stated_reason: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        positive(self.value)


class LatencyReading(Strict, frozen=True):
    """An unloaded one-thread pointer chase.

    clock  the SM clock it ran at; absent, cycles cannot be turned into time
    on     the sister card it was read on, where it is not this one
    """

    value: Latency
    kind: Literal["measured"]
    source: Keys
    clock: Hertz | None = None
    on: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        positive(self.value)


class OnChip(Strict, frozen=True):
    """Shared memory or L1: their sizes stand in the architecture."""

    latency: tuple[LatencyReading, ...] = ()


class Cache(Strict, frozen=True):
    """L2 or last-level cache. near_capacity: the part an SM reaches without crossing to the other half."""

    capacity: Reading[Bytes]
    near_capacity: Reading[Bytes] | None = None
    bandwidth: Reading[BytesPerSecond] | None = None
    latency: tuple[LatencyReading, ...] = ()
    far_latency: tuple[LatencyReading, ...] = ()


class Hbm(Strict, frozen=True):
    """Device memory, whatever its technology.

    capacity  nominal; visible: what the driver shows
    clock     the memory clock as nvidia-smi prints it; pumps: transfers per pin in one such clock
    """

    type: str
    capacity: Reading[Bytes]
    bandwidth: Reading[BytesPerSecond]
    visible: Reading[Bytes] | None = None
    bus_width: Reading[Bits] | None = None
    clock: Reading[Hertz] | None = None
    pumps: Reading[int] | None = None
    latency: tuple[LatencyReading, ...] = ()


class Memory(Strict, frozen=True):
    """The hierarchy, closest to the SM first."""

    hbm: Hbm
    shared: OnChip = OnChip()
    l1: OnChip = OnChip()
    l2: Cache | None = None
    llc: Cache | None = None


class Link(Strict, frozen=True):
    """A link of one GPU, all its lanes together, in one direction.

    gpus  the GPUs that it joins, this one among them: all of a switch or a full mesh, the two of a bridge
    """

    name: str
    per_direction: Reading[BytesPerSecond]
    gpus: Reading[int] | None = None


class NetworkName(Strict, frozen=True):
    """What usual machines with this GPU have between them: a file of `hardware/networks`, by its name."""

    name: str
    kind: Kind
    source: Keys
    note: str | None = None


class Links(Strict, frozen=True):
    """gpu: to other GPUs; c2c: to the CPU of the same module; pcie: to the host; network: to other machines."""

    gpu: Link | None = None
    c2c: Link | None = None
    pcie: Link | None = None
    network: NetworkName | None = None


class Node(Strict, frozen=True):
    """One machine. gpus: those of one operating system, whatever joins them."""

    gpus: Reading[int]


class Launch(Strict, frozen=True):
    """Time from one small kernel to the next: in a stream, or as a node of a CUDA graph."""

    stream: Reading[Seconds] | None = None
    graph_node: Reading[Seconds] | None = None


class Measured(Strict, frozen=True):
    """A throughput that somebody reached.

    what         the experiment; mma: matrix instructions on registers alone
    dtype        operand format of a FLOP/s reading
    accumulator  where it is narrower than fp32
    clock        the SM clock of the run, where it was recorded
    on           the sister card it was read on, where it is not this one
    """

    what: Literal[
        "read_bandwidth",
        "write_bandwidth",
        "copy_bandwidth",
        "stream_bandwidth",
        "memcpy_bandwidth",
        "decode_attention_bandwidth",
        "gemv_bandwidth",
        "norm_bandwidth",
        "gpu_link_bandwidth",
        "host_link_bandwidth",
        "all_reduce_bus_bandwidth",
        "gemm",
        "gemm_sustained",
        "attention",
        "vector",
        "mma",
    ]
    value: Throughput
    kind: Literal["measured"]
    source: Keys
    dtype: Operand | None = None
    accumulator: Accumulator | None = None
    path: ComputePath | None = None
    clock: Hertz | None = None
    on: str | None = None
    note: str | None = None

    def __post_init__(self) -> None:
        positive(self.value)
        wanted = "B/s" if self.what.endswith("bandwidth") else "FLOP/s"
        if self.value.unit != wanted:
            raise ValueError(f"{self.what} is measured in {wanted} | hint: the value is in {self.value.unit}")
        if wanted == "FLOP/s" and self.dtype is None:
            raise ValueError(f"{self.what} has no dtype | hint: name the operand format, say 'dtype: bf16'")


class Profile(Strict, frozen=True):
    """A whole file. `sms` counts SMs, on AMD compute units."""

    schema: Literal["kvperf.gpu/1"]
    name: str
    title: str
    vendor: Literal["nvidia", "amd"]
    architecture: str
    memory: Memory
    peaks: tuple[StatedPeak, ...]
    sources: dict[str, Source]
    aliases: tuple[str, ...] = ()
    geforce: bool = False
    sms: Reading[int] | None = None
    clocks: Clocks = Clocks()
    links: Links = Links()
    node: Node | None = None
    power: Reading[Watts] | None = None
    launch: Launch = Launch()
    measured: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """What `sms` counts: streaming multiprocessors, or AMD's compute units."""
        return "CU" if self.vendor == "amd" else "SM"
