"""What one sequence leaves in the KV cache, layer by layer.

Counts are elements; an indexer's keys are bytes, because their format does not follow the KV dtype.
Linear-attention and state-space layers hold a state of fixed size and add nothing a token.
"""

from __future__ import annotations

import msgspec

from kvperf.model.architecture import Compressed, GroupedQuery, Latent, Mixer, Model


class Cached(msgspec.Struct, frozen=True):
    """`elements` in the KV dtype and `index_bytes` of fixed format."""

    elements: float = 0
    index_bytes: int = 0

    def size(self, element_bytes: float) -> float:
        """Bytes with KV elements of `element_bytes`."""
        return self.elements * element_bytes + self.index_bytes


def token_elements(mixer: Mixer) -> Cached:
    """What one new token writes in one layer: K and V of each KV head, or the latent.

    DeepSeek-V4 writes one window key a token, and once in `ratio` tokens a compressed key and an index
    key: the average is given.
    """
    if isinstance(mixer, GroupedQuery):
        return Cached(mixer.kv_heads * (mixer.head_dim + mixer.value_dim))
    if isinstance(mixer, Latent):
        latent = mixer.kv_lora_rank + mixer.rope_head_dim
        indexer = mixer.indexer
        if indexer is None:
            return Cached(latent)
        if indexer.bytes_per_token is None:
            return Cached(latent + indexer.head_dim)
        return Cached(latent, indexer.bytes_per_token)
    if isinstance(mixer, Compressed):
        return Cached(mixer.head_dim + (_compressed_key(mixer) / mixer.ratio if mixer.ratio else 0))
    return Cached()


def resident_elements(mixer: Mixer, context_tokens: int) -> Cached:
    """What one layer holds of a sequence of `context_tokens`.

    Windows and chunks hold no more than they attend to. DeepSeek-V4 holds its window, one compressed key
    for each full group of `ratio` tokens, and as many index keys where it has an indexer.
    """
    token = token_elements(mixer)
    if isinstance(mixer, GroupedQuery):
        limit = mixer.window or mixer.chunk or context_tokens
        return Cached(token.elements * min(context_tokens, limit))
    if isinstance(mixer, Compressed):
        elements = min(context_tokens, mixer.window) * mixer.head_dim
        if mixer.ratio:
            elements += context_tokens // mixer.ratio * _compressed_key(mixer)
        return Cached(elements)
    return Cached(token.elements * context_tokens, token.index_bytes * context_tokens)


def kv_bytes_per_token(model: Model, element_bytes: float = 2) -> float:
    """Bytes one new token writes over all layers (on average), with KV elements of `element_bytes` (bf16: 2)."""
    total = 0.0
    for run in model.layers:
        for layer in run.block:
            total += run.repeat * token_elements(model.mixers[layer.mixer]).size(element_bytes)
    return total


def kv_cache_bytes(model: Model, context_tokens: int, element_bytes: float = 2) -> float:
    """Bytes one sequence of `context_tokens` holds over all layers, with KV elements of `element_bytes`."""
    total = 0.0
    for run in model.layers:
        for layer in run.block:
            held = resident_elements(model.mixers[layer.mixer], context_tokens)
            total += run.repeat * held.size(element_bytes)
    return total


def _compressed_key(mixer: Compressed) -> int:
    return mixer.head_dim + (mixer.indexer.head_dim if mixer.indexer else 0)
