"""A load test replayed: what a request sees in a closed loop of `concurrency` requests, from the predicted steps.

The mean time of an output token is that of a step at the mean context, and what the prompts of the other requests add
to the steps of its lifetime; the time to the first token is the prompt's own step, half a step until it starts, and the
prompts before it in the first wave, which every tenth request belongs to:

    tpot_s = decode_s(B, isl + osl/2) + (B - 1)/osl * prompt_s
    ttft_s = prefill_s(isl) + decode_s/2 + (B/20) * prompt_s
    prompt_s = the step with a prompt in it - the step without (where a stack mixes them), or the prompt alone

Where a stack takes prompts first (SGLang), those that come together stall a request only while those behind it are
taken in: half of the others, prompt_s * (B - 1)/(2 * osl).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kvperf.arith import total
from kvperf.bound import resources
from kvperf.errors import KvperfError
from kvperf.hardware import Gpu, load_gpu
from kvperf.layout import Parallelism, one_rank
from kvperf.model import load_model
from kvperf.model.architecture import Checkpoint, Experts, Kept, Model
from kvperf.pipeline import pipeline
from kvperf.predict.step import predict_step
from kvperf.silicon.serving import Serving
from kvperf.workload import Phase, Requests, Workload

# Stacks that put a prompt's tokens into the decode step; SGLang runs prompts in steps of their own.
MIXING = ("vllm", "trtllm")
FIRST_WAVE = 0.1  # share of the requests that come at once at the start: ten are sent for each that may be in flight


class Replayed(msgspec.Struct, frozen=True):
    """Predictions of rows alike but for their sizes, as arrays over these rows; the host costs nothing in them.

    naive_tpot_s  the same with bounds in place of predictions
    """

    rows: tuple[Serving, ...]
    tpot_s: Any
    ttft_s: Any
    naive_tpot_s: Any


def replay(rows: Sequence[Serving]) -> tuple[list[Replayed], list[Serving]]:
    """Predict every row, those of one deployment together as arrays. Second: rows of layouts the model cannot have."""
    groups: dict[tuple[Any, ...], list[Serving]] = {}
    for row in rows:
        key = (row.model, row.gpu, row.stack, row.weight, row.experts, kv_dtype(row), row.tp, row.ep, row.spread)
        groups.setdefault(key, []).append(row)
    found: list[Replayed] = []
    impossible: list[Serving] = []
    for same in groups.values():
        try:
            found.append(_replay(tuple(same)))
        except KvperfError:
            impossible += same
    return found, impossible


def kv_dtype(row: Serving) -> str:
    """What the benchmark's launch scripts set: fp8 with quantised checkpoints, else the model's own."""
    return "fp8" if row.weight in ("fp8", "nvfp4") else "bf16"


def _replay(rows: tuple[Serving, ...]) -> Replayed:
    import numpy as np

    first = rows[0]
    gpu, model = load_gpu(first.gpu), deployed(first, load_model(first.model))
    names = ("concurrency", "isl", "osl")
    batch, isl, osl = (np.array([getattr(row, n) for row in rows], dtype=float) for n in names)
    decoding, prompt = Requests(batch, isl + osl / 2, 1), Requests(1, isl, isl)

    def step(phase: Phase, *requests: Requests) -> tuple[Any, Any]:
        return _step(first, gpu, model, Workload(phase=phase, requests=requests, kv_dtype=kv_dtype(first)))

    decode_s, decode_bound_s = step("decode", decoding)
    prefill_s, prefill_bound_s = step("prefill", prompt)
    prompt_s = step("mixed", decoding, prompt)[0] - decode_s if first.stack in MIXING else prefill_s
    others = (batch - 1) / osl * (1.0 if first.stack in MIXING else 0.5)
    return Replayed(
        rows=rows,
        tpot_s=decode_s + others * prompt_s,
        ttft_s=prefill_s + decode_s / 2 + FIRST_WAVE / 2 * batch * prompt_s,
        naive_tpot_s=decode_bound_s + others * prefill_bound_s,
    )


# What stays in 16 bits where a checkpoint is quantised: all of it is published with these, but dense Llama and Qwen.
KEPT = ("router", "embedding", "lm_head")
KEPT_IN_4_BITS = ("attention", "indexer", *KEPT)


def deployed(row: Serving, model: Model) -> Model:
    """The model with the checkpoint that was served: the file says fp8 or nvfp4, the publisher which matrices.

    Checkpoints in 4 bits (nvidia/…-NVFP4 and -FP4, moonshotai/Kimi-K2.5, openai/gpt-oss-120b) leave the attention of
    models with experts in bf16; fp8 ones of these models scale blocks of 128×128 (their config.json).
    """
    experts = any(isinstance(ffn, Experts) for ffn in model.ffns.values())
    if model.checkpoint.quantised in ("mxfp4", "int4") and row.weight != "bf16":
        return model
    name = "fp8-block" if row.weight == "fp8" and experts else row.weight
    if name == "bf16":
        return msgspec.structs.replace(model, checkpoint=Checkpoint(dtype="bf16"))
    kept = KEPT_IN_4_BITS if name == "nvfp4" and experts else KEPT
    activation = "nvfp4" if name == "nvfp4" else "fp8"
    checkpoint = Checkpoint("bf16", name, None, activation, tuple(Kept(module) for module in kept))
    return msgspec.structs.replace(model, checkpoint=checkpoint)


def _step(row: Serving, gpu: Gpu, model: Model, workload: Workload) -> tuple[Any, Any]:
    """Predicted seconds of one step's kernels, and the sum of its stages' bounds."""
    layout = one_rank(model, workload, Parallelism(tp=row.tp, ep=row.ep))
    stages = pipeline(layout, workload)
    bounds = [resources(stage.work, gpu).longest_s for stage in stages]
    predicted = predict_step(stages, bounds, workload, gpu, row.stack)
    if predicted.seconds is None:
        raise KvperfError("; ".join(predicted.warnings), "calibrate the GPU and stack first")
    return predicted.seconds - (0.0 if predicted.host_s is None else predicted.host_s), total(bounds)
