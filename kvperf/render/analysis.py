"""Views of one analysis: text for a terminal or a pipe, Markdown, CSV. Nothing is computed here but units."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kvperf.record import Analysis, GpuFacts, StageFigures, StepFigures, UsedPeak
from kvperf.render.table import Table
from kvperf.units import binary, decimal, prefix_for, significant

# What `tokens_per_s_bound` counts: every new token of the step.
COUNTED = {
    "decode": "tokens",
    "prefill": "prompt tokens",
    "chunk": "prompt tokens",
    "mixed": "tokens (prompt tokens included)",
    "verify": "verified tokens",
}


def headline(record: Analysis) -> str:
    """What was analysed, defaults included."""
    work, gpu = record.workload, record.gpu
    subject = record.model.name or _attention_name(record)
    return " · ".join([gpu.name + (f" × {work.tp}" if work.tp > 1 else ""), subject, work.phase, *_requests(record)])


def _requests(record: Analysis) -> list[str]:
    """The sequences of the step: how many, how long, how many new tokens."""
    work = record.workload
    sequences, chunk = list(work.requests), []
    if work.phase == "mixed":
        last = sequences.pop()
        cached = last.context_tokens - last.new_tokens
        chunk = [f"and a chunk of {last.new_tokens}" + (f" after {cached}" if cached else "")]
    batch = 0
    for r in sequences:
        batch += r.count
    contexts = [r.context_tokens for r in sequences]
    parts = [f"batch {batch}", _span("context", contexts)]
    news = [r.new_tokens for r in sequences]
    if max(news) > 1:
        parts.append(f"{_span('', news).strip()} new tokens")
    return parts + chunk


def _span(word: str, numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{word} {low}" if low == high else f"{word}{'s' if word else ''} {low}–{high}"


def precision(record: Analysis) -> str:
    """The formats of the step, and its serving plan."""
    work = record.workload
    kept = {m: d for m, d in work.module_dtypes.items() if d != work.weight_dtype}
    weights = f"{work.weight_dtype} weights"
    if record.model.name is None:
        return f"{work.activation_dtype} activations, {work.kv_dtype} KV"
    present = {stage.name for stage in record.stages}
    shown = [f"{m.replace('_', ' ')} {d}" for m, d in kept.items() if _module_present(m, present)]
    if shown:
        weights += f" ({', '.join(shown)})"
    plan = f"{work.fusion} fusion, page {work.page_tokens}, {work.sampling}"
    return f"{weights}, {work.activation_dtype} activations, {work.kv_dtype} KV; {plan}"


def stage_table(record: Analysis) -> Table:
    """The bound, stage by stage; one prefix a column."""
    rows = (*record.stages, record.step)
    prefix = _fine_prefix if len(record.stages) > 1 else prefix_for
    flop, size, time = prefix(record.step.flops), prefix(record.step.hbm_bytes), prefix(record.step.serial_bound_s)
    headers = (
        "stage",
        "kernels",
        f"{flop[0]}FLOP",
        f"plan\n{size[0]}B",
        f"floor\n{size[0]}B",
        "plan\nFLOP/B",
        "bound\nby",
        f"bound\n{time[0]}s",
        "share\n%",
    )

    def cells(row: StageFigures | StepFigures) -> tuple[str, ...]:
        stage = isinstance(row, StageFigures)
        return (
            row.name if stage else "step",
            cell(row.kernels, 1),
            cell(row.flops, flop[1]),
            cell(row.hbm_bytes, size[1]),
            cell(row.compulsory_bytes, size[1]),
            cell(row.flops_per_byte, 1),
            row.bound_by if row.bound_s else "–",
            cell(row.bound_s, time[1]),
            f"{100 * row.share:.1f}" if stage else "",
        )

    return Table(headers, tuple(cells(row) for row in rows), totals=1)


def ceiling_table(record: Analysis) -> Table:
    """Ceilings of an implementation, stage by stage: beside the bound, never part of it."""
    time = _fine_prefix(record.step.serial_bound_s)
    unit = f"{time[0]}s"
    names = ("CUDA\ncores", "SFU", "conver-\nsion", "L2", "launch", "measured\nroofs")
    headers = ("stage", f"MMA use\n% of {record.gpu.mma_tile_rows or '?'}", *(f"{name} {unit}" for name in names))

    def cells(row: StageFigures | StepFigures) -> tuple[str, ...]:
        c = row.ceilings
        use = "" if row.mma_utilisation is None else f"{100 * row.mma_utilisation:.1f}"
        times = (c.cuda_core_s, c.sfu_s, c.conversion_s, c.l2_s, c.launch_s, row.achievable_s)
        name = row.name if isinstance(row, StageFigures) else "step"
        return (name, use, *(cell(t, time[1]) for t in times))

    return Table(headers, tuple(cells(row) for row in (*record.stages, record.step)), totals=1)


def summary(record: Analysis) -> list[str]:
    """The lines below the table."""
    step, gpu = record.step, record.gpu
    rate = f"; at most {significant(step.tokens_per_s_bound, 4)} {COUNTED[record.workload.phase]}/s over the batch"
    lines = [
        f"bound {decimal(step.bound_s, 's', 4)} ({step.bound_by}): no kernels at this precision are faster"
        + ("" if record.attention else rate),
        f"busy at peak: tensor {decimal(step.resources.tensor_s, 's')}, hbm {decimal(step.resources.hbm_s, 's')}, "
        f"link {decimal(step.resources.link_s, 's')}; if no stages overlap {decimal(step.serial_bound_s, 's', 4)}",
        f"ceilings of an implementation, not in the bound: {_ceilings(step)}",
    ]
    slow = [name for name, seconds in _named_ceilings(step) if seconds is not None and seconds > step.bound_s]
    if slow:
        lines.append(f"note: {' and '.join(slow)} alone {'takes' if len(slow) == 1 else 'take'} longer than the bound")
    if step.achievable_s is not None:
        lines.append(f"at the best rates measured on this GPU ({_measured(gpu)}): {decimal(step.achievable_s, 's', 4)}")
    lines += _attention_lines(record) if record.attention else _memory_lines(record)
    if record.workload.routing:
        lines.append(f"expert weights are the expectation under {record.workload.routing} routing")
    for peak in gpu.peaks:
        lines.append(
            f"{_product(peak)}: {decimal(peak.flops_per_s, 'FLOP/s', 4)} dense "
            f"({peak.dtype} {peak.path}, {peak.accumulator} accumulation; {peak.kind}, {_short(peak.source)})"
        )
    ridge = "unknown" if gpu.ridge_flops_per_byte is None else f"{gpu.ridge_flops_per_byte:.0f} FLOP/B"
    lines.append(f"HBM {decimal(gpu.hbm_bytes_per_s, 'B/s')} ({_short(gpu.hbm_source)}); ridge {ridge}")
    return lines


def folded(lines: list[str], width: int = 80) -> str:
    """Lines no wider than a terminal, continued with an indent; a number and its unit stay together."""
    from textwrap import wrap

    glued = (re.sub(r"(?<=[\d×]) (?=\S)", "\0", line) for line in lines)
    wrapped = (
        part
        for line in glued
        for part in wrap(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    )
    return "".join(f"{part}\n" for part in wrapped).replace("\0", " ")


def csv_rows(record: Analysis) -> list[dict[str, Any]]:
    """One row a stage and one for the step, in base units; each says of which GPU, model and step it is."""
    work = record.workload
    identity = {
        "gpu": record.gpu.name,
        "model": record.model.name,
        "phase": work.phase,
        "batch": work.batch,
        "context_tokens": work.context_tokens,
        "new_tokens": work.new_tokens,
        "tp": work.tp,
    }
    return [identity | _flat(row) for row in (*record.stages, record.step)]


def _flat(row: StageFigures | StepFigures) -> dict[str, Any]:
    name, layers, share = (row.name, row.layers, row.share) if isinstance(row, StageFigures) else ("step", None, None)
    flat: dict[str, Any] = {"stage": name, "layers": layers}
    for field in type(row).__mro__[1].__struct_fields__:  # type: ignore[attr-defined]
        value = getattr(row, field)
        if field in ("resources", "ceilings"):
            flat |= {inner: getattr(value, inner) for inner in value.__struct_fields__}
        else:
            flat[field] = value
    return flat | {"share": share}


def _fine_prefix(largest: float) -> tuple[str, float]:
    """The prefix that leaves a thirtieth of a step's total at least one digit before the point."""
    return prefix_for(largest / 30)


