"""How a kernel is launched on a shape: macros, grids, shared memory line by line, arguments and workspace.

Symbols: B batch, H query heads, K KV heads, S cached tokens, D head dimension.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from kvperf.arith import ceil_div
from kvperf.errors import KvperfError
from kvperf.hardware import Architecture
from kvperf.kernel import geometry
from kvperf.kernel.catalogue import Kernel, kernel
from kvperf.kernel.geometry import Geometry, Shape
from kvperf.kernel.splits import MAX_SPLITS, choose_splits, fill_slots
from kvperf.kernel.support import support

# The largest grid (CUDA guide, table of compute capabilities), and the largest int32.
GRID_LIMITS = (2**31 - 1, 65535, 65535)
INT32 = 2**31 - 1


class Launch(msgspec.Struct, frozen=True):
    """One launch. A string among the arguments names a buffer, a number is a scalar (int: int32, float: fp32).

    shared  bytes of shared memory by line; `dynamic_shared_bytes` of their sum are given at the launch
    """

    entry: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[str | int | float, ...]
    shared: dict[str, int]
    dynamic_shared_bytes: int = 0


class Workspace(msgspec.Struct, frozen=True):
    """A buffer besides operands and result. `zeroed`: it must be zero before the launch, and is zero after it."""

    dtype: str
    shape: tuple[int, ...]
    zeroed: bool = False


class Plan(msgspec.Struct, frozen=True):
    """Everything a launcher needs, and everything the traffic follows from."""

    kernel: str
    shape: Shape
    defines: dict[str, int]
    geometry: Geometry
    splits: int
    split_tokens: int
    launches: tuple[Launch, ...]
    workspace: dict[str, Workspace]

    @property
    def shares(self) -> bool:
        """Whether one read of K and V serves all query heads of a group."""
        return kernel(self.kernel).shares


def plan(
    name: str,
    shape: Shape,
    architecture: Architecture,
    sms: int,
    *,
    splits: int | None = None,
    blocks_per_sm: int = 1,
    output_fp32: bool = False,
) -> Plan:
    """The launches of kernel `name`; `splits` overrides the heuristic, where the kernel splits at all.

    Raises KvperfError for what the kernel does not support, and for launches that no GPU runs.
    """
    chosen = kernel(name)
    support(name, shape.dtype, shape.head_dim, shape.group, architecture.name.removeprefix("sm_"))
    if name == "mla" and shape.kv_heads != 1:
        raise KvperfError(f"MLA has one KV head, the latent, not {shape.kv_heads}", "use --kv-heads 1")
    limit = _shared_limit(architecture)
    tile = geometry.of(chosen, shape, limit)
    count, tokens = _split(chosen, shape, tile, sms * blocks_per_sm, splits)
    defines = {"ELEMENT_BF16": int(shape.dtype == "bf16"), "OUTPUT_FP32": int(output_fp32), **tile.defines}
    workspace = _workspace(chosen, shape, count)
    launches = _launches(chosen, shape, tile, count, tokens, sms * blocks_per_sm)
    for launch in launches:
        _check_grid(launch)
        _check_shared(chosen, shape, launch, limit, architecture)
    return Plan(name, shape, defines, tile, count, tokens, launches, workspace)


def _split(chosen: Kernel, shape: Shape, tile: Geometry, slots: int, wanted: int | None) -> tuple[int, int]:
    """(splits, tokens of each but the last): whole tiles, and no split without a token."""
    if "split-KV" not in chosen.strategies:
        return 1, shape.seq
    kv_blocks = int(ceil_div(shape.seq, tile.tokens))
    if wanted is not None and not 1 <= wanted <= MAX_SPLITS:
        raise KvperfError(f"{wanted} splits", f"use 1 to {MAX_SPLITS}")
    blocks = shape.batch * (shape.kv_heads * tile.row_tiles if chosen.shares else shape.heads)
    rule = fill_slots if "persistence" in chosen.strategies else choose_splits
    splits = min(wanted or rule(blocks, kv_blocks, slots), kv_blocks)
    tokens = int(ceil_div(kv_blocks, splits)) * tile.tokens
    return int(ceil_div(shape.seq, tokens)), tokens


def _workspace(chosen: Kernel, shape: Shape, splits: int) -> dict[str, Workspace]:
    rows = shape.batch * shape.q_len * shape.heads
    if chosen.name == "three_pass":
        return {"scores": Workspace("fp32", (shape.batch, shape.heads, shape.seq))}
    if "split-KV" not in chosen.strategies:
        return {}
    # Without splits nobody touches the partials; a buffer must still be there to be passed.
    held = rows * splits if splits > 1 else 1
    found = {
        "partial_o": Workspace("fp32", (held, shape.output_dim)),
        "partial_ml": Workspace("fp32", (held, 2)),
    }
    if "combine" not in chosen.entries:
        counters = shape.batch * (shape.kv_heads if chosen.shares else shape.heads)
        found["arrived"] = Workspace("int32", (counters,), zeroed=True)
    return found


def _launches(chosen: Kernel, shape: Shape, tile: Geometry, splits: int, tokens: int, slots: int) -> tuple[Launch, ...]:
    B, H, K, S = shape.batch, shape.heads, shape.kv_heads, shape.seq
    scale = shape.score_scale
    shared, dynamic = tile.shared, tile.dynamic_shared_bytes
    if chosen.name == "three_pass":
        threads, width = (128, 1, 1), shape.head_dim
        return (
            Launch("scores", (-(-S // 32), H, B), threads, ("q", "k", "scores", K, S, scale), {}),
            Launch("softmax", (H, B, 1), threads, ("scores", S), {"maxima and sums": 32}),
            Launch("weighted_values", (H, B, 1), (width, 1, 1), ("scores", "v", "out", K, S), {"scores": 4 * width}),
        )
    if "split-KV" not in chosen.strategies:
        arguments = ("q", "k", "v", "out", K, S, scale)
        return (Launch(chosen.name, (H, B, 1), (32, 32, 1), arguments, shared, dynamic),)
    operands = {
        "mla": ("q", "latent"),
        "paged": ("q", "k", "v", "pages", "lengths"),
        "int8_kv": ("q", "k", "v", "k_scales", "v_scales"),
        "int8_mma": ("q", "k", "v", "k_scales", "v_scales"),
    }.get(chosen.name, ("q", "k", "v"))
    buffers = (*operands, "out", "partial_o", "partial_ml")
    if chosen.name == "persistent":
        arguments = (*buffers, "arrived", B * K, splits, S, tokens, scale)
        grid = (min(B * K * splits, slots), 1, 1)
        return (Launch("persistent", grid, tile.block, arguments, shared, dynamic),)
    if chosen.name == "split_kv_single":
        arguments = (*buffers, "arrived", K, S, tokens, scale)
        return (Launch("split_kv_single", (splits, H, B), tile.block, arguments, shared, dynamic),)
    heads_of_grid = K * tile.row_tiles if chosen.shares else H
    sizes = {"mla": (H, S), "paged": (K, shape.pages_per_sequence)}.get(chosen.name, (K, S))
    scales = (scale, shape.k_scale, shape.v_scale) if chosen.cache == "fp8" else (scale,)
    arguments = (*buffers, *sizes, tokens, *scales)
    main = Launch(chosen.entries[0], (splits, heads_of_grid, B), tile.block, arguments, shared, dynamic)
    if splits == 1:
        return (main,)
    rows = B * shape.q_len * H
    arguments = ("out", "partial_o", "partial_ml", splits)
    return (main, Launch("combine", (rows, 1, 1), (128, 1, 1), arguments, {"maxima and sums": 8 * MAX_SPLITS}))


def _shared_limit(architecture: Architecture) -> int:
    reading = architecture.limits.shared_per_block
    if reading is None:
        raise KvperfError(
            f"{architecture.name} does not say its shared memory per block", "kernels run on NVIDIA GPUs only"
        )
    return int(reading.value)


def _check_grid(launch: Launch) -> None:
    """Batch and heads are grid dimensions, which have limits; sizes travel as int32."""
    for axis, size, limit in zip("xyz", launch.grid, GRID_LIMITS, strict=True):
        if size > limit:
            raise KvperfError(
                f"the grid of {launch.entry} is {size} blocks along {axis}: the limit is {limit}",
                "use a smaller batch, or fewer heads",
            )
    if any(isinstance(argument, int) and argument > INT32 for argument in launch.arguments):
        raise KvperfError(
            f"{launch.entry} takes its sizes as 32-bit numbers: the limit is {INT32}", "use a smaller batch or seq"
        )


def _check_shared(chosen: Kernel, shape: Shape, launch: Launch, limit: int, architecture: Architecture) -> None:
    total = sum(launch.shared.values())
    if total <= limit:
        return
    if "scores" in launch.shared and chosen.name == "cached_attention":
        most = (limit - (total - launch.shared["scores"])) // 4
        raise KvperfError(
            f"cached_attention keeps {shape.seq} scores in shared memory: {total} bytes, but a block of "
            f"{architecture.name} has {limit}",
            f"S can be {most} at most; flash needs no room for scores",
        )
    lines = _listed(launch.shared)
    raise KvperfError(
        f"{chosen.name} needs {total} bytes of shared memory, but a block of {architecture.name} has {limit}",
        f"it is made of {lines}",
    )


def _listed(lines: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {size}" for name, size in lines.items())
