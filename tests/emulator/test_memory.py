"""Every access is checked: bounds, alignment, initialisation; the fault names line, buffer and thread."""

from __future__ import annotations

import numpy as np
import pytest

from kvperf.emulator import Fault
from tests.emulator.ptx import execute

# %x1: the address of each thread's 32-bit element of p0.
ADDRESS = "ld.param.u64 %x0, [p0]; mov.u32 %r0, %tid.x; mul.wide.u32 %x1, %r0, 4; add.s64 %x1, %x0, %x1;"


def fault_of(body: str, *arguments: object, **options: object) -> Fault:
    with pytest.raises(Fault) as caught:
        execute(ADDRESS + body, *arguments, **options)  # type: ignore[arg-type]
    return caught.value


def test_a_load_beyond_the_buffer() -> None:
    fault = fault_of("\nld.global.u32 %r1, [%x1+8];", np.zeros(32, np.uint32), names="keys")
    assert (fault.kind, fault.buffer) == ("bounds", "keys")
    assert fault.line == 13
    assert "PTX line 13 `ld.global.u32 %r1, [%x1+8]`" in fault.message
    assert "byte 128 of 128 of keys, by thread (30, 0, 0) of block (0, 0, 0)" in fault.message


def test_a_store_before_the_buffer() -> None:
    fault = fault_of("st.global.u32 [%x1+-4], %r0;", np.zeros(32, np.uint32), names="keys")
    assert (fault.kind, fault.buffer) == ("bounds", "keys")
    assert "byte -4 of 128 of keys, by thread (0, 0, 0)" in fault.message


def test_a_buffer_does_not_end_in_its_neighbour() -> None:
    fault = fault_of("ld.global.u32 %r1, [%x1+128];", np.zeros(32, np.uint32), np.zeros(999, np.uint32), names="k v")
    assert (fault.kind, fault.buffer) == ("bounds", "k")


def test_a_null_pointer_and_a_wild_one() -> None:
    assert "null pointer" in fault_of("ld.global.u32 %r1, [0];", np.zeros(32, np.uint32)).message
    assert "no buffer" in fault_of("mov.u64 %x2, -64; ld.global.u32 %r1, [%x2];", np.zeros(32, np.uint32)).message


def test_a_misaligned_vector() -> None:
    fault = fault_of("ld.global.v4.u32 {%r1,%r2,%r3,%r4}, [%x1];", np.zeros(64, np.uint32), names="keys")
    assert fault.kind == "alignment"
    assert "16 bytes at byte 4 of keys, by thread (1, 0, 0)" in fault.message


@pytest.mark.parametrize("width", ["u8", "u32", "v4.u32"])
def test_a_load_of_what_nobody_wrote(width: str) -> None:
    mask = np.ones(64, bool)
    mask[37] = False
    registers = {"u8": "%h1", "u32": "%r1", "v4.u32": "{%r1,%r2,%r3,%r4}"}[width]
    at = 144 if width[0] == "v" else 148
    body = f"setp.eq.u32 %p1, %r0, 0; @%p1 ld.global.{width} {registers}, [%x0+{at}];"
    fault = fault_of(body, np.zeros(64, np.uint32), names="keys", initialised={"keys": mask})
    assert (fault.kind, fault.buffer) == ("uninitialised", "keys")
    execute(ADDRESS + body, np.zeros(64, np.uint32), names="keys")


def test_a_store_initialises() -> None:
    array = np.zeros(32, np.uint32)
    execute(
        ADDRESS + "st.global.u32 [%x1], %r0; ld.global.u32 %r1, [%x1]; add.u32 %r1, %r1, 1; st.global.u32 [%x1], %r1;",
        array,
        names="out",
        initialised={"out": False},
    )
    assert array.tolist() == list(range(1, 33))


SHARED = "\n.shared .align 16 .b8 tile[128];\nmov.u32 %r2, tile; shl.b32 %r3, %r0, 2; add.u32 %r2, %r2, %r3;\n"


def test_shared_memory_starts_unwritten_and_ends() -> None:
    zeros = np.zeros(32, np.uint32)
    fault = fault_of(SHARED + "ld.shared.u32 %r1, [%r2];", zeros)
    assert (fault.kind, fault.buffer) == ("uninitialised", "shared memory")
    fault = fault_of(SHARED + "st.shared.u32 [%r2+4], %r1;", zeros)
    assert (fault.kind, fault.buffer) == ("bounds", "shared memory")
    assert "byte 128 of 128 of shared memory, by thread (31, 0, 0)" in fault.message
    execute(ADDRESS + SHARED + "st.shared.u32 [%r2+4], %r1;", zeros, shared_bytes=16)


