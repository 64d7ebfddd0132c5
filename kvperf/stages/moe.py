"""Mixture of experts: router, dispatch, experts, shared experts, combine."""

from __future__ import annotations

from typing import Any

from kvperf.arith import most, power
from kvperf.layout import Shard
from kvperf.model.architecture import Experts
from kvperf.stages.boundary import boundary_bytes, input_bytes, written_bytes
from kvperf.stages.product import product
from kvperf.work import Work, padded_rows
from kvperf.workload import Workload


def moe_router(shard: Shard, workload: Workload) -> Work:
    """Score every expert for every token and keep the top k.

    matrix_flops           = 2*T*d*E
    vector_flops           = 5*T*E + bias*T*E
    conversions            = converted*elements
    weight_bytes           = w*d*E + s*E + b*(E*(bias + scored) + scales)
    activation_read_bytes  = a*T*d + f*T*E
    activation_write_bytes = f*T*E + f*2*T*top_k
    compulsory_bytes       = w*d*E + s*E + b*(E*(bias + scored) + scales)
    kernels                = launches

    scored  1 if each expert has a correction value, else 0
    scales  learned scales beside the matrix
    top_k   experts of a token
    f       bytes of a score (fp32; 0 in a megakernel)

    Source: Shazeer et al. 2017 (arXiv:1701.06538); DeepSeek-V3 (arXiv:2412.19437) section 2.1.2 (correction bias).
    """
    ffn = _experts(shard)
    T, d, E, top_k = workload.tokens, shard.hidden_size, ffn.experts, ffn.top_k
    bias, scored, scales = int(ffn.router_bias), int(ffn.score_bias), ffn.router_scales
    weight = shard.formats.router
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a = boundary_bytes(shard, workload)
    f = 0 if workload.fusion == "megakernel" else 4
    launches = workload.launches(serving=2)
    return Work(
        **product(2 * T * d * E, T, weight, shard.input_format("router"), d * E),
        vector_flops=5 * T * E + bias * T * E,
        weight_bytes=w * d * E + s * E + b * (E * (bias + scored) + scales),
        activation_read_bytes=a * T * d + f * T * E,
        activation_write_bytes=f * T * E + f * 2 * T * top_k,
        compulsory_bytes=w * d * E + s * E + b * (E * (bias + scored) + scales),
        kernels=launches,
    )


def moe_dispatch(shard: Shard, workload: Workload) -> Work:
    """Sort the tokens by expert: each is copied once for every expert it goes to.

    activation_read_bytes  = a*T*z
    activation_write_bytes = y*pairs*z
    kernels                = launches

    z      elements of an expert's input: the hidden size, or the latent where experts work in one
    pairs  tokens of this rank's experts, each once for every expert: T*top_k over the groups of ranks
    y      bytes of an element the permutation writes

    Source: the permute kernel of vLLM's and Megatron's grouped GEMM; one read of each row, k writes.
    """
    ffn = _experts(shard)
    T, z, pairs = workload.tokens, ffn.latent or shard.hidden_size, expert_tokens(shard, workload)
    a, y = boundary_bytes(shard, workload), written_bytes(shard, workload, "experts")
    launches = workload.launches(serving=1)
    return Work(activation_read_bytes=a * T * z, activation_write_bytes=y * pairs * z, kernels=launches)


