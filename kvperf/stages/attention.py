"""Softmax attention over the KV cache."""

from __future__ import annotations

from typing import Any

from kvperf.dtypes import operand
from kvperf.layout import Shard
from kvperf.model.architecture import GroupedQuery
from kvperf.stages.boundary import boundary_bytes
from kvperf.stages.kv_update import cached_bytes, span_of
from kvperf.work import TILE_ROWS, Work
from kvperf.workload import Span, Workload


def attention(shard: Shard, workload: Workload) -> Work:
    """Attend each new token to the cached keys and values it can see; KV heads are read once, not once a query head.

    matrix_flops           = 2*H*(D + Dv)*P
    vector_flops           = 5*H*P + 4*gate*T*H*Dv
    exponentials           = H*P
    conversions            = converted*K*(D + Dv)*R
    weight_bytes           = b*sinks
    activation_read_bytes  = a*T*H*(D + 2*gate*Dv) + 2*a*scores*H*P + 4*pages
    activation_write_bytes = a*T*H*Dv*(1 + gate) + 2*a*scores*H*P
    kv_read_bytes          = c*K*(D + Dv)*R
    compulsory_bytes       = c*K*(D + Dv)*C + b*sinks
    kernels                = launches

    converted  1 if cached elements are converted before the product, else 0
    gate       1 if a second kernel scales the output by a gate, else 0
    scores     1 if score and probability matrices go through memory (eager), else 0
    sinks      learned sink logits
    pages      entries of the page table

    Source: Dao et al. 2022 (FlashAttention, arXiv:2205.14135); GQA: Ainslie et al. 2023 (arXiv:2305.13245).
    Softmax is 5 FLOP a score: scale, subtract the maximum, exponential, sum, divide.
    """
    mixer = shard.mixer
    assert isinstance(mixer, GroupedQuery)
    span = span_of(mixer)
    T, P, R, C = workload.tokens, workload.visible_pairs(span), workload.read_tokens(span), workload.cached_tokens(span)
    H, K, D, Dv = mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.value_dim
    a, b, c = boundary_bytes(shard, workload), shard.formats.base.element_bytes, cached_bytes(mixer, shard.kv)
    unit = operand(shard.kv, shard.input_format("attention"))
    converted, gate = int(unit != shard.kv.operand), int(mixer.output_gate)
    scores = int(workload.fusion == "eager")
    sinks, pages = H * mixer.sinks, workload.pages(span)
    launches = workload.launches(serving=1 + gate, eager=3 + gate)
    return Work(
        matrix_by_operand={unit: 2 * H * (D + Dv) * P},
        padded_flops=padded(2 * H * (D + Dv), workload, span, H // K),
        vector_flops=5 * H * P + 4 * gate * T * H * Dv,
        exponentials=H * P,
        conversions_by_format={shard.kv.operand: K * (D + Dv) * R} if converted else {},
        weight_bytes=b * sinks,
        activation_read_bytes=a * T * H * (D + 2 * gate * Dv) + 2 * a * scores * H * P + 4 * pages,
        activation_write_bytes=a * T * H * Dv * (1 + gate) + 2 * a * scores * H * P,
        kv_read_bytes=c * K * (D + Dv) * R,
        compulsory_bytes=c * K * (D + Dv) * C + b * sinks,
        kernels=launches,
        widest_kernel_bytes=a * T * H * (D + Dv) + 2 * a * scores * H * P + 4 * pages,
    )


def attention_alone(shard: Shard, workload: Workload) -> Work:
    """Attention by itself: its queries, keys, values and output are the step's inputs and outputs.

    matrix_flops           = 2*H*(D + Dv)*P
    vector_flops           = 5*H*P
    exponentials           = H*P
    conversions            = converted*K*(D + Dv)*R
    activation_read_bytes  = a*T*H*D + 2*a*scores*H*P
    activation_write_bytes = a*T*H*Dv + 2*a*scores*H*P
    kv_read_bytes          = c*K*(D + Dv)*R
    compulsory_bytes       = c*K*(D + Dv)*R + e*T*H*(D + Dv)
    kernels                = launches

    converted  1 if cached elements are converted before the product, else 0
    scores     1 if score and probability matrices go through memory (eager), else 0
    e          bytes of an element of Q and of the output

    Source: Dao et al. 2022 (FlashAttention, arXiv:2205.14135); GQA: Ainslie et al. 2023 (arXiv:2305.13245).
    """
    mixer = shard.mixer
    assert isinstance(mixer, GroupedQuery)
    span = span_of(mixer)
    T, P, R = workload.tokens, workload.visible_pairs(span), workload.read_tokens(span)
    H, K, D, Dv = mixer.heads, mixer.kv_heads, mixer.head_dim, mixer.value_dim
    e, c = shard.activation.element_bytes, cached_bytes(mixer, shard.kv)
    # Q and the output cross HBM whatever the fusion: nothing stands before or after.
    a = e
    unit = operand(shard.kv, shard.input_format("attention"))
    converted = int(unit != shard.kv.operand)
    scores = int(workload.fusion == "eager")
    launches = 1 if workload.fusion == "megakernel" else workload.launches(serving=1, eager=3)
    return Work(
        matrix_by_operand={unit: 2 * H * (D + Dv) * P},
        padded_flops=padded(2 * H * (D + Dv), workload, span, H // K),
        vector_flops=5 * H * P,
        exponentials=H * P,
        conversions_by_format={shard.kv.operand: K * (D + Dv) * R} if converted else {},
        activation_read_bytes=a * T * H * D + 2 * a * scores * H * P,
        activation_write_bytes=a * T * H * Dv + 2 * a * scores * H * P,
        kv_read_bytes=c * K * (D + Dv) * R,
        compulsory_bytes=c * K * (D + Dv) * R + e * T * H * (D + Dv),
        kernels=launches,
    )


def padded(flops_per_pair: Any, workload: Workload, span: Span, group: int) -> dict[int, Any]:
    """Attention FLOPs with the query rows that share a KV head padded to whole tiles."""
    return {rows: flops_per_pair * workload.padded_pairs(span, group, rows) for rows in TILE_ROWS}
