"""Linear attention and state-space mixers: a state of fixed size, read and written once a step.

The recurrence is counted as vector work: a decode step is rank-one updates on an fp32 state.
"""

from __future__ import annotations

from typing import Any

from kvperf.layout import Shard
from kvperf.model.architecture import DeltaNet, Lightning, Mamba2, Mixer
from kvperf.stages.boundary import boundary_bytes
from kvperf.work import Work
from kvperf.workload import Workload

STATE_BYTES = 4  # states are kept in fp32 (config keys mamba_ssm_dtype, mamba_ssm_cache_dtype)


def linear_attention(shard: Shard, workload: Workload) -> Work:
    """Decay the state, add the new key-value product, and read it with the query.

    vector_flops           = steps*state*T + 2*kernel*channels*T + 5*T*n
    weight_bytes           = b*small
    activation_read_bytes  = a*T*inputs
    activation_write_bytes = a*T*n
    kv_read_bytes          = (4*state + a_tail*tail)*past
    kv_write_bytes         = (4*state + a_tail*tail)*B
    compulsory_bytes       = b*small + (4*state + a_tail*tail)*(past + B)
    kernels                = launches

    steps     FLOP a state element and token: 7 for gated DeltaNet, 5 for lightning attention
    state     elements of the state (fp32)
    kernel    taps of the convolution (0 without one)
    channels  channels of the convolution
    tail      elements of the convolution's tail kept between steps
    a_tail    bytes of an element of that tail
    small     learned values of the recurrence: taps, decays, norm
    inputs    elements of a token the mixer reads
    n         elements of a token it writes
    past      sequences that have a state already

    Source: Yang et al. 2024 (gated DeltaNet, arXiv:2412.06464): decay 1, S·k 2, update 2, S·q 2; MiniMax-01
    (lightning attention, arXiv:2501.08313) section 2.2.
    """
    mixer = shard.mixer
    assert isinstance(mixer, DeltaNet | Lightning)
    T, B, past = workload.tokens, workload.sequences, workload.continuing()
    a, b, a_tail = boundary_bytes(shard, workload), shard.formats.base.element_bytes, shard.activation.element_bytes
    state, tail = state_elements(mixer), tail_elements(mixer)
    if isinstance(mixer, DeltaNet):
        steps, kernel, n = 7, mixer.conv_kernel, mixer.v_heads * mixer.v_head_dim
        channels = 2 * mixer.k_heads * mixer.k_head_dim + n
        small = kernel * channels + 2 * mixer.v_heads + mixer.v_head_dim
        inputs = channels + n + 2 * mixer.v_heads
    else:
        steps, kernel, channels, n = 5, 0, 0, mixer.heads * mixer.head_dim
        small, inputs = n, 4 * n
    launches = workload.launches(serving=3 if kernel else 2)
    return Work(
        vector_flops=steps * state * T + 2 * kernel * channels * T + 5 * T * n,
        weight_bytes=b * small,
        activation_read_bytes=a * T * inputs,
        activation_write_bytes=a * T * n,
        kv_read_bytes=(4 * state + a_tail * tail) * past,
        kv_write_bytes=(4 * state + a_tail * tail) * B,
        compulsory_bytes=b * small + (4 * state + a_tail * tail) * (past + B),
        kernels=launches,
    )


def state_space(shard: Shard, workload: Workload) -> Work:
    """Convolve, decay the state, add the new input, and read it (Mamba-2).

    vector_flops           = 5*state*T + 2*kernel*channels*T + 5*T*n
    weight_bytes           = b*small
    activation_read_bytes  = a*T*inputs
    activation_write_bytes = a*T*n
    kv_read_bytes          = (4*state + a_tail*tail)*past
    kv_write_bytes         = (4*state + a_tail*tail)*B
    compulsory_bytes       = b*small + (4*state + a_tail*tail)*(past + B)
    kernels                = launches

    state     elements of the state (fp32): heads × head_dim × state size
    kernel    taps of the convolution
    channels  channels of the convolution
    tail      elements of the convolution's tail kept between steps
    a_tail    bytes of an element of that tail
    small     learned values: taps, their bias, A, D and Δ bias a head, norm
    inputs    elements of a token the mixer reads
    n         elements of a token it writes
    past      sequences that have a state already

    Source: Dao and Gu 2024 (Mamba-2, arXiv:2405.21060) eq. 1: decay 1, outer product 2, read-out 2.
    """
    mixer = shard.mixer
    assert isinstance(mixer, Mamba2)
    T, B, past = workload.tokens, workload.sequences, workload.continuing()
    a, b, a_tail = boundary_bytes(shard, workload), shard.formats.base.element_bytes, shard.activation.element_bytes
    state, tail = state_elements(mixer), tail_elements(mixer)
    kernel, n = mixer.conv_kernel, mixer.heads * mixer.head_dim
    channels = n + 2 * mixer.groups * mixer.state_size
    small = channels * (kernel + int(mixer.conv_bias)) + 3 * mixer.heads + n
    inputs = n + channels + mixer.heads
    launches = workload.launches(serving=3)
    return Work(
        vector_flops=5 * state * T + 2 * kernel * channels * T + 5 * T * n,
        weight_bytes=b * small,
        activation_read_bytes=a * T * inputs,
        activation_write_bytes=a * T * n,
        kv_read_bytes=(4 * state + a_tail * tail) * past,
        kv_write_bytes=(4 * state + a_tail * tail) * B,
        compulsory_bytes=b * small + (4 * state + a_tail * tail) * (past + B),
        kernels=launches,
    )


def state_elements(mixer: Mixer) -> int:
    """Elements of one sequence's state in one layer (0 for attention)."""
    if isinstance(mixer, DeltaNet):
        return mixer.v_heads * mixer.k_head_dim * mixer.v_head_dim
    if isinstance(mixer, Lightning):
        return mixer.heads * mixer.head_dim * mixer.head_dim
    return mixer.heads * mixer.head_dim * mixer.state_size if isinstance(mixer, Mamba2) else 0


def tail_elements(mixer: Mixer) -> int:
    """Elements of the convolution's tail of one sequence in one layer: the last kernel − 1 inputs."""
    if isinstance(mixer, DeltaNet):
        channels = 2 * mixer.k_heads * mixer.k_head_dim + mixer.v_heads * mixer.v_head_dim
        return (mixer.conv_kernel - 1) * channels
    if isinstance(mixer, Mamba2):
        return (mixer.conv_kernel - 1) * (mixer.heads * mixer.head_dim + 2 * mixer.groups * mixer.state_size)
    return 0


def state_bytes(mixer: Mixer, activation_bytes: float) -> Any:
    """Bytes of one sequence's recurrent state in one layer."""
    return STATE_BYTES * state_elements(mixer) + activation_bytes * tail_elements(mixer)
