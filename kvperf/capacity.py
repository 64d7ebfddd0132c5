"""What the step keeps in GPU memory, whether it fits, and the largest batch and context that would.

Max batch = (capacity × fraction − weights − reserve) ÷ (KV and activations of a sequence). The reserve is
for what no formula here sees: CUDA context, workspaces, captured graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from kvperf.arith import Number, ceil_div, floor, least, most, total
from kvperf.dtypes import DType, matrix_bytes
from kvperf.layout import Layout, Shard, micro_batch, micro_batches, one_rank, shared
from kvperf.model.architecture import Compressed, Experts, Latent, Model
from kvperf.overhead import collective_buffer_bytes, graph_bytes
from kvperf.pipeline import StageWork, pipeline
from kvperf.stages.compressed import compressed_cache_bytes
from kvperf.stages.kv_update import cached_bytes, cached_elements, span_of
from kvperf.stages.moe import expert_bytes, experts_held, experts_hit
from kvperf.stages.recurrent import state_bytes
from kvperf.workload import Requests, Workload, resident_tokens

MEMORY_FRACTION = 0.90  # vLLM's long-standing default of gpu_memory_utilization (vllm/config/cache.py)
RESERVE_BYTES = 3_758_096_384  # 3.5 GiB: ai-dynamo/aiconfigurator systems/*.yaml, memory that no formula sees


class Memory(msgspec.Struct, frozen=True):
    """Bytes on the busiest GPU, and what the rest of it would hold.

    kv_bytes_per_token         what one token adds to the caches of all layers, windows included
    kv_growth_bytes_per_token  what it adds for good: windows and chunks drop an old token for each new one
    recurrent_state_bytes      part of kv_cache_bytes that does not depend on the context
    collective_buffer_bytes    buffers of the collectives between GPUs
    graph_bytes         captured CUDA graphs: part of reserve_bytes, which also holds context and workspaces
    spare_bytes         what this step leaves of the usable memory; negative: what it lacks
    max_batch           sequences like this step's (their average, where they differ), over all ranks
    max_context_tokens  context of every sequence at this batch; None where the cache does not grow
    """

    resident_weight_bytes: Number
    kv_cache_bytes: Number
    kv_bytes_per_token: Number
    kv_growth_bytes_per_token: Number
    recurrent_state_bytes: Number
    activation_peak_bytes: Number
    reserve_bytes: Number
    collective_buffer_bytes: Number
    graph_bytes: Number
    capacity_bytes: int | None
    usable_fraction: float
    fits: bool | None
    spare_bytes: Number | None
    max_batch: Number | None
    max_context_tokens: Number | None

    @property
    def needed_bytes(self) -> Any:
        """All of it together."""
        held = self.resident_weight_bytes + self.kv_cache_bytes + self.activation_peak_bytes
        return held + self.reserve_bytes + self.collective_buffer_bytes


def memory(
    model: Model,
    layout: Layout,
    workload: Workload,
    stages: Sequence[StageWork],
    capacity_bytes: int | None,
    usable_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
) -> Memory:
    """The memory of one rank in this step.

    workload  of all ranks;  stages: of one micro-batch on this rank
    """
    weights = resident_weight_bytes(model, layout, workload, stages)
    cache = kv_cache_bytes(layout, workload)
    activations, buffers = activation_peak_bytes(stages), collective_buffer_bytes(layout)
    max_batch, max_context, fits, spare = None, None, None, None
    if capacity_bytes is not None:
        left = capacity_bytes * usable_fraction - weights - reserve_bytes - buffers
        groups = layout.parallelism.attention_dp
        a_sequence = (cache + activations) / ceil_div(workload.sequences, groups)
        max_batch = most(floor(left / a_sequence), 0) * groups
        max_context = _longest_context(layout, workload, left)
        spare = left - cache - activations
        fits = spare >= 0
    return Memory(
        resident_weight_bytes=weights,
        kv_cache_bytes=cache,
        kv_bytes_per_token=kv_bytes_per_token(layout),
        kv_growth_bytes_per_token=kv_growth_bytes_per_token(layout),
        recurrent_state_bytes=recurrent_state_bytes(layout, workload),
        activation_peak_bytes=activations,
        reserve_bytes=reserve_bytes,
        collective_buffer_bytes=buffers,
        graph_bytes=least(graph_bytes(stages), reserve_bytes),
        capacity_bytes=capacity_bytes,
        usable_fraction=usable_fraction,
        fits=fits,
        spare_bytes=spare,
        max_batch=None if max_batch is None else int(max_batch) if isinstance(max_batch, float) else max_batch,
        max_context_tokens=max_context,
    )


def footprint(model: Model, context_tokens: int = 1, kv_dtype: str | None = None) -> Memory:
    """One sequence of `context_tokens` on one GPU, weights as published, no page rounding; capacity unknown."""
    requests = (Requests(1, context_tokens, 1),)
    workload = Workload("decode", requests, kv_dtype=kv_dtype, page_tokens=1)
    layout = one_rank(model, workload)
    return memory(model, layout, workload, pipeline(layout, workload), None)


def resident_weight_bytes(model: Model, layout: Layout, workload: Workload, stages: Sequence[StageWork]) -> Any:
    """Every weight of the rank: what a step streams, the experts it does not touch, and the gathered tables."""
    if workload.scope == "attention":
        return 0
    return total(resident_by_stage(model, layout, stages).values())


def resident_by_stage(model: Model, layout: Layout, stages: Sequence[StageWork]) -> dict[str, Any]:
    """The rank's weights by the stage that uses them; tables that a step gathers from under `embedding`."""
    resident: dict[str, Any] = {}
    for stage in stages:
        held = stage.work.weight_bytes
        for part in stage.parts:
            if stage.name == "moe_experts" and isinstance(part.shard.ffn, Experts):
                untouched = experts_held(part.shard) - experts_hit(part.shard, part.workload)
                held = held + part.layers * untouched * expert_bytes(part.shard)
        resident[stage.name] = held
    if not layout.has_embedding:
        return resident
    ends = layout.ends
    base, table = ends.formats.base.element_bytes, 0
    if not (model.tied_embeddings and layout.has_head):  # the head's stage counts a tied table where it has one
        table = matrix_bytes(ends.formats.embedding, ends.hidden_size, ends.vocab_size)
    gathered = table + base * ((ends.learned_positions or 0) * ends.hidden_size + model.extra_parameters)
    resident["embedding"] = resident.get("embedding", 0) + gathered
    return resident


