"""The ceiling kernels: what they compute is right, and what they do is what their tables divide by their time.

wgmma is compiled and looked at, no more: the interpreter does not execute it.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import pytest

from kvperf.emulator import Counts, bf16_bits, bf16_values, e4m3_bits, e4m3_values
from kvperf.errors import KvperfError
from kvperf.kernel.ceiling_kernels import CEILINGS, launch
from kvperf.kernel.declared import Launch, value
from kvperf.kernel.loop import loops
from kvperf.kernel.occupancy import occupancy
from kvperf.kernel.trial import architecture
from tests.kernel.small import Array, compiled_all, execute, machine_code, times_of
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
NEVER = np.uint64(1 << 40)
GRID = {"sms": 1, "per_sm": 2, "threads": 64}
COUNTS = [1, 127, 128, 1000]


def _words(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(0, 1 << 32, shape, np.uint32)


def _folded(words: Array) -> int:
    return int(np.bitwise_xor.reduce(words, axis=None))


def _reaches(shape: Launch, arguments: dict[str, Any], expected: int, arch: str = "80") -> Counts:
    """Run twice: with a `never` that no result equals, and with the expected result, which some thread then stores."""
    sink = np.zeros(1, np.uint32)
    counts = execute(shape, arguments | {"never": NEVER, "sink": sink}, ("sink",), arch=arch)
    arguments |= {"never": np.uint64(expected), "sink": sink}
    sink[0] = ~np.uint32(expected)
    execute(shape, arguments, ("sink",), arch=arch, as_declared=False)
    assert sink[0] == expected
    return counts


@pytest.mark.parametrize("count", COUNTS)
def test_read(count: int) -> None:
    data, shape = _words(1, count, 4), launch("read", count=count, **GRID)
    last = (count - 1) % 128  # the thread that has the last word
    _reaches(shape, {"data": data, "count": 0}, _folded(data[last::128]))


@pytest.mark.parametrize("count", COUNTS)
def test_write(count: int) -> None:
    data = np.zeros((count, 4), np.uint32)
    execute(launch("write", count=count, **GRID), {"data": data, "count": 0, "seed": np.uint32(7)}, ("data",))
    assert len(np.unique(data[:, 0])) == count
    assert (data[:, 0] == ~data[:, 1]).all()


@pytest.mark.parametrize("count", COUNTS)
def test_copy_scale_and_triad(count: int) -> None:
    first, second = np.random.default_rng(count).normal(0, 1, (2, count, 4)).astype(np.float32)
    to = np.full((count, 4), np.nan, np.float32)
    execute(launch("copy", count=count, **GRID), {"from": first, "to": to, "count": 0}, ("to",))
    assert (to == first).all()

    arguments = {"from": first, "to": to, "count": 0, "factor": np.float32(3)}
    execute(launch("scale", count=count, **GRID), arguments, ("to",))
    assert (to == 3 * first).all()

    shape = launch("triad", count=count, **GRID)
    arguments = {"first": first, "second": second, "to": to, "count": 0, "factor": np.float32(0.5)}
    counts = execute(shape, arguments, ("to",))
    assert np.allclose(to, first + 0.5 * second, rtol=1e-6)
    # Words past the end are zeros that are multiplied as well.
    assert shape.operations["fma"] <= counts.fma <= shape.operations["fma"] + 4 * 4 * 128


@pytest.mark.parametrize("count", [65, 300])
def test_l2_read(count: int) -> None:
    data, shape = _words(1, count, 4), launch("l2_read", count=count, passes=3, **GRID)
    walked = np.roll(data, -(count // 2), axis=0)  # the second block starts half way
    _reaches(shape, {"data": data, "count": 0, "passes": 0}, _folded(walked[5::64]))


def test_shared_bandwidth() -> None:
    shape = launch("shared_bandwidth", repeats=5, **GRID)
    sink = np.zeros(1, np.uint32)
    counts = execute(shape, {"repeats": 0, "seed": np.uint32(3), "never": NEVER, "sink": sink})
    loads = sum(times for opcode, times in counts.opcodes.items() if opcode.startswith("ld.volatile.shared"))
    assert 16 * loads == shape.operations["shared_bytes"]
    assert counts.bank_conflicts == 0
    # 128 bytes a wavefront; the buffer is filled once.
    assert 128 * counts.shared_wavefronts == shape.operations["shared_bytes"] + 16 * 2 * 64 * 4


def _starts(thread: int, chains: int = 8) -> Array:
    word = (np.uint64(thread * chains) + np.arange(chains, dtype=np.uint64)) * np.uint64(2654435761)
    return (np.uint32(0x3F000000) | (word.astype(np.uint32) >> 9)).view(np.float32)


def _bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def test_fma_fp32() -> None:
    shape, x = launch("fma_fp32", repeats=2, **GRID), _starts(70).astype(np.float64)
    factor, term = np.float32(0.75), np.float32(0.2)
    for _ in range(2 * 16):
        x = (x * factor + term).astype(np.float32).astype(np.float64)
    arguments = {"repeats": 0, "factor": factor, "term": term}
    counts = _reaches(shape, arguments, _folded(x.astype(np.float32).view(np.uint32)))
    assert counts.fma == shape.operations["fma"] == shape.operations["flop"] / 2


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_packed_fma(dtype: str) -> None:
    def nearest(x: Array) -> Array:
        return bf16_values(bf16_bits(x)) if dtype == "bf16" else x.astype(np.float16)

    shape, x = launch(f"fma_{dtype}", repeats=2, **GRID), nearest(_starts(70)).astype(np.float32)
    for _ in range(2 * 16):  # exact in fp32: both factors have 11 bits at most
        x = nearest((x.astype(np.float64) * 0.75 + 0.25).astype(np.float32)).astype(np.float32)
    half = bf16_bits(x) if dtype == "bf16" else x.astype(np.float16).view(np.uint16)
    both = half.astype(np.uint32) << 16 | half
    counts = _reaches(shape, {"repeats": 0, "factor": np.float32(0.75), "term": np.float32(0.25)}, _folded(both))
    assert counts.fma == shape.operations["fma"] == shape.operations["flop"] / 2


def _fragments(a: Array, b: Array) -> Array:
    """Words of each lane: a [16][K] and b [K][8], K times the element 32 bytes, as the PTX manual lays them out."""
    per_word = 4 // a.itemsize
    g, t = np.arange(32) // 4, np.arange(32) % 4 * per_word
    columns = t[:, None] + np.arange(per_word)
    half = a.shape[1] // 2
    parts = [a[g[:, None] + row, columns + k] for k in (0, half) for row in (0, 8)]
    parts += [b[columns + k, g[:, None]] for k in (0, half)]
    return np.ascontiguousarray(np.stack(parts, 1)).view(np.uint32).reshape(32, 6)


FORMATS = {"fp16": (16, "80"), "bf16": (16, "80"), "int8": (32, "80"), "e4m3": (32, "89")}


@pytest.mark.parametrize("dtype", FORMATS)
def test_mma_sync(dtype: str) -> None:
    depth, arch = FORMATS[dtype]
    small = np.random.default_rng(1).integers(-3, 4, (2, 16, depth)).astype(np.float32)
    a, b = small[0], small[1, :8].T
    to_memory = {"fp16": np.float16, "bf16": bf16_bits, "int8": np.int8, "e4m3": e4m3_bits}[dtype]
    shape = launch(f"mma_sync_{dtype}", repeats=3, **GRID)

    # Small whole numbers: the sums are exact in every format. Each of the 8 accumulators has its own turn of b.
    lane, product = 13, 3 * (a @ b)
    rows, columns = lane // 4 + np.array([0, 0, 8, 8]), lane % 4 * 2 + np.array([0, 1, 0, 1])
    turned = np.stack([product[rows, (columns + c) % 8] for c in range(8)])
    mine = turned.astype(np.int32 if dtype == "int8" else np.float32).view(np.uint32)
    expected = int(mine.astype(np.uint64).sum()) % (1 << 32)
    counts = _reaches(shape, {"fragments": _fragments(to_memory(a), to_memory(b)), "repeats": 0}, expected, arch)
    assert sum(counts.mma.values()) == shape.operations["mma"]
    assert shape.operations["flop"] == shape.operations["mma"] * 2 * 16 * 8 * depth
    assert all(name.startswith(f"m16n8k{depth}") for name in counts.mma)


def test_exp2() -> None:
    """Chains of 2^-x end in one number, 0.641…; the exclusive or of 8 of them is 0."""
    shape = launch("exp2", repeats=5, **GRID)
    counts = _reaches(shape, {"repeats": 0}, 0)
    assert counts.sfu["ex2"] == shape.operations["exp2"]


@pytest.mark.parametrize("dtype", ["e4m3", "int8"])
def test_dequantise(dtype: str) -> None:
    shape = launch(f"dequantise_{dtype}", repeats=1, **GRID)
    words, scale = _starts(70).view(np.uint32) & 0x77777777, bf16_values(bf16_bits(np.float32(0.3)))
    for _ in range(16):
        quarters = words.view(np.uint8).reshape(8, 4)
        x = e4m3_values(quarters) if dtype == "e4m3" else quarters.view(np.int8).astype(np.float32)
        scaled = bf16_bits((bf16_values(bf16_bits(x.astype(np.float32))) * scale).astype(np.float32))
        pairs = scaled.astype(np.uint32)[:, 0::2] | scaled.astype(np.uint32)[:, 1::2] << 16
        words = (words ^ pairs[:, 0] ^ pairs[:, 1]) & 0x77777777
    arch = "89" if dtype == "e4m3" else "80"
    counts = _reaches(shape, {"repeats": 0, "scale": np.float32(0.3)}, _folded(words), arch)
    per_opcode = {"cvt.rn.f16x2.e4m3x2": 2, "prmt.b32": 1}
    converted = sum(times * per_opcode.get(opcode, 0) for opcode, times in counts.opcodes.items())
    assert converted == shape.operations["conversion"]


@pytest.mark.parametrize("stride", [1, 16])
def test_pointer_chase(stride: int) -> None:
    count, steps = 77, 50
    places = np.random.default_rng(1).permutation(count)
    following = np.zeros(count, np.uint32)
    following[places] = np.roll(places, -1)
    chain = np.zeros(count * stride, np.uint64)
    arguments = {"chain": chain, "next": following, "count": 0, "stride": 0}
    execute(launch("link", count=count, stride=stride), arguments, ("chain",))
    origin = chain[places[np.flatnonzero(places == 0)[0] - 1] * stride]  # what points to place 0

    clocks = np.zeros(2, np.uint64)
    execute(launch("chase", steps=steps), {"chain": chain, "steps": 0, "clocks": clocks}, ("clocks",))
    reached = reduce(lambda place, _: int(following[place]), range(steps), 0)
    assert clocks[1] - origin == reached * stride * 8


def test_empty() -> None:
    assert not execute(launch("empty"), {}).loads


SIZES = {"count": 1 << 26, "passes": 8, "repeats": 1000, "steps": 4096, "stride": 16}


def _at_real_sizes(arch: str) -> dict[str, Launch]:
    """Every kernel that this architecture runs."""
    chosen = {name: kernel for name, kernel in CEILINGS.items() if arch in kernel.runs}
    return {name: launch(name, **{size: SIZES[size] for size in kernel.sizes}) for name, kernel in chosen.items()}


ARCHITECTURES = ["80", "86", "89", "90a", "100", "120"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_spills_and_the_grid_is_resident_at_once(arch: str) -> None:
    shapes = _at_real_sizes(arch)
    shapes |= {f"{name} 8": launch(name, count=1 << 26, in_flight=8) for name in ("read", "write", "copy", "triad")}
    for label, found in compiled_all(shapes, arch).items():
        shape = shapes[label]
        resources = found.resources[shape.entry]
        spilled = resources.spill_load_bytes + resources.spill_store_bytes + resources.stack_bytes
        assert (label, spilled) == (label, 0)
        assert "serialized" not in found.log, label  # wgmma that waits for each product
        shared = shape.shared_bytes + resources.static_shared_bytes
        fits = occupancy(architecture(arch.removesuffix("a")), shape.threads, resources.registers, shared)
        if shape.kernel.grid == ("per_sm*sms",):
            assert fits.blocks_per_sm >= shape.symbols["per_sm"], (label, fits)


# What moves the bytes of the streams.
INSTRUCTIONS = {"read": r"LDG\.E\S*\.128", "write": r"STG\.E\.128", "l2_read": r"LDG\.E\.128\.STRONG\.GPU"}
# The instruction that a ceiling counts, and how many of it a thread issues in each turn of the timed loop.
_CHAINED = "chains*loop_steps"
TIMED = {
    "shared_bandwidth": (r"LDS\.128", "in_flight"),
    "fma_fp32": ("FFMA", _CHAINED),
    "fma_fp16": (r"HFMA2(\.MMA)?$", _CHAINED),
    "fma_bf16": (r"HFMA2(\.MMA)?\.BF16", _CHAINED),
    "mma_sync_fp16": (r"HMMA\.16816\.F32$", "sums"),
    "mma_sync_bf16": (r"HMMA\.16816\.F32\.BF16", "sums"),
    "mma_sync_int8": (r"IMMA\.16832\.S8\.S8", "sums"),
    "mma_sync_e4m3": (r"QMMA\.16832\.F32\.E4M3\.E4M3", "sums"),
    "wgmma": (r"HGMMA\.64x256x16\.F32\.BF16", "4*turns"),
    "exp2": (r"MUFU\.EX2", _CHAINED),
    "dequantise_e4m3": (r"F2FP\.F16\.E4M3", f"2*{_CHAINED}"),
    "dequantise_int8": ("PRMT", f"4*{_CHAINED}"),
}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_timed_loop_does_what_is_counted(arch: str) -> None:
    """The compiler merges equal operations and moves constant ones out of the loop: then less is done than counted."""
    chosen = {name: shape for name, shape in _at_real_sizes(arch).items() if name in TIMED}
    for name, found in compiled_all(chosen, arch).items():
        pattern, per_turn = TIMED[name]
        timed = loops(machine_code(found, chosen[name].entry))[0].instructions
        assert (name, times_of(timed, pattern)) == (name, value(per_turn, chosen[name].symbols))
        if name == "shared_bandwidth":
            beside = len(timed) - chosen[name].symbols["in_flight"]
            assert beside <= 2 * chosen[name].symbols["in_flight"]  # 16 could be issued in the time of a load
        if name.startswith("mma"):
            # Those of a uniform register, and of nothing, are issued beside the products.
            assert len(timed) - times_of(timed, f"{pattern}|UIADD3|NOP") <= 3, name


@pytest.mark.parametrize("arch", ["80", "90a"])
def test_streams_move_16_bytes_at_a_time(arch: str) -> None:
    chosen = {name: shape for name, shape in _at_real_sizes(arch).items() if name in INSTRUCTIONS}
    for name, found in compiled_all(chosen, arch).items():
        assert times_of(machine_code(found, name), INSTRUCTIONS[name]), name


@pytest.mark.parametrize(
    ("name", "arch"),
    [("mma_sync_e4m3", "80"), ("mma_sync_e4m3", "90"), ("dequantise_e4m3", "86"), ("wgmma", "90")],
)
def test_what_an_architecture_lacks_is_refused(name: str, arch: str) -> None:
    with pytest.raises(KvperfError, match=f"{name} cannot run on sm_{arch}"):
        CEILINGS[name].require(arch)


def test_every_ceiling_says_what_it_measures() -> None:
    for arch in ("120", "90a"):
        for name, shape in _at_real_sizes(arch).items():
            measured = {"bytes": shape.bytes} | shape.operations
            assert name == "link" or measured[shape.kernel.measures] > 0
