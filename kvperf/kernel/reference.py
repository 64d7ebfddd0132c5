"""Decode attention in float64, and the number formats of the kernels' operands as NumPy arrays.

bf16 travels as uint16 and e4m3 as uint8: NumPy has neither. What a kernel rounds, the reference takes rounded:
inputs are decoded from the very bits that the kernel gets, an INT8 query is quantised as the kernel does.
"""

from __future__ import annotations

from typing import Any

Array = Any


def attention(q: Array, k: Array, v: Array, scale: float, lengths: tuple[int, ...] | None = None) -> Array:
    """softmax(scale · q kᵀ) v in float64.

    q [B, Q, H, D], k [B, K, S, D], v [B, K, S, E] → [B, Q, H, E]. Token i of Q sees the first S - Q + i + 1 keys
    of a sequence of S tokens, the whole axis or those of `lengths` [B].
    """
    import numpy as np

    B, Q, H, D = q.shape
    K, S = k.shape[1:3]
    grouped = q.astype(np.float64).reshape(B, Q, K, H // K, D)
    scores = np.einsum("bqkgd,bksd->bkqgs", grouped, k.astype(np.float64)) * scale
    last = np.array(lengths or [S] * B)[:, None] - Q + np.arange(Q)
    visible = np.arange(S) <= last[:, :, None]
    scores = np.where(visible[:, None, :, None, :], scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    out = np.einsum("bkqgs,bksd->bqkgd", weights, v.astype(np.float64))
    return out.reshape(B, Q, H, v.shape[-1])


def relative_error(found: Array, expected: Array) -> float:
    """‖found − expected‖ / ‖expected‖; NaN where anything is NaN, so compare with `error <= limit`."""
    import numpy as np

    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


def encode(x: Array, dtype: str) -> Array:
    """Round to the nearest number of the format, ties to even, as the bits that a kernel reads."""
    import numpy as np

    if dtype == "fp16":
        return x.astype(np.float16)
    if dtype == "bf16":
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    if dtype == "fp8":
        # e4m3 numbers ascend with their codes: 0x00 … 0x7e (448), then NaN.
        positive = decode(np.arange(127, dtype=np.uint8), "fp8")
        code = np.searchsorted((positive[1:] + positive[:-1]) / 2, np.abs(x))
        return (code | np.where(np.signbit(x), 0x80, 0)).astype(np.uint8)
    return x.astype({"fp32": np.float32, "int32": np.int32, "int8": np.int8}[dtype])


def decode(bits: Array, dtype: str) -> Array:
    """The numbers that the bits stand for, in float64."""
    import numpy as np

    if dtype == "bf16":
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype == "fp8":
        exponent, mantissa = (bits >> 3).astype(int) & 15, (bits & 7).astype(int)
        magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10))
        magnitude = np.where((bits & 0x7F) == 0x7F, np.nan, magnitude)
        return np.where(bits & 0x80, -magnitude, magnitude)
    return bits.astype(np.float64)


def quantise_int8(x: Array) -> tuple[Array, Array]:
    """(int8, fp32 scale per vector of the last axis): 127 is the largest magnitude of each vector."""
    import numpy as np

    x = x.astype(np.float32)
    highest = np.abs(x).max(axis=-1)
    inverse = np.divide(np.float32(127), highest, out=np.zeros_like(highest), where=highest > 0)
    return np.rint(x * inverse[..., None]).astype(np.int8), (highest / np.float32(127)).astype(np.float32)
