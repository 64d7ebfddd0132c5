"""Operands of cached attention at real sizes, on the rig, and float64 results of rows of them.

Keys and values repeat some hundred thousand random vectors: making billions of random numbers would take longer than
the measurement. The vectors of a sequence are all different, and a GPU neither compresses nor compares them.
"""

from __future__ import annotations

import functools
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
CHECKED_ROWS = 8  # of sequences × KV heads, where all of them would take long
CHECKED_ELEMENTS = 1 << 24  # up to so many elements of K all rows are checked
SEED = 20261122


@dataclass
class Operands:
    """One kind of cache: its vectors on the host, and sets of buffers on the rig.

    kind   dense, paged, int8, fp8 or mla;  few: the vectors that K and V repeat, by buffer, with their scales
    sets   buffers by name;  turn: how many calls have gone through them
    """

    kind: str
    shape: Shape
    q: Array
    few: dict[str, Array]
    sets: list[dict[str, Any]] = field(default_factory=list)

    @property
    def set_bytes(self) -> int:
        """Bytes of K and V, or of latents, in one set."""
        shape = self.shape
        count = shape.batch * shape.kv_heads * shape.seq
        return sum(count * array[0].nbytes for name, array in self.few.items() if name in CACHE)

    def place(self, rig: Rig, count: int) -> None:
        """Make sets until there are `count`; the queries are shared."""
        if not self.sets:
            self.sets.append(self._first(rig))
        first = self.sets[0]
        while len(self.sets) < count:
            self.sets.append(first | {name: rig.copy(first[name]) for name in first if name != "q"})

    def _first(self, rig: Rig) -> dict[str, Any]:
        shape = self.shape
        outer = (shape.batch, shape.kv_heads, shape.seq)
        count = shape.batch * shape.kv_heads * shape.seq
        found = {"q": rig.upload(self.q)}
        for name, few in self.few.items():
            found[name] = spread(rig, few, count).reshape((*outer, *few.shape[1:]))
        return found | _paged(rig, shape, found) if self.kind == "paged" else found

    @property
    def rows(self) -> list[tuple[int, int]]:
        """(sequence, KV head) that are compared with float64: all where that is quick, else some, the ends included."""
        import numpy as np

        shape = self.shape
        every = [(b, h) for b in range(shape.batch) for h in range(shape.kv_heads)]
        if shape.batch * shape.kv_heads * shape.seq * shape.head_dim <= CHECKED_ELEMENTS or len(every) <= CHECKED_ROWS:
            return every
        inner = np.random.default_rng(SEED).choice(len(every) - 2, CHECKED_ROWS - 2, replace=False) + 1
        return [every[i] for i in (0, *sorted(inner.tolist()), len(every) - 1)]

    @functools.cached_property
    def exact(self) -> dict[tuple[int, int], Array]:
        """Outputs [Q, G, E] in float64 of the rows."""
        return dict(self._exact(False))

    @functools.cached_property
    def exact_of_int8_queries(self) -> dict[tuple[int, int], Array]:
        """The same for a kernel that multiplies its queries as INT8."""
        return dict(self._exact(True))

    def _exact(self, rounds_query: bool) -> Iterator[tuple[tuple[int, int], Array]]:
        shape, G = self.shape, self.shape.group
        scale = shape.scale if shape.scale is not None else shape.head_dim**-0.5
        for batch, head in self.rows:
            q = reference.decode(self.q[batch : batch + 1, :, head * G : (head + 1) * G], shape.dtype)
            if rounds_query:
                rounded, scales = reference.quantise_int8(q)
                q = rounded * scales[..., None].astype(float)
            k, v = self._vectors(batch, head)
            yield (batch, head), reference.attention(q, k[None, None], v[None, None], scale)[0]

    def _vectors(self, batch: int, head: int) -> tuple[Array, Array]:
        """Keys and values [S, D] of one head as the kernels see them."""
        import numpy as np

        shape = self.shape
        first = (batch * shape.kv_heads + head) * shape.seq

        def taken(name: str) -> Array:
            return np.take(self.few[name], np.arange(first, first + shape.seq), axis=0, mode="wrap")

        if self.kind == "mla":
            latent = reference.decode(taken("latent"), shape.dtype)
            return latent, latent[:, : shape.output_dim]
        found = []
        for name, unit in (("k", shape.k_scale), ("v", shape.v_scale)):
            if self.kind == "int8":
                found.append(taken(name) * taken(f"{name}_scales").astype(float)[:, None])
            elif self.kind == "fp8":
                found.append(reference.decode(taken(name), "fp8") * unit)
            else:
                found.append(reference.decode(taken(name), shape.dtype))
        return found[0], found[1]


