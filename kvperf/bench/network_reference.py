"""The same step in float64: exact arithmetic, rounded only where a kernel stores its result."""

from __future__ import annotations

from typing import Any

from kvperf.bench.network import EPSILON, Network
from kvperf.kernel import reference

Array = Any
ROWS_AT_ONCE = 8192  # of a weight that is decoded to float64 together


def logits(network: Network) -> Array:
    """[B, V] in float64 from the very bits that lie on the rig. Call it before the step runs: it reads the caches."""
    import numpy as np

    n, rig = network, network.rig
    shared = {
        name: rig.download(n.shared[name])
        for name in ("ids", "embedding", "final_norm", "lm_head", "positions", "table")
    }
    residual = _decoded(n, shared["embedding"][shared["ids"]])
    update: Array = None
    for held in n.weights:
        w = {name: rig.download(buffer) for name, buffer in held.items()}
        residual, x = _normed(n, residual, update, w["attention_norm"])
        update = _attended(n, _product(n, x, w["qkv_projection"]), w, shared)
        residual, x = _normed(n, residual, update, w["mlp_norm"])
        gate, up = np.split(_product(n, x, w["gate_up"]), 2, axis=1)
        update = _product(n, _rounded(n, gate / (1 + np.exp(-gate)) * up), w["down"])
    _, x = _normed(n, residual, update, shared["final_norm"])
    return _exact_product(n, x[n.new_tokens - 1 :: n.new_tokens], shared["lm_head"])


def _normed(n: Network, residual: Array, update: Array, weight: Array) -> tuple[Array, Array]:
    """(the residual with the update added, its RMSNorm)."""
    import numpy as np

    if update is not None:
        residual = _rounded(n, residual + update)
    scale = np.sqrt((residual * residual).mean(-1, keepdims=True) + EPSILON)
    return residual, _rounded(n, residual / scale * _decoded(n, weight))


def _attended(n: Network, qkv: Array, w: dict[str, Array], shared: dict[str, Array]) -> Array:
    """The output projection's result [T, d], from q, k and v of the new tokens and the cache."""
    import numpy as np

    m, B, Q = n.mixer, n.batch, n.new_tokens
    rows = qkv.reshape(B, Q, m.heads + 2 * m.kv_heads, m.head_dim)
    q, k, v = np.split(rows, [m.heads, m.heads + m.kv_heads], axis=2)
    angles = shared["table"][shared["positions"]].astype(np.float64).reshape(B, Q, 1, m.rotary_dim)
    q, k = _rounded(n, _turned(q, angles)), _rounded(n, _turned(k, angles))
    keys, values = _decoded(n, w["k"]), _decoded(n, w["v"])
    keys[:, :, n.seq - Q :] = k.transpose(0, 2, 1, 3)
    values[:, :, n.seq - Q :] = v.transpose(0, 2, 1, 3)
    out = reference.attention(q, keys, values, m.head_dim**-0.5)
    return _product(n, _rounded(n, out).reshape(n.tokens, -1), w["output_projection"])


def _turned(x: Array, angles: Array) -> Array:
    import numpy as np

    half = angles.shape[-1] // 2
    cosine, sine = angles[..., :half], angles[..., half:]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine, rest], -1)


def _product(n: Network, x: Array, weight: Array) -> Array:
    return _rounded(n, _exact_product(n, x, weight))


def _exact_product(n: Network, x: Array, weight: Array) -> Array:
    import numpy as np

    parts = [x @ _decoded(n, weight[i : i + ROWS_AT_ONCE]).T for i in range(0, len(weight), ROWS_AT_ONCE)]
    return np.concatenate(parts, axis=1)


def _decoded(n: Network, bits: Array) -> Array:
    return reference.decode(bits, n.dtype)


def _rounded(n: Network, x: Array) -> Array:
    """What is left of x where a kernel stores it."""
    return _decoded(n, reference.encode(x, n.dtype))
