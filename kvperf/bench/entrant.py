"""Who takes part in a comparison on one shape: our kernels, a library's, or the user's own.

An entrant knows how to make a call on one set of buffers, where its output lies, and what it asks of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvperf.bench.operands import Operands, kind_of
from kvperf.bench.record import Resources, Work
from kvperf.bench.rig import Call, Rig, in_turn
from kvperf.hardware import Architecture
from kvperf.kernel import reference
from kvperf.kernel.catalogue import kernel
from kvperf.kernel.compile import Compiled, compile_kernel
from kvperf.kernel.geometry import Shape
from kvperf.kernel.launch import Launch, Plan, plan
from kvperf.kernel.occupancy import occupancy
from kvperf.kernel.traffic import traffic
from kvperf.kernel.verify import LIMIT, LIMIT_BF16_MATRIX


@dataclass
class Entrant:
    """One competitor. `call(set)` binds a call to a set of buffers; `out` is where every call writes.

    kind      of cache it reads;  out: [B, Q, H, E] in the number format `dtype`
    checked   like call, and leaves the result in `out`, where a timed call does not
    captures  whether its calls may be captured in a CUDA graph
    trusted   it is ours, and does not write to its operands
    sizes     of the case besides the shape: cache format, page
    """

    name: str
    kind: str
    call: Callable[[dict[str, Any]], Call]
    out: Any
    dtype: str
    work: Work
    limit: float
    resources: Resources | None = None
    launches: int = 1
    rounds_query: bool = False
    captures: bool = True
    family: str = "attention"
    checked: Callable[[dict[str, Any]], Call] | None = None
    trusted: bool = False
    sizes: dict[str, int | float | str] = field(default_factory=dict)


def ours(rig: Rig, name: str, shape: Shape, architecture: Architecture) -> Entrant:
    """One of our kernels, planned as it fills this GPU. Raises KvperfError for what it does not support."""
    sms = rig.facts.sms
    planned = plan(name, shape, architecture, sms)
    compiled = _compiled(rig, planned)
    holds = _blocks_per_sm(planned.launches[0], compiled, architecture)
    if holds > 1:
        planned = plan(name, shape, architecture, sms, blocks_per_sm=holds)
        compiled = _compiled(rig, planned)
    asked = traffic(planned)
    in_bf16 = shape.dtype == "bf16" and "tensor cores" in kernel(name).strategies
    outputs = (shape.batch, shape.q_len, shape.heads, shape.output_dim)
    out = rig.upload(reference.encode(_zeros(outputs), shape.dtype))
    workspace = {
        key: rig.upload(reference.encode(_zeros(spec.shape), spec.dtype)) for key, spec in planned.workspace.items()
    }
    rows = shape.batch * shape.heads * shape.q_len
    work = Work(
        compulsory_bytes=asked.compulsory_cache_bytes
        + asked.compulsory_scale_bytes
        + 2 * rows * (shape.head_dim + shape.output_dim),
        kv_bytes=asked.compulsory_cache_bytes,
        requested_bytes=sum(asked.loads.values()) + sum(asked.stores.values()),
        operations={"flop": 2 * rows * (shape.head_dim + shape.output_dim) * shape.seq, "mma": sum(asked.mma.values())},
        operand=shape.dtype,
    )

    def call(buffers: dict[str, Any]) -> Call:
        held = buffers | workspace | {"out": out}
        return in_turn([_bound(rig, launch, compiled, held) for launch in planned.launches])

    return Entrant(
        name=name,
        kind=kind_of(name),
        call=call,
        out=out,
        dtype=shape.dtype,
        work=work,
        limit=LIMIT_BF16_MATRIX if in_bf16 else LIMIT,
        resources=_resources(rig, planned.launches[0], compiled, architecture),
        launches=len(planned.launches),
        rounds_query=name == "int8_mma",
        trusted=True,
        sizes=_sizes(name, shape),
    )


def _sizes(name: str, shape: Shape) -> dict[str, int | float | str]:
    """What tells cases apart besides the shape: the format of the cache, the tokens of a page."""
    found: dict[str, int | float | str] = {"kv_dtype": kernel(name).cache or shape.dtype}
    if name == "paged":
        found["page_tokens"] = shape.page_tokens
    return found


def _zeros(shape: tuple[int, ...]) -> Any:
    import numpy as np

    return np.zeros(shape, np.float32)


def _bound(rig: Rig, launch: Launch, compiled: Compiled, held: dict[str, Any]) -> Call:
    arguments = [held[a] if isinstance(a, str) else a for a in launch.arguments]
    names = [a for a in launch.arguments if isinstance(a, str)]
    return rig.launch(compiled, launch.entry, launch.grid, launch.block, arguments, launch.dynamic_shared_bytes, names)


def _compiled(rig: Rig, planned: Plan) -> Compiled:
    source = kernel(planned.kernel).source
    return compile_kernel(source, planned.defines, rig.facts.capability)


def _blocks_per_sm(launch: Launch, compiled: Compiled, architecture: Architecture) -> int:
    resources = compiled.resources[launch.entry]
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    shared = resources.static_shared_bytes + launch.dynamic_shared_bytes
    return occupancy(architecture, threads, resources.registers, shared).blocks_per_sm


def _resources(rig: Rig, launch: Launch, compiled: Compiled, architecture: Architecture) -> Resources:
    import hashlib

    found = compiled.resources[launch.entry]
    blocks, held = launch.grid[0] * launch.grid[1] * launch.grid[2], _blocks_per_sm(launch, compiled, architecture)
    return Resources(
        registers=found.registers,
        spill_bytes=found.spill_store_bytes + found.spill_load_bytes,
        shared_bytes=found.static_shared_bytes + launch.dynamic_shared_bytes,
        blocks=blocks,
        blocks_per_sm=held,
        waves=blocks / (held * rig.facts.sms),
        code_hash=hashlib.sha256(compiled.cubin).hexdigest()[:16],
    )


def error_of(rig: Rig, entrant: Entrant, operands: Operands, agreed: Any = None) -> float:
    """Relative norm of the error of one call on the first set, and on the last; NaN where anything is NaN.

    Outputs are poisoned before. Rows of the operands are compared with float64, and everything with the output
    `agreed` [B, Q, H, E] of a kernel that was right, where there is one.
    """
    import numpy as np

    shape, worst = operands.shape, 0.0
    exact = operands.exact_of_int8_queries if entrant.rounds_query else operands.exact
    for buffers in {0: operands.sets[0], len(operands.sets) - 1: operands.sets[-1]}.values():
        found = output_of(rig, entrant, buffers)
        if not np.isfinite(found).all():
            return math.nan
        for (batch, head), expected in exact.items():
            mine = found[batch, :, head * shape.group : (head + 1) * shape.group]
            worst = max(worst, reference.relative_error(mine, expected))
        if agreed is not None and reference.relative_error(found, agreed) > 2 * entrant.limit:
            return max(worst, reference.relative_error(found, agreed))
    return worst


def output_of(rig: Rig, entrant: Entrant, buffers: dict[str, Any]) -> Any:
    """[B, Q, H, E] in float64, from a call that found its output poisoned."""
    rig.poison(entrant.out)
    (entrant.checked or entrant.call)(buffers)()
    rig.wait()
    return reference.decode(rig.download(entrant.out), entrant.dtype)
