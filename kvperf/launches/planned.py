"""A launch and the family that prices it."""

from __future__ import annotations

from typing import Any

import msgspec


class Planned(msgspec.Struct, frozen=True):
    """One launch of a kernel family. `times` launches alike follow one another."""

    family: str
    launch: Any
    times: Any = 1


Plan = tuple[Planned, ...]