def moe_experts(shard: Shard, workload: Workload) -> Work:
    """Run each token through its experts; only experts that some token chose are read.

    matrix_flops           = 2*m*pairs*z*I + 2*T*latent
    vector_flops           = f*pairs*I + bias*pairs*outputs
    conversions            = converted*elements
    weight_bytes           = hit*(w*m*z*I + s*outputs + b*bias*outputs) + w*latent + s*latent_outputs
    activation_read_bytes  = x*pairs*(z + I) + a*pairs*(m - 1)*I + x*T*latent_inputs
    activation_write_bytes = a*pairs*((m - 1)*I + z) + y*pairs*I + a*T*latent_outputs
    compulsory_bytes       = hit*(w*m*z*I + s*outputs + b*bias*outputs) + w*latent + s*latent_outputs
    kernels                = launches

    hit      distinct experts of this rank chosen, expected: E*(1 - power(1 - top_k/E, T)) under uniform routing, over
             the groups of ranks (E with copies, T of all ranks that hold the experts together)
    pairs    tokens of this rank's experts, each once for every expert: T*top_k over the groups of ranks
    m        matrices of an expert: 3 when gated, else 2
    f        FLOP of the activation an element: 5 for SiLU·mul, 8 for others
    z        elements of an expert's input: the hidden size, or the latent
    outputs  output channels of an expert's matrices
    latent   weights into and out of the latent (0 without one)
    latent_inputs   elements of a token those products read
    latent_outputs  elements of a token those products write
    y        bytes of an element the activation writes

    Source: expectation of distinct experts under uniform independent routing (occupancy problem);
    Jiang et al. 2024 (Mixtral, arXiv:2401.04088); grouped GEMM in gate_up, activation and down.
    """
    ffn = _experts(shard)
    T, d, I, pairs = workload.tokens, shard.hidden_size, ffn.intermediate, expert_tokens(shard, workload)  # noqa: E741
    m, f = (3, 5) if ffn.gated else (2, 8)
    z, bias = ffn.latent or d, int(ffn.expert_bias)
    hit, outputs = experts_hit(shard, workload), (m - 1) * I + z
    latent, latent_inputs, latent_outputs = (2 * d * z, d + z, d + z) if ffn.latent else (0, 0, 0)
    weight = shard.formats.experts
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "experts")
    y = written_bytes(shard, workload, "experts")
    launches = workload.launches(serving=3 + 2 * int(ffn.latent is not None))
    flops, latent_flops = 2 * m * pairs * z * I, 2 * T * latent
    given = shard.input_format("experts")
    matrix = product(flops + latent_flops, T, weight, given, hit * m * z * I + latent)
    routed, whole = padded_rows(flops, pairs / hit), padded_rows(latent_flops, T)
    matrix["padded_flops"] = {tile: routed[tile] + whole[tile] for tile in routed}
    return Work(
        **matrix,
        vector_flops=f * pairs * I + bias * pairs * outputs,
        weight_bytes=hit * (w * m * z * I + s * outputs + b * bias * outputs) + w * latent + s * latent_outputs,
        activation_read_bytes=x * pairs * (z + I) + a * pairs * (m - 1) * I + x * T * latent_inputs,
        activation_write_bytes=a * pairs * ((m - 1) * I + z) + y * pairs * I + a * T * latent_outputs,
        compulsory_bytes=hit * (w * m * z * I + s * outputs + b * bias * outputs) + w * latent + s * latent_outputs,
        kernels=launches,
        widest_kernel_bytes=pairs * most(x * z + a * (m - 1) * I, a * (m - 1) * I + y * I),
    )


def shared_experts(shard: Shard, workload: Workload) -> Work:
    """Run every token through the shared experts, a dense FFN.

    matrix_flops           = 2*m*T*d*I + 2*gate*T*d
    vector_flops           = f*T*I + bias*T*((m - 1)*I + d)
    conversions            = converted*elements
    weight_bytes           = w*m*d*I + s*((m - 1)*I + d) + b*(gate*d + bias*((m - 1)*I + d))
    activation_read_bytes  = x*T*(d + I) + a*T*(m - 1)*I + a*gate*T*d
    activation_write_bytes = a*T*((m - 1)*I + d) + y*T*I
    compulsory_bytes       = w*m*d*I + s*((m - 1)*I + d) + b*(gate*d + bias*((m - 1)*I + d))
    kernels                = launches

    m     matrices: 3 when gated, else 2
    f     FLOP of the activation an element: 5 for SiLU·mul, 8 for others
    gate  1 if a sigmoid gate of the hidden state scales the output, else 0
    y     bytes of an element the activation writes

    Source: Dai et al. 2024 (DeepSeekMoE, arXiv:2401.06066) section 3.2.
    """
    ffn = _experts(shard)
    T, d, I, gate = workload.tokens, shard.hidden_size, ffn.shared_intermediate, int(ffn.shared_gate)  # noqa: E741
    (m, f), bias = (3, 5) if ffn.gated else (2, 8), int(ffn.expert_bias)
    weight = shard.formats.shared_experts
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x = boundary_bytes(shard, workload), input_bytes(shard, workload, "shared_experts")
    y = written_bytes(shard, workload, "shared_experts")
    launches = workload.launches(serving=3 + gate)
    return Work(
        **product(
            2 * m * T * d * I + 2 * gate * T * d, T, weight, shard.input_format("shared_experts"), m * d * I + gate * d
        ),
        vector_flops=f * T * I + bias * T * ((m - 1) * I + d),
        weight_bytes=w * m * d * I + s * ((m - 1) * I + d) + b * (gate * d + bias * ((m - 1) * I + d)),
        activation_read_bytes=x * T * (d + I) + a * T * (m - 1) * I + a * gate * T * d,
        activation_write_bytes=a * T * ((m - 1) * I + d) + y * T * I,
        compulsory_bytes=w * m * d * I + s * ((m - 1) * I + d) + b * (gate * d + bias * ((m - 1) * I + d)),
        kernels=launches,
        widest_kernel_bytes=T * most(x * d + a * (m - 1) * I, a * (m - 1) * I + y * I),
    )


