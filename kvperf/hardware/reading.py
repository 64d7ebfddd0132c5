"""One number of a profile with where it comes from.

The modules of a profile do without `from __future__ import annotations`: msgspec would have to compile every
annotation when the first profile is decoded, which takes longer than reading it.
"""

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

Q = TypeVar("Q")

# spec: a vendor's document or driver says so; measured: a benchmark read it; derived: computed from the others.
Kind = Literal["spec", "measured", "derived"]
Keys = Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part of a profile: an unknown key is an error."""


class Reading(Strict, Generic[Q], frozen=True):
    """`value` in base units, its kind, and keys into the `sources` of the same file."""

    value: Q
    kind: Kind
    source: Keys
    note: str | None = None

    def __post_init__(self) -> None:
        positive(self.value)


class Source(Strict, frozen=True):
    """A document or a repository, and the table, page or path in it."""

    document: str | None = None
    repository: str | None = None
    table: str | None = None
    page: str | None = None
    path: str | None = None

    def __str__(self) -> str:
        place = ", ".join(part for part in (self.table, self.page, self.path) if part)
        return f"{self.document or self.repository}: {place}"


def positive(value: Any) -> None:
    """Refuse zero and negative numbers: what is unknown is left out of a profile, never written as 0."""
    if isinstance(value, (int, float)) and value <= 0:
        raise ValueError(f"{value:g} is not a positive number | hint: leave out what is unknown")
