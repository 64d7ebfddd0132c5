"""Write a calibration as YAML that a person can read and correct."""

from __future__ import annotations

import math
from collections.abc import Mapping

from kvperf.predict.calibration import UNITS, Calibration, Fitted, HeldOut
from kvperf.units import DECIMAL_PREFIXES, SMALL_PREFIXES, significant

HEADER = "# Constants fitted to measured kernels; docs/method.md says what each means. Written by `kvperf calibrate`.\n"


def text(calibration: Calibration) -> str:
    """The file, key for key; shares as plain decimals, everything else with its unit."""
    lines = [
        HEADER + "schema: kvperf.calibration/1",
        f"gpu: {calibration.gpu}",
        f"architecture: {calibration.architecture}",
        f"stack: {calibration.stack}",
        f'fitted: "{calibration.fitted}"',
        f'source: "{calibration.source}"',
        "families:",
    ]
    for name, fitted in calibration.families.items():
        lines += [f"  {name}:", *(f"    {line}" for line in _family(fitted))]
    return "\n".join(lines) + "\n"


def _family(fitted: Fitted) -> list[str]:
    rows = fitted.rows
    lines = [
        f'measured: "{fitted.measured}"',
        f"rows: {{read: {rows.read}, dropped: {rows.dropped}, fit: {rows.fit}, interval: {rows.interval}, "
        f"scored: {rows.scored}}}",
        "constants:",
        *(f"  {line}" for line in _constants(fitted.numbers())),
        "intervals:",
        *(f"  {label}: [{_share(low)}, {_share(high)}]" for label, (low, high) in fitted.intervals.items()),
    ]
    if not fitted.held_out:
        return lines
    return [*lines, "held_out:", *(f"  {label}: {_score(found)}" for label, found in fitted.held_out.items())]


def _score(found: HeldOut) -> str:
    shares = ", ".join(f"{n}: {_share(getattr(found, n))}" for n in found.__struct_fields__ if n != "rows")
    return f"{{rows: {found.rows}, {shares}}}"


def _share(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"a calibration of {value} is none")
    shown = significant(value, 3)
    return shown if "." in shown else f"{shown}.0"


def _constants(constants: Mapping[str, float]) -> list[str]:
    return [f"{name}: {quantity(name, value)}" for name, value in constants.items()]


def quantity(name: str, value: float) -> str:
    """A constant in the unit of its name with four digits: `launch_s` 9.98e-6 is `9.980 us`."""
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    if unit is None:
        return _decimal(value)
    prefixes = SMALL_PREFIXES | {"": 0} if unit == "s" else DECIMAL_PREFIXES
    fitting = [p for p, e in prefixes.items() if p != "µ" and value >= 10.0**e]
    prefix = max(fitting, key=lambda p: prefixes[p]) if fitting else min(prefixes, key=lambda p: prefixes[p])
    return f"{_decimal(value / 10.0 ** prefixes[prefix])} {prefix}{unit}"


def _decimal(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"a calibration of {value} is none")
    shown = significant(value, 4)
    return shown if "." in shown or shown == "0" else f"{shown}.0"
