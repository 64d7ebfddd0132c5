"""What all GPUs of one compute capability share: limits of an SM and its rates per clock."""

from typing import Literal

from kvperf.hardware.quantity import Bytes, Cycles
from kvperf.hardware.reading import Keys, Kind, Reading, Source, Strict

ComputePath = Literal["cuda_core", "dp4a", "mma.sync", "wgmma", "tcgen05", "vector_alu", "mfma"]
VECTOR_PATHS = ("cuda_core", "dp4a", "vector_alu")


class Limits(Strict, frozen=True):
    """What one SM (on AMD one compute unit) holds and one block may take.

    register_allocation_unit  registers are handed to a warp in multiples of this
    shared_per_block          the most a block may opt into; shared_static_per_block without opting in
    l1_and_shared             the one SRAM that shared memory is carved from
    tensor_memory             accumulators of tcgen05
    """

    warp_threads: Reading[int]
    register_file: Reading[Bytes]
    registers_per_block: Reading[int] | None = None
    registers_per_thread: Reading[int] | None = None
    register_allocation_unit: Reading[int] | None = None
    threads_per_sm: Reading[int] | None = None
    warps_per_sm: Reading[int] | None = None
    blocks_per_sm: Reading[int] | None = None
    threads_per_block: Reading[int] | None = None
    shared_per_sm: Reading[Bytes] | None = None
    shared_per_block: Reading[Bytes] | None = None
    shared_static_per_block: Reading[Bytes] | None = None
    shared_reserved_per_block: Reading[Bytes] | None = None
    shared_allocation_unit: Reading[Bytes] | None = None
    shared_carveouts: Reading[tuple[Bytes, ...]] | None = None
    l1_and_shared: Reading[Bytes] | None = None
    l1: Reading[Bytes] | None = None
    tensor_memory: Reading[Bytes] | None = None


class PerClock(Strict, frozen=True):
    """Results of one SM in one clock, FLOPs aside.

    exponentials  ex2 of the special-function units
    shared_bytes  bytes that shared memory delivers
    """

    exponentials: Reading[float] | None = None
    shared_bytes: Reading[Bytes] | None = None
    e4m3_to_half: Reading[float] | None = None
    half_to_fp32: Reading[float] | None = None
    fp32_to_bf16: Reading[float] | None = None
    bf16_multiply: Reading[float] | None = None

    @property
    def kv_dequantisations(self) -> float | None:
        """FP8 KV elements that one SM turns into scaled bf16 in one clock; None where a rate is unknown.

        The steps e4m3 → half → fp32 → bf16 → × scale run one after the other on the same issue slots,
        so their times add (DeepSeek FlashMLA, docs/20250929: 25/256 clock on sm_90).
        """
        steps = (self.e4m3_to_half, self.half_to_fp32, self.fp32_to_bf16, self.bf16_multiply)
        clocks = 0.0
        for step in steps:
            if step is None:
                return None
            clocks += 1 / step.value
        return 1 / clocks


class Rate(Strict, frozen=True):
    """Dense FLOP of one SM in one clock on one path; a multiply-add is 2.

    clock  the clock that datasheets quote this rate at (default: boost for vectors, tensor for matrices)
    """

    dtype: str
    accumulator: str
    path: ComputePath
    value: float
    kind: Kind
    source: Keys
    clock: Literal["boost", "tensor"] | None = None
    note: str | None = None

    @property
    def clock_name(self) -> str:
        return self.clock or ("boost" if self.path in VECTOR_PATHS else "tensor")


class Mma(Strict, frozen=True):
    """The matrix instructions of one path. rows: M of the smallest fp16/bf16 tile (query rows are padded to it)."""

    path: ComputePath
    shapes: tuple[str, ...]
    source: Keys
    rows: int | None = None


class Architecture(Strict, frozen=True):
    """`hardware/architectures/<name>.yaml`."""

    schema: Literal["kvperf.architecture/1"]
    name: str
    title: str
    vendor: Literal["nvidia", "amd"]
    limits: Limits
    flop_per_clock: tuple[Rate, ...]
    sources: dict[str, Source]
    geforce_flop_per_clock: tuple[Rate, ...] = ()
    per_clock: PerClock = PerClock()
    dependent_fma: Reading[Cycles] | None = None
    mma: tuple[Mma, ...] = ()
    features: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def rate(self, dtype: str, accumulator: str, path: str, geforce: bool) -> Rate | None:
        """The rate of one unit; GeForce cards run some tensor formats at half the architecture's rate."""
        tables = (self.geforce_flop_per_clock, self.flop_per_clock) if geforce else (self.flop_per_clock,)
        for table in tables:
            for rate in table:
                if (rate.dtype, rate.accumulator, rate.path) == (dtype, accumulator, path):
                    return rate
        return None
