"""Single measured launches, from a user's file or a record of `kvperf bench`, as the groups that are fitted and scored.

A group holds launches of one structure: family, formats, cache state. Several groups may have one label, as warm and
cold rows of one format do; they share an interval. Keys are those of kvperf.silicon: a shape is in the same part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.launches.collective import Collective
from kvperf.launches.decode_attention import DecodeAttention, plan
from kvperf.launches.gemm import Gemm
from kvperf.launches.prefill_attention import PrefillAttention
from kvperf.predict.families import FAMILIES
from kvperf.silicon.catalogue import Group
from kvperf.silicon.lint import faster_than_physics
from kvperf.silicon.rows import Rows
from kvperf.units import decimal

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

# 16-bit formats move the same bytes at the same rates; names of tables and frameworks stand beside ours.
ALIASES = {
    **dict.fromkeys(("fp16", "float16", "half", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp8_e4m3", "fp8_e5m2"), "fp8"),
    "fp8_block": "fp8-block",
}
CACHE_FORMATS = ("bf16", "fp8")
PRODUCT_FORMATS = tuple(name for name in DTYPES if name not in ("fp16", "fp32"))
_OF_TABLES = {"bf16": "bfloat16", "fp8-block": "fp8_block"}


class Point(msgspec.Struct, frozen=True):
    """One measured launch.

    family   a name in kvperf.predict.families
    sizes    by the names of the launch's fields
    formats  of the cache; of weights and activations; of nothing (collectives)
    warm     the buffers were those of the call before
    line     where it stands in a file, for messages
    """

    family: str
    sizes: Mapping[str, float]
    formats: tuple[str, ...]
    warm: bool
    seconds: float
    line: int = 0


def grouped(points: Iterable[Point], gpu: Gpu, stack: str) -> tuple[dict[str, list[Group]], list[tuple[Point, str]]]:
    """(groups by family, points that cannot be used and why). Points faster than physics are among the latter."""
    of_structure: dict[tuple[str, tuple[str, ...], bool], list[Point]] = {}
    for point in points:
        of_structure.setdefault((point.family, point.formats, point.warm), []).append(point)
    groups: dict[str, list[Group]] = {}
    bad: list[tuple[Point, str]] = []
    for (family, *_), alike in of_structure.items():
        try:
            group, impossible = _group(alike, gpu, stack)
        except KvperfError as problem:  # a format that the GPU has no unit for, a link that it does not list
            bad += [(point, problem.message) for point in alike]
            continue
        bad += impossible
        if group.rows.keys:
            groups.setdefault(family, []).append(group)
    return groups, bad


def _group(points: Sequence[Point], gpu: Gpu, stack: str) -> tuple[Group, list[tuple[Point, str]]]:
    import numpy as np

    first = points[0]
    family = FAMILIES[first.family]
    sizes = {name: np.array([point.sizes[name] for point in points], dtype=float) for name in first.sizes}
    launch = MAKERS[first.family](sizes, first, stack)
    measured_s = np.array([point.seconds for point in points], dtype=float)
    floor_s = np.broadcast_to(np.asarray(family.floor(launch, gpu), dtype=float), measured_s.shape)
    fast = faster_than_physics(measured_s, floor_s)
    impossible = [
        (
            point,
            f"{decimal(point.seconds, 's')} is faster than physics: {gpu.name} needs {decimal(least_s, 's')} at least",
        )
        for point, least_s, is_fast in zip(points, floor_s.tolist(), fast.tolist(), strict=True)
        if is_fast
    ]
    executed = plan(launch, gpu) if isinstance(launch, DecodeAttention) else launch
    rows = Rows(executed, measured_s, [_key(point) for point in points]).where(~fast)
    return Group(family.label(launch), rows), impossible


def _decode_attention(sizes: Mapping[str, Any], point: Point, stack: str) -> DecodeAttention:
    return DecodeAttention(**sizes, kv=point.formats[0], stack=stack, warm=point.warm)


def _prefill_attention(sizes: Mapping[str, Any], point: Point, stack: str) -> PrefillAttention:
    return PrefillAttention(**sizes, kv_dtype=point.formats[0], stack=stack, warm=point.warm)


def _gemm(sizes: Mapping[str, Any], point: Point, stack: str) -> Gemm:
    weight, activation = point.formats
    return Gemm(**sizes, weight=weight, activation=activation, stack=stack, warm=point.warm)


def _collective(sizes: Mapping[str, Any], _point: Point, stack: str) -> Collective:
    return Collective(sizes["bytes"], sizes["ranks"], "all_reduce", stack)


MAKERS: dict[str, Callable[[Mapping[str, Any], Point, str], Any]] = {
    "decode_attention": _decode_attention,
    "prefill_attention": _prefill_attention,
    "gemm": _gemm,
    "collective": _collective,
}


def _key(point: Point) -> str:
    """The shape as kvperf.silicon names it."""
    size, formats = point.sizes, [_OF_TABLES.get(name, name) for name in point.formats]
    if point.family == "gemm":
        return f"{int(size['n'])},{int(size['k'])},{formats[0]}"
    if point.family == "collective":  # the tables count elements of 2 bytes
        return f"all_reduce,{int(size['ranks'])},{int(size['bytes'] // 2)},bfloat16"
    return ",".join(str(int(size[n])) for n in ("heads", "kv_heads", "head_dim", "window")) + f",{formats[0]}"
