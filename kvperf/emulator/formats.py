"""Number formats: how the bits of a register read as numbers, and how numbers become bits again.

Formats that NumPy has are views of the bits; fp16 and bf16 are computed in float32 and rounded to nearest even once
per operation, as the hardware does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]

E4M3_MAX = 448.0
E5M2_MAX = 57344.0


def bf16_bits(values: Array) -> Array:
    """float32 to the bits of bf16 (uint16), rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


def bf16_values(bits: Array) -> Array:
    """The bits of bf16 (uint16) to float32."""
    return (np.asarray(bits, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


def _small_float_table(exponent_bits: int, mantissa_bits: int, bias: int, *, ieee: bool) -> Array:
    """All 256 values. IEEE formats keep the top exponent for infinities and NaN; e4m3 only for the all-ones NaN."""
    values = np.empty(256, np.float32)
    top = (1 << exponent_bits) - 1
    for code in range(256):
        exponent, mantissa = (code >> mantissa_bits) & top, code & ((1 << mantissa_bits) - 1)
        sign = -1.0 if code & 0x80 else 1.0
        if exponent == top and (ieee or mantissa == (1 << mantissa_bits) - 1):
            value = np.inf if ieee and mantissa == 0 else np.nan
        elif exponent == 0:
            value = mantissa * 2.0 ** (1 - bias - mantissa_bits)
        else:
            value = (1 + mantissa / (1 << mantissa_bits)) * 2.0 ** (exponent - bias)
        values[code] = sign * value
    return values


E4M3 = _small_float_table(4, 3, 7, ieee=False)
E5M2 = _small_float_table(5, 2, 15, ieee=True)


def _small_bits(values: Array, table: Array, largest: float, nan: int) -> Array:
    """To the nearest of the table, ties to the even code; beyond the largest it saturates (satfinite)."""
    positive = table[:128][np.isfinite(table[:128])].astype(np.float64)
    magnitude = np.minimum(np.abs(np.asarray(values, np.float64)), largest)
    above = np.clip(np.searchsorted(positive, magnitude), 1, len(positive) - 1)
    low, high = positive[above - 1], positive[above]
    closer_to_high = (magnitude - low > high - magnitude) | ((magnitude - low == high - magnitude) & (above % 2 == 0))
    code = np.where(closer_to_high, above, above - 1).astype(np.uint8)
    code = np.where(np.isnan(values), np.uint8(nan), code | (np.signbit(values).astype(np.uint8) << np.uint8(7)))
    return code.astype(np.uint8)


def e4m3_bits(values: Array) -> Array:
    """float32 to the bits of e4m3 (uint8), nearest even, saturating at ±448."""
    return _small_bits(values, E4M3, E4M3_MAX, 0x7F)


def e4m3_values(bits: Array) -> Array:
    """The bits of e4m3 (uint8) to float32."""
    return E4M3[np.asarray(bits, np.uint8)]


def e5m2_bits(values: Array) -> Array:
    """float32 to the bits of e5m2 (uint8), nearest even, saturating at ±57344."""
    return _small_bits(values, E5M2, E5M2_MAX, 0x7F)


def e5m2_values(bits: Array) -> Array:
    """The bits of e5m2 (uint8) to float32."""
    return E5M2[np.asarray(bits, np.uint8)]


class Kind(NamedTuple):
    """A PTX type: the bits as stored, and how they become numbers and back. Packed types give an array of (n, 2)."""

    storage: np.dtype[Any]
    decode: Callable[[Array], Array]
    encode: Callable[[Array], Array]


def _viewed(name: str) -> Kind:
    dtype = np.dtype(name)
    storage = np.dtype(f"u{dtype.itemsize}")
    return Kind(
        storage,
        lambda bits: bits if bits.dtype == dtype else bits.view(dtype),
        lambda values: np.asarray(values).astype(dtype, copy=False).view(storage),
    )


def _pairs(half: Kind) -> Kind:
    def decode(bits: Array) -> Array:
        return half.decode(np.ascontiguousarray(bits).view(np.uint16)).reshape(-1, 2)

    def encode(values: Array) -> Array:
        return np.ascontiguousarray(half.encode(values)).view(np.uint32).reshape(-1)

    return Kind(np.dtype("u4"), decode, encode)


def _half_bits(values: Array) -> Array:
    return np.asarray(values).astype(np.float16).view(np.uint16)


_HALF = Kind(np.dtype("u2"), lambda bits: bits.view(np.float16).astype(np.float32), _half_bits)
_BF16 = Kind(np.dtype("u2"), bf16_values, bf16_bits)

KINDS: dict[str, Kind] = {
    **{name: _viewed("u" + str(int(name[1:]) // 8)) for name in ("u8", "u16", "u32", "u64", "b8", "b16", "b32", "b64")},
    **{name: _viewed("i" + str(int(name[1:]) // 8)) for name in ("s8", "s16", "s32", "s64")},
    "f32": _viewed("f4"),
    "f64": _viewed("f8"),
    "f16": _HALF,
    "bf16": _BF16,
    "f16x2": _pairs(_HALF),
    "bf16x2": _pairs(_BF16),
    "u16x2": _pairs(_viewed("u2")),
    "s16x2": _pairs(_viewed("i2")),
    "pred": Kind(np.dtype("?"), lambda bits: bits, lambda values: values),
}


def is_float(kind: str) -> bool:
    return "f" in kind
