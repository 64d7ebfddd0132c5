"""Measured rows of one kernel family, ready to be fitted or scored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

Part = Literal["fit", "interval", "score"]


class Rows(msgspec.Struct, frozen=True):
    """Rows of one table: a launch whose fields are arrays, what it took, and the shape each row is of.

    launch      one launch of the family, its numeric fields arrays over the rows
    measured_s  float64 array
    keys        canonical key of each row's shape, which decides its part
    """

    launch: Any
    measured_s: Any
    keys: Sequence[str]

    def parts(self) -> Any:
        """The part of every row, as an array of text."""
        import numpy as np

        of_key = {key: part_of(key) for key in dict.fromkeys(self.keys)}
        return np.array([of_key[key] for key in self.keys])

    def where(self, chosen: Any) -> Rows:
        """The rows that a boolean array chooses."""
        import numpy as np

        index = np.flatnonzero(chosen)
        return Rows(select(self.launch, index), self.measured_s[index], [self.keys[i] for i in index.tolist()])


def part_of(key: str) -> Part:
    """What a shape is used for, by the first byte of SHA-256 of its key: half fits, a quarter sets intervals."""
    byte = hashlib.sha256(key.encode()).digest()[0]
    return "fit" if byte < 128 else "interval" if byte < 192 else "score"


def select(launch: Any, index: Any) -> Any:
    """The launch with its arrays (those of nested launches too) reduced to some rows."""
    import numpy as np

    changes = {}
    for name in launch.__struct_fields__:
        value = getattr(launch, name)
        if isinstance(value, np.ndarray):
            changes[name] = value[index]
        elif isinstance(value, msgspec.Struct):
            changes[name] = select(value, index)
    return msgspec.structs.replace(launch, **changes)