def kv_cache_bytes(layout: Layout, workload: Workload) -> Any:
    """KV pages and recurrent states of its sequences after the step, on one rank."""
    total_bytes: Any = 0
    share = shared(workload, layout.parallelism)
    for owned in layout.kinds:
        states = state_bytes(owned.shard.mixer, owned.shard.activation.element_bytes)
        pages = share.cache.over_requests(
            lambda context, new, shard=owned.cache: _pages_bytes(shard, context, workload.page_tokens)
        )
        total_bytes = total_bytes + owned.layers * (pages + states * share.tokens.sequences)
    return total_bytes


def kv_bytes_per_token(layout: Layout) -> Any:
    """Bytes that one token adds to the caches of all layers, of windows too; states don't grow."""
    added: Any = 0
    for owned in layout.kinds:
        mixer = owned.cache.mixer
        each = _entry_bytes(owned.cache)
        if isinstance(mixer, Compressed) and mixer.ratio:
            each = each + compressed_cache_bytes(mixer, mixer.ratio, owned.shard.kv) / mixer.ratio
        added = added + owned.layers * each
    return added if layout.ring_ranks == 1 else added / layout.ring_ranks


def kv_growth_bytes_per_token(layout: Layout) -> Any:
    """Bytes by which one more token of context makes the caches grow, once every window is full."""
    added: Any = 0
    for owned in layout.kinds:
        mixer, span = owned.shard.mixer, span_of(owned.shard.mixer)
        if isinstance(mixer, Compressed):
            ratio = mixer.ratio
            grown = compressed_cache_bytes(mixer, ratio, owned.shard.kv) / ratio if ratio else 0
            added = added + owned.layers * grown
        elif span.window is None and span.chunk is None:
            added = added + owned.layers * _entry_bytes(owned.cache)
    return added if layout.ring_ranks == 1 else added / layout.ring_ranks


