"""The loop over tiles in machine code: which one it is, and how many instructions a turn costs."""

from __future__ import annotations

import pytest

from kvperf.kernel import toolkit
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.compile import Request, compile_many, disassemble
from kvperf.kernel.issue import loop_instructions, warp_turns
from kvperf.kernel.loop import loops, tile_loop, turn_instructions
from kvperf.kernel.sass import Instruction, functions
from kvperf.kernel.support import capability
from kvperf.kernel.traffic import traffic
from kvperf.kernel.trial import Case
from tests.nvrtc import needs_nvrtc

COUNTED = (
    "vector_loads",
    "async_ring",
    "bulk_copy",
    "tensor_cores",
    "int8_kv",
    "int8_mma",
    "fp8_kv",
    "paged",
    "persistent",
)


def code(*lines: str) -> tuple[Instruction, ...]:
    """Instructions from "[@P0 ]NAME operands", 16 bytes apart."""
    found = []
    for i, line in enumerate(lines):
        guard, _, rest = line.partition(" ") if line.startswith("@") else ("", "", line)
        name, _, operands = rest.partition(" ")
        found.append(Instruction(16 * i, name, operands, guard))
    return tuple(found)


def spans(instructions: tuple[Instruction, ...]) -> list[tuple[int, int]]:
    return sorted((loop.first, loop.last) for loop in loops(instructions))


def test_a_branch_back_makes_a_loop() -> None:
    assert spans(code("MOV", "FADD", "@P0 BRA 0x10", "EXIT", "BRA 0x40")) == [(0x10, 0x20)]
    assert spans(code("MOV", "FADD", "@P0 BRA 0x10", "@P1 BRA 0x0", "EXIT")) == [(0x0, 0x30), (0x10, 0x20)]


def test_code_behind_the_end_that_jumps_back_is_no_loop() -> None:
    """The way of warps out of step: a branch back whose target is not on every way to it."""
    lines = ("MOV", "BRA.DIV UR4, 0x60", "FADD", "@P0 BRA 0x0", "EXIT", "NOP", "SHFL", "BRA 0x20")
    assert spans(code(*lines)) == [(0x0, 0x30)]
    assert spans(code("@P0 BRA 0x40", "FADD", "FADD", "EXIT", "FMUL", "BRA 0x20")) == []


TILE = ("MOV", "SHFL.BFLY R0", "MUFU.EX2 R0", "FFMA R0", "@P0 BRA 0x10")


def test_the_loop_over_tiles_is_the_smallest_with_scores_and_weights() -> None:
    """Neither that of pieces around it, nor that of a producer or a merge beside it."""
    instructions = code(*TILE, "MUFU.EX2 R1", "@P1 BRA 0x50", "@P2 BRA 0x0", "SYNCS", "UBLKCP", "@P3 BRA 0x80", "EXIT")
    assert spans(instructions) == [(0x0, 0x70), (0x10, 0x40), (0x50, 0x60), (0x80, 0xA0)]
    found = tile_loop(instructions)
    assert found is not None
    assert (found.first, found.last) == (0x10, 0x40)
    assert turn_instructions(instructions, 0) == 4
    assert tile_loop(code("SHFL", "@P0 BRA 0x0", "MUFU.EX2", "@P0 BRA 0x20", "EXIT")) is None


def test_a_loop_of_copies_is_counted_by_them_and_any_other_is_not() -> None:
    copying = code("SHFL", "MUFU.EX2", "LDGSTS", "LDGSTS", "@P1 BRA 0x20", "@P0 BRA 0x0", "EXIT")
    assert turn_instructions(copying, 2) == 6
    assert turn_instructions(copying, 8) == 6 + 3 * 3
    assert turn_instructions(copying, 3) is None  # no whole number of turns
    assert turn_instructions(copying, 0) is None
    weighing = code("SHFL", "MUFU.EX2", "LDS", "FFMA", "@P1 BRA 0x20", "@P0 BRA 0x0", "EXIT")
    assert turn_instructions(weighing, 8) is None


def test_waiting_out_of_line_is_not_counted() -> None:
    lines = ("SYNCS", "@!P0 BRA 0x60", "SHFL", "MUFU.EX2", "@P1 BRA 0x0", "EXIT", "SYNCS", "@!P0 BRA 0x60", "BRA 0x20")
    assert turn_instructions(code(*lines), 0) == 5


def _cases(arch: str) -> list[Case]:
    return [
        Case(name, "bf16", head_dim, group, 4096, kv_heads=1, arch=arch)
        for name, chosen in KERNELS.items()
        for row in chosen.support
        if row.min_capability <= capability(arch)
        for head_dim in row.head_dims
        for group in ((16, 128) if name == "mla" else (4,))
    ]


@needs_nvrtc
@pytest.mark.parametrize("arch", ["80", "90"])
def test_every_kernel_is_counted_exactly_or_not_at_all(arch: str) -> None:
    """Ring and vector kernels are; those with loops of unknown length within the tile's are not."""
    if toolkit.tool("cuobjdump") is None or toolkit.tool("nvdisasm") is None:
        pytest.skip("cuobjdump and nvdisasm are not installed")
    cases = _cases(arch)
    plans = [case.plan for case in cases]
    compiled = compile_many([Request(kernel(p.kernel).source, p.defines, arch) for p in plans])
    for case, planned, made in zip(cases, plans, compiled, strict=True):
        instructions = functions(disassemble(made.cubin) or "")[planned.launches[0].entry]
        found = loop_instructions(planned, instructions)
        if case.kernel not in COUNTED:
            assert found is None, case
            continue
        loop = tile_loop(instructions)
        assert loop is not None, case
        assert found is not None, case
        # Once round the loop, a warp multiplies what the closed form says: neither more loop nor less.
        turns, said = warp_turns(planned), traffic(planned)
        if said.mma:
            assert (loop.has("HMMA") + loop.has("IMMA")) * turns == sum(said.mma.values()), case
        else:
            fused = loop.has("FFMA") + loop.has("FMUL") + loop.has("FADD")
            assert said.multiply_adds <= fused * turns * 32 <= 2.5 * said.multiply_adds, case
        assert found < 1000, case


@needs_nvrtc
def test_only_consumer_warps_turn_and_matrix_warps_take_tiles_of_their_own() -> None:
    assert (
        warp_turns(Case("bulk_copy", group=4, seq=100, kv_heads=1).plan) == 4 * 4
    )  # 4 tiles of 32, a fifth warp orders
    assert warp_turns(Case("async_ring", group=4, seq=100, kv_heads=2, batch=3).plan) == 4 * 4 * 6
    assert warp_turns(Case("tensor_cores", group=4, seq=100, kv_heads=1).plan) == 7  # tiles of 16
    assert warp_turns(Case("flash", group=4, seq=33, kv_heads=1).plan) == 2 * 32 * 4
