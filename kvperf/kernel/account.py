"""The account of one kernel on one GPU and shape: `kvperf.kernel/1`.

What the launch looks like, what it takes of an SM, what it asks of memory, and the roofs that bind it.
Registers and instruction counts come from the compiler where NVRTC is installed, else they are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from kvperf import __version__
from kvperf.arith import Number, ceil_div
from kvperf.errors import KvperfError
from kvperf.kernel import roofs
from kvperf.kernel.catalogue import Kernel, kernel
from kvperf.kernel.launch import Launch, Plan, plan
from kvperf.kernel.occupancy import Occupancy, occupancy
from kvperf.kernel.sass import functions, main_loop
from kvperf.kernel.traffic import Traffic, split_lengths, traffic

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.kernel.compile import Compiled
    from kvperf.kernel.geometry import Shape


class LaunchFacts(msgspec.Struct, frozen=True):
    """One launch: its grid, what a block takes, and how it fills the GPU.

    shared  bytes of shared memory by line;  waves: blocks over what the GPU runs at once
    """

    entry: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    blocks: int
    shared: dict[str, int]
    shared_bytes: int
    registers: int | None
    spill_bytes: int | None
    main_loop_instructions: int | None
    occupancy: Occupancy | None
    waves: Number | None


class KernelRoofs(msgspec.Struct, frozen=True):
    """Seconds that each roof of the design takes; null where a rate is unknown.

    hbm_s     compulsory bytes over the HBM peak: the bound
    tensor_s  FLOPs, rows padded to the tile, over the dense peak of the path the kernel uses
    l2_s      all requested bytes over the L2 bandwidth
    flight_s  cache bytes over what the bytes in flight allow at the lowest measured latency
    issue_s   an estimate: instructions of the main loop at four a clock and SM. Branches not taken count
              though they are not issued, inner loops count once though they turn
    """

    hbm_s: Number
    tensor_s: Number | None
    l2_s: Number | None
    flight_s: Number | None
    issue_s: Number | None


class KernelAccount(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """One kernel on one shape. Bytes are requested by threads; compulsory ones cross HBM in any kernel."""

    schema_version: Literal["kvperf.kernel/1"]
    version: str
    kernel: str
    title: str
    against: str | None
    changes: str
    buys: str
    strategies: tuple[str, ...]
    gpu: str
    architecture: str
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    seq: int
    dtype: str
    splits: int
    launches: tuple[LaunchFacts, ...]
    loads: dict[str, int]
    stores: dict[str, int]
    atomics: dict[str, int]
    requested_bytes: int
    compulsory_bytes: int
    reread_factor: float
    matrix_flops: int
    flops_per_byte: float
    mma: dict[str, int]
    mma_utilisation: float | None
    in_flight: roofs.InFlight
    roofs: KernelRoofs
    bound_s: Number
    bound_by: str
    slowest_roof: str
    predicted_s: Number | None = None


def account(name: str, shape: Shape, gpu: Gpu, splits: int | None = None) -> KernelAccount:
    """The account of kernel `name`. Raises KvperfError for what the kernel does not support."""
    if gpu.vendor != "nvidia":
        raise KvperfError(f"the kernels are CUDA: {gpu.name} does not run them", "give an NVIDIA GPU, like h100")
    if gpu.sms is None:
        raise KvperfError(f"{gpu.name} does not say its number of SMs", "kernels are planned for GPUs that do")
    chosen = kernel(name)
    planned = plan(name, shape, gpu.architecture, gpu.sms, splits=splits)
    compiled = _compiled(chosen, planned, gpu)
    if compiled is not None and splits is None:
        # Splits fill the blocks an SM can hold, which the registers decide.
        holds = _occupancy(planned.launches[0], compiled, gpu)
        if holds is not None:
            planned = plan(name, shape, gpu.architecture, gpu.sms, blocks_per_sm=holds.blocks_per_sm)
    asked = traffic(planned)
    loops = _loops(compiled)
    launches = tuple(_launch(launch, compiled, loops, gpu) for launch in planned.launches)
    flops = 2 * shape.batch * shape.heads * shape.q_len * (shape.head_dim + shape.output_dim) * shape.seq
    rows = shape.batch * shape.heads * shape.q_len
    compulsory = asked.compulsory_cache_bytes + 2 * rows * (shape.head_dim + shape.output_dim)
    flight = roofs.in_flight(gpu, _held(planned) * _resident(launches[0], gpu), _busy(launches[0], gpu))
    walls = _roofs(chosen, asked, flops, compulsory, flight, gpu, shape.dtype)
    issued = roofs.issue_s(gpu, _issued(planned, launches[0]), _busy(launches[0], gpu))
    walls = msgspec.structs.replace(walls, issue_s=issued if launches[0].main_loop_instructions else None)
    named = {field: getattr(walls, field) for field in walls.__struct_fields__ if getattr(walls, field) is not None}
    peak = gpu.peak(shape.dtype)
    tensor_s = flops / peak.flops_per_s
    return KernelAccount(
        schema_version="kvperf.kernel/1",
        version=__version__,
        kernel=name,
        title=chosen.title,
        against=chosen.against,
        changes=chosen.changes,
        buys=chosen.buys,
        strategies=chosen.strategies,
        gpu=gpu.name,
        architecture=gpu.architecture.name,
        batch=shape.batch,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        seq=shape.seq,
        dtype=shape.dtype,
        splits=planned.splits,
        launches=launches,
        loads=asked.loads,
        stores=asked.stores,
        atomics=asked.atomics,
        requested_bytes=_summed(asked.loads) + _summed(asked.stores),
        compulsory_bytes=compulsory,
        reread_factor=asked.reread_factor,
        matrix_flops=flops,
        flops_per_byte=flops / compulsory,
        mma=asked.mma,
        mma_utilisation=asked.useful_mma_share if asked.mma else None,
        in_flight=flight,
        roofs=walls,
        bound_s=max(walls.hbm_s, tensor_s),
        bound_by="hbm" if walls.hbm_s >= tensor_s else "tensor",
        slowest_roof=max(named, key=lambda roof: named[roof]).removesuffix("_s"),
    )


def _launch(launch: Launch, compiled: Compiled | None, loops: dict[str, int], gpu: Gpu) -> LaunchFacts:
    blocks = launch.grid[0] * launch.grid[1] * launch.grid[2]
    resources = compiled.resources.get(launch.entry) if compiled else None
    found = _occupancy(launch, compiled, gpu)
    running = found.blocks_per_sm * gpu.sms if found and gpu.sms else None
    return LaunchFacts(
        entry=launch.entry,
        grid=launch.grid,
        block=launch.block,
        blocks=blocks,
        shared=launch.shared,
        shared_bytes=_summed(launch.shared),
        registers=resources.registers if resources else None,
        spill_bytes=resources.spill_store_bytes + resources.spill_load_bytes if resources else None,
        main_loop_instructions=loops.get(launch.entry),
        occupancy=found,
        waves=blocks / running if running else None,
    )


def _occupancy(launch: Launch, compiled: Compiled | None, gpu: Gpu) -> Occupancy | None:
    resources = compiled.resources.get(launch.entry) if compiled else None
    if resources is None:
        return None
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    shared = resources.static_shared_bytes + launch.dynamic_shared_bytes
    return occupancy(gpu.architecture, threads, resources.registers, shared)


def _compiled(chosen: Kernel, planned: Plan, gpu: Gpu) -> Compiled | None:
    """The kernel compiled for this GPU; None without NVRTC, or for an architecture it does not know."""
    from kvperf.kernel import toolkit
    from kvperf.kernel.compile import ARCHITECTURES, compile_kernel

    arch = gpu.architecture.name.removeprefix("sm_")
    try:
        toolkit.nvrtc()
    except KvperfError:
        return None
    return compile_kernel(chosen.source, planned.defines, arch) if arch in ARCHITECTURES else None


def _loops(compiled: Compiled | None) -> dict[str, int]:
    """Instructions of each entry's main loop; empty where no disassembler is installed."""
    from kvperf.kernel.compile import disassemble

    text = disassemble(compiled.cubin) if compiled else None
    found = {entry: main_loop(code) for entry, code in functions(text).items()} if text else {}
    return {entry: len(loop.instructions) for entry, loop in found.items() if loop}


