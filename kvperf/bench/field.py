"""The field of one comparison: which of our kernels, of a library's and of the user's take part on a shape."""

from __future__ import annotations

from collections.abc import Sequence

from kvperf.bench.entrant import Entrant, ours
from kvperf.bench.operands import kind_of
from kvperf.bench.rig import Rig
from kvperf.bench.rivals import library, own
from kvperf.bench.run import architecture_of
from kvperf.errors import KvperfError
from kvperf.kernel.catalogue import KERNELS, kernel
from kvperf.kernel.geometry import Shape

CACHES = {"16bit": ("dense", "paged", "mla"), "fp8": ("fp8",), "int8": ("int8",)}


def field_of(
    rig: Rig, shape: Shape, names: Sequence[str] | None, against: Sequence[str], caches: Sequence[str]
) -> tuple[list[Entrant], list[str]]:
    """(entrants, why others are left out). Raises KvperfError where nobody takes part, or a name is unknown.

    names  our kernels, FILE.py:function, FILE.cu; None: all ours.  caches: all, or some of 16bit, fp8, int8
    """
    kinds = _kinds(caches)
    architecture = architecture_of(rig.facts)
    entrants: list[Entrant] = []
    problems: list[KvperfError] = []
    for name in names if names else KERNELS:
        try:
            if _is_file(name):
                entrants.append(own(rig, name, shape))
            elif kind_of(kernel(name).name) in kinds:
                entrants.append(ours(rig, name, shape, architecture))
        except KvperfError as problem:
            if names and (len(names) == 1 or name not in KERNELS):
                raise
            problems.append(problem)
    for name in against:
        entrants += library(rig, name, shape)
    if not entrants:
        raise problems[0] if problems else KvperfError("no kernel has such a cache", f"known: {', '.join(CACHES)}")
    return entrants, [problem.message for problem in problems]


def _is_file(name: str) -> bool:
    return name.endswith(".cu") or ".py" in name


def _kinds(caches: Sequence[str]) -> set[str]:
    if "all" in caches:
        return {kind for kinds in CACHES.values() for kind in kinds}
    for name in caches:
        if name not in CACHES:
            raise KvperfError(f"unknown KV format '{name}'", f"known: all, {', '.join(CACHES)}")
    return {kind for name in caches for kind in CACHES[name]}
