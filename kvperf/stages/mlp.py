"""Dense feed-forward networks."""

from __future__ import annotations

from kvperf.arith import most
from kvperf.layout import Shard
from kvperf.model.architecture import Dense, Experts
from kvperf.stages.boundary import boundary_bytes, input_bytes, written_bytes
from kvperf.stages.product import product
from kvperf.work import Work
from kvperf.workload import Workload


def mlp(shard: Shard, workload: Workload) -> Work:
    """Gate and up projections, activation, down projection (SwiGLU); or up, activation, down (GELU).

    matrix_flops           = 2*m*T*d*I
    vector_flops           = f*T*I + bias*T*((m - 1)*I + d)
    conversions            = converted*elements
    weight_bytes           = w*m*d*I + s*((m - 1)*I + d) + b*bias*((m - 1)*I + d)
    activation_read_bytes  = x*T*(inputs*d + I) + a*T*middle
    activation_write_bytes = a*T*((m - 1)*I + spilled + d) + y*T*I
    compulsory_bytes       = w*m*d*I + s*((m - 1)*I + d) + b*bias*((m - 1)*I + d)
    kernels                = launches

    m        matrices: 3 when gated, else 2
    f        FLOP of the activation an element: 5 for SiLU·mul, 8 for GELU
    inputs   products that read the hidden state: gate and up are one, unless eager
    middle   elements the activation's kernels read
    spilled  elements eager writes between activation and product
    y        bytes of an element the activation writes

    Source: Shazeer 2020 (GLU variants, arXiv:2002.05202); vLLM merges gate and up (gate_up_proj, SiluAndMul).
    """
    ffn = shard.ffn.dense if isinstance(shard.ffn, Experts) else shard.ffn
    assert isinstance(ffn, Dense)
    T, d, I, bias = workload.tokens, shard.hidden_size, ffn.intermediate, int(ffn.bias)  # noqa: E741
    m, f = (3, 5) if ffn.gated else (2, 8)
    weight = shard.formats.mlp
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, x, y = (of(shard, workload) for of in (boundary_bytes, mlp_input_bytes, mlp_written_bytes))
    eager_gate = workload.fusion == "eager" and ffn.gated
    inputs = 2 if eager_gate else 1
    middle, spilled = (3 * I, I) if eager_gate else ((m - 1) * I, 0)
    launches = workload.launches(serving=3, eager=5 if ffn.gated else 3)
    return Work(
        **product(2 * m * T * d * I, T, weight, shard.input_format("mlp"), m * d * I),
        vector_flops=f * T * I + bias * T * ((m - 1) * I + d),
        weight_bytes=w * m * d * I + s * ((m - 1) * I + d) + b * bias * ((m - 1) * I + d),
        activation_read_bytes=x * T * (inputs * d + I) + a * T * middle,
        activation_write_bytes=a * T * ((m - 1) * I + spilled + d) + y * T * I,
        compulsory_bytes=w * m * d * I + s * ((m - 1) * I + d) + b * bias * ((m - 1) * I + d),
        kernels=launches,
        widest_kernel_bytes=T * most(x * d + a * (m - 1) * I, a * (m - 1) * I + y * I),
    )


def mlp_input_bytes(shard: Shard, workload: Workload) -> float:
    """Bytes of an element that a dense FFN's matrices read."""
    return input_bytes(shard, workload, "mlp")


def mlp_written_bytes(shard: Shard, workload: Workload) -> float:
    """Bytes of an element that its activation writes."""
    return written_bytes(shard, workload, "mlp")
