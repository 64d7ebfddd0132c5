"""Multi-head latent attention (MLA): low-rank queries, one cached latent a token.

Two equal algorithms exist. *Absorbed*: W_UK multiplies the queries, attention runs in latent space, W_UV
multiplies its output. *Expanded*: W_UK and W_UV turn every visible latent into keys and values. Each
request uses the one with fewer FLOPs, so decode is absorbed and a long prefill expanded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import choose
from kvperf.dtypes import operand
from kvperf.layout import Shard
from kvperf.model.architecture import Compressed, Latent
from kvperf.stages.boundary import boundary_bytes, input_bytes, written_bytes
from kvperf.stages.kv_update import cached_bytes, cached_elements, span_of
from kvperf.stages.product import product
from kvperf.work import TILE_ROWS, Work
from kvperf.workload import Workload, read_tokens, visible_pairs


class Split(msgspec.Struct, frozen=True):
    """How the requests of a step divide between the two algorithms.

    absorbed  new tokens of absorbed requests;  new_expanded: of expanded ones
    expanded  visible latents of expanded requests, each turned into a key and a value
    """

    absorbed: Any
    new_expanded: Any
    expanded: Any
    absorbed_pairs: Any
    expanded_pairs: Any


def query_down(shard: Shard, workload: Workload) -> Work:
    """Project the hidden state to the query's low rank, and normalise it.

    matrix_flops           = 2*T*d*n
    vector_flops           = 4*T*n
    conversions            = converted*elements
    weight_bytes           = w*d*n + s*n + b*n
    activation_read_bytes  = x*T*d + a*T*n
    activation_write_bytes = a*T*n + y*T*n
    compulsory_bytes       = w*d*n + s*n + b*n
    kernels                = launches

    n  rank of the query (q_lora_rank)
    y  bytes of an element the norm writes

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1.2.
    """
    mixer = shard.mixer
    assert isinstance(mixer, Latent | Compressed) and mixer.q_lora_rank
    T, d, n = workload.tokens, shard.hidden_size, mixer.q_lora_rank
    weight = shard.formats.attention
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    y = written_bytes(shard, workload, "attention")
    launches = workload.launches(serving=2)
    return Work(
        **product(2 * T * d * n, T, weight, shard.input_format("attention"), d * n),
        vector_flops=4 * T * n,
        weight_bytes=w * d * n + s * n + b * n,
        activation_read_bytes=x * T * d + a * T * n,
        activation_write_bytes=a * T * n + y * T * n,
        compulsory_bytes=w * d * n + s * n + b * n,
        kernels=launches,
    )


def query_up(shard: Shard, workload: Workload) -> Work:
    """Project the query's low rank (or the hidden state, where there is none) to all heads.

    matrix_flops           = 2*T*k*n
    conversions            = converted*elements
    weight_bytes           = w*k*n + s*n
    activation_read_bytes  = x*T*k
    activation_write_bytes = a*T*n
    compulsory_bytes       = w*k*n + s*n
    kernels                = launches

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1.2.
    """
    mixer = shard.mixer
    assert isinstance(mixer, Latent | Compressed)
    T, k = workload.tokens, mixer.q_lora_rank or shard.hidden_size
    head = mixer.nope_head_dim + mixer.rope_head_dim if isinstance(mixer, Latent) else mixer.head_dim
    n = mixer.heads * head
    weight = shard.formats.attention
    w, s = weight.element_bytes, weight.row_scale_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * T * k * n, T, weight, shard.input_format("attention"), k * n),
        weight_bytes=w * k * n + s * n,
        activation_read_bytes=x * T * k,
        activation_write_bytes=a * T * n,
        compulsory_bytes=w * k * n + s * n,
        kernels=launches,
    )


def kv_down(shard: Shard, workload: Workload) -> Work:
    """Project the hidden state to what is cached: the latent and the rotated key shared by all heads.

    matrix_flops           = 2*T*d*n
    conversions            = converted*elements
    weight_bytes           = w*d*n + s*n
    activation_read_bytes  = x*T*d
    activation_write_bytes = a*T*n
    compulsory_bytes       = w*d*n + s*n
    kernels                = launches

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1.2; the latent's norm runs with the cache update.
    """
    T, d, n = workload.tokens, shard.hidden_size, cached_elements(shard.mixer)
    weight = shard.formats.attention
    w, s = weight.element_bytes, weight.row_scale_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * T * d * n, T, weight, shard.input_format("attention"), d * n),
        weight_bytes=w * d * n + s * n,
        activation_read_bytes=x * T * d,
        activation_write_bytes=a * T * n,
        compulsory_bytes=w * d * n + s * n,
        kernels=launches,
    )


def absorb_query(shard: Shard, workload: Workload) -> Work:
    """Multiply by W_UK: queries into latent space when absorbed, latents into keys when expanded.

    matrix_flops           = 2*(Ta + X)*H*nope*rank
    conversions            = converted*elements
    weight_bytes           = w*H*nope*rank + s*H*nope
    activation_read_bytes  = a*(Ta*H*nope + X*rank)
    activation_write_bytes = a*(Ta*H*rank + X*H*nope)
    compulsory_bytes       = w*H*nope*rank + s*H*nope
    kernels                = launches

    Ta    new tokens of absorbed requests
    X     visible latents of expanded requests
    nope  elements of a query head without rotation
    rank  rank of the latent (kv_lora_rank)

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1.2 (W_UK is absorbed into W_UQ).
    """
    mixer = shard.mixer
    assert isinstance(mixer, Latent)
    parts = split(mixer, workload)
    Ta, X = parts.absorbed, parts.expanded
    H, nope, rank = mixer.heads, mixer.nope_head_dim, mixer.kv_lora_rank
    weight = shard.formats.attention
    w, s, a = weight.element_bytes, weight.row_scale_bytes, boundary_bytes(shard, workload)
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * (Ta + X) * H * nope * rank, Ta + X, weight, shard.activation, H * nope * rank),
        weight_bytes=w * H * nope * rank + s * H * nope,
        activation_read_bytes=a * (Ta * H * nope + X * rank),
        activation_write_bytes=a * (Ta * H * rank + X * H * nope),
        compulsory_bytes=w * H * nope * rank + s * H * nope,
        kernels=launches,
    )


def absorb_value(shard: Shard, workload: Workload) -> Work:
    """Multiply by W_UV: the output out of latent space when absorbed, latents into values when expanded.

    matrix_flops           = 2*(Ta + X)*H*rank*Dv
    conversions            = converted*elements
    weight_bytes           = w*H*rank*Dv + s*H*Dv
    activation_read_bytes  = a*(Ta*H + X)*rank
    activation_write_bytes = a*(Ta + X)*H*Dv
    compulsory_bytes       = w*H*rank*Dv + s*H*Dv
    kernels                = launches

    Ta    new tokens of absorbed requests
    X     visible latents of expanded requests
    rank  rank of the latent (kv_lora_rank)

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1.2 (W_UV is absorbed into W_O).
    """
    mixer = shard.mixer
    assert isinstance(mixer, Latent)
    parts = split(mixer, workload)
    Ta, X = parts.absorbed, parts.expanded
    H, Dv, rank = mixer.heads, mixer.v_head_dim, mixer.kv_lora_rank
    weight = shard.formats.attention
    w, s, a = weight.element_bytes, weight.row_scale_bytes, boundary_bytes(shard, workload)
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * (Ta + X) * H * rank * Dv, Ta + X, weight, shard.activation, H * rank * Dv),
        weight_bytes=w * H * rank * Dv + s * H * Dv,
        activation_read_bytes=a * (Ta * H + X) * rank,
        activation_write_bytes=a * (Ta + X) * H * Dv,
        compulsory_bytes=w * H * rank * Dv + s * H * Dv,
        kernels=launches,
    )


def latent_attention(shard: Shard, workload: Workload) -> Work:
    """Attend in latent space (absorbed), or to the expanded keys and values; the cache holds latents either way.

    matrix_flops           = 2*H*((2*rank + r)*Pa + (nope + r + Dv)*Px)
    vector_flops           = 5*H*(Pa + Px)
    exponentials           = H*(Pa + Px)
    conversions            = converted*(rank + r)*R
    activation_read_bytes  = a*H*(Ta*(rank + r) + Tx*(nope + r) + X*(nope + Dv) + 2*scores*(Pa + Px)) + 4*pages
    activation_write_bytes = a*H*(Ta*rank + Tx*Dv + 2*scores*(Pa + Px))
    kv_read_bytes          = c*(rank + r)*R
    compulsory_bytes       = c*(rank + r)*C
    kernels                = launches

    Pa         pairs of absorbed requests
    Px         pairs of expanded requests
    Ta         new tokens of absorbed requests
    Tx         new tokens of expanded requests
    X          latents that were expanded to keys and values
    rank       rank of the latent (kv_lora_rank)
    r          elements of the rotated key
    nope       elements of a head without rotation
    converted  1 if cached elements are converted before the product, else 0
    scores     1 if score and probability matrices go through memory (eager), else 0
    pages      entries of the page table

    Source: DeepSeek-V2 (arXiv:2405.04434) section 2.1; deepseek-ai/FlashMLA docs (MQA 576/512, MHA 192/128).
    """
    mixer = shard.mixer
    assert isinstance(mixer, Latent)
    span, parts = span_of(mixer), split(mixer, workload)
    R, C = workload.read_tokens(span), workload.cached_tokens(span)
    Pa, Px, H = parts.absorbed_pairs, parts.expanded_pairs, mixer.heads
    Ta, Tx, X = parts.absorbed, parts.new_expanded, parts.expanded
    rank, r, nope, Dv = mixer.kv_lora_rank, mixer.rope_head_dim, mixer.nope_head_dim, mixer.v_head_dim
    a, c = boundary_bytes(shard, workload), cached_bytes(mixer, shard.kv)
    unit = operand(shard.kv, shard.input_format("attention"))
    converted, scores = int(unit != shard.kv.operand), int(workload.fusion == "eager")
    pages = workload.pages(span)
    launches = workload.launches(serving=1, eager=3)
    flops = 2 * H * ((2 * rank + r) * Pa + (nope + r + Dv) * Px)
    filled = flops / workload.visible_pairs(span)
    return Work(
        matrix_by_operand={unit: flops},
        padded_flops={rows: filled * workload.padded_pairs(span, H, rows) for rows in TILE_ROWS},
        vector_flops=5 * H * (Pa + Px),
        exponentials=H * (Pa + Px),
        conversions_by_format={shard.kv.operand: (rank + r) * R} if converted else {},
        activation_read_bytes=a * H * (Ta * (rank + r) + Tx * (nope + r) + X * (nope + Dv) + 2 * scores * (Pa + Px))
        + 4 * pages,
        activation_write_bytes=a * H * (Ta * rank + Tx * Dv + 2 * scores * (Pa + Px)),
        kv_read_bytes=c * (rank + r) * R,
        compulsory_bytes=c * (rank + r) * C,
        kernels=launches,
    )


def split(mixer: Latent, workload: Workload) -> Split:
    """Give each request the algorithm with fewer FLOPs."""
    span = span_of(mixer)
    rank, r, nope, Dv = mixer.kv_lora_rank, mixer.rope_head_dim, mixer.nope_head_dim, mixer.v_head_dim

    def absorbed(context: Any, new: Any) -> Any:
        pairs = visible_pairs(context, new, span)
        in_latent_space = new * rank * (nope + Dv) + (2 * rank + r) * pairs
        expanded = read_tokens(context, new, span) * rank * (nope + Dv) + (nope + r + Dv) * pairs
        return choose(in_latent_space <= expanded, 1, 0)

    new = workload.over_requests(lambda s, q: absorbed(s, q) * q)
    latents = workload.over_requests(lambda s, q: (1 - absorbed(s, q)) * read_tokens(s, q, span))
    pairs = workload.over_requests(lambda s, q: absorbed(s, q) * visible_pairs(s, q, span))
    return Split(
        absorbed=new,
        new_expanded=workload.tokens - new,
        expanded=latents,
        absorbed_pairs=pairs,
        expanded_pairs=workload.visible_pairs(span) - pairs,
    )
