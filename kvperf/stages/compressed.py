"""DeepSeek-V4 attention: a window of plain keys, and compressed keys for the rest."""

from __future__ import annotations

from typing import Any

from kvperf.arith import choose, least, most
from kvperf.dtypes import DType, operand
from kvperf.layout import Shard
from kvperf.model.architecture import Compressed
from kvperf.stages.boundary import boundary_bytes, input_bytes
from kvperf.stages.kv_update import cached_bytes, span_of
from kvperf.stages.product import product
from kvperf.work import TILE_ROWS, Work, padded_rows
from kvperf.workload import Workload


def compressed_kv_down(shard: Shard, workload: Workload) -> Work:
    """Project the hidden state to its key, and to the keys and gates that the compressor pools.

    matrix_flops           = 2*T*d*n
    vector_flops           = 4*T*D
    conversions            = converted*elements
    weight_bytes           = w*d*n + s*n + b*(D + H)
    activation_read_bytes  = x*T*d
    activation_write_bytes = a*T*n
    compulsory_bytes       = w*d*n + s*n + b*(D + H)
    kernels                = launches

    n  elements: one key of D, and for each series of the compressor a key and a gate of D

    Source: DeepSeek-V4 config keys compress_ratios, head_dim; transformers models/deepseek_v4 (kv_norm and sinks are
    the D + H vectors).
    """
    mixer = _compressed(shard)
    T, d, D, H = workload.tokens, shard.hidden_size, mixer.head_dim, mixer.heads
    n = D + 2 * D * series(mixer)
    weight = shard.formats.attention
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    launches = workload.launches(serving=2)
    return Work(
        **product(2 * T * d * n, T, weight, shard.input_format("attention"), d * n),
        vector_flops=4 * T * D,
        weight_bytes=w * d * n + s * n + b * (D + H),
        activation_read_bytes=x * T * d,
        activation_write_bytes=a * T * n,
        compulsory_bytes=w * d * n + s * n + b * (D + H),
        kernels=launches,
    )


def compressed_kv_update(shard: Shard, workload: Workload) -> Work:
    """Append the new keys to the window, and one pooled key for every `ratio` tokens completed.

    vector_flops          = 5*T*2*D*pooled
    weight_bytes          = b*pool
    activation_read_bytes = a*T*(D + 2*D*pooled) + 8*T
    kv_write_bytes        = c*D*(T + M)
    compulsory_bytes      = c*D*(N + M) + b*pool
    kernels               = launches

    M       compressed keys completed in this step
    pool    position biases and norm of the compressor
    pooled  pooled series: 2 where groups overlap, 1, or 0 without a compressor

    Source: DeepSeek-V4 config key compress_ratios; transformers models/deepseek_v4.
    """
    mixer = _compressed(shard)
    T, N, D = workload.tokens, workload.kept_tokens(span_of(mixer)), mixer.head_dim
    M = workload.over_requests(lambda context, new: entries(context, mixer) - entries(context - new, mixer))
    pool, pooled = pooling_weights(D, mixer), series(mixer)
    a, b, c = boundary_bytes(shard, workload), shard.formats.base.element_bytes, cached_bytes(mixer, shard.kv)
    launches = workload.launches(serving=2 if mixer.ratio else 1)
    return Work(
        vector_flops=5 * T * 2 * D * pooled,
        weight_bytes=b * pool,
        activation_read_bytes=a * T * (D + 2 * D * pooled) + 8 * T,
        kv_write_bytes=c * D * (T + M),
        compulsory_bytes=c * D * (N + M) + b * pool,
        kernels=launches,
    )


