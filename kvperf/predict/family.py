"""What every kernel family has in common: named constants, a price, and a floor below which no price goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from kvperf.arith import most

if TYPE_CHECKING:
    from kvperf.hardware import Gpu


class Constant(msgspec.Struct, frozen=True):
    """One physical constant of a family, fitted per GPU and stack.

    name     with its unit as suffix (launch_s, wave_s, hbm_efficiency)
    meaning  the physical claim, one line
    start    where a fit begins;  low, high: physical limits (an efficiency ends at 1)
    neutral  the value that takes its term out of the price (None: it cannot be taken out)
    """

    name: str
    meaning: str
    start: float
    low: float
    high: float
    neutral: float | None = None


class Family(msgspec.Struct, frozen=True):
    """A kernel family: `price` and `floor` take a launch of it, whose numbers may be arrays.

    constants  all that `price` reads, in the order they are printed
    price      seconds of one launch on a GPU with these constants
    floor      seconds no kernel can do it in, at the cache state of the launch
    label      the group of launches it belongs to (a format, an operation): each has an interval of its own
    fills_absent  a constant that is not given stands for a mechanism that the stack's kernels lack, and has no part
                  (False: the price itself takes the nearest one)
    """

    name: str
    constants: tuple[Constant, ...]
    price: Callable[[Any, Gpu, Mapping[str, float]], Any]
    floor: Callable[[Any, Gpu], Any]
    label: Callable[[Any], str] = lambda _launch: "all"
    fills_absent: bool = True

    def seconds(self, launch: Any, gpu: Gpu, constants: Mapping[str, float]) -> Any:
        """What the launch is predicted to take: its price, and never less than its floor."""
        known = {c.name: c.neutral for c in self.constants if c.neutral is not None} if self.fills_absent else {}
        return most(self.price(launch, gpu, {**known, **constants}), self.floor(launch, gpu))
