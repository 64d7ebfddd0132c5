"""Writing the new tokens' keys and values into the cache."""

from __future__ import annotations

from kvperf.dtypes import DType
from kvperf.layout import Shard
from kvperf.model.architecture import Compressed, GroupedQuery, Latent, Mixer
from kvperf.stages.boundary import boundary_bytes
from kvperf.work import Work
from kvperf.workload import FULL, Span, Workload


def kv_update(shard: Shard, workload: Workload) -> Work:
    """Append the new tokens' keys and values to the paged cache, quantising where the cache is narrow.

    vector_flops          = 2*T*cached*quantised
    weight_bytes          = b*norm
    activation_read_bytes = a*T*cached + 8*T
    kv_write_bytes        = c*T*cached
    compulsory_bytes      = c*N*cached + b*norm
    kernels               = launches

    cached     elements a token adds to the cache: K*(D + Dv); of a latent, its rank and rotated part
    norm       weights of the latent's norm, applied on the way
    quantised  1 if the cache is narrower than 16 bits, else 0

    Source: Kwon et al. 2023 (PagedAttention, arXiv:2309.06180) section 4; one int64 slot a token.
    """
    T, N = workload.tokens, workload.kept_tokens(span_of(shard.mixer))
    cached, c = cached_elements(shard.mixer), cached_bytes(shard.mixer, shard.kv)
    a, b = boundary_bytes(shard, workload), shard.formats.base.element_bytes
    norm = shard.mixer.kv_lora_rank if isinstance(shard.mixer, Latent) else 0
    quantised = int(shard.kv.bits < 16)
    launches = workload.launches(serving=1, eager=2)
    return Work(
        vector_flops=2 * T * cached * quantised,
        weight_bytes=b * norm,
        activation_read_bytes=a * T * cached + 8 * T,
        kv_write_bytes=c * T * cached,
        compulsory_bytes=c * N * cached + b * norm,
        kernels=launches,
    )


def span_of(mixer: Mixer) -> Span:
    """How far a query of this mixer looks back."""
    if isinstance(mixer, GroupedQuery):
        return Span(window=mixer.window, chunk=mixer.chunk)
    if isinstance(mixer, Latent):
        return Span(top_k=mixer.indexer.top_k if mixer.indexer else mixer.selected_tokens)
    if isinstance(mixer, Compressed):
        return Span(window=mixer.window)
    return FULL


def cached_elements(mixer: Mixer) -> int:
    """Elements one token adds to this rank's cache in one layer (0 for a recurrent mixer)."""
    if isinstance(mixer, GroupedQuery):
        return mixer.kv_heads * (mixer.head_dim + mixer.value_dim)
    if isinstance(mixer, Latent):
        return mixer.kv_lora_rank + mixer.rope_head_dim
    return mixer.head_dim if isinstance(mixer, Compressed) else 0


# FlashMLA's fp8 latent: 512 values in fp8 with an fp32 scale for each 128, the rotated part in bf16.
# Source: deepseek-ai/FlashMLA README, "FP8 KV cache": 656 bytes a token and layer.
LATENT_SCALE_GROUP = 128


def cached_bytes(mixer: Mixer, kv: DType) -> float:
    """Bytes of a cached element, scales included: one scale a head vector, or a group of the format's."""
    if isinstance(mixer, Latent) and kv.name == "fp8":
        rank, rotated = mixer.kv_lora_rank, mixer.rope_head_dim
        return (rank + 4 * rank / LATENT_SCALE_GROUP + 2 * rotated) / (rank + rotated)
    # Groups of 128 don't outlast most head vectors: a scale and a zero (fp16 each) for each vector instead.
    if isinstance(mixer, GroupedQuery) and kv.name == "int4":
        return 0.5 + 2 * 4 / (mixer.head_dim + mixer.value_dim)
    if isinstance(mixer, GroupedQuery) and kv.row_scale_bytes:
        return kv.element_bytes + 2 * kv.row_scale_bytes / (mixer.head_dim + mixer.value_dim)
    if kv.row_scale_bytes and (vector := cached_elements(mixer)):
        return kv.element_bytes + kv.row_scale_bytes / vector
    return kv.element_bytes
