"""How a step is spread over GPUs, in lines: the layout, what it sends, what it keeps more than once."""

from __future__ import annotations

from kvperf.predict.step import COLLECTIVES
from kvperf.record import Analysis
from kvperf.units import binary, decimal, significant

SHOWN = 4  # replicated parts in a line
# Degrees by the letters that the field uses.
LETTERS = {"tp": "TP", "cp": "CP", "attention_dp": "attention DP", "ep": "EP", "pp": "PP"}


def layout(record: Analysis) -> list[str]:
    """The line of the head: degrees, nodes, and whose figures follow. None for one GPU."""
    work = record.workload
    if work.gpus == 1:
        return []
    degrees = [f"{title} {getattr(work, name)}" for name, title in LETTERS.items() if getattr(work, name) > 1]
    said = [" × ".join(degrees) or "TP 1"]
    if work.context_scheme:
        said.append(work.context_scheme)
    if work.sequence_parallel:
        said.append("sequence parallel")
    if work.pp > 1:
        said.append(f"{work.micro_batches} micro-batch{'es' if work.micro_batches > 1 else ''}")
    if work.redundant_experts:
        said.append(f"{work.redundant_experts} redundant experts")
    if work.expert_imbalance != 1:
        said.append(f"busiest experts {work.expert_imbalance:g} × the average")
    if work.routed_nodes:
        said.append(f"experts of a token on {work.routed_nodes} nodes at most")
    where = f"on {work.nodes} nodes, {work.network}" if work.nodes > 1 else "on one node"
    stage = f", of pipeline stage {work.pipeline_stage}" if work.pp > 1 else ""
    return [f"{', '.join(said)}; {where}; figures are of the busiest GPU{stage}"]


def communication(record: Analysis) -> list[str]:
    """What a step sends, and what that takes of it."""
    if record.workload.gpus == 1:
        return []
    step, talking = record.step, [stage for stage in record.stages if stage.name in COLLECTIVES]
    bound, predicted = 0.0, 0.0
    for stage in talking:
        bound, predicted = bound + stage.bound_s, predicted + (stage.predicted_s or 0.0)
    sent = f"{decimal(step.link_bytes, 'B')} must leave the GPU"
    if step.network_bytes:
        sent += f", {decimal(step.network_bytes, 'B')} of it over the network"
    lines = [f"communication: {sent}, {decimal(bound, 's')} at peak"]
    if step.predicted_s:
        how = "" if record.workload.all_reduce == "stack" else f" with {record.workload.all_reduce} all-reduces"
        beside = ", beside the kernels at best" if record.workload.overlap else ""
        share = significant(100 * predicted / step.predicted_s, 3)
        lines[0] += f"; predicted {decimal(predicted, 's')}{how}{beside}, {share} % of the step"
    if record.replicated:
        lines.append(f"kept more than once, over all GPUs: {_replicated(record)}")
    return lines


def _replicated(record: Analysis) -> str:
    """The largest by name, and how many the record has beside them."""
    largest = sorted(record.replicated, key=lambda r: -abs(r.bytes))
    said = [f"{r.name} ({r.kind}) {binary(r.bytes)}" for r in largest[:SHOWN]]
    if len(largest) > SHOWN:
        said.append(f"and {len(largest) - SHOWN} more (--format json)")
    return ", ".join(said)
