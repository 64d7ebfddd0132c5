"""The record of a validation, `kvperf.validation/1`."""

from __future__ import annotations

from typing import Literal

import msgspec

from kvperf.arith import Number


class Line(msgspec.Struct, frozen=True):
    """Rows of one group replayed: a format of a kernel family on one GPU and stack, or the load tests of one model.

    Errors are |predicted / measured − 1|; bias is the median of predicted / measured.
    naive     mean error of the bare roofline (bytes and FLOPs at datasheet peaks, nothing in cache) on the same rows
    bound     of the floor at the measurement's own cache state
    coverage  share of the rows inside the 80 % interval;  width: its median width over the prediction
    """

    family: str
    gpu: str
    stack: str
    group: str
    rows: int
    mean: Number
    median: Number
    p90: Number
    bias: Number
    bound: Number
    naive: Number
    coverage: Number | None
    width: Number | None
    calibration: str


class Without(msgspec.Struct, frozen=True):
    """A family fitted again without one of its terms: mean error then, in points more than with it."""

    family: str
    gpu: str
    stack: str
    term: str
    mean: Number
    points: Number


class Dropped(msgspec.Struct, frozen=True):
    """Rows that a rule takes out before anything is fitted or scored."""

    table: str
    gpu: str
    stack: str
    rule: str
    reason: str
    rows: int
    of: int


class Validation(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """Held-out rows only: no constant was fitted to any of them."""

    schema_version: Literal["kvperf.validation/1"]
    version: str
    source: str
    lines: tuple[Line, ...] = ()
    ablation: tuple[Without, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()
