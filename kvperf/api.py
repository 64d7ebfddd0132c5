"""The Python API: the commands as functions, returning the records the commands print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kvperf import inputs
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES
from kvperf.errors import KvperfError, unknown_name
from kvperf.hardware import gpu_names, load_gpu
from kvperf.hardware.cluster import in_cluster, load_cluster
from kvperf.hardware.gpu import Cluster
from kvperf.layout import Parallelism, checked
from kvperf.model import load_model, model_names
from kvperf.workload import Fusion, Phase, Sampling, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.plan import Plan
    from kvperf.record import Analysis


def analyze(
    gpu: str | Path | None = None,
    model: str | Path | None = None,
    *,
    batch: int | None = None,
    seq: int | None = None,
    phase: Phase = "decode",
    new_tokens: int | None = None,
    contexts: Sequence[int] | None = None,
    chunk_tokens: int | None = None,
    chunk_cached: int | None = None,
    weight_dtype: str | None = None,
    activation_dtype: str | None = None,
    kv_dtype: str | None = None,
    page_tokens: int = 16,
    fusion: Fusion = "serving",
    qkv_gemms: Literal[1, 3] = 1,
    sampling: Sampling = "argmax",
    tp: int = 1,
    pp: int = 1,
    cp: int = 1,
    ep: int = 1,
    attention_dp: int = 1,
    cluster: str | None = None,
    network: str | None = None,
    micro_batches: int | None = None,
    context_scheme: Literal["ring", "ulysses"] = "ring",
    sequence_parallel: bool = False,
    redundant_experts: int = 0,
    expert_imbalance: float = 1.0,
    routed_nodes: int | None = None,
    all_reduce: str = "stack",
    overlap: bool = False,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    stack: str = inputs.DEFAULT_STACK,
    cuda_graphs: bool = True,
    memory_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
    find_fit: bool = True,
) -> Analysis:
    """Bound and predict one generation step, stage by stage.

    gpu, model    names, aliases or files; without them h100 and llama-3.1-8b
    cluster       `h100-sxm:8x2` instead of a GPU, two nodes of eight;  network: what joins nodes, by name or file
    tp, pp, cp, ep, attention_dp  degrees of the layout (kvperf.layout.Parallelism), as the eight arguments from
                  micro_batches on;  figures are of the busiest GPU
    all_reduce    the algorithm that is predicted;  overlap: communication runs beside the kernels
    batch         sequences (default 1);  seq: KV entries the last new token sees, itself included (default 4096)
    contexts      one context for each sequence of a ragged batch, instead of batch and seq
    heads         attention alone, without a model (with kv_heads and head_dim)
    stack         whose kernels the prediction is of: sglang, vllm, trtllm, kvperf; none leaves it out
    cuda_graphs   the stack replays its launches from a CUDA graph
    find_fit      where the step does not fit, look for options with which it would

    Returns the record `kvperf.analysis/1`, in SI base units. Raises KvperfError for bad input.
    """
    prepared = prepare(
        gpu,
        model,
        cluster=cluster,
        network=network,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        batch=batch,
        seq=seq,
        phase=phase,
        new_tokens=new_tokens,
        contexts=contexts,
        chunk_tokens=chunk_tokens,
        chunk_cached=chunk_cached,
        weight_dtype=weight_dtype,
        activation_dtype=activation_dtype,
        kv_dtype=kv_dtype,
        page_tokens=page_tokens,
        fusion=fusion,
        qkv_gemms=qkv_gemms,
        sampling=sampling,
    )
    from kvperf.analysis import analyse

    if all_reduce == "nvls":
        inputs.check_switch(prepared[0])
    spread = {"--pp": pp, "--cp": cp, "--ep": ep, "--attention-dp": attention_dp}
    beyond = next((flag for flag, degree in spread.items() if degree != 1), None)
    if heads is not None and beyond is not None:
        raise KvperfError(f"{beyond} beside --heads", "attention alone is sliced by --tp only: give --model")
    inputs.check_stack(stack)
    _check_memory(memory_fraction, reserve_bytes)
    return analyse(
        *prepared,
        parallelism=layout(
            tp=tp,
            pp=pp,
            cp=cp,
            ep=ep,
            attention_dp=attention_dp,
            micro_batches=micro_batches,
            context_scheme=context_scheme,
            sequence_parallel=sequence_parallel,
            redundant_experts=redundant_experts,
            expert_imbalance=expert_imbalance,
            routed_nodes=routed_nodes,
        ),
        stack=stack,
        options=inputs.stack_options(cuda_graphs, all_reduce, overlap),
        memory_fraction=memory_fraction,
        reserve_bytes=reserve_bytes,
        find_fit=find_fit,
    )


def layout(*, context_scheme: Literal["ring", "ulysses"] = "ring", **degrees: Any) -> Parallelism:
    """The layout of these degrees. Raises KvperfError where no cluster could be laid out so."""
    found = checked(Parallelism(context=context_scheme, **degrees))
    if found.micro_batches is not None and found.pp == 1:
        raise KvperfError("--micro-batches without --pp", "they follow each other through pipeline stages: give --pp")
    if found.sequence_parallel and found.tp == 1:
        raise KvperfError(
            "--sequence-parallel without --tp", "it shares tokens out over tensor-parallel GPUs: give --tp"
        )
    return found


def prepare(
    gpu: str | Path | None,
    model: str | Path | None,
    *,
    cluster: str | None = None,
    network: str | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    **step: object,
) -> tuple[Gpu, Model, Workload]:
    """Load the profile and the model, and make the workload. Raises KvperfError for bad input."""
    for option, value in (("--kv-heads", kv_heads), ("--head-dim", head_dim)):
        if heads is None and value is not None:
            raise KvperfError(f"{option} without --heads", "give --heads for attention alone, or --model for a model")
    if heads is not None and model is not None:
        raise KvperfError("--heads and --model say two different things", "--heads is attention without a model")
    if model is not None and not str(model):
        raise unknown_name("model", "", model_names(), "`kvperf models`")
    loaded = _gpu(gpu, cluster, network)
    workload = inputs.step_workload(scope="step" if heads is None else "attention", **step)  # type: ignore[arg-type]
    if heads is not None:
        return loaded, inputs.attention_model(heads, kv_heads, 128 if head_dim is None else head_dim), workload
    return loaded, load_model(str(inputs.DEFAULT_MODEL if model is None else model)), workload


def plan(
    gpus: Sequence[str | Path] = (inputs.DEFAULT_GPU,),
    model: str | Path | None = None,
    *,
    prompt_tokens: int = 2048,
    output_tokens: int = 512,
    ttft_s: float | None = None,
    tpot_s: float | None = None,
    requests_per_s: float | None = None,
    most_gpus: int = 8,
    prices: tuple[float, ...] = (),
    network: str | None = None,
    modes: Sequence[str] = ("mixed", "apart"),
    weight_dtypes: tuple[str, ...] = (),
    kv_dtypes: tuple[str, ...] = (),
    stack: str = inputs.DEFAULT_STACK,
    memory_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
) -> Plan:
    """Search layouts, batches and formats that serve a load within its targets.

    prompt_tokens, output_tokens  of each request;  requests_per_s: that arrive (None: as many as are served)
    ttft_s, tpot_s  targets (None: any);  most_gpus: of all replicas;  prices: of one GPU for an hour, one
                    for all or one for each GPU
    modes           mixed: prompts in chunks beside decoding; apart: on GPUs of their own
    weight_dtypes, kv_dtypes  to try, `checkpoint` for the published ones (empty: these, and fp8 where a unit has it)

    Returns the record `kvperf.plan/1`. Raises KvperfError for bad input.
    """
    from kvperf.plan import Load, checked_load
    from kvperf.plan import plan as search

    load = checked_load(Load(prompt_tokens, output_tokens, ttft_s, tpot_s, requests_per_s, most_gpus, prices))
    _check_memory(memory_fraction, reserve_bytes)
    inputs.check_stack(stack)
    if len(prices) not in (0, 1, len(gpus)):
        raise KvperfError(f"{len(prices)} prices for {len(gpus)} GPUs", "give --price once, or one for each GPU")
    loaded = [_gpu(name, None, network) for name in gpus]
    named = load_model(str(inputs.DEFAULT_MODEL if model is None else model))
    return search(
        loaded,
        named,
        load,
        stack=stack,
        modes=modes,
        weight_dtypes=weight_dtypes,
        kv_dtypes=kv_dtypes,
        memory_fraction=memory_fraction,
        reserve_bytes=reserve_bytes,
    )


def with_strategies(
    found: Plan, gpus: Sequence[str | Path], model: str | Path | None, network: str | None = None
) -> Plan:
    """A plan with notes on each parallel strategy, of a decode step in the middle of the output.

    Of the way with the most tokens/s a GPU, or of one sequence where there is none; on as many GPUs as a node has and
    the plan may use. gpus, model, network: as the plan was asked for.
    """
    from kvperf.hardware.cluster import node_size
    from kvperf.strategies import strategies

    best = found.front[-1] if found.front else None
    loaded = [_gpu(name, None, network) for name in gpus]
    gpu = next((g for g in loaded if best and g.name == best.gpu), loaded[0])
    named = load_model(str(inputs.DEFAULT_MODEL if model is None else model))
    weight = best.weight_dtype if best else None
    if weight in (named.checkpoint.quantised, named.checkpoint.dtype):
        weight = None
    workload = inputs.step_workload(
        batch=best.pools[-1].batch if best else 1,
        seq=found.load.prompt_tokens + (found.load.output_tokens + 1) // 2,
        weight_dtype=weight,
        activation_dtype=weight if weight == "fp8" else None,
        kv_dtype=best.kv_dtype if best else None,
    )
    degree = 1 << (min(node_size(gpu), max(2, found.load.most_gpus)).bit_length() - 1)
    return msgspec.structs.replace(found, strategies=strategies(gpu, named, workload, degree, found.stack))


def _check_memory(fraction: float, reserve_bytes: int) -> None:
    if not 0 < fraction <= 1:
        raise KvperfError(f"--memory-fraction {fraction} is no share of a GPU", "give a number up to 1, like 0.9")
    if reserve_bytes < 0:
        raise KvperfError(f"a reserve of {reserve_bytes} bytes is none", "give 0 or more")


def _gpu(gpu: str | Path | None, cluster: str | None, network: str | None) -> Gpu:
    """The GPU that is named, in the cluster that is."""
    if cluster is not None:
        if gpu is not None:
            raise KvperfError(f"--gpu {gpu} beside --cluster {cluster}", "--cluster names the GPU: leave --gpu out")
        return load_cluster(cluster, network)
    if gpu is not None and re.search(r":\d+([x×]\d+)?$", str(gpu)):
        raise KvperfError(f"--gpu {gpu} is a cluster", f"write --cluster {gpu}")
    loaded = load_gpu(str(inputs.DEFAULT_GPU if gpu is None else gpu))
    return loaded if network is None else in_cluster(loaded, Cluster(), network)


def to_json(record: Analysis) -> str:
    """The record as `kvperf analyze --format json` prints it: base units, unknown is null."""
    from kvperf.record import json_text

    return json_text(record)


def gpus() -> list[str]:
    """Names of the GPU profiles that ship with kvperf."""
    return gpu_names()


def models() -> list[str]:
    """Names of the models that ship with kvperf."""
    return model_names()
