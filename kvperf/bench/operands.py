"""Operands of cached attention at real sizes, on the rig, and float64 results of a few rows of them.

Keys and values repeat a few ten thousand random vectors: making billions of random numbers would take longer than
the measurement. The vectors of a sequence are all different, and a GPU neither compresses nor compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from kvperf.bench.rig import Rig
from kvperf.kernel import reference
from kvperf.kernel.catalogue import kernel
from kvperf.kernel.geometry import Shape
from kvperf.kernel.traffic import CACHE

Array = Any
VECTORS = 131_071  # a prime: the repetition falls on another head and token each time
CHECKED_SEQUENCES = 2


@dataclass
class Operands:
    """One kind of cache: its buffers on the host, and sets of copies on the rig.

    kind  dense, paged, int8, fp8 or mla;  host: the arrays of every set
    """

    kind: str
    shape: Shape
    host: dict[str, Array]
    sets: list[dict[str, Any]] = field(default_factory=list)

    @property
    def set_bytes(self) -> int:
        """Bytes of K and V, or of latents, in one set."""
        return sum(array.nbytes for name, array in self.host.items() if name in CACHE)

    def place(self, rig: Rig, count: int) -> None:
        """Make sets until there are `count`; the queries are shared."""
        if not self.sets:
            self.sets.append({name: rig.upload(array) for name, array in self.host.items()})
        first = self.sets[0]
        while len(self.sets) < count:
            self.sets.append(first | {name: rig.copy(first[name]) for name in first if name != "q"})

    def expected(self, rounds_query: bool = False) -> Iterator[tuple[int, int, Array]]:
        """(sequence, KV head, output [Q, G, E] in float64) of the first and last sequences and KV heads.

        rounds_query  the kernel multiplies queries as INT8
        """
        shape = self.shape
        sequences = sorted({0, shape.batch - 1})[:CHECKED_SEQUENCES]
        for batch in sequences:
            for head in sorted({0, shape.kv_heads - 1}):
                yield batch, head, self._row(batch, head, rounds_query)

    def _row(self, batch: int, head: int, rounds_query: bool) -> Array:
        shape, G = self.shape, self.shape.group
        q = reference.decode(self.host["q"][batch : batch + 1, :, head * G : (head + 1) * G], shape.dtype)
        if rounds_query:
            rounded, scales = reference.quantise_int8(q)
            q = rounded * scales[..., None].astype(float)
        k, v = self._vectors(batch, head)
        scale = shape.scale if shape.scale is not None else shape.head_dim**-0.5
        return reference.attention(q, k[None, None], v[None, None], scale)[0]

    def _vectors(self, batch: int, head: int) -> tuple[Array, Array]:
        """Keys and values [S, D] of one head as the kernels see them."""
        shape, host = self.shape, self.host
        if self.kind == "mla":
            latent = reference.decode(host["latent"][batch, 0], shape.dtype)
            return latent, latent[:, : shape.output_dim]
        found = []
        for name, unit in (("k", shape.k_scale), ("v", shape.v_scale)):
            if self.kind == "int8":
                scales = host[f"{name}_scales"][batch, head].astype(float)
                found.append(host[name][batch, head] * scales[:, None])
            elif self.kind == "fp8":
                found.append(reference.decode(host[name][batch, head], "fp8") * unit)
            elif self.kind == "paged":
                pages = host[name][host["pages"][batch], head]
                found.append(reference.decode(pages.reshape(-1, shape.head_dim)[: shape.seq], shape.dtype))
            else:
                found.append(reference.decode(host[name][batch, head], shape.dtype))
        return found[0], found[1]


def kind_of(name: str) -> str:
    """The cache that a kernel reads."""
    return {"mla": "mla", "paged": "paged"}.get(name) or kernel(name).cache or "dense"


def operands(kind: str, shape: Shape, seed: int) -> Operands:
    """The host's arrays for one kind of cache; `shape` carries the scales of an FP8 cache."""
    import numpy as np

    random = np.random.default_rng(seed)
    D, B, K, S = shape.head_dim, shape.batch, shape.kv_heads, shape.seq
    q = random.standard_normal((B, shape.q_len, shape.heads, D), np.float32)
    host: dict[str, Array] = {"q": reference.encode(q, shape.dtype)}
    vectors = [random.standard_normal((min(VECTORS, B * K * S), D), np.float32) for _ in range(2)]

    def spread(few: Array) -> Array:
        """The few vectors over and over, as many as the cache has."""
        return np.resize(few, (B, K, S, *few.shape[1:]))

    if kind == "mla":
        host["latent"] = spread(reference.encode(vectors[0], shape.dtype))
    elif kind == "int8":
        for name, few in zip("kv", vectors, strict=True):
            rounded, scales = reference.quantise_int8(few)
            host[name], host[f"{name}_scales"] = spread(rounded), spread(scales)
    elif kind == "fp8":
        for name, few, unit in zip("kv", vectors, (shape.k_scale, shape.v_scale), strict=True):
            host[name] = spread(reference.encode(few / unit, "fp8"))
    else:
        for name, few in zip("kv", vectors, strict=True):
            host[name] = spread(reference.encode(few, shape.dtype))
        if kind == "paged":
            host |= _paged(shape, host, random)
    return Operands(kind, shape, host)


def _paged(shape: Shape, dense: dict[str, Array], random: Any) -> dict[str, Array]:
    """K and V in a pool of pages in random order; what no token owns is NaN."""
    import numpy as np

    page, count = shape.page_tokens, shape.pages_per_sequence
    pool = shape.batch * count + 3
    table = random.permutation(pool)[: shape.batch * count].reshape(shape.batch, count).astype(np.int32)
    found: dict[str, Array] = {"pages": table, "lengths": np.array(shape.sequences, np.int32)}
    for name in ("k", "v"):
        whole = dense[name]
        pages = np.empty((pool, shape.kv_heads, page, shape.head_dim), whole.dtype)
        pages.view(np.uint8)[...] = 0xFF
        padded = np.empty((*whole.shape[:2], count * page, shape.head_dim), whole.dtype)
        padded.view(np.uint8)[...] = 0xFF
        padded[:, :, : shape.seq] = whole
        parts = padded.reshape(*whole.shape[:2], count, page, shape.head_dim)
        pages[table] = parts.transpose(0, 2, 1, 3, 4)
        found[name] = pages
    return found