def cell(value: float | None, scale: float) -> str:
    """A number of a column: three digits, at most three after the point, so that a column can be read down."""
    if value is None:
        return "unknown"
    scaled = value / scale
    if scaled == 0:
        return "0"
    if abs(scaled) < 0.0005:
        return "<0.001"
    if scaled == int(scaled):
        return str(int(scaled))
    return significant(scaled, 3) if abs(scaled) >= 0.1 else f"{scaled:.3f}"


def _named_ceilings(step: StepFigures) -> list[tuple[str, float | None]]:
    c = step.ceilings
    return [
        ("CUDA cores", c.cuda_core_s),
        ("SFU", c.sfu_s),
        ("conversion", c.conversion_s),
        ("L2", c.l2_s),
        ("launch", c.launch_s),
    ]


def _ceilings(step: StepFigures) -> str:
    return ", ".join(f"{name} {'unknown' if s is None else decimal(s, 's')}" for name, s in _named_ceilings(step))


def _measured(gpu: GpuFacts) -> str:
    rates = [] if gpu.measured_hbm_bytes_per_s is None else [f"HBM {decimal(gpu.measured_hbm_bytes_per_s, 'B/s')}"]
    for peak in gpu.peaks:
        if peak.measured_flops_per_s is not None:
            rates.append(f"{peak.operand} {decimal(peak.measured_flops_per_s, 'FLOP/s')}")
    return ", ".join(rates)


