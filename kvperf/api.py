"""The Python API: the commands as functions, returning the records the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kvperf import inputs
from kvperf.capacity import MEMORY_FRACTION, RESERVE_BYTES
from kvperf.errors import KvperfError, unknown_name
from kvperf.hardware import gpu_names, load_gpu
from kvperf.model import load_model, model_names
from kvperf.workload import Fusion, Phase, Sampling, Workload

if TYPE_CHECKING:
    from kvperf.hardware import Gpu
    from kvperf.model.architecture import Model
    from kvperf.record import Analysis


def analyze(
    gpu: str | Path = inputs.DEFAULT_GPU,
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
    heads: int | None = None,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    stack: str = inputs.DEFAULT_STACK,
    cuda_graphs: bool = True,
    memory_fraction: float = MEMORY_FRACTION,
    reserve_bytes: int = RESERVE_BYTES,
) -> Analysis:
    """Bound and predict one generation step, stage by stage.

    gpu, model    names, aliases or files; without a model it is llama-3.1-8b
    batch         sequences (default 1);  seq: KV entries the last new token sees, itself included (default 4096)
    contexts      one context for each sequence of a ragged batch, instead of batch and seq
    heads         attention alone, without a model (with kv_heads and head_dim)
    stack         whose kernels the prediction is of: sglang, vllm, trtllm, kvperf; none leaves it out
    cuda_graphs   the stack replays its launches from a CUDA graph

    Returns the record `kvperf.analysis/1`, in SI base units. Raises KvperfError for bad input.
    """
    prepared = prepare(
        gpu,
        model,
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

    inputs.check_stack(stack)
    if not 0 < memory_fraction <= 1:
        raise KvperfError(
            f"--memory-fraction {memory_fraction} is no share of a GPU", "give a number up to 1, like 0.9"
        )
    if reserve_bytes < 0:
        raise KvperfError(f"a reserve of {reserve_bytes} bytes is none", "give 0 or more")
    return analyse(
        *prepared,
        tp=tp,
        stack=stack,
        cuda_graphs=cuda_graphs,
        memory_fraction=memory_fraction,
        reserve_bytes=reserve_bytes,
    )


def prepare(
    gpu: str | Path,
    model: str | Path | None,
    *,
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
    loaded = load_gpu(str(gpu))
    workload = inputs.step_workload(scope="step" if heads is None else "attention", **step)  # type: ignore[arg-type]
    if heads is not None:
        return loaded, inputs.attention_model(heads, kv_heads, 128 if head_dim is None else head_dim), workload
    return loaded, load_model(str(inputs.DEFAULT_MODEL if model is None else model)), workload


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
