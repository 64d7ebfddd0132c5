"""What would make a step fit that does not: more GPUs, narrower weights or a narrower cache."""

from __future__ import annotations

from typing import Any

from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.report.document import Line, joined, line
from kvperf.report.subject import Subject
from kvperf.report.values import count, word

DEGREES = (1, 2, 4, 8, 16, 32, 64)
NARROWER = ("fp8", "int4")


def lines(subject: Subject) -> list[Line]:
    """The least change of each kind, evaluated; or that none of them is enough."""
    ways: list[Line] = []
    degree = _degree(subject)
    if degree is not None:
        ways.append(line("{} GPUs with tensor parallelism", count("fit.tp", degree)))
    formats = next((found for changes in _formats(subject) if (found := _if_fits(subject, changes))), None)
    if formats is not None:
        ways.append(line("{} on as many GPUs as now", word("fit.formats", formats)))
    elif degree is None or degree > DEGREES[1]:
        ways += _both(subject, degree)
    if not ways:
        return [
            line(
                "Neither tensor parallelism of up to {} GPUs nor {} weights and cache make it fit: the batch or the "
                "context must shrink.",
                count("fit.most_gpus", _most(subject)),
                word("fit.narrowest", NARROWER[-1]),
            )
        ]
    return [line("What makes it fit: {}.", joined(ways, "; or "))]


def _most(subject: Subject) -> int:
    """The most GPUs whose links are known and among which the model can be divided."""
    known = [degree for degree in DEGREES if not isinstance(subject.tried(tp=degree), KvperfError)]
    return max(known, default=1)


def _degree(subject: Subject, **changes: Any) -> int | None:
    """The fewest GPUs, more than now, whose parts fit."""
    for degree in DEGREES:
        if degree > subject.tp and _fits(subject, tp=degree, **changes):
            return degree
    return None


def _both(subject: Subject, degree: int | None) -> list[Line]:
    """Narrow formats on fewer GPUs than the formats as asked need."""
    for changes in reversed(_formats(subject)):
        fewer = _degree(subject, **changes)
        if fewer is not None and (degree is None or fewer < degree):
            gpus = count("fit.formats_tp", fewer)
            return [line("{} on {} GPUs", word("fit.formats", _named(changes)), gpus)]
    return []


def _formats(subject: Subject) -> list[dict[str, str]]:
    """Changes of the workload, each narrower than what is there; the smallest change first."""
    found: list[dict[str, str]] = []
    weights = DTYPES[subject.analysis.workload.weight_dtype].bits
    cache = 0 if subject.attention is None else subject.attention.shard.kv.bits
    for name in NARROWER:
        kv = {"kv_dtype": name} if cache > DTYPES[name].bits else {}
        matrices = {"weight_dtype": name} if weights > DTYPES[name].bits else {}
        found += [changes for changes in (kv, matrices) if changes]
        if kv and matrices:
            found.append(matrices | kv)
    return found


def _if_fits(subject: Subject, changes: dict[str, str]) -> str | None:
    return _named(changes) if _fits(subject, **changes) else None


def _named(changes: dict[str, str]) -> str:
    titles = {"weight_dtype": "weights", "kv_dtype": "KV cache"}
    return " and ".join(f"{dtype} {titles[name]}" for name, dtype in changes.items())


def _fits(subject: Subject, **changes: Any) -> bool:
    found = subject.tried(**changes)
    return not isinstance(found, KvperfError) and bool(found.memory.fits)
