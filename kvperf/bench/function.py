"""Measure any function that launches work on the GPU: `kvperf.bench.measure`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kvperf.bench.ceiling_calls import empty_call, flush_of
from kvperf.bench.outcome import failed, judged, timed
from kvperf.bench.record import Case, Regime, Work
from kvperf.bench.rig import Rig
from kvperf.bench.run import profile_of
from kvperf.bench.timing import alone, sets_for
from kvperf.bench.timing import measure as read


def measure(
    function: Callable[..., Any],
    *arguments: Any,
    work: Work | None = None,
    regime: Regime = "cold",
    budget_s: float = 10.0,
    seed: int = 0,
    gpu: str | None = None,
    rig: Rig | None = None,
) -> Case:
    """Device time of `function(*arguments)`, with its interval, shares of the roofs and gap.

    arguments  arrays among them (with `nbytes` and `copy` or `clone`) are copied until calls are cold
    work       what it has to do, for bandwidth, bound and gap; None: time alone
    gpu        the profile of the datasheet;  rig: the device, if one is open already

    The function must enqueue its work on the current stream of CuPy or PyTorch, and return.
    Raises NoGpuError without a GPU.
    """
    if rig is None:
        from kvperf.bench.device import Device

        rig = Device()
    rig.adopt_torch()
    profile, work = profile_of(rig.facts, gpu), work or Work()
    held = sum(int(a.nbytes) for a in arguments if hasattr(a, "nbytes"))
    count = sets_for(regime, held, rig.facts.l2_bytes) if held else 1
    sets = [arguments, *(_copied(arguments) for _ in range(count - 1))]
    flush = "memset-read" if regime == "cold" and count == 1 else "rotation"
    before = flush_of(rig, flush)
    contestant = alone("function", regime, [_bound(function, given) for given in sets], held, before)
    launch = alone("launch", regime, [empty_call(rig)])
    found = read(rig, [launch, contestant], budget_s=budget_s, seed=seed)
    case = Case(
        family="kernel",
        subject=getattr(function, "__name__", "function"),
        regime=regime,
        work=work,
        bound_s=work.compulsory_bytes / profile.hbm_bytes_per_s if profile and work.compulsory_bytes else None,
        flush=flush,
    )
    if found["function"].failure:
        return failed(case, f"failed: {found['function'].failure}")
    case = timed(case, contestant, found["function"])
    return judged(case, rig.facts, profile, launch_s=found["launch"].median_s)


def _bound(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], None]:
    def call() -> None:
        function(*arguments)

    return call


def _copied(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_copy(a) if hasattr(a, "nbytes") else a for a in arguments)


def _copy(array: Any) -> Any:
    return array.clone() if hasattr(array, "clone") else array.copy()
