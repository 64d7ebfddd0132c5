"""RMSNorm and LayerNorm over the hidden size, with the residual addition before them."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.model.architecture import GroupedQuery, NoFfn, NoMixer
from kvperf.stages.boundary import boundary_bytes, written_bytes
from kvperf.work import Work
from kvperf.workload import Workload


def input_norm(shard: Shard, workload: Workload) -> Work:
    """Normalise the embedding for the first layer: there is no residual to add yet.

    vector_flops           = f*T*d*norms
    weight_bytes           = b*m*d*norms
    activation_read_bytes  = a*T*d*norms
    activation_write_bytes = (x + a*(norms - 1))*T*d
    compulsory_bytes       = b*m*d*norms
    kernels                = launches*norms

    f      FLOP an element: 4 for RMSNorm, 8 for LayerNorm
    m      vectors of weights: 2 with a bias, else 1
    norms  norms around the mixer

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467); Ba et al. 2016 (arXiv:1607.06450).
    """
    T, d, norms = workload.tokens, shard.hidden_size, mixer_norms(shard)
    f, m, b = norm_cost(shard)
    a, x = boundary_bytes(shard, workload), written_bytes(shard, workload, "attention")
    launches = workload.launches(serving=1)
    return Work(
        vector_flops=f * T * d * norms,
        weight_bytes=b * m * d * norms,
        activation_read_bytes=a * T * d * norms,
        activation_write_bytes=(x + a * (norms - 1)) * T * d,
        compulsory_bytes=b * m * d * norms,
        kernels=launches * norms,
    )


def attention_norm(shard: Shard, workload: Workload) -> Work:
    """Add the residual and normalise for the mixer; models with a second norm apply it to the mixer's output.

    vector_flops           = (f*norms + 1)*T*d
    weight_bytes           = b*m*d*norms
    activation_read_bytes  = a*T*d*(reads + norms - 1)
    activation_write_bytes = (a + x)*T*d + a*T*d*(norms - 1)
    compulsory_bytes       = b*m*d*norms
    kernels                = launches + single*(norms - 1)

    f      FLOP an element: 4 for RMSNorm, 8 for LayerNorm
    m      vectors of weights: 2 with a bias, else 1
    norms  norms around the mixer
    reads  rows read for each row: residual and update; eager reads their sum again
    single  kernels of a norm alone

    Source: add+norm as one kernel: vLLM model_executor/layers/layernorm.py (forward with residual);
    Zhang and Sennrich 2019 (arXiv:1910.07467); Ba et al. 2016 (arXiv:1607.06450).
    """
    return _residual_norm(shard, workload, mixer_norms(shard), "attention")


def mlp_norm(shard: Shard, workload: Workload) -> Work:
    """Add the residual and normalise for the FFN; models with more norms apply them to its output.

    vector_flops           = (f*norms + 1 + scalar)*T*d
    weight_bytes           = b*(m*d*norms + scalar)
    activation_read_bytes  = a*T*d*(reads + norms - 1)
    activation_write_bytes = (a + x)*T*d + a*T*d*(norms - 1)
    compulsory_bytes       = b*(m*d*norms + scalar)
    kernels                = launches + single*(norms - 1)

    f      FLOP an element: 4 for RMSNorm, 8 for LayerNorm
    m      vectors of weights: 2 with a bias, else 1
    norms  norms around the FFN
    scalar  1 if a learned scalar scales the output of the layer, else 0
    reads  rows read for each row: residual and update; eager reads their sum again
    single  kernels of a norm alone

    Source: add+norm as one kernel: vLLM model_executor/layers/layernorm.py (forward with residual);
    Zhang and Sennrich 2019 (arXiv:1910.07467); Ba et al. 2016 (arXiv:1607.06450).
    """
    return _residual_norm(shard, workload, ffn_norms(shard), "mlp", int(shard.scalar))


def final_norm(shard: Shard, workload: Workload) -> Work:
    """Add the last residual and normalise every new token for the LM head.

    vector_flops           = (f*norms + 1)*T*d
    weight_bytes           = b*m*d*norms
    activation_read_bytes  = a*T*d*(reads + norms - 1)
    activation_write_bytes = (a + x)*T*d + a*T*d*(norms - 1)
    compulsory_bytes       = b*m*d*norms
    kernels                = launches + single*(norms - 1)

    f      FLOP an element: 4 for RMSNorm, 8 for LayerNorm
    m      vectors of weights: 2 with a bias, else 1
    norms  1
    reads  rows read for each row: residual and update; eager reads their sum again
    single  kernels of a norm alone

    Source: Zhang and Sennrich 2019 (arXiv:1910.07467); Ba et al. 2016 (arXiv:1607.06450).
    """
    return _residual_norm(shard, workload, 1, "lm_head")


def qk_norm(shard: Shard, workload: Workload) -> Work:
    """Normalise each query head and key head before the rotation.

    vector_flops           = 4*T*(H + K)*D
    weight_bytes           = b*weights
    activation_read_bytes  = a*T*(H + K)*D
    activation_write_bytes = a*T*(H + K)*D
    compulsory_bytes       = b*weights
    kernels                = launches

    weights  elements of the two norms' weights

    Source: Qwen3 technical report (arXiv:2505.09388) section 2; Henry et al. 2020 (arXiv:2010.04245).
    """
    mixer = shard.mixer
    assert isinstance(mixer, GroupedQuery)
    T, H, K, D = workload.tokens, mixer.heads, mixer.kv_heads, mixer.head_dim
    a, b = boundary_bytes(shard, workload), shard.formats.base.element_bytes
    weights = {"head": 2 * D, "full": (H + K) * D}.get(mixer.qk_norm, 0)
    launches = workload.launches(serving=1, eager=2)
    return Work(
        vector_flops=4 * T * (H + K) * D,
        weight_bytes=b * weights,
        activation_read_bytes=a * T * (H + K) * D,
        activation_write_bytes=a * T * (H + K) * D,
        compulsory_bytes=b * weights,
        kernels=launches,
    )


def _residual_norm(shard: Shard, workload: Workload, norms: int, module: str, scalar: int = 0) -> Work:
    T, d = workload.tokens, shard.hidden_size
    f, m, b = norm_cost(shard)
    a, x = boundary_bytes(shard, workload), written_bytes(shard, workload, module)
    reads = 3 if workload.fusion == "eager" else 2
    launches, single = workload.launches(serving=1, eager=2), workload.launches(serving=1)
    return Work(
        vector_flops=(f * norms + 1 + scalar) * T * d,
        weight_bytes=b * (m * d * norms + scalar),
        activation_read_bytes=a * T * d * (reads + norms - 1),
        activation_write_bytes=(a + x) * T * d + a * T * d * (norms - 1),
        compulsory_bytes=b * (m * d * norms + scalar),
        kernels=launches + single * (norms - 1),
    )


def norm_cost(shard: Shard) -> tuple[int, int, float]:
    """FLOP an element, weight vectors, and bytes of a weight."""
    flops = 4 if shard.norm.kind == "rmsnorm" else 8
    return flops, 2 if shard.norm.bias else 1, shard.formats.base.element_bytes


def mixer_norms(shard: Shard) -> int:
    """Norms around the mixer: all of a layer without an FFN, one or (before and after) two of one with both."""
    if isinstance(shard.mixer, NoMixer):
        return 0
    if isinstance(shard.ffn, NoFfn):
        return shard.norms
    return 2 if shard.norms >= 4 else 1


def ffn_norms(shard: Shard) -> int:
    """Norms around the FFN: what the mixer does not have."""
    return shard.norms - mixer_norms(shard)
