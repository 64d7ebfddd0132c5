"""The account of one kernel on one GPU and shape: `kvperf.kernel/1`.

What the launch looks like, what it takes of an SM, what it asks of memory, and the roofs that bind it.
Registers and instruction counts come from the compiler where NVRTC is installed, else they are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from kvperf import __version__
from kvperf.arith import Number
from kvperf.errors import KvperfError
from kvperf.kernel import roofs, target
from kvperf.kernel.catalogue import KERNELS, Kernel, kernel
from kvperf.kernel.flight import Holding, InFlight, holding, in_flight, wait_s
from kvperf.kernel.issue import issue_s, warp_turns
from kvperf.kernel.launch import Plan, plan
from kvperf.kernel.launch_facts import LaunchFacts, facts, occupancy_of
from kvperf.kernel.roofs import KernelRoofs
from kvperf.kernel.traffic import Traffic, traffic

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.kernel.compile import Compiled
    from kvperf.kernel.geometry import Shape

DTYPE_BYTES = {"fp32": 4, "int32": 4}  # elements of workspace


class KernelAccount(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """One kernel on one shape. Bytes are requested by threads; compulsory ones cross HBM in any kernel.

    uncompiled        why registers and occupancy are null; splits are then chosen as if an SM held one block
    splits            that whole tiles give;  requested_splits: what was asked for, null where a rule chose
    split_tokens      of each split but the last
    page_tokens       of a paged cache
    arithmetic_rates  FLOP/s by instruction, null where unknown
    memory_bytes      of all buffers;  fits: whether the GPU has them
    design_s          the longest known roof without the estimate: this design takes at least that
    """

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
    uncompiled: str | None
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    seq: int
    dtype: str
    page_tokens: int | None
    splits: int
    requested_splits: int | None
    split_tokens: int
    launches: tuple[LaunchFacts, ...]
    loads: dict[str, int]
    stores: dict[str, int]
    atomics: dict[str, int]
    requested_bytes: int
    compulsory_bytes: int
    reread_factor: float
    matrix_flops: int
    flops_per_byte: float
    requested_flops_per_byte: float
    mma: dict[str, int]
    mma_utilisation: float | None
    arithmetic_rates: dict[str, float | None]
    memory_bytes: int
    capacity_bytes: int
    fits: bool
    in_flight: InFlight
    roofs: KernelRoofs
    bound_s: Number
    bound_by: str
    slowest_roof: str
    design_s: Number
    predicted_s: Number | None = None


def account(name: str, shape: Shape, gpu: Gpu, splits: int | None = None) -> KernelAccount:
    """The account of kernel `name`. Raises KvperfError for what the kernel does not support."""
    target.check(gpu)
    if gpu.sms is None:
        raise KvperfError(f"{gpu.name} does not say its number of SMs", "kernels are planned for GPUs that do")
    chosen = kernel(name)
    if splits is not None and "split-KV" not in chosen.strategies:
        able = ", ".join(k.name for k in KERNELS.values() if "split-KV" in k.strategies)
        raise KvperfError(f"{name} does not split a sequence", f"leave --splits out; these split: {able}")
    planned, compiled = _planned(chosen, shape, gpu, splits)
    asked, launches = traffic(planned), facts(planned, compiled, gpu)
    rows = shape.batch * shape.heads * shape.q_len
    flops = 2 * rows * (shape.head_dim + shape.output_dim) * shape.seq
    compulsory = asked.compulsory_cache_bytes + asked.compulsory_scale_bytes
    compulsory += 2 * rows * (shape.head_dim + shape.output_dim)
    requested = _summed(asked.loads) + _summed(asked.stores)
    walls, flight = _roofs(planned, launches, asked, compulsory, gpu)
    tensor_s = flops / gpu.peak(shape.dtype).flops_per_s
    memory = compulsory + _workspace_bytes(planned)
    slowest = walls.slowest()
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
        uncompiled=target.obstacle(gpu),
        batch=shape.batch,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        seq=shape.seq,
        dtype=shape.dtype,
        page_tokens=shape.page_tokens if name == "paged" else None,
        splits=planned.splits,
        requested_splits=splits,
        split_tokens=planned.split_tokens,
        launches=launches,
        loads=asked.loads,
        stores=asked.stores,
        atomics=asked.atomics,
        requested_bytes=requested,
        compulsory_bytes=compulsory,
        reread_factor=asked.reread_factor,
        matrix_flops=flops,
        flops_per_byte=flops / compulsory,
        requested_flops_per_byte=flops / requested,
        mma=asked.mma,
        mma_utilisation=asked.useful_mma_share if asked.mma else None,
        arithmetic_rates=roofs.arithmetic_rates(gpu, asked),
        memory_bytes=memory,
        capacity_bytes=gpu.hbm_capacity_bytes,
        fits=memory <= gpu.hbm_capacity_bytes,
        in_flight=flight,
        roofs=walls,
        bound_s=max(walls.hbm_s, tensor_s),
        bound_by="hbm" if walls.hbm_s >= tensor_s else "tensor",
        slowest_roof=slowest.removesuffix("_s"),
        design_s=getattr(walls, slowest),
    )


def _planned(chosen: Kernel, shape: Shape, gpu: Gpu, splits: int | None) -> tuple[Plan, Compiled | None]:
    """The plan, and the kernel compiled for this GPU; None where it cannot be compiled here."""
    from kvperf.kernel.compile import compile_kernel

    sms = gpu.sms or 1
    planned = plan(chosen.name, shape, gpu.architecture, sms, splits=splits)
    if target.obstacle(gpu) is not None:
        return planned, None
    compiled = compile_kernel(chosen.source, planned.defines, target.name(gpu))
    # Splits and persistent blocks fill what an SM can hold, which the registers decide.
    holds = occupancy_of(planned.launches[0], compiled, gpu)
    blocks = holds.blocks_per_sm if holds else 1
    return plan(chosen.name, shape, gpu.architecture, sms, splits=splits, blocks_per_sm=blocks), compiled


def _roofs(
    planned: Plan, launches: tuple[LaunchFacts, ...], asked: Traffic, compulsory: int, gpu: Gpu
) -> tuple[KernelRoofs, InFlight]:
    """All roofs, and what is in flight: of the launches that read K and V, one after the other."""
    held = _held(planned, launches, asked, gpu)
    flight = in_flight(gpu, None, 0)
    waiting = None
    if held:
        least = min(held, key=lambda h: h.total_bytes)
        flight = in_flight(gpu, least.bytes_per_sm, least.total_bytes / least.bytes_per_sm)
        waiting = wait_s(gpu, held)
    if waiting is not None:
        limits = waiting > asked.compulsory_cache_bytes / gpu.hbm_bytes_per_s
        flight = msgspec.structs.replace(flight, limits=limits)
    walls = KernelRoofs(
        hbm_s=compulsory / gpu.hbm_bytes_per_s,
        tensor_s=roofs.arithmetic_s(gpu, asked),
        l2_s=roofs.l2_s(gpu, _summed(asked.loads) + _summed(asked.stores)),
        flight_s=waiting if flight.limits else None,
        issue_s=_issue_s(planned, launches, gpu),
    )
    return walls, flight


def _held(planned: Plan, launches: tuple[LaunchFacts, ...], asked: Traffic, gpu: Gpu) -> list[Holding]:
    """What each launch that reads K and V holds in flight; none where occupancy is unknown."""
    found = []
    for launch, fact in zip(planned.launches, launches, strict=True):
        if fact.occupancy is None:
            return []
        held = holding(planned, launch, asked, gpu, fact.occupancy.blocks_per_sm)
        if held is not None:
            found.append(held)
    return found


def _issue_s(planned: Plan, launches: tuple[LaunchFacts, ...], gpu: Gpu) -> float | None:
    """Issue slots of the loop over tiles, where one launch has it and it can be counted."""
    counted = launches[0].main_loop_instructions
    if counted is None:
        return None
    return issue_s(gpu, counted * warp_turns(planned), min(launches[0].blocks, gpu.sms or 1))


def _workspace_bytes(planned: Plan) -> int:
    total = 0
    for buffer in planned.workspace.values():
        size = DTYPE_BYTES[buffer.dtype]
        for extent in buffer.shape:
            size *= extent
        total += size
    return total


def _summed(lines: dict[str, int]) -> int:
    total = 0
    for size in lines.values():
        total += size
    return total