def _memory_lines(record: Analysis) -> list[str]:
    kept = record.memory
    needed = kept.resident_weight_bytes + kept.kv_cache_bytes + kept.activation_peak_bytes + kept.reserve_bytes
    lines = [
        f"memory: weights {binary(kept.resident_weight_bytes)}, KV {binary(kept.kv_cache_bytes)} ({_growth(record)}), "
        f"activations {binary(kept.activation_peak_bytes)}, reserve {binary(kept.reserve_bytes)}"
    ]
    if kept.capacity_bytes is None:
        return [*lines, f"needs {binary(needed)}; capacity unknown"]
    fits = "fits" if kept.fits else "DOES NOT FIT"
    limit = record.model.max_context_tokens
    context = "any" if kept.max_context_tokens is None else str(kept.max_context_tokens)
    beyond = limit is not None and (kept.max_context_tokens is None or kept.max_context_tokens > limit)
    lines.append(
        f"needs {binary(needed)} of {binary(kept.capacity_bytes * kept.usable_fraction)} "
        f"({kept.usable_fraction:.0%} of {binary(kept.capacity_bytes)}): {fits}; largest batch {kept.max_batch}, "
        f"largest context {context} at this batch" + (f" (the model takes {limit})" if beyond else "")
    )
    return lines


def _growth(record: Analysis) -> str:
    """How the cache grows: windows stop, recurrent states don't start."""
    kept, batch = record.memory, record.workload.batch
    grows = f"{binary(kept.kv_growth_bytes_per_token)} more a token" if kept.kv_growth_bytes_per_token else "constant"
    if kept.kv_growth_bytes_per_token != kept.kv_bytes_per_token:
        grows += " once windows are full"
    if kept.recurrent_state_bytes:
        grows += f", {binary(kept.recurrent_state_bytes)} of it recurrent state"
    return f"{grows}, each of {batch}" if batch > 1 and kept.kv_growth_bytes_per_token else grows


def _attention_lines(record: Analysis) -> list[str]:
    a = record.attention
    assert a is not None
    use = ", ".join(f"{100 * u:.2f} % of {rows}-row tiles" for rows, u in a.mma_utilisation_by_tile_rows.items())
    return [
        f"QKᵀ {decimal(a.qk_flops, 'FLOP', 4)}, AV {decimal(a.av_flops, 'FLOP', 4)}",
        f"Q {decimal(a.query_bytes, 'B', 4)}, K {decimal(a.key_bytes, 'B', 4)}, V {decimal(a.value_bytes, 'B', 4)}, "
        f"output {decimal(a.output_bytes, 'B', 4)}; {significant(a.flops_per_byte, 3)} FLOP/B",
        f"compute {decimal(a.tensor_s, 's', 4)}, memory {decimal(a.hbm_s, 's', 4)}",
        f"the query rows of a KV head fill {use}",
    ]


def _attention_name(record: Analysis) -> str:
    a = record.attention
    assert a is not None
    return f"one attention layer, {a.heads} heads, {a.kv_heads} KV heads, head_dim {a.head_dim}"


def _module_present(module: str, stages: Iterable[str]) -> bool:
    shown_by = {
        "attention": "output_projection",
        "indexer": "indexer",
        "mlp": "mlp",
        "experts": "moe_experts",
        "shared_experts": "shared_experts",
        "router": "moe_router",
        "embedding": "embedding",
        "lm_head": "lm_head",
    }
    return shown_by[module] in stages


def _product(peak: UsedPeak) -> str:
    """What is multiplied; operands without a unit of their own run on that of a wider format."""
    if peak.dtype == peak.operand or {peak.dtype, peak.operand} == {"fp16", "bf16"}:
        return f"{peak.operand} products"
    return f"{peak.operand} products (no faster {peak.operand} unit: converted to {peak.dtype})"


def _short(sources: tuple[str, ...]) -> str:
    """The first source's document or repository; the record has all of them with table, page or path."""
    return sources[0].split(": ")[0] if sources else "no source"
