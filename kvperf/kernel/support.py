"""What a kernel runs and what it refuses, each refusal with what would take the shape instead."""

from __future__ import annotations

from kvperf.errors import KvperfError
from kvperf.kernel.catalogue import KERNELS, Kernel, Support, kernel


def support(name: str, dtype: str, head_dim: int, group: int, arch: str) -> Support:
    """The row of the support table that covers this, or a KvperfError that says what it fails on.

    `dtype` is that of q; `arch` is as the compiler takes it ("80" … "90a" … "120").
    """
    chosen = kernel(name)
    rows = chosen.support
    dtypes = sorted({d for row in rows for d in row.dtypes})
    head_dims = sorted({d for row in rows for d in row.head_dims})
    if dtype not in dtypes:
        raise KvperfError(f"{name} does not take {dtype} queries", f"it takes {' and '.join(dtypes)}")
    if head_dim not in head_dims:
        raise KvperfError(f"{name} does not take head_dim {head_dim}", _head_dims_hint(head_dim, head_dims))
    rows = [row for row in rows if dtype in row.dtypes and head_dim in row.head_dims]
    most = max(row.max_group for row in rows)
    if not 1 <= group <= most:
        wider = [k.name for k in KERNELS.values() if k.cache == chosen.cache and _takes(k, head_dim, group)]
        hint = f"{', '.join(wider)} can" if wider and group > 0 else f"use 1 to {most}"
        raise KvperfError(f"{name} takes up to {most} query heads per KV head, not {group}", hint)
    rows = [row for row in rows if row.max_group >= group]
    lowest = min(row.min_capability for row in rows)
    if capability(arch) < lowest:
        raise KvperfError(f"{name} needs sm_{lowest} or later, not sm_{arch}", _without(lowest))
    return next(row for row in rows if row.min_capability <= capability(arch))


def no_kernel_takes(head_dim: int) -> KvperfError | None:
    """The error for a head_dim that is nobody's; None where a kernel takes it."""
    if any(_takes(chosen, head_dim) for chosen in KERNELS.values()):
        return None
    return KvperfError(f"no kernel takes head_dim {head_dim}", "they take 64, 128 and 256; mla takes 576")


def _head_dims_hint(head_dim: int, head_dims: list[int]) -> str:
    others = [k.name for k in KERNELS.values() if _takes(k, head_dim)]
    hint = f"it takes {', '.join(map(str, head_dims))}"
    return f"{hint}; {others[0]} takes {head_dim}" if len(others) == 1 else hint


def _takes(chosen: Kernel, head_dim: int, group: int = 1) -> bool:
    return any(head_dim in row.head_dims and row.max_group >= group for row in chosen.support)


def capability(arch: str) -> int:
    """Compute capability times ten: 90 for "90a"."""
    return int(arch.removeprefix("sm_").rstrip("af"))


def _without(needed: int) -> str:
    if needed == 80:
        return "the kernels are for sm_80 and later"
    if needed == 89:
        return "e4m3 conversions came with sm_89; int8_kv halves the bytes, too"
    return "bulk copies and their barriers came with sm_90; async_ring is the same ring with cp.async"
