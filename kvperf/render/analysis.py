"""Views of one analysis: its head, its tables, its rows. Nothing is computed here but units and shares."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kvperf.record import Analysis, Figures, StageFigures, StepFigures
from kvperf.render.table import Table
from kvperf.units import prefix_for, significant

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
    return " · ".join(
        [gpu.name + (f" × {work.gpus}" if work.gpus > 1 else ""), subject, work.phase, *_requests(record)]
    )


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
    """The formats of the step, its serving plan, and the stack that is predicted."""
    work = record.workload
    kept = {m: d for m, d in work.module_dtypes.items() if d != work.weight_dtype}
    weights = f"{work.weight_dtype} weights"
    stack = "" if record.step.predicted_s is None else f"; {work.stack}{'' if work.cuda_graphs else ', no CUDA graphs'}"
    if record.model.name is None:
        return f"{work.activation_dtype} activations, {work.kv_dtype} KV{stack}"
    present = {stage.name for stage in record.stages}
    shown = [f"{m.replace('_', ' ')} {d}" for m, d in kept.items() if _module_present(m, present)]
    if shown:
        weights += f" ({', '.join(shown)})"
    plan = f"{work.fusion} fusion, page {work.page_tokens}, {work.sampling}"
    return f"{weights}, {work.activation_dtype} activations, {work.kv_dtype} KV; {plan}{stack}"


def stage_table(record: Analysis, wide: bool = False) -> Table:
    """The bound and the prediction, stage by stage; one prefix a column.

    wide  with all columns; else a prediction takes the place of two, so that the table fits 80 columns
    """
    step, rows = record.step, (*record.stages, record.step)
    predicted = step.predicted_s is not None
    prefix = _fine_prefix if len(record.stages) > 1 else prefix_for
    flop, size = prefix(step.flops), prefix(step.hbm_bytes)
    time = prefix(step.serial_bound_s if step.predicted_s is None else step.predicted_s)
    columns = (
        ("stage", True, _name),
        ("kernels" if wide or not predicted else "ker-\nnels", True, lambda row: cell(row.kernels, 1)),
        (f"{flop[0]}FLOP", True, lambda row: cell(row.flops, flop[1])),
        (f"plan\n{size[0]}B", True, lambda row: cell(row.hbm_bytes, size[1])),
        (f"floor\n{size[0]}B", wide or not predicted, lambda row: cell(row.compulsory_bytes, size[1])),
        ("plan\nFLOP/B", wide or not predicted, lambda row: cell(row.flops_per_byte, 1)),
        ("bound\nby", True, lambda row: row.bound_by if row.bound_s else "–"),
        (f"bound\n{time[0]}s", True, lambda row: cell(row.bound_s, time[1])),
        (f"predicted\n{time[0]}s", predicted, lambda row: _predicted(row, time[1])),
        ("share\n%", True, _share),
    )
    shown = [(header, text) for header, present, text in columns if present]
    cells = [tuple(text(row) for _, text in shown) for row in rows]
    if step.host_s and step.predicted_s:
        host = cell(step.host_s, time[1]), f"{100 * step.host_s / step.predicted_s:.1f}"
        cells.insert(-1, ("host", *[""] * (len(shown) - 3), *host))
    if step.hidden_s and step.predicted_s:
        hidden = f"−{cell(step.hidden_s, time[1])}", f"−{100 * step.hidden_s / step.predicted_s:.1f}"
        cells.insert(-1, ("beside kernels", *[""] * (len(shown) - 3), *hidden))
    if step.pipeline_wait_s:
        wait = (
            cell(step.pipeline_wait_s, time[1]),
            f"{100 * step.pipeline_wait_s / (step.predicted_s or step.bound_s):.1f}",
        )
        cells.insert(-1, ("pipeline wait", *[""] * (len(shown) - 3), *wait))
    return Table(tuple(header for header, _ in shown), tuple(cells), totals=1)


def _name(row: StageFigures | StepFigures) -> str:
    return row.name if isinstance(row, StageFigures) else "step"


def _predicted(row: StageFigures | StepFigures, scale: float) -> str:
    """The predicted time, or whose kernel does the stage's work."""
    if isinstance(row, StageFigures) and row.covered_by:
        return f"in {row.covered_by.replace('_projection', '_proj')}"
    return cell(row.predicted_s, scale)


def _share(row: StageFigures | StepFigures) -> str:
    if not isinstance(row, StageFigures):
        return ""
    return "" if row.covered_by else f"{100 * row.share:.1f}"


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
        return (_name(row), use, *(cell(t, time[1]) for t in times))

    return Table(headers, tuple(cells(row) for row in (*record.stages, record.step)), totals=1)


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
        "pp": work.pp,
        "cp": work.cp,
        "ep": work.ep,
        "attention_dp": work.attention_dp,
        "gpus": work.gpus,
        "nodes": work.nodes,
        "stack": work.stack,
        "cuda_graphs": work.cuda_graphs,
    }
    return [identity | _flat(row) for row in (*record.stages, record.step)]


def _flat(row: StageFigures | StepFigures) -> dict[str, Any]:
    flat: dict[str, Any] = {"stage": _name(row), "layers": getattr(row, "layers", None)}
    for field in Figures.__struct_fields__:
        value = getattr(row, field)
        if field in ("resources", "ceilings"):
            flat |= {inner: getattr(value, inner) for inner in value.__struct_fields__}
        else:
            flat[field] = value
    own = (
        "share",
        "covered_by",
        "serial_bound_s",
        "tokens_per_s_bound",
        "tokens_per_s_predicted",
        "host_s",
        "pipeline_wait_s",
    )
    return flat | {field: getattr(row, field, None) for field in own}


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
