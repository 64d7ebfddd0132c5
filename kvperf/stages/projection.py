"""The products into and out of a mixer."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.model.architecture import (
    Compressed,
    DeltaNet,
    Dense,
    Experts,
    Ffn,
    GroupedQuery,
    Latent,
    Lightning,
    Mamba2,
    Mixer,
)
from kvperf.stages.boundary import boundary_bytes, input_bytes
from kvperf.stages.product import product
from kvperf.work import Work
from kvperf.workload import Workload


def qkv_projection(shard: Shard, workload: Workload) -> Work:
    """Project the hidden state to queries, keys and values (of a linear mixer: to all its inputs).

    matrix_flops           = 2*T*d*n
    vector_flops           = bias*T*n
    conversions            = converted*elements
    weight_bytes           = w*d*n + s*n + b*bias*n
    activation_read_bytes  = x*T*d*gemms
    activation_write_bytes = a*T*n
    compulsory_bytes       = w*d*n + s*n + b*bias*n
    kernels                = launches

    n      query, key and value elements of a token: (H + K)*D + K*Dv; a gated query counts twice
    gemms  products that read the hidden state: one, or one each for Q, K and V

    Source: Shazeer 2019 (arXiv:1911.02150), Ainslie et al. 2023 (GQA, arXiv:2305.13245).
    """
    T, d, n = workload.tokens, shard.hidden_size, mixer_inputs(shard.mixer)
    weight = shard.formats.attention
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    bias = int(isinstance(shard.mixer, GroupedQuery) and shard.mixer.qkv_bias)
    gemms = 3 if workload.fusion == "eager" or workload.qkv_gemms == 3 else 1
    launches = workload.launches(serving=gemms)
    return Work(
        **product(2 * T * d * n, T, weight, shard.input_format("attention"), d * n),
        vector_flops=bias * T * n,
        weight_bytes=w * d * n + s * n + b * bias * n,
        activation_read_bytes=x * T * d * gemms,
        activation_write_bytes=a * T * n,
        compulsory_bytes=w * d * n + s * n + b * bias * n,
        kernels=launches,
    )


def output_projection(shard: Shard, workload: Workload) -> Work:
    """Project the mixer's output back to the hidden size.

    matrix_flops           = 2*T*k*d
    vector_flops           = bias*T*d
    conversions            = converted*elements
    weight_bytes           = w*k*d + s*d + b*bias*d
    activation_read_bytes  = x*T*k
    activation_write_bytes = a*T*d
    compulsory_bytes       = w*k*d + s*d + b*bias*d
    kernels                = launches

    k  elements of the mixer's output for a token: H*Dv

    Source: Vaswani et al. 2017 (arXiv:1706.03762) section 3.2.2.
    """
    T, d, k = workload.tokens, shard.hidden_size, mixer_outputs(shard.mixer)
    weight = shard.formats.attention
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    bias = int(isinstance(shard.mixer, GroupedQuery) and shard.mixer.output_bias)
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * T * k * d, T, weight, shard.input_format("attention"), k * d),
        vector_flops=bias * T * d,
        weight_bytes=w * k * d + s * d + b * bias * d,
        activation_read_bytes=x * T * k,
        activation_write_bytes=a * T * d,
        compulsory_bytes=w * k * d + s * d + b * bias * d,
        kernels=launches,
    )


def grouped_output_projection(shard: Shard, workload: Workload) -> Work:
    """Project the output of compressed attention group by group to a low rank, then to the hidden size.

    matrix_flops           = 2*T*(H*D*rank + groups*rank*d)
    conversions            = converted*elements
    weight_bytes           = w*(H*D*rank + groups*rank*d) + s*(groups*rank + d)
    activation_read_bytes  = x*T*(H*D + groups*rank)
    activation_write_bytes = a*T*(groups*rank + d)
    compulsory_bytes       = w*(H*D*rank + groups*rank*d) + s*(groups*rank + d)
    kernels                = launches

    rank    rank of a group's projection
    groups  groups of heads

    Source: DeepSeek-V4 config keys o_groups and o_lora_rank; transformers models/deepseek_v4.
    """
    mixer = shard.mixer
    assert isinstance(mixer, Compressed)
    T, d, H, D = workload.tokens, shard.hidden_size, mixer.heads, mixer.head_dim
    rank, groups = mixer.output_lora_rank, mixer.output_groups
    weight = shard.formats.attention
    w, s = weight.element_bytes, weight.row_scale_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    elements = H * D * rank + groups * rank * d
    launches = workload.launches(serving=2)
    return Work(
        **product(2 * T * elements, T, weight, shard.input_format("attention"), elements),
        weight_bytes=w * elements + s * (groups * rank + d),
        activation_read_bytes=x * T * (H * D + groups * rank),
        activation_write_bytes=a * T * (groups * rank + d),
        compulsory_bytes=w * elements + s * (groups * rank + d),
        kernels=launches,
    )


def activation_quantise(shard: Shard, workload: Workload) -> Work:
    """Quantise inputs of matrices that no earlier kernel writes quantised.

    With serving fusion norms and activations write their output quantised; the mixer's output is left.

    vector_flops           = 2*T*n
    activation_read_bytes  = a*T*n
    activation_write_bytes = x*T*n
    kernels                = launches

    n  elements of a token that are quantised

    Source: dynamic activation scales: DeepSeek-V3 report (arXiv:2412.19437) section 3.3.2.
    """
    T = workload.tokens
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "attention")
    n = mixer_outputs(shard.mixer)
    if workload.fusion == "eager":
        n += 2 * shard.hidden_size + ffn_inner(shard.ffn)
    launches = workload.launches(serving=1, eager=4)
    return Work(
        vector_flops=2 * T * n,
        activation_read_bytes=a * T * n,
        activation_write_bytes=x * T * n,
        kernels=launches,
    )


def mixer_inputs(mixer: Mixer) -> int:
    """Elements of a token that the input projection of a mixer yields."""
    if isinstance(mixer, GroupedQuery):
        queries = mixer.heads * mixer.head_dim * (2 if mixer.output_gate else 1)
        values = 0 if mixer.shared_kv_projection else mixer.kv_heads * mixer.value_dim
        return queries + mixer.kv_heads * mixer.head_dim + values
    if isinstance(mixer, DeltaNet):
        # Queries, keys, values and the output gate; a decay and a write strength a value head.
        return 2 * mixer.k_heads * mixer.k_head_dim + 2 * mixer.v_heads * mixer.v_head_dim + 2 * mixer.v_heads
    if isinstance(mixer, Lightning):
        return 4 * mixer.heads * mixer.head_dim
    assert isinstance(mixer, Mamba2)
    return 2 * mixer.heads * mixer.head_dim + 2 * mixer.groups * mixer.state_size + mixer.heads


def mixer_outputs(mixer: Mixer) -> int:
    """Elements of a token that a mixer hands to the output projection."""
    if isinstance(mixer, GroupedQuery):
        return mixer.heads * mixer.value_dim
    if isinstance(mixer, Latent):
        return mixer.heads * mixer.v_head_dim
    if isinstance(mixer, DeltaNet):
        return mixer.v_heads * mixer.v_head_dim
    if isinstance(mixer, Lightning | Mamba2 | Compressed):
        return mixer.heads * mixer.head_dim
    return 0


def ffn_inner(ffn: Ffn) -> int:
    """Elements of a token that enter the last matrix of an FFN."""
    if isinstance(ffn, Experts):
        return ffn.top_k * ffn.intermediate + ffn.shared_intermediate
    return ffn.intermediate if isinstance(ffn, Dense) else 0