def moe_combine(shard: Shard, workload: Workload) -> Work:
    """Add up the experts' outputs of each token, weighted by its router scores.

    vector_flops           = 2*pairs*z
    activation_read_bytes  = a*(pairs*z + shared*T*d)
    activation_write_bytes = a*T*d
    kernels                = launches

    z       elements of an expert's output
    pairs   tokens of this rank's experts, each once for every expert: T*top_k over the groups of ranks
    shared  1 if shared experts' output is added here, else 0

    Source: Shazeer et al. 2017 (arXiv:1701.06538) eq. 1.
    """
    ffn = _experts(shard)
    T, d, z = workload.tokens, shard.hidden_size, ffn.latent or shard.hidden_size
    pairs = expert_tokens(shard, workload)
    a, shared = boundary_bytes(shard, workload), int(ffn.shared_intermediate > 0)
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=2 * pairs * z,
        activation_read_bytes=a * (pairs * z + shared * T * d),
        activation_write_bytes=a * T * d,
        kernels=launches,
    )


def expected_experts(ffn: Experts, tokens: Any, copies: int = 0) -> Any:
    """E·(1 − (1 − k/E)^T): distinct experts that T tokens choose under uniform routing, E with `copies` of some."""
    stored = ffn.experts + copies
    return stored * (1 - power(1 - ffn.top_k / stored, tokens))


def experts_held(shard: Shard) -> Any:
    """Routed experts of this rank, whole or in slices, copies included."""
    return (_experts(shard).experts + shard.redundant_experts) / shard.expert_ranks


def experts_hit(shard: Shard, workload: Workload) -> Any:
    """Experts of the busiest rank that some token chose, expected."""
    tokens = workload.expert_tokens
    if shard.expert_imbalance != 1:
        tokens = tokens * shard.expert_imbalance
    return expected_experts(_experts(shard), tokens, shard.redundant_experts) / shard.expert_ranks


def expert_tokens(shard: Shard, workload: Workload) -> Any:
    """T·k over the groups of ranks: tokens of the busiest rank's experts, a token once for every expert it goes to."""
    tokens = workload.expert_tokens * _experts(shard).top_k
    if shard.expert_imbalance != 1:
        tokens = tokens * shard.expert_imbalance
    return tokens if shard.expert_ranks == 1 else tokens / shard.expert_ranks


def expert_bytes(shard: Shard) -> float:
    """Stored bytes of one routed expert's matrices on this rank, scales and biases included."""
    ffn, weight = _experts(shard), shard.formats.experts
    inner, z = 2 if ffn.gated else 1, ffn.latent or shard.hidden_size
    outputs = inner * ffn.intermediate + z
    stored = weight.element_bytes * (inner + 1) * z * ffn.intermediate + weight.row_scale_bytes * outputs
    return stored + shard.formats.base.element_bytes * int(ffn.expert_bias) * outputs


def _experts(shard: Shard) -> Experts:
    assert isinstance(shard.ffn, Experts)
    return shard.ffn