def compressed_indexer(shard: Shard, workload: Workload) -> Work:
    """Score every compressed index key and keep the top_k of them for each query.

    matrix_flops           = 2*T*elements + 2*heads*Di*Pi
    vector_flops           = 2*heads*Pi
    conversions            = converted*elements
    weight_bytes           = w*elements + s*outputs + b*pool
    activation_read_bytes  = x*T*(rank + 2*d) + f*Pi
    activation_write_bytes = a*T*outputs + f*Pi + z*T*top_k
    kv_read_bytes          = c*Di*Ri
    kv_write_bytes         = c*Di*M
    compulsory_bytes       = own + b*pool + c*Di*(Cs + M) + selecting*(w*elements + s*outputs - own)
    kernels                = launches

    elements  weights: queries from the query's rank, gates a head, keys and gates of two pooled series
    heads     indexer heads
    Di        elements of an index key
    Pi        pairs of query and compressed key
    Ri        index keys read
    selecting  1 if some context has more than top_k compressed keys, else 0: fewer need no scores
    own       bytes of the weights that make index keys
    Cs        index keys of those contexts cached before the step
    M         index keys completed in this step
    outputs   output channels of those weights
    pool      position biases and norm of the indexer's compressor
    rank      rank of the query it starts from
    top_k     compressed keys kept for a query
    f         bytes of a score (fp32; 0 in a megakernel)
    z         bytes of an index (int32; 0 in a megakernel)

    Source: DeepSeek-V4 config keys index_n_heads, index_head_dim, index_topk; transformers models/deepseek_v4.
    """
    mixer = _compressed(shard)
    part = mixer.indexer
    assert part is not None
    d, heads, Di, top_k, rank = shard.hidden_size, part.heads, part.head_dim, part.top_k, mixer.q_lora_rank
    T = workload.tokens
    Pi = workload.over_requests(lambda context, new: _pairs(context, mixer.ratio) - _pairs(context - new, mixer.ratio))
    Ri = workload.over_requests(lambda context, new: entries(context, mixer))
    M = Ri - workload.over_requests(lambda context, new: entries(context - new, mixer))
    Cs = workload.over_requests(lambda s, q: choose(entries(s, mixer) > top_k, entries(s - q, mixer), 0))
    selecting = choose(workload.over_requests(lambda s, q: choose(entries(s, mixer) > top_k, 1, 0)) > 0, 1, 0)
    outputs = heads * Di + heads + 4 * Di
    elements = rank * heads * Di + d * heads + 4 * d * Di
    pool = pooling_weights(Di, mixer)
    weight = shard.formats.indexer
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x, c = boundary_bytes(shard, workload), input_bytes(shard, workload, "indexer"), shard.kv.element_bytes
    own = w * 4 * d * Di + s * 4 * Di
    f = z = 0 if workload.fusion == "megakernel" else 4
    launches = workload.launches(serving=5)
    unit = operand(weight, shard.input_format("indexer"))
    converted = int(weight.operand != unit)
    matrix = {unit: 2 * T * elements}
    matrix[shard.kv.operand] = matrix.get(shard.kv.operand, 0) + 2 * heads * Di * Pi
    whole, scored = padded_rows(2 * T * elements, T), padded_rows(2 * heads * Di * Pi, heads)
    return Work(
        matrix_by_operand=matrix,
        padded_flops={tile: whole[tile] + scored[tile] for tile in TILE_ROWS},
        vector_flops=2 * heads * Pi,
        conversions_by_format={weight.operand: elements} if converted else {},
        weight_bytes=w * elements + s * outputs + b * pool,
        activation_read_bytes=x * T * (rank + 2 * d) + f * Pi,
        activation_write_bytes=a * T * outputs + f * Pi + z * T * top_k,
        kv_read_bytes=c * Di * Ri,
        kv_write_bytes=c * Di * M,
        compulsory_bytes=own + b * pool + c * Di * (Cs + M) + selecting * (w * elements + s * outputs - own),
        kernels=launches,
    )


