"""Hyper-connections: several residual streams, mixed around mixer and FFN (DeepSeek-V4)."""

from __future__ import annotations

from kvperf.layout import Shard
from kvperf.stages.boundary import boundary_bytes
from kvperf.stages.product import product
from kvperf.work import Work
from kvperf.workload import Workload


def hyper_connection(shard: Shard, workload: Workload) -> Work:
    """Mix the residual streams before and after mixer and FFN, with weights computed from the streams.

    matrix_flops           = 2*2*T*streams*d*mixing
    vector_flops           = 2*2*T*streams*streams*d
    conversions            = converted*elements
    weight_bytes           = b*2*(streams*d*mixing + mixing + 3)
    activation_read_bytes  = 2*a*T*(2*streams + 1)*d
    activation_write_bytes = 2*a*T*(streams + 1)*d
    compulsory_bytes       = b*2*(streams*d*mixing + mixing + 3)
    kernels                = launches

    streams  residual streams
    mixing   mixing coefficients: 2*streams + streams*streams

    Source: Zhu et al. 2024 (hyper-connections, arXiv:2409.19606); DeepSeek-V4 config key hc_mult.
    """
    streams = shard.hyper_streams
    T, d, mixing = workload.tokens, shard.hidden_size, 2 * streams + streams * streams
    a, b = boundary_bytes(shard, workload), shard.formats.base.element_bytes
    launches = workload.launches(serving=4)
    flops = 2 * 2 * T * streams * d * mixing
    return Work(
        **product(flops, T, shard.formats.base, shard.activation, 0),
        vector_flops=2 * 2 * T * streams * streams * d,
        weight_bytes=b * 2 * (streams * d * mixing + mixing + 3),
        activation_read_bytes=2 * a * T * (2 * streams + 1) * d,
        activation_write_bytes=2 * a * T * (streams + 1) * d,
        compulsory_bytes=b * 2 * (streams * d * mixing + mixing + 3),
        kernels=launches,
    )


def hyper_head(shard: Shard, workload: Workload) -> Work:
    """Mix the residual streams into one before the final norm.

    matrix_flops           = 2*T*streams*streams*d
    vector_flops           = 2*T*streams*d
    conversions            = converted*elements
    weight_bytes           = b*(streams*streams*d + streams + 1)
    activation_read_bytes  = a*T*streams*d
    activation_write_bytes = a*T*d
    compulsory_bytes       = b*(streams*streams*d + streams + 1)
    kernels                = launches

    streams  residual streams

    Source: Zhu et al. 2024 (hyper-connections, arXiv:2409.19606); DeepSeek-V4 config key hc_mult.
    """
    T, d, streams = workload.tokens, shard.hidden_size, shard.hyper_streams
    a, b = boundary_bytes(shard, workload), shard.formats.base.element_bytes
    launches = workload.launches(serving=1)
    return Work(
        **product(2 * T * streams * streams * d, T, shard.formats.base, shard.activation, 0),
        vector_flops=2 * T * streams * d,
        weight_bytes=b * (streams * streams * d + streams + 1),
        activation_read_bytes=a * T * streams * d,
        activation_write_bytes=a * T * d,
        compulsory_bytes=b * (streams * streams * d + streams + 1),
        kernels=launches,
    )
