"""From hidden states to logits."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.stages.boundary import boundary_bytes
from kvperf.stages.product import product
from kvperf.work import Work
from kvperf.workload import Workload


def lm_head(shard: Shard, workload: Workload) -> Work:
    """Project the last hidden states to the vocabulary; a tied table is read in full all the same.

    matrix_flops           = 2*T_out*d*V
    vector_flops           = bias*T_out*V
    conversions            = converted*elements
    weight_bytes           = w*d*V + s*V + b*bias*V
    activation_read_bytes  = a*T_out*d
    activation_write_bytes = f*T_out*V
    compulsory_bytes       = w*d*V + s*V + b*bias*V
    kernels                = launches

    f  bytes of a logit (fp32; 0 in a megakernel)

    Source: Press and Wolf 2017 (tied tables, arXiv:1608.05859); logits in fp32 as vLLM's LogitsProcessor keeps them.
    """
    T_out, d, V = workload.logit_rows, shard.hidden_size, shard.vocab_size
    weight = shard.formats.lm_head
    w, s, b = weight.element_bytes, weight.row_scale_bytes, shard.formats.base.element_bytes
    a, bias = boundary_bytes(shard, workload), int(shard.lm_head_bias)
    f = 0 if workload.fusion == "megakernel" else 4
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * T_out * d * V, T_out, weight, shard.input_format("lm_head"), d * V),
        vector_flops=bias * T_out * V,
        weight_bytes=w * d * V + s * V + b * bias * V,
        activation_read_bytes=a * T_out * d,
        activation_write_bytes=f * T_out * V,
        compulsory_bytes=w * d * V + s * V + b * bias * V,
        kernels=launches,
    )
