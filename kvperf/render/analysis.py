"""Views of one analysis: text for a terminal or a pipe, Markdown, CSV. Nothing is computed here but units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvperf.record import Analysis, StageFigures, StepFigures, UsedPeak
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
    parts = [gpu.name + (f" × {work.tp}" if work.tp > 1 else ""), subject, work.phase, f"batch {work.batch}"]
    parts.append(_contexts(record))
    if work.new_tokens > 1:
        parts.append(f"{work.new_tokens} new tokens")
    return " · ".join(parts)


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
        f"{size[0]}B",
        "FLOP/B",
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
    rate = f"; {significant(step.tokens_per_s_bound, 4)} {COUNTED[record.workload.phase]}/s at most"
    rate = "" if record.attention else rate
    lines = [
        f"bound {decimal(step.bound_s, 's', 4)} ({step.bound_by}): no kernels at this precision are faster{rate}",
        f"stages one after another {decimal(step.serial_bound_s, 's', 4)}; "
        f"tensor {decimal(step.resources.tensor_s, 's')}, hbm {decimal(step.resources.hbm_s, 's')}, "
        f"link {decimal(step.resources.link_s, 's')}",
        f"beside it, never in it: {_ceilings(step)}",
    ]
    if step.achievable_s is not None:
        lines.append(f"with the roofs measured on this GPU {decimal(step.achievable_s, 's', 4)}")
    if record.attention is not None:
        lines += _attention_lines(record)
    else:
        lines += _memory_lines(record)
    if record.workload.routing:
        lines.append(f"expert weights are the expectation under {record.workload.routing} routing")
    ridge = "unknown" if gpu.ridge_flops_per_byte is None else f"{gpu.ridge_flops_per_byte:.0f} FLOP/B"
    for peak in gpu.peaks:
        lines.append(
            f"{_product(peak)}: {decimal(peak.flops_per_s, 'FLOP/s', 4)} dense "
            f"({peak.dtype} {peak.path}, {peak.accumulator} accumulation, {peak.kind}: {_short(peak.source)})"
        )
    lines.append(f"HBM {decimal(gpu.hbm_bytes_per_s, 'B/s')} ({_short(gpu.hbm_source)}); ridge {ridge}")
    return lines


def csv_rows(record: Analysis) -> list[dict[str, Any]]:
    """One row a stage and one for the step, in base units."""
    return [_flat(row) for row in (*record.stages, record.step)]


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


def _ceilings(step: StepFigures) -> str:
    c = step.ceilings
    named = (
        ("CUDA cores", c.cuda_core_s),
        ("SFU", c.sfu_s),
        ("conversion", c.conversion_s),
        ("L2", c.l2_s),
        ("launch", c.launch_s),
    )
    return ", ".join(f"{name} {'unknown' if s is None else decimal(s, 's')}" for name, s in named)


def _memory_lines(record: Analysis) -> list[str]:
    kept = record.memory
    fits = {True: "fits", False: "DOES NOT FIT", None: "capacity unknown"}[kept.fits]
    capacity = "unknown" if kept.capacity_bytes is None else binary(kept.capacity_bytes)
    context = "any" if kept.max_context_tokens is None else str(kept.max_context_tokens)
    limit = record.model.max_context_tokens
    beyond = limit is not None and (kept.max_context_tokens is None or kept.max_context_tokens > limit)
    model = f" (the model takes {limit})" if beyond else ""
    return [
        f"memory: weights {binary(kept.resident_weight_bytes)}, KV {binary(kept.kv_cache_bytes)} "
        f"({binary(kept.kv_bytes_per_token)} a token), activations {binary(kept.activation_peak_bytes)}, "
        f"reserve {binary(kept.reserve_bytes)}",
        f"of {capacity} × {kept.usable_fraction:.2f}: {fits}; largest batch {kept.max_batch}, "
        f"largest context {context} tokens at this batch{model}",
    ]


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
    return f"attention {a.heads} heads, {a.kv_heads} KV heads, head_dim {a.head_dim}"


def _contexts(record: Analysis) -> str:
    sizes = [r.context_tokens for r in record.workload.requests]
    return f"context {sizes[0]}" if len(sizes) == 1 else f"contexts {min(sizes)}–{max(sizes)}"


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
