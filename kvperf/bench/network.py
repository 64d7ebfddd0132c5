"""A decoder on the rig, operation by operation: what a step launches, on weights of their real sizes.

The plan is that of serving: QKV in one product, gate and up in one, residual addition and norm in one kernel. It
builds dense models with rotary grouped-query attention and RMSNorm; others are refused by name. Weights are random,
of the spread that trained ones have.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kvperf.bench.buildable import parts
from kvperf.bench.entrant import Entrant, ours
from kvperf.bench.rig import Call, Rig, in_turn
from kvperf.files import folder
from kvperf.hardware import Architecture
from kvperf.kernel import pipeline_kernels, reference
from kvperf.kernel.compile import compile_kernel
from kvperf.kernel.geometry import Shape
from kvperf.model.architecture import Model

Buffers = dict[str, Any]
EPSILON, THETA = 1e-5, 10_000.0
WEIGHT_SPREAD, CACHE_SPREAD = 0.02, 1.0
POOL = (1 << 22) + 1024  # random numbers that all weights are made of, each from a start of its own


@dataclass(frozen=True)
class Operation:
    """One stage of one layer. `layer` None: before or after the layers."""

    stage: str
    layer: int | None
    call: Call


@dataclass
class Network:
    """Weights, caches and activations of `layers` layers of a model, for `batch` sequences.

    new_tokens  1 for decode, seq for prefill;  weights: by layer;  shared: activations and what all layers share
    """

    model: Model
    batch: int
    seq: int
    new_tokens: int
    dtype: str
    layers: int
    rig: Rig
    architecture: Architecture
    weights: list[Buffers] = field(default_factory=list)
    shared: Buffers = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.mixer, self.ffn = parts(self.model)
        self.tokens = self.batch * self.new_tokens
        self.d, self.width = self.model.hidden_size, self.ffn.intermediate
        m = self.mixer
        self.qkv_width = (m.heads + 2 * m.kv_heads) * m.head_dim

    @functools.cached_property
    def attention(self) -> Entrant:
        """The kernel of ours that fits the group: matrix products where several heads share K and V."""
        m = self.mixer
        wide = m.heads // m.kv_heads > 2 or self.new_tokens > 1
        shape = Shape(
            batch=self.batch,
            heads=m.heads,
            kv_heads=m.kv_heads,
            head_dim=m.head_dim,
            seq=self.seq,
            dtype=self.dtype,
            q_len=self.new_tokens,
        )
        return ours(self.rig, "tensor_cores" if wide else "async_ring", shape, self.architecture)

    def needed_bytes(self) -> int:
        """Weights and caches of the layers, embedding and head, in 16 bits; activations are a few percent of them."""
        m, d = self.mixer, self.d
        cache = 2 * self.batch * m.kv_heads * self.seq * m.head_dim
        layer = self.qkv_width * d + d * m.heads * m.head_dim + 3 * d * self.width + cache
        ends = self.model.vocab_size * d * (1 if self.model.tied_embeddings else 2)
        activations = self.tokens * (4 * d + 2 * self.qkv_width + 3 * self.width)
        return 2 * (self.layers * layer + ends + activations)

    def place(self, seed: int) -> None:
        """Make all buffers on the rig."""
        import numpy as np

        random = np.random.default_rng(seed)
        size = min(POOL, 1 << 16) if self.rig.emulated else POOL
        pools = {
            spread: self.rig.upload(reference.encode(spread * random.standard_normal(size, np.float32), self.dtype))
            for spread in (WEIGHT_SPREAD, CACHE_SPREAD)
        }
        draws = iter(range(1, 1 << 30))

        def drawn(*shape: int, spread: float = WEIGHT_SPREAD) -> Any:
            return self._from_pool(pools[spread], shape, 997 * next(draws) % 1021)

        self._place_shared(random, drawn)
        d, m = self.d, self.mixer
        cache = (self.batch, m.kv_heads, self.seq, m.head_dim)
        for _ in range(self.layers):
            self.weights.append(
                {
                    "attention_norm": self._ones(d),
                    "qkv_projection": drawn(self.qkv_width, d),
                    "k": drawn(*cache, spread=CACHE_SPREAD),
                    "v": drawn(*cache, spread=CACHE_SPREAD),
                    "output_projection": drawn(d, m.heads * m.head_dim),
                    "mlp_norm": self._ones(d),
                    "gate_up": drawn(2 * self.width, d),
                    "down": drawn(d, self.width),
                }
            )

    def _place_shared(self, random: Any, drawn: Any) -> None:
        import numpy as np

        T, B, d, m, S = self.tokens, self.batch, self.d, self.mixer, self.seq
        half = m.rotary_dim // 2
        angles = np.arange(S)[:, None] / THETA ** (np.arange(half) / half)
        table = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        positions = np.tile(np.arange(S - self.new_tokens, S, dtype=np.int32), B)
        slots = (np.repeat(np.arange(B, dtype=np.int64), self.new_tokens) * S + positions).astype(np.int64)
        up, V = self.rig.upload, self.model.vocab_size
        self.shared = {
            "ids": up(random.integers(0, V, T).astype(np.int32)),
            "positions": up(positions),
            "slots": up(slots),
            "table": up(table),
            "embedding": drawn(V, d),
            "final_norm": self._ones(d),
            "residual": self._half(T, d),
            "normed": self._half(T, d),
            "qkv": self._half(T, self.qkv_width),
            "q": self._half(B, self.new_tokens, m.heads, m.head_dim),
            "k_new": self._half(T, m.kv_heads, m.head_dim),
            "update": self._half(T, d),
            "gate_up": self._half(T, 2 * self.width),
            "activation": self._half(T, self.width),
            "last": self._half(B, d),
            "logits": up(np.zeros((B, V), np.float32)),
            "next": up(np.zeros(B, np.int64)),
            "best": up(np.zeros(B, np.uint64)),
            "arrived": up(np.zeros(B, np.int32)),
        }
        self.shared["lm_head"] = self.shared["embedding"] if self.model.tied_embeddings else drawn(V, d)

    def operations(self) -> Iterator[Operation]:
        """Every stage of every layer, in order."""
        s = self.shared
        yield Operation("embedding", None, self._embedding())
        for i, w in enumerate(self.weights):
            norm = self._rms_norm if i == 0 else self._add_rms_norm
            yield Operation("attention_norm", i, norm(w["attention_norm"]))
            yield Operation("qkv_projection", i, self._product(s["normed"], w["qkv_projection"], s["qkv"]))
            yield Operation("rope", i, self._rope())
            yield Operation("kv_update", i, self._kv_append(w))
            yield Operation("attention", i, self.attention.call({"q": s["q"], "k": w["k"], "v": w["v"]}))
            attended = self.attention.out.reshape(self.tokens, -1)
            yield Operation("output_projection", i, self._product(attended, w["output_projection"], s["update"]))
            yield Operation("mlp_norm", i, self._add_rms_norm(w["mlp_norm"]))
            yield Operation("mlp", i, self._mlp(w))
        yield Operation("final_norm", None, self._add_rms_norm(s["final_norm"]))
        yield Operation("lm_head", None, self._lm_head())
        yield Operation("sampling", None, self._argmax())

    def _embedding(self) -> Call:
        s = self.shared
        buffers = {"table": s["embedding"], "ids": s["ids"], "out": s["residual"]}
        return self._launch("embedding", buffers, T=self.tokens, d=self.d)

    def _rms_norm(self, weight: Any) -> Call:
        s = self.shared
        buffers = {"x": s["residual"], "weight": weight, "out": s["normed"], "epsilon": EPSILON}
        return self._launch("rms_norm", buffers, T=self.tokens, d=self.d)

    def _add_rms_norm(self, weight: Any) -> Call:
        s = self.shared
        buffers = {"residual": s["residual"], "x": s["update"], "weight": weight, "out": s["normed"]}
        return self._launch("add_rms_norm", buffers | {"epsilon": EPSILON}, T=self.tokens, d=self.d)

    def _rope(self) -> Call:
        s, m = self.shared, self.mixer
        row = s["qkv"].reshape(-1)
        buffers = {"q": row, "k": row[m.heads * m.head_dim :], "positions": s["positions"], "table": s["table"]}
        buffers |= {"q_out": s["q"], "k_out": s["k_new"]}
        sizes = {"H": m.heads, "K": m.kv_heads, "D": m.head_dim, "r": m.rotary_dim}
        strides = {"Q_STRIDE": self.qkv_width, "K_STRIDE": self.qkv_width}
        return self._launch("rope", buffers, strides, T=self.tokens, **sizes)

    def _kv_append(self, w: Buffers) -> Call:
        import numpy as np

        s, m = self.shared, self.mixer
        v = s["qkv"].reshape(-1)[(m.heads + m.kv_heads) * m.head_dim :]
        buffers = {"k": s["k_new"], "v": v, "slots": s["slots"], "k_cache": w["k"], "v_cache": w["v"]}
        strides = (self.tokens, m.kv_heads * m.head_dim, self.qkv_width)
        buffers |= {f"argument {i}": np.int32(x) for i, x in enumerate(strides)}
        # One page holds a sequence: the dense cache that the attention kernels read.
        sizes = {"K": m.kv_heads, "D": m.head_dim, "Dv": m.head_dim, "page": self.seq}
        return self._launch("kv_append", buffers, T=self.tokens, **sizes)

    def _mlp(self, w: Buffers) -> Call:
        s = self.shared
        activate = self._launch(
            "silu_mul", {"gate_up": s["gate_up"], "out": s["activation"]}, T=self.tokens, I=self.width
        )
        into = self._product(s["normed"], w["gate_up"], s["gate_up"])
        return in_turn([into, activate, self._product(s["activation"], w["down"], s["update"])])

    def _lm_head(self) -> Call:
        """On the last token of each sequence."""
        s = self.shared
        last = s["normed"] if self.new_tokens == 1 else s["normed"][self.new_tokens - 1 :: self.new_tokens]
        if self.new_tokens == 1:
            return self._product(last, s["lm_head"], s["logits"])
        rows = s["last"]

        def gather() -> None:
            rows[...] = last

        return in_turn([gather, self._product(rows, s["lm_head"], s["logits"])])

    def _argmax(self) -> Call:
        import numpy as np

        s = self.shared
        planned = pipeline_kernels.launch(
            "argmax", self.dtype, self.rig.facts.sms, T=self.batch, V=self.model.vocab_size
        )
        buffers = {"logits": s["logits"], "ids": s["next"], "best": s["best"], "arrived": s["arrived"]}
        buffers["stretch"] = np.int32(planned.arguments["stretch"])
        return self._launch("argmax", buffers, T=self.batch, V=self.model.vocab_size)

    def _product(self, x: Any, weight: Any, out: Any) -> Call:
        """Our GEMV for one token, cuBLAS for more."""
        import numpy as np

        if x.shape[0] > 1 or self.rig.emulated:
            return self.rig.product(x, weight, out, self.dtype)
        n, k = weight.shape
        y = out.dtype.itemsize
        buffers = {"weight": weight, "x": x, "y": out, "outputs": np.int32(n)}
        return self._launch("gemv", buffers, k=k, n=n, y=y)

    def _launch(self, name: str, buffers: Buffers, macros: dict[str, int] | None = None, /, **sizes: int) -> Call:
        planned = pipeline_kernels.launch(name, self.dtype, self.rig.facts.sms, **sizes)
        source, defines = planned.kernel.source, planned.macros | (macros or {})
        compiled = compile_kernel(source, defines, self.rig.facts.capability, folder("kernels"))
        names = [key for key, value in buffers.items() if hasattr(value, "shape") and value.shape]
        arguments = list(buffers.values())
        grid, block = planned.grid, (planned.threads,)
        return self.rig.launch(compiled, planned.entry, grid, block, arguments, planned.shared_bytes, names)

    def _from_pool(self, pool: Any, shape: tuple[int, ...], start: int) -> Any:
        """A buffer of this shape, filled with the pool over and over from a start of its own."""
        size = 1
        for n in shape:
            size *= n
        out, step, at = self.rig.empty((size,), pool.dtype), len(pool) - 1024, 0
        while at < size:
            count = min(step, size - at)
            out[at : at + count] = pool[start : start + count]
            at += count
        return out.reshape(shape)

    def _half(self, *shape: int) -> Any:
        import numpy as np

        return self.rig.upload(reference.encode(np.zeros(shape, np.float32), self.dtype))

    def _ones(self, size: int) -> Any:
        import numpy as np

        return self.rig.upload(reference.encode(np.ones(size, np.float32), self.dtype))
