"""The field of one comparison: which of our kernels, of a library's and of the user's take part on a shape."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from kvperf.bench.entrant import Entrant, ours
from kvperf.bench.operands import kind_of
from kvperf.bench.rig import Rig
from kvperf.bench.rivals import library, own
from kvperf.bench.run import architecture_of
from kvperf.errors import KvperfError
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.compile import Request, compile_many
from kvperf.kernel.geometry import Shape
from kvperf.kernel.launch import plan

CACHES = {"16bit": ("dense", "paged", "mla"), "fp8": ("fp8",), "int8": ("int8",)}


def field_of(
    rig: Rig, shape: Shape, names: Sequence[str] | None, against: Sequence[str], caches: Sequence[str]
) -> tuple[list[Entrant], list[str]]:
    """(entrants, why others are left out). Raises KvperfError where nobody takes part, or a name is unknown.

    names  our kernels, FILE.py:function, FILE.cu; None: all ours.  caches: all, or some of 16bit, fp8, int8
    """
    kinds, chosen = _kinds(caches), list(names or KERNELS)
    if repeated := {name for name in chosen if chosen.count(name) > 1}:
        raise KvperfError(f"{', '.join(sorted(repeated))} is named twice", "each entrant takes part once")
    architecture = architecture_of(rig.facts)
    entrants: list[Entrant] = []
    problems: list[KvperfError] = []
    for name in chosen:
        try:
            if _is_file(name):
                entrants.append(own(rig, name, shape))
            elif kind_of(kernel(name).name) in kinds:
                entrants.append(ours(rig, name, shape, architecture))
            elif names:
                hint = f"leave --kv-dtype out, or name a kernel with a cache in {', '.join(caches)}"
                raise KvperfError(f"{name} has a cache in {kind_of(name)}", hint)
        except KvperfError as problem:
            if name not in KERNELS:  # the user's file, or no kernel at all
                raise
            problems.append(problem.with_traceback(None))  # whose frames would hold buffers
    for name in against:
        entrants += library(rig, name, shape)
    if not entrants:
        raise problems[0]
    return entrants, [problem.message for problem in problems]


def compile_ahead(rig: Rig, shapes: Sequence[Shape], names: Sequence[str] | None) -> None:
    """Fill the compiler's cache with our kernels of all shapes, on all processors."""
    import os
    from concurrent.futures import ThreadPoolExecutor

    architecture = architecture_of(rig.facts)
    requests: dict[str, Request] = {}
    for shape in shapes:
        for name in names or KERNELS:
            with contextlib.suppress(KvperfError):
                planned = plan(name, shape, architecture, rig.facts.sms)
                requests[f"{name} {planned.defines}"] = Request(
                    kernel(name).source, planned.defines, rig.facts.capability
                )
    workers = max(1, min(os.cpu_count() or 1, len(requests)))
    parts = [list(requests.values())[i::workers] for i in range(workers)]
    with ThreadPoolExecutor(workers) as pool:  # each part is compiled by a child process of its own
        list(pool.map(_compiled, parts))


def _compiled(requests: list[Request]) -> None:
    """Into the cache; one that does not compile is named when its turn comes."""
    try:
        compile_many(requests)
    except KvperfError:
        for request in requests:
            with contextlib.suppress(KvperfError):
                compile_many([request])


def _is_file(name: str) -> bool:
    return name.endswith(".cu") or ".py" in name


def _kinds(caches: Sequence[str]) -> set[str]:
    if "all" in caches:
        return {kind for kinds in CACHES.values() for kind in kinds}
    for name in caches:
        if name not in CACHES:
            raise KvperfError(f"unknown KV format '{name}'", f"known: all, {', '.join(CACHES)}")
    return {kind for name in caches for kind in CACHES[name]}
