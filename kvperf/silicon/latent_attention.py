"""Rows of `mla/generation_mla_perf` and `mla/context_mla_perf`: attention of DeepSeek-V3's shape."""

from __future__ import annotations

import numpy as np

from kvperf.hardware import load_gpu
from kvperf.launches.latent_attention import LatentAttention, kernel_of
from kvperf.launches.latent_prefill import LatentPrefill, form_of
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

TEXTS = ["mla_dtype", "kv_cache_dtype"]
FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}


def rows(gpu: str, stack: str, version: str, kv: str = "bfloat16", by_batch: bool = False) -> Rows:
    """Decode, one cache format of the table. `num_heads` is of the rank: `tp_size` only names where it comes from.

    by_batch  split by head count and batch: the table has eight head counts, and by them alone the fitted half may
              hold none that is bound by compute
    """
    heads, batch, step, seconds = _columns(gpu, "generation", stack, version, kv, "step")
    kernel = kernel_of(stack, load_gpu(gpu).architecture.name)
    launch = LatentAttention(heads, batch, step + 1, FORMATS[kv], kernel, warm=True)
    return Rows(launch, seconds, _keys(heads, batch, kv, by_batch))


def prefill_rows(gpu: str, stack: str, version: str, kv: str = "bfloat16", by_batch: bool = False) -> Rows:
    """Prefill without a prefix; keys as of `rows`. The products are bf16 with either cache format."""
    heads, batch, tokens, seconds = _columns(gpu, "context", stack, version, kv, "isl")
    launch = LatentPrefill(heads, batch, tokens, 0, form_of(stack, load_gpu(gpu).architecture.name), warm=True)
    return Rows(launch, seconds, _keys(heads, batch, kv, by_batch))


def _columns(gpu: str, phase: str, stack: str, version: str, kv: str, length: str) -> tuple[np.ndarray, ...]:
    names = ["num_heads", "batch_size", length, "latency"]
    table = read(gpu, f"mla/{phase}_mla_perf", stack, version, names + TEXTS)
    mask = np.array(table["kv_cache_dtype"].to_pylist(), dtype=object) == kv
    heads, batch, count, ms = (table[name].to_numpy()[mask].astype(float) for name in names)
    return heads, batch, count, ms * 1e-3


def _keys(heads: np.ndarray, batch: np.ndarray, kv: str, by_batch: bool) -> list[str]:
    keys = [f"{int(h)},bfloat16,{kv}" for h in heads]
    return [f"{key},{int(b)}" for key, b in zip(keys, batch, strict=True)] if by_batch else keys
