"""Multi-head latent attention (MLA): low-rank queries, one cached latent a token.

Two equal algorithms exist. *Absorbed*: W_UK multiplies the queries, attention runs in latent space, W_UV
multiplies its output. *Expanded*: W_UK and W_UV turn every visible latent into keys and values. Each
request uses, for keys and for values, the one with fewer FLOPs: decode is absorbed, a long prefill expanded.
"""

from __future__ import annotations

from typing import Any

import msgspec

from kvperf.arith import choose, most
from kvperf.dtypes import operand
from kvperf.layout import Shard
from kvperf.model.architecture import Compressed, Latent
from kvperf.stages.boundary import boundary_bytes, input_bytes, written_bytes
from kvperf.stages.kv_update import cached_bytes, cached_elements, span_of
from kvperf.stages.product import product
from kvperf.work import TILE_ROWS, Work
from kvperf.workload import Workload, read_tokens, visible_pairs


class Split(msgspec.Struct, frozen=True):
    """How the requests of a step divide between the two algorithms, for the keys or for the values.

    absorbed  new tokens of absorbed requests;  new_expanded: of expanded ones
    expanded  visible latents of expanded requests, each turned into a key (or a value)
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
    parts = split(mixer, workload, mixer.nope_head_dim)
    Ta, X = parts.absorbed, parts.expanded
    H, nope, rank = mixer.heads, mixer.nope_head_dim, mixer.kv_lora_rank
    weight = shard.formats.attention
    w, s, a = weight.element_bytes, weight.row_scale_bytes, boundary_bytes(shard, workload)
    launches = workload.launches(serving=1)
    return Work(
        **_mapped(shard, Ta, X, H * nope * rank),
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
    parts = split(mixer, workload, mixer.v_head_dim)
    Ta, X = parts.absorbed, parts.expanded
    H, Dv, rank = mixer.heads, mixer.v_head_dim, mixer.kv_lora_rank
    weight = shard.formats.attention
    w, s, a = weight.element_bytes, weight.row_scale_bytes, boundary_bytes(shard, workload)
    launches = workload.launches(serving=1)
    return Work(
        **_mapped(shard, Ta, X, H * rank * Dv),
        weight_bytes=w * H * rank * Dv + s * H * Dv,
        activation_read_bytes=a * (Ta * H + X) * rank,
        activation_write_bytes=a * (Ta + X) * H * Dv,
        compulsory_bytes=w * H * rank * Dv + s * H * Dv,
        kernels=launches,
    )


def latent_attention(shard: Shard, workload: Workload) -> Work:
    """Attend in latent space (absorbed), or to the expanded keys and values; the cache holds latents either way.

    matrix_flops           = 2*H*((rank + r)*Pk + (nope + r)*(P - Pk) + rank*Pv + Dv*(P - Pv))
    vector_flops           = 5*H*P
    exponentials           = H*P
    conversions            = converted*(rank + r)*R
    activation_read_bytes  = a*H*(Tk*rank + (T - Tk)*nope + T*r + Xk*nope + Xv*Dv + 2*scores*P) + 4*pages
    activation_write_bytes = a*H*(Tv*rank + (T - Tv)*Dv + 2*scores*P)
    kv_read_bytes          = c*(rank + r)*R
    compulsory_bytes       = c*(rank + r)*C
    kernels                = launches

    Pk         pairs of requests whose keys are absorbed
    Pv         pairs of requests whose values are absorbed
    Tk         new tokens of requests whose keys are absorbed
    Tv         new tokens of requests whose values are absorbed
    Xk         latents that were expanded to keys
    Xv         latents that were expanded to values
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
    span, H = span_of(mixer), mixer.heads
    rank, r, nope, Dv = mixer.kv_lora_rank, mixer.rope_head_dim, mixer.nope_head_dim, mixer.v_head_dim
    T, P, R, C = workload.tokens, workload.visible_pairs(span), workload.read_tokens(span), workload.cached_tokens(span)
    keys, values = split(mixer, workload, nope), split(mixer, workload, Dv)
    Pk, Tk, Xk = keys.absorbed_pairs, keys.absorbed, keys.expanded
    Pv, Tv, Xv = values.absorbed_pairs, values.absorbed, values.expanded
    a, c = boundary_bytes(shard, workload), cached_bytes(mixer, shard.kv)
    unit = operand(shard.kv, shard.input_format("attention"))
    converted, scores = int(unit != shard.kv.operand), int(workload.fusion == "eager")
    pages = workload.pages(span)
    launches = workload.launches(serving=1, eager=3)
    flops = 2 * H * ((rank + r) * Pk + (nope + r) * (P - Pk) + rank * Pv + Dv * (P - Pv))
    return Work(
        matrix_by_operand={unit: flops},
        padded_flops={rows: flops / P * workload.padded_pairs(span, H, rows) for rows in TILE_ROWS},
        vector_flops=5 * H * P,
        exponentials=H * P,
        conversions_by_format={shard.kv.operand: (rank + r) * R} if converted else {},
        activation_read_bytes=a * H * (Tk * rank + (T - Tk) * nope + T * r + Xk * nope + Xv * Dv + 2 * scores * P)
        + 4 * pages,
        activation_write_bytes=a * H * (Tv * rank + (T - Tv) * Dv + 2 * scores * P),
        kv_read_bytes=c * (rank + r) * R,
        compulsory_bytes=c * (rank + r) * C,
        kernels=launches,
        widest_kernel_bytes=a * H * (T * (2 * rank + r) + Xk * nope + Xv * Dv + 2 * scores * P) + 4 * pages,
    )


def split(mixer: Latent, workload: Workload, width: int) -> Split:
    """Give each request the algorithm with fewer FLOPs, for keys (`width` nope) or values (`width` Dv).

    Absorbing maps each new token once and makes every pair `rank` wide; expanding maps each visible
    latent once and leaves a pair `width` wide. The rotated part of a key costs the same either way.
    """
    span, rank = span_of(mixer), mixer.kv_lora_rank

    def absorbed(context: Any, new: Any) -> Any:
        pairs = visible_pairs(context, new, span)
        in_latent_space = new * rank * width + rank * pairs
        expanded = read_tokens(context, new, span) * rank * width + width * pairs
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


def _mapped(shard: Shard, new: Any, latents: Any, elements: int) -> dict[str, Any]:
    """W_UK or W_UV times `new` activations and `latents`, which enter as the inputs of any other projection do."""
    weight, inputs = shard.formats.attention, shard.input_format("attention")
    absorbed = product(2 * new * elements, new + latents, weight, shard.activation, elements)
    expanded = product(2 * latents * elements, new + latents, weight, inputs, elements)
    # The weights are converted where some of their rows need it.
    narrow = absorbed["conversions_by_format"], expanded["conversions_by_format"]
    converted = most(choose(new > 0, 1, 0) if narrow[0] else 0, choose(latents > 0, 1, 0) if narrow[1] else 0)
    return {
        "matrix_by_operand": _added(absorbed["matrix_by_operand"], expanded["matrix_by_operand"]),
        "padded_flops": _added(absorbed["padded_flops"], expanded["padded_flops"]),
        "conversions_by_format": {weight.operand: converted * elements} if any(narrow) else {},
    }


def _added(first: dict[Any, Any], second: dict[Any, Any]) -> dict[Any, Any]:
    return first | {key: first[key] + value if key in first else value for key, value in second.items()}
