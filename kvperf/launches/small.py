"""Small kernels between the large ones: norms, RoPE, activations, residuals, quantising, sampling, copies."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["norm", "rope", "activation", "quantise", "sampling", "residual", "embedding", "copy"]

# vLLM's sampler (temperature, softmax, draw) is a chain of PyTorch kernels. On an RTX PRO 6000 (LLMServingSim,
# vLLM 0.19, 128256 logits) it takes 24.7 µs for 1 sequence, ten launches, and 139 µs more for 256 sequences: 7 bytes
# of HBM per logit, the cast of bf16 logits to fp32 (2 + 4) and a little of the passes after it, which hit L2.
SAMPLER_KERNELS = 10
SAMPLER_BYTES_PER_LOGIT = 7


class Small(msgspec.Struct, frozen=True):
    """Kernels of one kind that move `bytes` in all.

    bytes    read and written, over all the kernels
    kernels  launched one after the other
    rows     tokens, where each has a block of its own (vLLM's quantise kernels); 0 where blocks follow the bytes
    again    those of the bytes that are read for a second time, which may come from L2
    warm     the operands are replayed and lie in L2 where they fit; a step's are not
    """

    kind: Kind
    bytes: Any
    kernels: Any = 1
    rows: Any = 0
    again: Any = 0
    warm: bool = False


def sampling(sequences: Any, vocabulary: Any) -> Small:
    """Random sampling of one token for each sequence, as vLLM does it."""
    logits = sequences * vocabulary
    moved, again = SAMPLER_BYTES_PER_LOGIT * logits, (SAMPLER_BYTES_PER_LOGIT - 2) * logits
    return Small("sampling", moved, SAMPLER_KERNELS, again=again)


def argmax(sequences: Any, vocabulary: Any) -> Small:
    """Greedy choice: bf16 logits read once by one kernel, and a second that joins its blocks' results."""
    return Small("sampling", 2 * sequences * vocabulary, kernels=2)


def quantise(tokens: Any, width: Any, passes: int = 1, warm: bool = False) -> Small:
    """bf16 activations [tokens × width] to 1-byte elements with one block per token.

    passes  times that the input is read: 2 where the scale is not known before
    """
    again = 2 * (passes - 1) * tokens * width
    return Small("quantise", 3 * tokens * width + again, rows=tokens, again=again, warm=warm)