def test_generic_addresses_reach_both_memories() -> None:
    array = np.zeros(32, np.uint32)
    body = (
        SHARED
        + """
    cvta.shared.u64 %x3, tile;
    mul.wide.u32 %x4, %r0, 4;
    add.s64 %x3, %x3, %x4;
    and.b32 %r4, %r0, 1;
    setp.eq.u32 %p1, %r4, 1;
    st.shared.u32 [%r2], %r0;
    selp.b64 %x5, %x3, %x1, %p1;
    st.u32 [%x5], 7;
    ld.shared.u32 %r5, [%r2];
    add.u32 %r5, %r5, 100;
    @%p1 st.global.u32 [%x1], %r5;
    """
    )
    execute(ADDRESS + body, array)
    assert array.tolist() == [7, 107] * 16


def test_local_memory_is_each_threads_own() -> None:
    array = np.zeros(32, np.uint32)
    body = """
    .local .align 8 .b8 stack[16];
    mov.u64 %x2, stack;
    st.local.u32 [%x2+4], %r0;
    cvta.local.u64 %x3, %x2;
    ld.u32 %r1, [%x3+4];
    st.global.u32 [%x1], %r1;
    """
    execute(ADDRESS + body, array)
    assert array.tolist() == list(range(32))


def test_constants_of_the_module() -> None:
    array = np.zeros(32, np.float32)
    outside = ".const .align 4 .f32 table[2] = {0f3F800000, 0f40000000};\n.global .align 4 .b8 counter[4];\n"
    body = "and.b32 %r1, %r0, 1; mul.wide.u32 %x2, %r1, 4; mov.u64 %x3, table; add.s64 %x2, %x3, %x2;"
    execute(ADDRESS + body + "ld.const.f32 %f1, [%x2]; st.global.f32 [%x1], %f1;", array, outside=outside)
    assert array.tolist() == [1.0, 2.0] * 16


def test_narrow_loads_extend_by_their_type() -> None:
    source, array = np.array([-3] * 32, np.int8), np.zeros(32, np.int32)
    body = "ld.param.u64 %x2, [p1]; ld.global.{0} %r1, [%x2]; st.global.u32 [%x1], %r1;"
    execute(ADDRESS + body.format("s8"), array, source)
    assert array[0] == -3
    execute(ADDRESS + body.format("u8"), array, source)
    assert array[0] == 253


def test_bytes_sectors_and_requests() -> None:
    keys = np.zeros(1024, np.uint32)
    body = "ld.global.u32 %r1, [%x1]; mul.wide.u32 %x2, %r0, 64; add.s64 %x2, %x0, %x2; ld.global.u32 %r1, [%x2];"
    traffic = execute(ADDRESS + body, keys, names="keys", block=(64,)).counts.loads["keys"]
    assert (traffic.bytes, traffic.requests) == (64 * 4 * 2, 4)
    assert traffic.sectors == 2 * 4 + 2 * 32


@pytest.mark.parametrize(
    ("stride_words", "width", "wavefronts"),
    [(1, 1, 1), (0, 1, 1), (2, 1, 2), (32, 1, 32), (33, 1, 1), (4, 4, 4), (2, 2, 2), (8, 4, 8)],
)
def test_bank_conflicts(stride_words: int, width: int, wavefronts: int) -> None:
    """Lanes a stride apart, loads of `width` words: the passes of a full warp."""
    size = {1: "u32", 2: "v2.u32", 4: "v4.u32"}[width]
    registers = {1: "%r5", 2: "{%r5, %r6}", 4: "{%r5, %r6, %r7, %r8}"}[width]
    body = f"""
    .shared .align 16 .b8 tile[8192];
    mov.u32 %r2, tile; mad.lo.u32 %r2, %r0, {4 * stride_words}, %r2;
    st.shared.{size} [%r2], {registers};
    """
    counts = execute(ADDRESS + body, np.zeros(32, np.uint32)).counts
    assert (counts.shared_requests, counts.shared_wavefronts) == (1, wavefronts)
    assert counts.bank_conflicts == wavefronts - width


def test_atomics() -> None:
    total, ticket = np.zeros(1, np.uint32), np.zeros(64, np.uint32)
    body = """
    ld.param.u64 %x2, [p1];
    atom.global.add.u32 %r1, [%x2], 2;
    st.global.u32 [%x1], %r1;
    """
    counts = execute(ADDRESS + body, ticket, total, names="ticket total", block=(64,)).counts
    assert total[0] == 128
    assert sorted(ticket) == list(range(0, 128, 2))
    assert counts.atomics["total"] == 64


@pytest.mark.parametrize(
    ("operation", "start", "end"),
    [
        ("red.global.max.u32 [%x2], %r0;", 7, 31),
        ("red.global.xor.b32 [%x2], %r0;", 5, 5),
        ("atom.global.inc.u32 %r1, [%x2], 9;", 0, 2),
        ("atom.global.dec.u32 %r1, [%x2], 9;", 0, 8),
        ("atom.global.exch.b32 %r1, [%x2], 77;", 0, 77),
        ("atom.global.cas.b32 %r1, [%x2], %r0, 50;", 3, 50),
    ],
)
def test_atomic_operations(operation: str, start: int, end: int) -> None:
    cell = np.array([start], np.uint32)
    execute(ADDRESS + "ld.param.u64 %x2, [p1]; " + operation, np.zeros(32, np.uint32), cell)
    assert cell[0] == end


