"""Where a model's KV bytes come from: each kind of cache as a product of its shapes, beside the engine's bytes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kvperf.capacity import (
    SEARCHED_TOKENS,
    kv_bytes_per_token,
    kv_cache_bytes,
    kv_growth_bytes_per_token,
    recurrent_state_bytes,
)
from kvperf.layout import Layout, Owned, Shard, one_rank
from kvperf.model.architecture import Compressed, DeltaNet, GroupedQuery, Latent, Lightning, Mamba2, Mixer, Model
from kvperf.stages.recurrent import STATE_BYTES, tail_elements
from kvperf.units import binary
from kvperf.workload import Requests, Workload

WIDTH = 56  # of a value, in columns
STATES = "states"


class Part(msgspec.Struct, frozen=True):
    """One kind of cache, in all layers that have it alike.

    kind                keys, latents, index keys, compressed keys; windows or chunks of keys; states
    product             its bytes as printed: of a token where it grows, of a sequence where it does not
    max_tokens          the tokens it holds at most (a window, a chunk); None where it grows, and for states
    bytes_per_token     what a new token adds; None for states
    bytes_per_sequence  the most it takes for a sequence; None where it grows
    """

    kind: str
    layers: int
    product: str
    max_tokens: int | None
    bytes_per_token: float | None
    bytes_per_sequence: float | None


class Cache(msgspec.Struct, frozen=True):
    """All caches of a model on one GPU. Layers that grow may have a window too (DeepSeek-V4)."""

    kv_dtype: str
    kv_bytes_per_token: float
    growing_layers: int
    kv_growth_bytes_per_token: float
    windowed_layers: int
    windowed_kv_bytes_per_sequence: float
    state_layers: int
    state_bytes_per_sequence: float
    kv_parts: tuple[Part, ...]


class _One(msgspec.Struct, frozen=True):
    """One cache of a layer: its bytes are those of `mixer` less those of the same mixer `without` it."""

    kind: str
    product: str
    mixer: Mixer
    without: Mixer | None = None
    max_tokens: int | None = None

    @property
    def grows(self) -> bool:
        return self.max_tokens is None and self.kind != STATES


def cache(model: Model) -> Cache:
    """The caches of `model`, in the dtype that `capacity.footprint` takes."""
    workload = Workload("decode", (Requests(1, SEARCHED_TOKENS, 1),), page_tokens=1)
    layout = one_rank(model, workload)
    alike: dict[tuple[str, str], list[tuple[_One, Owned]]] = {}
    growing, windowed, states = 0, 0, 0
    for owned in layout.kinds:
        ones = list(_caches(owned.shard))
        growing += owned.layers * any(one.grows for one in ones)
        windowed += owned.layers * any(one.max_tokens is not None for one in ones)
        states += owned.layers * any(one.kind == STATES for one in ones)
        for one in ones:
            alike.setdefault((one.kind, one.product), []).append((one, owned))
    parts = [_part(layout, workload, held) for held in alike.values()]
    kinds = list(dict.fromkeys(part.kind for part in parts))
    parts.sort(key=lambda part: (part.kind == STATES, part.max_tokens is not None, kinds.index(part.kind)))
    return Cache(
        kv_dtype=layout.ends.kv.name,
        kv_bytes_per_token=kv_bytes_per_token(layout),
        growing_layers=growing,
        kv_growth_bytes_per_token=kv_growth_bytes_per_token(layout),
        windowed_layers=windowed,
        windowed_kv_bytes_per_sequence=sum(p.bytes_per_sequence or 0 for p in parts if p.max_tokens is not None),
        state_layers=states,
        state_bytes_per_sequence=recurrent_state_bytes(layout, workload),
        kv_parts=tuple(parts),
    )


def cache_rows(held: Cache, layers: int) -> list[tuple[str, str]]:
    """The caches for a person, as name and value: what grows, what does not, then every product."""
    told = []
    if held.growing_layers:
        told.append(f"{_of(held.growing_layers, layers)} grow: {binary(held.kv_growth_bytes_per_token)} a token")
    if held.windowed_layers:
        at_most = binary(held.windowed_kv_bytes_per_sequence)
        stops = " or ".join(str(n) for n in dict.fromkeys(p.max_tokens for p in held.kv_parts if p.max_tokens))
        # A window beside compressed keys stops, its layer does not.
        subject = "windows" if held.windowed_layers + held.growing_layers > layers else "layers"
        told.append(f"{held.windowed_layers} {subject} stop at {stops} tokens: {at_most} a sequence")
        told.append(f"a new token adds {binary(held.kv_bytes_per_token)} until they are full")
    if held.state_layers:
        told.append(f"{held.state_layers} keep a state: {binary(held.state_bytes_per_sequence)} a sequence")
    rows = [("" if i else f"KV cache ({held.kv_dtype})", text) for i, text in enumerate(told or ["none"])]
    last = ""
    for part in held.kv_parts:
        name = f"  {part.kind} of {part.max_tokens}" if part.max_tokens else f"  {part.kind}"
        shown = part.bytes_per_token if part.bytes_per_sequence is None else part.bytes_per_sequence
        assert shown is not None
        size = f"= {binary(shown)}"
        one_line = len(part.product) + len(size) < WIDTH
        texts = [f"{part.product} {size}"] if one_line else [part.product, size]
        rows += [("" if i or name == last else name, text) for i, text in enumerate(texts)]
        last = name
    return rows


def _of(part: int, whole: int) -> str:
    return f"all {whole} layers" if part == whole else f"{part} of {whole} layers"


def _part(layout: Layout, workload: Workload, held: list[tuple[_One, Owned]]) -> Part:
    one, layers = held[0][0], sum(owned.layers for _, owned in held)

    def kinds(mixers: list[tuple[Mixer | None, Owned]]) -> Layout:
        changed = [
            Owned(one_kind := msgspec.structs.replace(owned.shard, mixer=mixer), owned.layers, one_kind, one_kind)
            for mixer, owned in mixers
            if mixer is not None
        ]
        return msgspec.structs.replace(layout, kinds=tuple(changed))

    having = kinds([(one.mixer, owned) for one, owned in held])
    rest = kinds([(one.without, owned) for one, owned in held])
    state = one.kind == STATES
    return Part(
        kind=one.kind,
        layers=layers,
        product=f"{_counted(layers, 'layer')} × {one.product}",
        max_tokens=one.max_tokens,
        bytes_per_token=None if state else kv_bytes_per_token(having) - kv_bytes_per_token(rest),
        bytes_per_sequence=None if one.grows else kv_cache_bytes(having, workload) - kv_cache_bytes(rest, workload),
    )


def _caches(shard: Shard) -> Iterator[_One]:
    """The caches of one layer."""
    mixer, kv = shard.mixer, f"{shard.kv.element_bytes} B"
    replace = msgspec.structs.replace
    if isinstance(mixer, GroupedQuery):
        product = f"{_counted(mixer.kv_heads, 'head')} × ({mixer.head_dim} + {mixer.value_dim}) × {kv}"
        most = mixer.chunk if mixer.window is None else mixer.window
        if most is None:
            yield _One("keys", product, mixer)
        else:
            kind = "chunks" if mixer.window is None else "windows"
            yield _One(kind, f"{product} × {most}", mixer, max_tokens=most)
    elif isinstance(mixer, Latent):
        plain = replace(mixer, indexer=None)
        yield _One("latents", f"({mixer.kv_lora_rank} + {mixer.rope_head_dim}) × {kv}", plain)
        if mixer.indexer is not None:
            stored = mixer.indexer.bytes_per_token
            product = f"{mixer.indexer.head_dim} × {kv}" if stored is None else f"{stored} B"
            yield _One("index keys", product, mixer, plain)
    elif isinstance(mixer, Compressed):
        window = replace(mixer, ratio=0, indexer=None)
        product = f"{mixer.head_dim} × {kv}"
        yield _One("windows", f"{product} × {mixer.window}", window, max_tokens=mixer.window)
        if mixer.ratio:
            plain = replace(mixer, indexer=None)
            yield _One("compressed keys", f"{product} / {mixer.ratio}", plain, window)
            if mixer.indexer is not None:
                yield _One("index keys", f"{mixer.indexer.head_dim} × {kv} / {mixer.ratio}", mixer, plain)
    elif isinstance(mixer, Lightning):
        yield _One(STATES, f"{mixer.heads} × {mixer.head_dim} × {mixer.head_dim} × {STATE_BYTES} B", mixer)
    elif isinstance(mixer, DeltaNet | Mamba2):
        tail, taps, size = tail_elements(mixer), mixer.conv_kernel - 1, shard.activation.element_bytes
        if isinstance(mixer, DeltaNet):
            state = f"{mixer.v_heads} × {mixer.k_head_dim} × {mixer.v_head_dim}"
        else:
            state = f"{mixer.heads} × {mixer.head_dim} × {mixer.state_size}"
        inputs = f" + {taps} × {tail // taps} × {size} B" if taps else ""
        yield _One(STATES, f"({state} × {STATE_BYTES} B{inputs})", mixer)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
