"""The lines below the table of an analysis: what its figures come to, and where they come from."""

from __future__ import annotations

from kvperf.record import Analysis, GpuFacts, StepFigures, UsedPeak
from kvperf.render.analysis import COUNTED, cell
from kvperf.render.layout_lines import communication
from kvperf.units import binary, decimal, significant


def summary(record: Analysis) -> list[str]:
    """The lines below the table."""
    step, gpu = record.step, record.gpu
    rate = f"; at most {significant(step.tokens_per_s_bound, 4)} {COUNTED[record.workload.phase]}/s over the batch"
    lines = [
        f"bound {decimal(step.bound_s, 's', 4)} ({step.bound_by}): no kernels at this precision are faster"
        + ("" if record.attention else rate),
        *_prediction(record),
        f"busy at peak: tensor {decimal(step.resources.tensor_s, 's')}, hbm {decimal(step.resources.hbm_s, 's')}, "
        f"link {decimal(step.resources.link_s, 's')}; if no stages overlap {decimal(step.serial_bound_s, 's', 4)}",
        f"ceilings of an implementation, not in the bound: {_ceilings(step)}",
    ]
    slow = [name for name, seconds in _named_ceilings(step) if seconds is not None and seconds > step.bound_s]
    lines += communication(record)
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
    in_table = step.predicted_s is None or step.flops_per_byte is None
    plan = "" if in_table else f"; plan {cell(step.flops_per_byte, 1)}"
    lines.append(f"HBM {decimal(gpu.hbm_bytes_per_s, 'B/s')} ({_short(gpu.hbm_source)}); ridge {ridge}{plan}")
    return lines


def _prediction(record: Analysis) -> list[str]:
    """What the stack's kernels are predicted to take, and on whose constants that rests."""
    step, work = record.step, record.workload
    if step.predicted_s is None or step.predicted_low_s is None or step.predicted_high_s is None:
        return []
    rate = ""
    if not record.attention and step.tokens_per_s_predicted is not None:
        rate = f"; {significant(step.tokens_per_s_predicted, 4)} {COUNTED[work.phase]}/s over the batch"
    graphs = "with" if work.cuda_graphs else "without"
    launches = "1 launch" if step.launches == 1 else f"{cell(step.launches, 1)} launches"
    host = "; host time not included: none was fitted" if step.host_s is None else ""
    if step.host_s is not None:
        host = f"; host time {decimal(step.host_s, 's')}" if step.host_s else "; host time 0 (load tests showed none)"
    if record.attention:
        host = ""
    return [
        f"predicted {decimal(step.predicted_s, 's', 4)} (80 % interval {decimal(step.predicted_low_s, 's', 4)} to "
        f"{decimal(step.predicted_high_s, 's', 4)}), {step.predicted_s / step.bound_s:.2f} × the bound{rate}",
        f"as {work.stack} runs it, {graphs} CUDA graphs, from a cold L2, {launches}{host}",
        f"constants of the prediction: {_constants(record)}",
    ]


def _constants(record: Analysis) -> str:
    """Whose they are. A label is `GPU/STACK`, `GPU/STACK, borrowed`, or `published`."""
    own = f"{record.gpu.name}/{record.workload.stack}"
    labels = dict.fromkeys(stage.calibration for stage in record.stages if stage.calibration)
    fitted = [label for label in labels if label != "published"]
    said = [label.removesuffix(", borrowed") for label in fitted if not label.endswith(", borrowed")]
    borrowed = [label.removesuffix(", borrowed") for label in fitted if label.endswith(", borrowed")]
    if borrowed:
        said.append(f"BORROWED from {' and '.join(borrowed)}, as {own} {'lacks some' if said else 'has none'}")
    if "published" in labels:
        said.append("small kernels from publications")
    return "; ".join(said)


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
    buffers = f", collective buffers {binary(kept.collective_buffer_bytes)}" if kept.collective_buffer_bytes else ""
    lines = [
        f"memory: weights {binary(kept.resident_weight_bytes)}, KV {binary(kept.kv_cache_bytes)} ({_growth(record)}), "
        f"activations {binary(kept.activation_peak_bytes)}, reserve {binary(kept.reserve_bytes)}"
        f" ({binary(kept.graph_bytes)} of it CUDA graphs){buffers}"
    ]
    if kept.capacity_bytes is None:
        return [*lines, f"needs {binary(kept.needed_bytes)}; capacity unknown"]
    spare = abs(kept.spare_bytes or 0)
    fits = f"fits, {binary(spare)} to spare" if kept.fits else f"DOES NOT FIT by {binary(spare)}"
    limit = record.model.max_context_tokens
    context = "any" if kept.max_context_tokens is None else str(kept.max_context_tokens)
    beyond = limit is not None and (kept.max_context_tokens is None or kept.max_context_tokens > limit)
    lines.append(
        f"needs {binary(kept.needed_bytes)} of {binary(kept.capacity_bytes * kept.usable_fraction)} "
        f"({kept.usable_fraction:.0%} of {binary(kept.capacity_bytes)}): {fits}; largest batch {kept.max_batch}, "
        f"largest context {context} at this batch" + (f" (the model takes {limit})" if beyond else "")
    )
    if record.would_fit:
        ways = " or ".join(f"{change.option} {change.value}" for change in record.would_fit)
        lines.append(f"would fit with {ways}")
    elif not kept.fits:
        lines.append("no smaller batch, context or format, nor more GPUs, makes it fit by itself")
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


def _product(peak: UsedPeak) -> str:
    """What is multiplied; operands without a unit of their own run on that of a wider format."""
    if peak.dtype == peak.operand or {peak.dtype, peak.operand} == {"fp16", "bf16"}:
        return f"{peak.operand} products"
    return f"{peak.operand} products (no faster {peak.operand} unit: converted to {peak.dtype})"


def _short(sources: tuple[str, ...]) -> str:
    """The first source's document or repository; the record has all of them with table, page or path."""
    return sources[0].split(": ")[0] if sources else "no source"