def compressed_attention(shard: Shard, workload: Workload) -> Work:
    """Attend to the window and to compressed keys; one vector serves as key and value for all heads.

    matrix_flops           = 4*H*D*(Pw + Pc)
    vector_flops           = 5*H*(Pw + Pc)
    exponentials           = H*(Pw + Pc)
    conversions            = converted*D*(Rw + Rc)
    activation_read_bytes  = a*T*H*D + 4*pages
    activation_write_bytes = a*T*H*D
    kv_read_bytes          = c*D*(Rw + Rc)
    compulsory_bytes       = c*D*(Cw + Cc)
    kernels                = launches

    Pw  pairs of query and window key
    Pc  pairs of query and compressed key
    Rw  window keys read
    Rc  compressed keys read
    Cw  window keys cached before the step
    Cc  compressed keys cached before the step that are surely read
    converted  1 if cached elements are converted before the product, else 0
    pages      entries of the page table

    Source: DeepSeek-V4 config keys sliding_window, compress_ratios, index_topk; transformers models/deepseek_v4.
    """
    mixer = _compressed(shard)
    span, H, D, ratio = span_of(mixer), mixer.heads, mixer.head_dim, mixer.ratio
    top_k = mixer.indexer.top_k if mixer.indexer else None
    T, Pw, Rw, Cw = (
        workload.tokens,
        workload.visible_pairs(span),
        workload.read_tokens(span),
        workload.cached_tokens(span),
    )
    Pc = workload.over_requests(lambda s, q: _pairs(s, ratio, top_k) - _pairs(s - q, ratio, top_k))
    Rc = workload.over_requests(lambda s, q: _selected(s, q, mixer))
    Cc = workload.over_requests(lambda s, q: _surely_cached(s, q, mixer))
    a, c = boundary_bytes(shard, workload), cached_bytes(mixer, shard.kv)
    unit = operand(shard.kv, shard.input_format("attention"))
    converted, pages = int(unit != shard.kv.operand), workload.pages(span)
    launches = workload.launches(serving=1, eager=3)
    pairs = Pw + Pc
    return Work(
        matrix_by_operand={unit: 4 * H * D * pairs},
        padded_flops=padded_rows(4 * H * D * pairs, H),
        vector_flops=5 * H * pairs,
        exponentials=H * pairs,
        conversions_by_format={shard.kv.operand: D * (Rw + Rc)} if converted else {},
        activation_read_bytes=a * T * H * D + 4 * pages,
        activation_write_bytes=a * T * H * D,
        kv_read_bytes=c * D * (Rw + Rc),
        compulsory_bytes=c * D * (Cw + Cc),
        kernels=launches,
    )


def series(mixer: Compressed) -> int:
    """Pooled series of the compressor: overlapping groups (with an indexer) need two."""
    return 0 if not mixer.ratio else 2 if mixer.indexer else 1


def pooling_weights(head_dim: int, mixer: Compressed) -> int:
    """A bias for each position of a group and series, and the norm of the pooled key."""
    return mixer.ratio * series(mixer) * head_dim + head_dim if mixer.ratio else 0


def entries(context: Any, mixer: Compressed) -> Any:
    """Compressed keys of `context` tokens."""
    return context // mixer.ratio if mixer.ratio else 0 * context


def compressed_cache_bytes(mixer: Compressed, context: Any, kv: DType) -> Any:
    """Bytes that one layer's compressed keys and index keys occupy for one sequence."""
    index = mixer.indexer.head_dim if mixer.indexer else 0
    return entries(context, mixer) * (cached_bytes(mixer, kv) * mixer.head_dim + kv.element_bytes * index)


def _pairs(context: Any, ratio: int, top_k: int | None = None) -> Any:
    """Σ_{p=1..context} min(⌊p/ratio⌋, top_k)."""
    if not ratio:
        return 0 * context
    ramp = context if top_k is None else least(context, ratio * top_k)
    whole = ramp // ratio
    counted = ratio * (whole * (whole - 1) // 2) + whole * (ramp - ratio * whole + 1)
    return counted if top_k is None else counted + (context - ramp) * top_k


def _selected(context: Any, new: Any, mixer: Compressed) -> Any:
    """Distinct compressed keys that the new tokens of one sequence read, at most."""
    if mixer.indexer is None:
        return entries(context, mixer)
    top_k = mixer.indexer.top_k
    return least(
        entries(context, mixer), _pairs(context, mixer.ratio, top_k) - _pairs(context - new, mixer.ratio, top_k)
    )


def _surely_cached(context: Any, new: Any, mixer: Compressed) -> Any:
    before = entries(context - new, mixer)
    if mixer.indexer is None:
        return before
    completed = entries(context, mixer) - before
    return most(least(entries(context, mixer), mixer.indexer.top_k) - completed, 0)


def _compressed(shard: Shard) -> Compressed:
    assert isinstance(shard.mixer, Compressed)
    return shard.mixer
