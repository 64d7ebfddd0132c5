"""The indexer of DeepSeek sparse attention: which cached tokens a query attends to."""

from __future__ import annotations

from kvperf.arith import choose
from kvperf.dtypes import dtype, operand
from kvperf.layout import Shard
from kvperf.model.architecture import Latent
from kvperf.stages.boundary import boundary_bytes, input_bytes
from kvperf.work import TILE_ROWS, Work, padded_rows
from kvperf.workload import Workload


def indexer(shard: Shard, workload: Workload) -> Work:
    """Score every cached key with a few light heads and keep the top_k tokens of each query.

    matrix_flops           = 2*T*elements + 2*heads*D*P
    vector_flops           = 2*heads*P
    conversions            = converted*elements
    weight_bytes           = w*elements + s*(heads*D + D) + b*2*D
    activation_read_bytes  = x*T*(q_rank + 2*d) + f*P
    activation_write_bytes = a*T*(heads*D + D + heads) + f*P + z*T*top_k
    kv_read_bytes          = key*R
    kv_write_bytes         = key*T
    compulsory_bytes       = w*d*D + s*D + b*2*D + key*(Cs + T) + selecting*(w*(elements - d*D) + s*heads*D)
    kernels                = launches

    elements  weights: queries from q_rank, one key and `heads` gates from the hidden state
    heads     indexer heads
    q_rank    rank of the query they start from
    key       bytes of a cached index key
    top_k     tokens kept for a query
    selecting  1 if some context is longer than top_k, else 0: a shorter one needs no scores, only its key
    Cs        cached keys of those contexts
    f         bytes of a score (fp32; 0 in a megakernel)
    z         bytes of an index (int32; 0 in a megakernel)

    Source: DeepSeek-V3.2 report, section 2.1 (lightning indexer); vLLM mla/indexer: 128 fp8 + one fp32 scale a key.
    """
    mixer = shard.mixer
    assert isinstance(mixer, Latent) and mixer.indexer
    part = mixer.indexer
    T, P, R = workload.tokens, workload.visible_pairs(), workload.read_tokens()
    Cs = workload.over_requests(lambda context, new: choose(context > part.top_k, context - new, 0))
    selecting = choose(workload.over_requests(lambda context, new: choose(context > part.top_k, 1, 0)) > 0, 1, 0)
    d, heads, D, top_k = shard.hidden_size, part.heads, part.head_dim, part.top_k
    q_rank = mixer.q_lora_rank or d
    elements = q_rank * heads * D + d * D + d * heads
    weight = shard.formats.indexer
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "indexer")
    f = z = 0 if workload.fusion == "megakernel" else 4
    stored = shard.kv if part.bytes_per_token is None else dtype("fp8")
    key = D * stored.element_bytes if part.bytes_per_token is None else part.bytes_per_token
    launches = workload.launches(serving=5)
    projections, scores = 2 * T * elements, 2 * heads * D * P
    unit = operand(weight, shard.input_format("indexer"))
    converted = int(weight.operand != unit)
    matrix = {unit: projections}
    matrix[stored.operand] = matrix.get(stored.operand, 0) + scores
    rows = padded_rows(projections, T)
    return Work(
        matrix_by_operand=matrix,
        padded_flops={
            tile: rows[tile] + 2 * heads * D * workload.padded_pairs(group=heads, rows=tile) for tile in TILE_ROWS
        },
        vector_flops=2 * heads * P,
        conversions_by_format={weight.operand: elements} if converted else {},
        weight_bytes=w * elements + s * (heads * D + D) + b * 2 * D,
        activation_read_bytes=x * T * (q_rank + 2 * d) + f * P,
        activation_write_bytes=a * T * (heads * D + D + heads) + f * P + z * T * top_k,
        kv_read_bytes=key * R,
        kv_write_bytes=key * T,
        compulsory_bytes=w * d * D
        + s * D
        + b * 2 * D
        + key * (Cs + T)
        + selecting * (w * (elements - d * D) + s * heads * D),
        kernels=launches,
    )
