"""Calibrate one kernel family: fit its constants, set its interval, score it on rows that neither has seen."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.calibrate.fit import fit
from kvperf.calibrate.score import score
from kvperf.predict.calibration import Fitted, HeldOut, RowCounts
from kvperf.predict.family import Family
from kvperf.silicon.catalogue import Group, Tables
from kvperf.silicon.rows import Rows

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

PARTS = ("fit", "interval", "score")
FIT_ROWS = 3000  # of a group: more of the same shapes change nothing and take long
LOW, HIGH = 0.1, 0.9  # ends of the 80 % interval
FEW_SHAPES = 8
UNSEEN = (0.5, 2.0)  # of a format whose every shape is scored


def calibrated(family: Family, tables: Tables, gpu: Gpu, without: Collection[str] = ()) -> Fitted:
    """The constants of all groups of a family, fitted together, with an interval and a score for each group."""
    constants = fit_groups(family, tables, gpu, without)
    intervals = {group.label: interval(family, group, gpu, constants) for group in tables.groups}
    scores = {
        group.label: score_group(family, group, gpu, constants, intervals[group.label]) for group in tables.groups
    }
    of_part = [group.rows.parts() for group in tables.groups]
    fit_rows, interval_rows, scored = (sum(int((p == part).sum()) for p in of_part) for part in PARTS)
    return Fitted(
        measured=tables.measured,
        rows=RowCounts(tables.read, tables.dropped, fit_rows, interval_rows, scored),
        constants=constants,
        intervals=intervals,
        held_out={label: score for label, score in scores.items() if score},
    )


def fit_groups(family: Family, tables: Tables, gpu: Gpu, without: Collection[str] = ()) -> dict[str, float]:
    """Fit stage by stage: each stage's groups together, with the constants of the stages before held."""
    known: dict[str, float] = dict(tables.held)
    for stage in tables.stages:
        groups = [group for group in tables.groups if group.label in stage.groups]
        rows = [thinned(group.rows.where(group.rows.parts() == "fit")) for group in groups]
        rows = [r for r in rows if len(r.keys)]
        if not rows:
            continue
        free = [c for c in family.constants if c.name in stage.constants and c.name not in tables.held]
        free_names = {c.name for c in free}
        held = {name: value for name, value in known.items() if name not in free_names}

        def price(launch: Any, on: Gpu, constants: Mapping[str, float], held: dict[str, float] = held) -> Any:
            return family.price(launch, on, {**held, **constants})

        known |= fit(Family(family.name, tuple(free), price, family.floor), rows, gpu, without)
    return {c.name: known[c.name] for c in family.constants if c.name in known and c.name not in tables.held}


def thinned(rows: Rows, limit: int = FIT_ROWS) -> Rows:
    """At most `limit` rows, chosen evenly over the table."""
    import numpy as np

    if len(rows.keys) <= limit:
        return rows
    chosen = np.zeros(len(rows.keys), dtype=bool)
    chosen[np.linspace(0, len(rows.keys) - 1, limit).astype(int)] = True
    return rows.where(chosen)


def interval(family: Family, group: Group, gpu: Gpu, constants: Mapping[str, float]) -> tuple[float, float]:
    """Measured over predicted at the ends of the 80 % interval, over the rows set apart for it (those that fit, else).

    Quantiles as a new row would be placed among these (Weibull's positions). Rows of one shape are off together: of
    fewer than 8 shapes, the ends are those of the next shape, between which and these the spread is Student's.
    """
    import numpy as np

    parts = group.rows.parts()
    apart = parts == "interval"
    rows = group.rows.where(apart if apart.any() else parts == "fit")
    if not rows.keys:  # no shape of this format may be looked at
        return UNSEEN
    logs = np.log(rows.measured_s / family.seconds(rows.launch, gpu, constants))
    keys = np.array(rows.keys)
    shapes = np.unique(keys)
    if len(shapes) >= FEW_SHAPES:
        low, high = np.quantile(logs, [LOW, HIGH], method="weibull")
    else:
        low, high = of_next_shape([logs[keys == shape] for shape in shapes])
    return min(float(np.exp(low)), 1.0), max(float(np.exp(high)), 1.0)


def of_next_shape(logs: list[Any]) -> tuple[float, float]:
    """10 % and 90 % of one more shape: the mean of these, their spread, and that of the rows of a shape."""
    import numpy as np
    from scipy.stats import norm, t

    means = np.array([np.mean(of_shape) for of_shape in logs])
    within = norm.ppf(HIGH) * float(np.sqrt(np.mean([np.var(of_shape) for of_shape in logs])))
    count = len(means)
    # One shape says nothing about another's offset: its own rows' spread stands in.
    between = t.ppf(HIGH, count - 1) * float(np.std(means, ddof=1)) * (1 + 1 / count) ** 0.5 if count > 1 else within
    centre, half = float(means.mean()), float(np.hypot(within, between))
    return centre - half, centre + half


def score_group(
    family: Family, group: Group, gpu: Gpu, constants: Mapping[str, float], ends: tuple[float, float]
) -> HeldOut | None:
    """The scored rows of a group: the model, the bare roofline, and the share of rows inside the interval."""
    rows = group.rows.where(group.rows.parts() == "score")
    if not rows.keys:
        return None
    predicted_s, floor_s = family.seconds(rows.launch, gpu, constants), family.floor(rows.launch, gpu)
    found = score(predicted_s, rows.measured_s)
    return HeldOut(
        rows=found.rows,
        mean=found.mean,
        median=found.median,
        p90=found.p90,
        bias=found.bias,
        naive=score(family.floor(cold(rows.launch), gpu), rows.measured_s).mean,
        coverage=coverage(predicted_s, rows.measured_s, floor_s, ends),
    )


def coverage(predicted_s: Any, measured_s: Any, floor_s: Any, ends: tuple[float, float]) -> float:
    """The share of rows inside the interval, whose lower end is never below the floor."""
    import numpy as np

    inside = (measured_s >= np.maximum(predicted_s * ends[0], floor_s)) & (measured_s <= predicted_s * ends[1])
    return float(inside.mean())


def cold(launch: Any) -> Any:
    """The launch as a step runs it, with nothing of its operands in L2."""
    if "launch" in launch.__struct_fields__:  # planned for a GPU
        return msgspec.structs.replace(launch, launch=cold(launch.launch))
    return msgspec.structs.replace(launch, warm=False) if "warm" in launch.__struct_fields__ else launch
