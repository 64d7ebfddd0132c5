"""What the compiler makes of the kernels: no spills, the shared memory that is planned, the instructions intended."""

from __future__ import annotations

import os

import pytest

from kvperf.files import folder
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.compile import ARCHITECTURES, Request, compile_many, disassemble
from kvperf.kernel.loop import tile_loop
from kvperf.kernel.support import capability
from kvperf.kernel.trial import GPUS, Case, small
from tests.kernel.small import machine_code
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
FULL = bool(os.environ.get("KVPERF_TEST_FULL"))


def _rows(name: str) -> list[Case]:
    """Support rows: architectures, dtypes, head dimensions, and the groups that change the code."""
    return [
        Case(name, dtype, head_dim, group, 4096, kv_heads=1, arch=arch)
        for row in KERNELS[name].support
        for arch in GPUS
        if capability(arch) >= row.min_capability
        for head_dim in row.head_dims
        for group in _groups(name, row.max_group, arch)
        for dtype in row.dtypes
    ]


def _groups(name: str, most: int, arch: str) -> list[int]:
    """All of them on one architecture, and the ends of each tile size on the others."""
    if name == "mla":
        return [16, 32, 64, 128]
    if not KERNELS[name].shares:
        return [1, most]
    return [group for group in range(1, most + 1) if arch == "90" or group in (1, 2, 4, 8, 16)]


def _sample(name: str) -> list[Case]:
    """The hungriest row of two architectures, and a plain one."""
    rows = [row for row in _rows(name) if row.arch in ("89", "90")]
    hungriest = {row.arch: row for row in sorted(rows, key=lambda r: (r.head_dim, r.group, r.dtype))}
    return [*hungriest.values(), next(row for row in rows if row.group in (4, 16) and row.arch == "90")]


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_spills_and_shared_memory_is_as_planned(name: str) -> None:
    cases = _rows(name) if FULL else _sample(name)
    plans = [case.plan for case in cases]
    requests = [Request(kernel(name).source, p.defines, c.arch) for p, c in zip(plans, cases, strict=True)]
    for case, planned, compiled in zip(cases, plans, compile_many(requests), strict=True):
        for launch in planned.launches:
            found = compiled.resources[launch.entry]
            assert (found.spill_store_bytes, found.spill_load_bytes, found.stack_bytes) == (0, 0, 0), case
            static = sum(launch.shared.values()) - launch.dynamic_shared_bytes
            assert found.static_shared_bytes == static, (case, launch.entry)


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("vector_loads", ["LDG.E", ".128"]),
        ("async_ring", ["LDGSTS.E", ".128"]),
        ("bulk_copy", ["UBLKCP", "SYNCS"]),
        ("tensor_cores", ["LDGSTS.E", "LDSM.16.M88.4", "LDSM.16.MT88.4", "HMMA.16816.F32"]),
        ("int8_mma", ["LDGSTS.E", "LDSM", "IMMA.16832.S8", "HMMA.16816.F32"]),
        ("fp8_kv", ["LDG.E", "E4M3"]),
        ("mla", ["LDGSTS.E", "LDSM", "HMMA.16816.F32"]),
        ("persistent", ["LDGSTS.E", "ATOM"]),
    ],
)
def test_the_intended_instructions_are_there(name: str, instructions: list[str]) -> None:
    case = small(name)
    compiled = compile_many([Request(kernel(name).source, case.plan.defines, "90")])[0]
    code = disassemble(compiled.cubin)
    if code is None:
        pytest.skip("cuobjdump and nvdisasm are not installed")
    for instruction in instructions:
        assert instruction in code
    assert "LDL" not in code
    assert "STL" not in code


@pytest.mark.parametrize("arch", ["80", "90", "120"])
@pytest.mark.parametrize("name", ["flash", "split_kv"])
@pytest.mark.parametrize("head_dim", [128, 256])
def test_all_loads_of_a_tile_are_started_before_the_first_is_used(name: str, arch: str, head_dim: int) -> None:
    """Half of 32 keys and as many values, in words, over 1024 threads."""
    case = small(name, head_dim=head_dim, arch=arch)
    compiled = compile_many([Request(kernel(name).source, case.plan.defines, arch)])[0]
    found = tile_loop(machine_code(compiled, name))
    assert found is not None
    moves = [instruction.opcode for instruction in found.instructions if instruction.opcode in ("LDG", "STS")]
    first = moves.index("LDG")
    assert moves[first : first + head_dim // 32] == ["LDG"] * (head_dim // 32)
    assert moves.count("LDG") == head_dim // 32


def test_the_gate_compiles_for_every_architecture() -> None:
    requests = [Request(folder("kernels") / "gate.cu", {}, arch) for arch in ARCHITECTURES]
    assert all(compiled.resources["gate"].stack_bytes == 0 for compiled in compile_many(requests))
