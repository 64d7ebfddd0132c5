"""Rows of `attention/generation_attention_perf`: decode attention through a stack's paged KV cache.

The collector replays one CUDA graph of the whole op (KV write, metadata where the stack makes it on the GPU, attention,
merge) over the same cache, so that what fits the L2 is warm. `step` counts the history: the new token comes on top.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from kvperf.hardware import load_gpu
from kvperf.launches.decode_attention import DecodeAttention, plan
from kvperf.predict.decode_attention import floor
from kvperf.silicon import lint
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

TABLE = "attention/generation_attention_perf"
COLUMNS = (
    *("kernel_source", "batch_size", "num_heads", "num_key_value_heads", "head_dim", "window_size", "kv_cache_dtype"),
    *("step", "latency"),
)
FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}
# A kernel's time falls by less than this when its context doubles (a split sets in); one sample that stands out from
# both neighbours by more was disturbed.
SPIKE = 1.6
# Kernels that stand in where a stack's own do not support a head: not described by kvperf.launches.decode_attention.
STAND_INS = ("triton", "vllm_triton_attn", "vllm_flash_attn_fa4", "torch_flow_flashinfer")
BLACKWELL = ("sm_100", "sm_103")


class Lint(msgspec.Struct, frozen=True):
    """Rows of a table by rule: all, of kernels that are not modelled, below physics, spikes."""

    rows: int
    stand_ins: int
    impossible: int
    spikes: int


def rows(gpu: str, stack: str, version: str, kv: str = "bfloat16") -> Rows:
    """One cache format of the table, planned for the GPU, after the lint."""
    return linted(gpu, stack, version, kv)[0]


def linted(gpu: str, stack: str, version: str, kv: str = "bfloat16") -> tuple[Rows, Lint]:
    """The same with what each rule dropped."""
    table = read(gpu, TABLE, stack, version, list(COLUMNS))
    data = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    data.setdefault("window_size", np.zeros(len(data["step"])))
    chosen = data["kv_cache_dtype"] == kv
    data = {name: column[chosen] for name, column in data.items()}
    profile = load_gpu(gpu)
    blackwell = profile.architecture.name in BLACKWELL
    stand_in = np.isin(data["kernel_source"], (*STAND_INS, *(("flashinfer",) if blackwell else ())))
    launch = _launch(data, stack, kv)
    measured_s = data["latency"].astype(float) * 1e-3
    impossible = ~stand_in & lint.faster_than_physics(measured_s, floor(launch, profile))
    spike = ~stand_in & ~impossible & lint.lone_spikes(launch.context, measured_s, _groups(data), SPIKE)
    counts = Lint(len(measured_s), int(stand_in.sum()), int(impossible.sum()), int(spike.sum()))
    keys = [
        f"{int(h)},{int(k)},{int(d)},{int(w)},{kv}"
        for h, k, d, w in zip(launch.heads, launch.kv_heads, launch.head_dim, launch.window, strict=True)
    ]
    found = Rows(plan(launch, profile), measured_s, keys)
    return found.where(~(stand_in | impossible | spike)), counts


def _launch(data: Mapping[str, Any], stack: str, kv: str) -> DecodeAttention:
    batch, heads, kv_heads, dim, window, step = (
        data[name].astype(float)
        for name in ("batch_size", "num_heads", "num_key_value_heads", "head_dim", "window_size", "step")
    )
    # SGLang's heads of 192 have values of 128 (MiMo-V2): read as 192, cold rows would pass 98 % of the HBM peak.
    fa3 = np.isin(data["kernel_source"], ("fa3",))
    values = np.where(fa3 & (dim == 192), 128.0, dim)
    return DecodeAttention(
        batch, heads, kv_heads, dim, step + 1, window, kv=FORMATS[kv], stack=stack, warm=True, value_dim=values
    )


def _groups(data: Mapping[str, Any]) -> Any:
    """One number per shape and batch."""
    columns = ("batch_size", "num_heads", "num_key_value_heads", "head_dim", "window_size")
    table = np.stack([data[name].astype(np.int64) for name in columns], axis=-1)
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)