def kind_of(name: str) -> str:
    """The cache that a kernel reads."""
    return {"mla": "mla", "paged": "paged"}.get(name) or kernel(name).cache or "dense"


def operands(kind: str, shape: Shape, seed: int) -> Operands:
    """The vectors of one kind of cache; `shape` carries the scales of an FP8 cache."""
    import numpy as np

    count = min(VECTORS, shape.batch * shape.kv_heads * shape.seq)
    q = np.random.default_rng(seed).standard_normal((shape.batch, shape.q_len, shape.heads, shape.head_dim), np.float32)
    few = _few(kind, count, shape.head_dim, shape.dtype, shape.k_scale, shape.v_scale, seed + 1)
    return Operands(kind, shape, reference.encode(q, shape.dtype), few)


@functools.lru_cache(maxsize=8)
def _few(kind: str, count: int, width: int, dtype: str, k_scale: float, v_scale: float, seed: int) -> dict[str, Array]:
    """Random vectors in the format of the cache; the shapes of a grid share them."""
    import numpy as np

    random = np.random.default_rng(seed)
    drawn = {name: random.standard_normal((count, width), np.float32) for name in "kv"}
    if kind == "mla":
        return {"latent": reference.encode(drawn["k"], dtype)}
    found: dict[str, Array] = {}
    for name, unit in (("k", k_scale), ("v", v_scale)):
        if kind == "int8":
            found[name], found[f"{name}_scales"] = reference.quantise_int8(drawn[name])
        elif kind == "fp8":
            found[name] = reference.encode(drawn[name] / unit, "fp8")
        else:
            found[name] = reference.encode(drawn[name], dtype)
    return found


def spread(rig: Rig, few: Array, count: int) -> Any:
    """`count` rows on the rig that repeat the few, doubled there until they are enough."""
    out = rig.empty((count, *few.shape[1:]), few.dtype)
    done = min(len(few), count)
    out[:done] = rig.upload(few[:done])
    while done < count:
        # Only whole repetitions are copied, so that row i stays vector i modulo their number.
        step = min(done, count - done)
        out[done : done + step] = out[:step]
        done += step
    return out


def _paged(rig: Rig, shape: Shape, dense: dict[str, Any]) -> dict[str, Any]:
    """K and V in a pool of pages in random order; what no token owns is NaN."""
    import numpy as np

    page, count = shape.page_tokens, shape.pages_per_sequence
    pool = shape.batch * count + 3
    order = np.random.default_rng(SEED).permutation(pool)[: shape.batch * count]
    table = rig.upload(order.reshape(shape.batch, count).astype(np.int32))
    found = {"pages": table, "lengths": rig.upload(np.array(shape.sequences, np.int32))}
    for name in ("k", "v"):
        whole = dense[name]
        pages = rig.empty((pool, shape.kv_heads, page, shape.head_dim), whole.dtype)
        padded = rig.empty((shape.batch, shape.kv_heads, count * page, shape.head_dim), whole.dtype)
        rig.poison(pages)
        rig.poison(padded)
        padded[:, :, : shape.seq] = whole
        parts = padded.reshape((shape.batch, shape.kv_heads, count, page, shape.head_dim))
        pages[table] = parts.transpose(0, 2, 1, 3, 4)
        found[name] = pages
    return found
