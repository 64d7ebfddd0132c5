"""The launches of the mixers: attention over cached keys, and the products of latent attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvperf.arith import total
from kvperf.launches.decode_attention import DecodeAttention
from kvperf.launches.gemm import Gemm
from kvperf.launches.latent_attention import LatentAttention, kernel_of
from kvperf.launches.latent_prefill import LatentPrefill, form_of
from kvperf.launches.planned import Plan, Planned
from kvperf.launches.prefill_attention import PrefillAttention
from kvperf.launches.small import Small
from kvperf.model.architecture import Compressed, GroupedQuery, Latent
from kvperf.stages.compressed import series
from kvperf.stages.kv_update import cached_elements, span_of
from kvperf.stages.latent import split
from kvperf.workload import Requests, visible_pairs

if TYPE_CHECKING:
    from kvperf.launches.plan import Asked


def attention(asked: Asked) -> Plan:
    """One operation for the decoding sequences, and one for the chunk of a prompt beside them."""
    mixer = asked.shard.mixer
    if isinstance(mixer, GroupedQuery):
        planned = _grouped_query(asked, mixer)
        gate = Small(
            "activation",
            3 * asked.shard.activation.element_bytes * asked.workload.tokens * mixer.heads * mixer.value_dim,
        )
        return (*planned, Planned("small", gate)) if mixer.output_gate else planned
    if isinstance(mixer, Latent):
        return _latent(asked, mixer)
    return (Planned("small", Small("copy", asked.work.hbm_bytes, asked.work.kernels)),)


def decoding(asked: Asked) -> tuple[Requests, ...]:
    """The sequences that decode or verify; of a mixed step all but the last group, which is its chunk."""
    phase, requests = asked.workload.phase, asked.workload.requests
    return () if phase in ("prefill", "chunk") else requests[:-1] if phase == "mixed" else requests


def prefilling(asked: Asked) -> tuple[Requests, ...]:
    return asked.workload.requests[len(decoding(asked)) :]


def merged(requests: tuple[Requests, ...]) -> Requests:
    """Sequences alike that read as much together: a ragged batch is one launch."""
    if len(requests) == 1:
        return requests[0]
    count: Any = requests[0].count
    read: Any = requests[0].count * requests[0].context_tokens
    new: Any = requests[0].count * requests[0].new_tokens
    for group in requests[1:]:
        count = count + group.count
        read = read + group.count * group.context_tokens
        new = new + group.count * group.new_tokens
    return Requests(count, read / count, new / count)


def _grouped_query(asked: Asked, mixer: GroupedQuery) -> Plan:
    planned: list[Planned] = []
    window = span_of(mixer).window or span_of(mixer).chunk or 0
    if decode := decoding(asked):
        group = merged(decode)
        launch = DecodeAttention(
            batch=group.count,
            heads=mixer.heads
            * group.new_tokens,  # the tokens of a sequence that is verified share its keys as heads do
            kv_heads=mixer.kv_heads,
            head_dim=mixer.head_dim,
            value_dim=mixer.value_dim,
            context=group.context_tokens,
            window=window,
            kv=asked.shard.kv.name,
            stack=asked.stack,
            warm=False,
        )
        planned.append(Planned("decode_attention", launch))
    for group in prefilling(asked):
        launch = PrefillAttention(
            batch=group.count,
            heads=mixer.heads,
            kv_heads=mixer.kv_heads,
            head_dim=mixer.head_dim,
            new=group.new_tokens,
            prefix=group.context_tokens - group.new_tokens,
            window=window,
            kv_dtype="fp8" if asked.shard.kv.bits < 16 else "bf16",
            stack=asked.stack,
        )
        planned.append(Planned("prefill_attention", launch))
    return tuple(planned)


def _latent(asked: Asked, mixer: Latent) -> Plan:
    planned: list[Planned] = []
    span = span_of(mixer)
    if decode := decoding(asked):
        group = merged(decode)
        batch, heads, seen = group.count, mixer.heads * group.new_tokens, group.context_tokens
        if span.top_k:  # every query selects its own keys, so that none are shared
            batch, heads = group.count * group.new_tokens, mixer.heads
            seen = total(r.count * visible_pairs(r.context_tokens, r.new_tokens, span) for r in decode) / batch
        launch = LatentAttention(
            heads=heads,
            batch=batch,
            context=seen,
            kv=asked.shard.kv.name,
            kernel=kernel_of(asked.stack, asked.architecture),
        )
        planned.append(Planned("latent_attention", launch))
    for group in prefilling(asked):
        launch = LatentPrefill(
            heads=mixer.heads,
            batch=group.count,
            new_tokens=group.new_tokens,
            prefix=group.context_tokens - group.new_tokens,
            form=form_of(asked.stack, asked.architecture),
        )
        planned.append(Planned("latent_prefill", launch))
    return tuple(planned)


def query_down(asked: Asked) -> Plan:
    """One product to the query's rank (of a latent cache, to the cached latent too), then the norm of the query's."""
    shard, mixer, rows = asked.shard, asked.shard.mixer, asked.workload.tokens
    assert isinstance(mixer, Latent | Compressed) and mixer.q_lora_rank
    outputs = mixer.q_lora_rank + (cached_elements(mixer) if isinstance(mixer, Latent) else 0)
    written = shard.activation.element_bytes + shard.input_format("attention").element_bytes
    norm = Small("norm", rows * mixer.q_lora_rank * written)
    return _product(asked, outputs, shard.hidden_size), Planned("small", norm)


def query_up(asked: Asked) -> Plan:
    mixer = asked.shard.mixer
    assert isinstance(mixer, Latent | Compressed)
    head = mixer.nope_head_dim + mixer.rope_head_dim if isinstance(mixer, Latent) else mixer.head_dim
    return (_product(asked, mixer.heads * head, mixer.q_lora_rank or asked.shard.hidden_size),)


def kv_down(asked: Asked) -> Plan:
    """The product to what is cached, where it is not part of the query's; of compressed keys, their norm after it."""
    shard, mixer = asked.shard, asked.shard.mixer
    if isinstance(mixer, Latent):
        return (_product(asked, cached_elements(mixer), shard.hidden_size),)
    assert isinstance(mixer, Compressed)
    outputs = mixer.head_dim * (1 + 2 * series(mixer))
    norm = Small("norm", 2 * asked.workload.tokens * mixer.head_dim * shard.activation.element_bytes)
    return _product(asked, outputs, shard.hidden_size), Planned("small", norm)


def _product(asked: Asked, outputs: Any, inner: Any) -> Planned:
    """A product of the new tokens with one of the mixer's matrices."""
    weight, given = asked.shard.formats.attention, asked.shard.input_format("attention")
    return Planned("gemm", Gemm(asked.workload.tokens, outputs, inner, weight.name, given.name, asked.stack))


def absorb_query(asked: Asked) -> Plan:
    return _absorbed(asked, asked.shard.mixer.nope_head_dim)  # type: ignore[union-attr]


def absorb_value(asked: Asked) -> Plan:
    return _absorbed(asked, asked.shard.mixer.v_head_dim)  # type: ignore[union-attr]


def _absorbed(asked: Asked, width: int) -> Plan:
    """W_UK or W_UV: a batched product of the new tokens (in the activations' format), or of the latents to expand."""
    shard, mixer = asked.shard, asked.shard.mixer
    assert isinstance(mixer, Latent)
    weight, parts = shard.formats.attention, split(mixer, asked.workload, width)
    rows = parts.absorbed + parts.expanded
    return (
        Planned(
            "gemm", Gemm(rows, mixer.heads * width, mixer.kv_lora_rank, weight.name, shard.activation.name, asked.stack)
        ),
    )