def test_atomic_floats_and_shared_memory() -> None:
    cell = np.zeros(1, np.float32)
    body = """
    .shared .align 4 .b8 sum[4];
    setp.eq.u32 %p1, %r0, 0;
    @%p1 st.shared.u32 [sum], 0;
    bar.warp.sync -1;
    red.shared.add.f32 [sum], 0f3F000000;
    bar.warp.sync -1;
    ld.shared.f32 %f1, [sum];
    ld.param.u64 %x2, [p1];
    @%p1 red.global.add.f32 [%x2], %f1;
    """
    execute(ADDRESS + body, np.zeros(32, np.uint32), cell)
    assert cell[0] == 16


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([np.zeros(4, np.uint32)], {"block": (2048,)}, "1 to 1024 threads"),
        ([np.zeros(4, np.uint32)], {"block": (1, 1, 65)}, "grid (1, 1, 1) of blocks (1, 1, 65)"),
        ([np.zeros(4, np.uint32)], {"block": (1, 1, 1024)}, "up to (1024, 1024, 64)"),
        ([np.zeros(4, np.uint32)], {"block": (0,)}, "1 to 1024 threads"),
        ([np.zeros(4, np.uint32)], {"grid": (1, 70000)}, "up to (2147483647, 65535, 65535) blocks"),
        ([np.zeros(4, np.uint32)], {"grid": (1, 1, 65536)}, "grid (1, 1, 65536)"),
        ([np.zeros(4, np.uint32)], {"shared_bytes": 4 << 20}, "a block has 232448 at most"),
        ([np.zeros(4, np.uint32)], {"shared_bytes": 99 << 10, "shared_limit_bytes": 98 << 10}, "has 100352 at most"),
        ([np.zeros(4, np.uint32)], {"shared_bytes": -1}, "zero or more"),
        ([np.zeros(4, np.uint32)], {"schedule": "backward"}, "unknown schedule"),
        ([np.zeros(4, np.uint32)], {"names": "a b"}, "names do not fit"),
        ([np.zeros(4, np.uint32)], {"names": "a", "initialised": {"b": False}}, "no argument is called b"),
        ([np.zeros((4, 4), np.uint32)[:, ::2]], {}, "not contiguous"),
    ],
)
def test_a_launch_that_makes_no_sense(arguments: list[object], options: dict[str, object], message: str) -> None:
    with pytest.raises(Fault) as caught:
        execute("", *arguments, **options)  # type: ignore[arg-type]
    assert message in f"{caught.value.message} {caught.value.hint}"


def test_the_limits_of_a_launch_themselves_are_allowed() -> None:
    for options in ({"block": (1, 16, 64)}, {"block": (1, 1024)}, {"shared_bytes": 227 << 10}):
        execute("", np.zeros(4, np.uint32), **options)
    with pytest.raises(Fault, match="1024 bytes of static and 231936 of dynamic"):
        execute(".shared .align 16 .b8 tile[1024];", np.zeros(4, np.uint32), shared_bytes=231936)


@pytest.mark.parametrize("load", ["ld.global.nc.u32 %r1, [%x1]", "ld.global.nc.v2.u32 {%r1,%r2}, [%x2]"])
@pytest.mark.parametrize(
    "store", ["st.global.u8 [%x1+1], %r0;", "red.global.add.u32 [%x1], 1;", "@%p1 st.global.u32 [%x1], %r0;"]
)
def test_the_read_only_cache_does_not_see_writes_of_the_launch(load: str, store: str) -> None:
    pair = "and.b32 %r9, %r0, 30; mul.wide.u32 %x2, %r9, 4; add.s64 %x2, %x0, %x2; setp.eq.u32 %p1, %r0, 9;"
    fault = fault_of(f"{pair} {store}\n{load};", np.zeros(32, np.uint32), names="keys")
    assert (fault.kind, fault.buffer) == ("read-only", "keys")
    assert load in fault.message
    execute(ADDRESS + f"{pair} {store} {load.replace('.nc', '')};", np.zeros(32, np.uint32))


def test_the_read_only_cache_sees_what_was_there_before_and_what_lies_beside() -> None:
    keys, out = np.arange(32, dtype=np.uint32), np.zeros(32, np.uint32)
    body = "ld.param.u64 %x2, [p1]; add.s64 %x2, %x2, %x1; sub.s64 %x2, %x2, %x0; ld.global.nc.u32 %r1, [%x1];"
    execute(ADDRESS + body + "st.global.u32 [%x2], %r1;", keys, out)
    assert (out == keys).all()
    even = "and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 0;"
    execute(ADDRESS + even + "@%p1 st.global.u32 [%x1], %r0; @!%p1 ld.global.nc.u32 %r1, [%x1];", keys)