def _held(planned: Plan) -> int:
    """Bytes of K and V that one block has outstanding: the stages still to come, or the tile in registers."""
    lines = planned.launches[0].shared
    stages = planned.defines.get("STAGES", 0)
    ring = lines.get("k stages", 0) + lines.get("v stages", 0) + lines.get("latent stages", 0)
    if ring and stages > 1:
        return ring * (stages - 1) // stages
    element = 1 if kernel(planned.kernel).cache else 2
    sides = 1 if planned.kernel in ("three_pass", "cached_attention") else 2
    return sides * planned.geometry.tokens * planned.shape.head_dim * element


def _resident(launch: LaunchFacts, gpu: Gpu) -> int:
    """Blocks that run on an SM at once: what it holds, or as many as there are."""
    held = launch.occupancy.blocks_per_sm if launch.occupancy else 1
    return max(1, min(held, int(ceil_div(launch.blocks, gpu.sms or 1))))


def _busy(launch: LaunchFacts, gpu: Gpu) -> int:
    return min(launch.blocks, gpu.sms or 1)


def _roofs(
    chosen: Kernel, asked: Traffic, flops: int, compulsory: int, flight: roofs.InFlight, gpu: Gpu, dtype: str
) -> KernelRoofs:
    # Kernels without matrix instructions multiply on the CUDA cores; the others pad their rows to the tile.
    if "tensor cores" in chosen.strategies:
        slow = [p.value for p in gpu.profile.peaks if p.dtype == dtype and p.path == "mma.sync"]
        rate = float(max(slow)) if slow else gpu.peak(dtype).flops_per_s
        executed = flops / asked.useful_mma_share
    else:
        rate, executed = gpu.cuda_core_flops_per_s, flops
    fastest = flight.bytes_per_s[1] if flight.bytes_per_s else None
    return KernelRoofs(
        hbm_s=compulsory / gpu.hbm_bytes_per_s,
        tensor_s=executed / rate if rate else None,
        l2_s=roofs.l2_s(gpu, _summed(asked.loads) + _summed(asked.stores)),
        flight_s=asked.compulsory_cache_bytes / fastest if fastest else None,
        issue_s=None,
    )


def _issued(planned: Plan, launch: LaunchFacts) -> float:
    """Warp instructions of the main loop: each warp runs it once for each step of its block."""
    steps = 0
    for tokens in split_lengths(planned):
        steps += int(ceil_div(tokens, planned.geometry.tokens))
    shape, shares = planned.shape, kernel(planned.kernel).shares
    rows = shape.batch * (shape.kv_heads * planned.geometry.row_tiles if shares else shape.heads)
    warps = int(ceil_div(launch.block[0] * launch.block[1] * launch.block[2], 32))
    return float((launch.main_loop_instructions or 0) * warps * rows * steps)


def _summed(lines: dict[str, int]) -> int:
    total = 0
    for size in lines.values():
        total += size
    return total
