"""What a record says of its GPU, its model and its step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvperf.bound import ridge_flops_per_byte
from kvperf.evaluation import Step
from kvperf.layout import Layout
from kvperf.model.architecture import MODULES, Experts, GroupedQuery, Model
from kvperf.model.parameters import parameters
from kvperf.predict.step import Options
from kvperf.record import (
    AttentionFacts,
    GpuFacts,
    ModelFacts,
    RequestFacts,
    StepFigures,
    UsedPeak,
    WorkloadFacts,
)
from kvperf.workload import Requests, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.work import Work


def gpu_facts(gpu: Gpu, work: Work) -> GpuFacts:
    used = {unit: gpu.peak(unit) for unit in work.matrix_by_operand}
    main = max(work.matrix_by_operand, key=lambda unit: work.matrix_by_operand[unit], default=None)
    return GpuFacts(
        name=gpu.name,
        title=gpu.title,
        architecture=gpu.architecture.name,
        sms=gpu.sms,
        peaks=tuple(
            UsedPeak(
                unit,
                p.flops_per_s,
                p.dtype,
                p.accumulator,
                p.path,
                p.kind,
                cited(gpu, p.source),
                gpu.measured_peak(unit),
            )
            for unit, p in used.items()
        ),
        hbm_bytes_per_s=gpu.hbm_bytes_per_s,
        hbm_source=cited(gpu, gpu.profile.memory.hbm.bandwidth.source),
        hbm_capacity_bytes=gpu.hbm_capacity_bytes,
        l2_capacity_bytes=gpu.l2_capacity_bytes,
        l2_bytes_per_s=gpu.l2_bytes_per_s,
        link_bytes_per_s=gpu.link_bytes_per_s,
        measured_hbm_bytes_per_s=gpu.measured_hbm_bytes_per_s,
        ridge_flops_per_byte=ridge_flops_per_byte(used[main].flops_per_s, gpu.hbm_bytes_per_s) if main else None,
        mma_tile_rows=gpu.mma_rows,
    )


def cited(gpu: Gpu, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The sources that `keys` stand for in the GPU's profile, spelled out."""
    return tuple(str(gpu.profile.sources[key]) for key in keys)


def model_facts(model: Model, workload: Workload) -> ModelFacts:
    if workload.scope == "attention":
        return ModelFacts(None, None, None, None, None, model.source)
    count = parameters(model)
    return ModelFacts(
        name=model.name,
        parameters=count.total,
        active_parameters=count.active,
        streamed_parameters=count.active_streamed,
        max_context_tokens=model.max_context_tokens,
        source=model.source,
    )


def workload_facts(model: Model, whole: Step, workload: Workload, stack: str, options: Options) -> WorkloadFacts:
    layout = whole.busiest.layout
    spread = layout.parallelism
    longest = max(workload.requests, key=lambda r: r.context_tokens)
    shards = [owned.shard for owned in layout.kinds]
    first = shards[0]
    dtypes = {}
    for module in MODULES:
        names = {getattr(shard.formats, module).name for shard in shards}
        dtypes[module] = names.pop() if len(names) == 1 else "mixed"
    weight = workload.weight_dtype or model.checkpoint.quantised or first.formats.base.name
    routed = any(isinstance(shard.ffn, Experts) for shard in shards)
    return WorkloadFacts(
        phase=workload.phase,
        batch=workload.sequences,
        context_tokens=longest.context_tokens,
        new_tokens=longest.new_tokens,
        requests=tuple(_request_facts(r) for r in workload.requests),
        weight_dtype=weight,
        activation_dtype=(first.quantised_input or first.activation).name,
        kv_dtype=first.kv.name,
        module_dtypes=dtypes,
        page_tokens=workload.page_tokens,
        fusion=workload.fusion,
        qkv_gemms=3 if workload.fusion == "eager" else workload.qkv_gemms,
        sampling=workload.sampling,
        routing="uniform" if routed else None,
        tp=spread.tp,
        pp=spread.pp,
        cp=spread.cp,
        ep=spread.ep,
        attention_dp=spread.attention_dp,
        gpus=spread.gpus,
        nodes=spread.nodes,
        pipeline_stage=1 + next(i for i, rank in enumerate(whole.ranks) if rank is whole.busiest),
        network=whole.gpu.cluster.network.name if whole.gpu.cluster.network and spread.nodes > 1 else None,
        micro_batches=whole.micro_batches,
        context_scheme=spread.context if spread.cp > 1 else None,
        sequence_parallel=layout.ends.sequence_parallel,
        redundant_experts=spread.redundant_experts,
        expert_imbalance=spread.expert_imbalance,
        routed_nodes=spread.routed_nodes,
        all_reduce=options.all_reduce,
        overlap=options.overlap,
        stack=None if stack == "none" else stack,
        cuda_graphs=options.cuda_graphs,
    )


def _request_facts(requests: Requests) -> RequestFacts:
    return RequestFacts(requests.count, requests.context_tokens, requests.new_tokens)


def attention_facts(layout: Layout, workload: Workload, work: Work, step: StepFigures) -> AttentionFacts:
    shard = layout.first
    mixer = shard.mixer
    assert isinstance(mixer, GroupedQuery)
    rows = workload.tokens * mixer.heads * shard.activation.element_bytes
    key_share = mixer.head_dim / (mixer.head_dim + mixer.value_dim)
    pairs = workload.visible_pairs()
    return AttentionFacts(
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mixer.head_dim,
        qk_flops=2 * mixer.heads * mixer.head_dim * pairs,
        av_flops=2 * mixer.heads * mixer.value_dim * pairs,
        query_bytes=rows * mixer.head_dim,
        key_bytes=work.kv_read_bytes * key_share,
        value_bytes=work.kv_read_bytes * (1 - key_share),
        output_bytes=rows * mixer.value_dim,
        flops_per_byte=work.matrix_flops / work.hbm_bytes,
        tensor_s=step.resources.tensor_s,
        hbm_s=step.resources.hbm_s,
        mma_utilisation_by_tile_rows={
            str(tile): work.matrix_flops / padded for tile, padded in work.padded_flops.items()
        },
    )