def recurrent_state_bytes(layout: Layout, workload: Workload) -> Any:
    """States of linear-attention and state-space layers, all sequences."""
    states: Any = 0
    for owned in layout.kinds:
        states = states + owned.layers * state_bytes(owned.shard.mixer, owned.shard.activation.element_bytes)
    return states * shared(workload, layout.parallelism).tokens.sequences


def activation_peak_bytes(stages: Sequence[StageWork]) -> Any:
    """Activations alive at once: the residual, and what the widest kernel of any stage reads and writes."""
    peak: Any = 0
    for stage in stages:
        for part in stage.parts:
            residual = part.shard.activation.element_bytes * part.workload.tokens * part.shard.hidden_size
            alone = part.work.widest_kernel_bytes
            # A stage of one kernel says nothing: its traffic is that of its widest kernel.
            alive = part.work.activation_bytes / part.layers if type(alone) is int and alone == 0 else alone
            peak = most(peak, residual + alive)
    return peak


def _pages_bytes(shard: Shard, context: Any, page_tokens: int) -> Any:
    """Cache of one sequence in one layer, whole pages; states apart."""
    mixer = shard.mixer
    held = ceil_div(resident_tokens(context, span_of(mixer)), page_tokens) * page_tokens
    cache = held * _entry_bytes(shard)
    if isinstance(mixer, Compressed):
        cache = cache + compressed_cache_bytes(mixer, context, shard.kv)
    return cache


def _entry_bytes(shard: Shard) -> Any:
    """Cached bytes of one token in one layer, index key included."""
    mixer = shard.mixer
    entry = cached_bytes(mixer, shard.kv) * cached_elements(mixer)
    return entry + _index_bytes(mixer, shard.kv) if isinstance(mixer, Latent) else entry


def _index_bytes(mixer: Latent, kv: DType) -> Any:
    if mixer.indexer is None:
        return 0
    stored = mixer.indexer.bytes_per_token
    return mixer.indexer.head_dim * kv.element_bytes if stored is None else stored


SEARCHED_TOKENS = 1 << 34


def _longest_context(layout: Layout, workload: Workload, left: Any) -> int | None:
    """The largest context of all sequences whose caches and activations take no more than `left` bytes.

    The step stays what it is (a chunk's new tokens, a mixed step's chunk), a prefill grows with its context.
    """

    def spare(context: int) -> Any:
        step = at_context(workload, context)
        part = micro_batch(step, micro_batches(step, layout.parallelism))
        return left - kv_cache_bytes(layout, step) - activation_peak_bytes(pipeline(layout, part))

    shortest = max(r.new_tokens for r in workload.requests) if workload.phase != "prefill" else 1
    if spare(SEARCHED_TOKENS) >= 0:
        return None
    if spare(shortest) < 0:
        return 0
    return _last_not_negative(spare, shortest, SEARCHED_TOKENS)


def at_context(workload: Workload, context: int) -> Workload:
    """The same step with every sequence at `context`; the chunk of a mixed step stays as asked."""
    sequences, chunk = workload.requests, ()
    if workload.phase == "mixed":
        sequences, chunk = sequences[:-1], sequences[-1:]
    grown = tuple(
        Requests(r.count, context, context if workload.phase == "prefill" else r.new_tokens) for r in sequences
    )
    return msgspec.structs.replace(workload, requests=grown + chunk)


def _last_not_negative(spare: Callable[[int], Any], low: int, high: int) -> int:
    """The last whole number where a falling function is not negative.

    Caches are nearly linear in the context: a secant lands beside the answer, steps that double bracket it,
    and halving closes the bracket. Bisection alone would need 34 evaluations of a whole step.
    """
    at_low, at_high = spare(low), spare(high)
    guess = min(max(low + int((high - low) * (at_low / (at_low - at_high))), low + 1), high - 1)
    step = 16
    fits = spare(guess) >= 0
    low, high = (guess, high) if fits else (low, guess)
    while high - low > 1:
        middle = low + step if fits else high - step
        if not low < middle < high:
            break
        if spare(middle) >= 0:
            low = middle
            if not fits:
                break
        else:
            high = middle
            if fits:
                break
        step *= 4
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if spare(middle) >= 0 else (low, middle)
    return low
