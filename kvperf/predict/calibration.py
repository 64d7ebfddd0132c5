"""Fitted constants, as `hardware/calibration/<gpu>.<stack>.yaml` keeps them, and where a GPU without them borrows some.

Quantities are written with units as in profiles; `launch_s: 9.98 µs` is in the unit that the name ends in.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from kvperf import files, yaml_file
from kvperf.errors import KvperfError
from kvperf.predict.family import Constant
from kvperf.predict.small import SMALL
from kvperf.units import parse

if TYPE_CHECKING:
    from kvperf.hardware import Gpu

# What the name of a constant ends in, and the base unit that stands for.
UNITS = {"_bytes_per_s": "B/s", "_bytes": "B", "_s": "s"}


class RowCounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of the measured table: all, those that lint dropped, and what the others were used for."""

    read: int
    dropped: int
    fit: int
    interval: int
    scored: int


class HeldOut(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Errors on the scored rows, as shares of the measured time; bias is the median of predicted / measured.

    naive     mean error of the bare roofline on the same rows
    coverage  share of the rows inside the 80 % interval
    """

    rows: int
    mean: float
    median: float
    p90: float
    bias: float
    naive: float
    coverage: float


class Fitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The constants of one kernel family on one GPU with one stack.

    measured   what was measured: the version of the stack and its table, or the records of kvperf bench
    intervals  by format or operation: measured over predicted time at the ends of the 80 % interval
    held_out   by the same, where rows were left to score
    """

    measured: str
    rows: RowCounts
    constants: Mapping[str, float | str]
    intervals: dict[str, tuple[float, float]]
    held_out: dict[str, HeldOut] = {}

    def numbers(self) -> dict[str, float]:
        """The constants in SI base units."""
        return {name: number(name, value) for name, value in self.constants.items()}


class Calibration(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}, kw_only=True
):
    """All fitted families of one GPU and stack. `source` is where the measurements come from, `fitted` the day."""

    schema_version: Literal["kvperf.calibration/1"]
    gpu: str
    architecture: str
    stack: str
    fitted: str
    source: str
    families: dict[str, Fitted]


class Used(msgspec.Struct, frozen=True):
    """The constants that price a family here: whose they are, and how far predictions may be off.

    label  `h100-sxm/vllm`, or `h100-sxm/vllm, borrowed`
    """

    label: str
    borrowed: bool
    constants: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def interval(self, label: str) -> tuple[float, float]:
        """Measured over predicted at the ends of the interval; of a format that was not measured, the widest."""
        lows, highs = zip(*self.intervals.values(), strict=True)
        return self.intervals.get(label, (min(lows), max(highs)))


def number(name: str, value: float | str) -> float:
    """A constant in base units; text must carry the unit that the name ends in."""
    if not isinstance(value, str):
        return float(value)
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), None)
    if unit is None:
        raise KvperfError(f"the constant {name} has no unit, but its value is '{value}'", "write a plain number")
    return float(parse(value, unit))


def folder() -> Path:
    return files.folder("hardware") / "calibration"


@functools.cache
def load(path: Path) -> Calibration:
    """One file of constants. Raises KvperfError with file, line and column."""
    return yaml_file.decode(yaml_file.read(path), Calibration)


