"""Fit a family's constants to measured rows: many, or few beside constants that are known of another GPU or stack."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from kvperf.predict.family import Constant, Family
from kvperf.silicon.rows import Rows

if TYPE_CHECKING:
    from kvperf.hardware import Gpu


def fit(
    family: Family,
    rows: Rows | Sequence[Rows],
    gpu: Gpu,
    without: Collection[str] = (),
    start: Mapping[str, float] | None = None,
    polish: bool = True,
) -> dict[str, float]:
    """The constants that make the mean relative error of `rows` small, robustly.

    Least squares of log(predicted / measured) under a soft-L1 loss, from `start` or each constant's own; then the
    mean absolute relative error itself is minimised from there (Nelder-Mead).
    without  constants held at their neutral value
    rows     of several tables together: their launches may differ in structure (dtype, kernel)
    """
    import numpy as np
    from scipy.optimize import least_squares, minimize

    tables = [rows] if isinstance(rows, Rows) else list(rows)
    free = [c for c in family.constants if c.name not in without]
    held: dict[str, Any] = {c.name: c.neutral for c in family.constants if c.name in without}
    low, high = (np.array([_inner(c, edge) for c in free]) for edge in (c_low, c_high))
    first = np.array([_inner(c, lambda c: (start or {}).get(c.name, c.start)) for c in free])
    width = high - low
    first = np.clip(first, low + 1e-6 * width, high - 1e-6 * width)

    def named(x: Any) -> dict[str, float]:
        return held | {c.name: float(_outer(c, v)) for c, v in zip(free, np.clip(x, low, high), strict=True)}

    def ratio(x: Any) -> Any:
        constants = named(x)
        return np.concatenate([family.seconds(r.launch, gpu, constants) / r.measured_s for r in tables])

    found = least_squares(lambda x: np.log(ratio(x)), first, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    best = found.x
    if polish:
        simplex = np.clip(best + np.vstack([np.zeros(len(best)), 0.05 * np.diag(width)]), low, high)
        options = {
            "initial_simplex": simplex,
            "maxfev": 300 * len(best),
            "xatol": 1e-4,
            "fatol": 1e-6,
            "adaptive": True,
        }
        refined = minimize(lambda x: np.abs(ratio(x) - 1).mean(), best, method="Nelder-Mead", options=options)
        best = refined.x
    return {c.name: named(best)[c.name] for c in family.constants}


# Chosen on `fit` rows of H100 tables (vLLM decode attention, 16 and 32 rows, constants of SGLang and of H200 to start
# from): errors change by under a tenth from 0.2 to 0.5.
PRIOR_WIDTH = 0.35  # of the logarithm of a constant: what differs between neighbouring GPUs and stacks
ROW_NOISE = 0.1  # of the logarithm of a time: how far the models are off


def fit_few(
    family: Family, rows: Rows | Sequence[Rows], gpu: Gpu, prior: Mapping[str, float], width: float = PRIOR_WIDTH
) -> dict[str, float]:
    """The constants of `prior`, moved as far as the rows ask for: fewer rows than constants are enough.

    The maximum a posteriori: least squares of log(predicted / measured) / 0.1 under a soft-L1 loss, and of
    log(constant / prior) / width. With no rows, and for constants that the rows say nothing of, it is the prior.
    Constants that `prior` lacks stay out of the price. All that are fitted are positive throughout.
    """
    import numpy as np
    from scipy.optimize import least_squares

    tables = [rows] if isinstance(rows, Rows) else list(rows)
    free = [c for c in family.constants if c.name in prior]
    low, high = np.log([c.low for c in free]), np.log([c.high for c in free])
    centre = np.clip(np.log([max(prior[c.name], c.low) for c in free]), low, high)
    count = sum(len(r.keys) for r in tables)
    if count == 0 or not free:
        return {c.name: float(np.exp(x)) for c, x in zip(free, centre, strict=True)}

    def residuals(x: Any) -> Any:
        constants = dict(zip((c.name for c in free), np.exp(x).tolist(), strict=True))
        logs = [np.log(family.seconds(r.launch, gpu, constants) / r.measured_s) for r in tables]
        return np.concatenate([*(one / ROW_NOISE for one in logs), (x - centre) / width])

    def robust(z: Any) -> Any:
        """Soft L1 (value and two derivatives) for the rows; a constant pays the full square."""
        value = np.stack([2.0 * (np.sqrt(1.0 + z) - 1.0), (1.0 + z) ** -0.5, -0.5 * (1.0 + z) ** -1.5])
        value[0, count:], value[1, count:], value[2, count:] = z[count:], 1.0, 0.0
        return value

    inner = 1e-6 * (high - low)
    first, loss = np.clip(centre, low + inner, high - inner), cast(Any, robust)
    found = least_squares(residuals, first, bounds=(low, high), loss=loss)
    return {c.name: float(np.exp(x)) for c, x in zip(free, found.x, strict=True)}


def c_low(constant: Constant) -> float:
    return constant.low


def c_high(constant: Constant) -> float:
    return constant.high


def _inner(constant: Constant, value: Any) -> float:
    """A constant as the optimiser sees it: the logarithm where it is positive throughout."""
    import math

    return math.log(value(constant)) if constant.low > 0 else value(constant)


def _outer(constant: Constant, inner: float) -> float:
    import math

    return math.exp(inner) if constant.low > 0 else inner