class Constants:
    """The constants of a stack's kernels on one GPU: its own, and for families it lacks those of the nearest GPU."""

    def __init__(self, gpu: Gpu, stack: str, lent: bool = False) -> None:
        """`lent`: the GPU's own calibrations do not count."""
        self.gpu, self.stack, self.lent = gpu, stack, lent
        self._found: dict[str, Used] = {}

    def of(self, family: str) -> Used:
        """Raises KvperfError where no calibration that could be borrowed has the family."""
        if family not in self._found:
            self._found[family] = self._find(family)
        return self._found[family]

    def host(self) -> Fitted | None:
        """What a step costs beside its kernels, as load tests of this GPU and stack showed; None without any."""
        own = folder() / f"{self.gpu.name}.{self.stack}.yaml"
        return load(own).families.get("host") if own.is_file() and not self.lent else None

    def whole_step(self, kind: str) -> tuple[float, float] | None:
        """Measured over predicted at the ends of the 80 % interval of whole steps: of `dense` models or of `experts`.

        Of this GPU and stack, or of the nearest that load tests ran on.
        """
        for distance, path in self._candidates():
            host = load(path).families.get("host")
            if host and kind in host.intervals and distance < 7:
                return widened(*host.intervals[kind], distance)
        return None

    def _find(self, family: str) -> Used:
        if family == "small":
            return sourced(SMALL.constants)
        for distance, path in self._candidates():
            fitted = load(path).families.get(family)
            if fitted and not (self.lent and path.name.startswith(f"{self.gpu.name}.")):
                return _used(path.name.removesuffix(".yaml"), fitted, distance)
        raise KvperfError(
            f"no calibration has constants for {family.replace('_', ' ')} on {self.gpu.name}",
            "`kvperf calibrate` fits them to measurements; --stack none leaves predictions out",
        )

    def _candidates(self) -> Iterator[tuple[int, Path]]:
        """The GPU's own calibration, and the others only where it lacks a family: each of them has to be opened."""
        own = folder() / f"{self.gpu.name}.{self.stack}.yaml"
        if own.is_file():
            yield 0, own
        yield from (pair for pair in nearest_first(self.gpu, self.stack) if pair[1] != own)


def nearest_first(gpu: Gpu, stack: str) -> list[tuple[int, Path]]:
    """Every calibration that may stand in for this GPU and stack, the closest first, with how far it is.

    0: its own;  1: the same architecture and stack;  2: the same GPU, another stack;  3: the same architecture, another
    stack;  4 to 6: another architecture, and more for another class of them;  7 and more: and another stack. Kernels of
    one vendor say nothing about another's.
    """
    found = []
    for path in sorted(folder().glob("*.yaml")):
        name, other = path.name.removesuffix(".yaml").rsplit(".", 1)
        architecture = _architecture(path)
        if architecture.startswith("sm_") != (gpu.vendor == "nvidia"):
            continue
        mine = gpu.architecture.name
        same = architecture == mine or {architecture, mine} == {"sm_100", "sm_103"}
        apart = min(2, abs(_class(architecture) - _class(mine)))
        if other == stack:
            distance = 0 if name == gpu.name else 1 if same else 4 + apart
        else:
            distance = 2 if name == gpu.name else 3 if same else 7 + apart
        found.append((distance, path))
    return sorted(found, key=lambda pair: pair[0])


def widened(low: float, high: float, distance: int) -> tuple[float, float]:
    """The interval of borrowed constants: each end moves out with the distance (kvperf validate --borrowed)."""
    factor = WIDENING[min(distance, len(WIDENING) - 1)]
    return low / factor, high * factor


# How much wider an interval gets where the constants are another GPU's, by distance: 8 of 10 rows of a GPU lie inside
# when it is predicted with the nearest other calibration.
WIDENING = (1.0, 1.1, 1.15, 1.2, 1.5, 1.5, 1.6, 1.8)


def _used(name: str, fitted: Fitted, distance: int) -> Used:
    intervals = {label: widened(low, high, distance) for label, (low, high) in fitted.intervals.items()}
    gpu, stack = name.rsplit(".", 1)
    label = f"{gpu}/{stack}" + (", borrowed" if distance else "")
    return Used(label, distance > 0, fitted.numbers(), intervals)


def sourced(constants: tuple[Constant, ...]) -> Used:
    """Constants that publications give and no table measures: each stands where a fit would begin."""
    return Used("published", False, {c.name: c.start for c in constants}, {"all": SOURCED_INTERVAL})


# Small kernels: published fits reach 10 to 20 % on average; two thirds to one and a half holds 80 %.
SOURCED_INTERVAL = (0.7, 1.5)


@functools.cache
def _architecture(path: Path) -> str:
    matched = re.search(r"^architecture: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return matched[1] if matched else ""


def _class(architecture: str) -> int:
    """Kernels are written for Ampere's A100, for boards with GDDR memory and no wgmma, for Hopper, for Blackwell."""
    capability = int(re.sub(r"\D", "", architecture) or 0)
    return 0 if capability <= 80 else 2 if capability == 90 else 3 if capability in (100, 103) else 1
