"""Rows of `attention/context_attention_perf`: prompts through a stack's attention layer, cache write included."""

from __future__ import annotations

import numpy as np

from kvperf.errors import KvperfError
from kvperf.hardware import Gpu, load_gpu
from kvperf.launches.prefill_attention import PrefillAttention
from kvperf.predict.prefill_attention import floor
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

COLUMNS = [
    "batch_size",
    "isl",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "window_size",
    "kv_cache_dtype",
    "step",
    "latency",
    "kernel_source",
]
FORMATS = {"bfloat16": "bf16", "fp8": "fp8"}
# Other kernels than the family's: Triton's fallback, the decode kernel that one-token prompts go to, FlashInfer's own
# kernel where SGLang uses it beside trtllm-gen, FlashAttention 4.
OTHER_KERNELS = ("triton", "decode", "flashinfer", "vllm_flash_attn_fa4")
WIDEST_HEAD = 256  # of the kernels here; 512 goes to Triton or FlashAttention 4


def rows(gpu: str, stack: str, version: str, dtype: str = "bfloat16") -> Rows:
    """The rows of one cache format that the family's kernels made, without those that `lint` names."""
    return lint(unchecked(gpu, stack, version, dtype)[0], load_gpu(gpu))[0]


def unchecked(gpu: str, stack: str, version: str, dtype: str = "bfloat16") -> tuple[Rows, int]:
    """The rows of one cache format that the family's kernels made, and how many others there are."""
    table = read(gpu, "attention/context_attention_perf", stack, version, COLUMNS)
    count = table.num_rows
    number = {
        name: table[name].to_numpy().astype(float) if name in table.schema.names else np.zeros(count)
        for name in COLUMNS
        if name not in ("kv_cache_dtype", "kernel_source")
    }
    formats = np.array(table["kv_cache_dtype"].to_pylist(), dtype=object) == dtype
    sources = table["kernel_source"].to_pylist()
    ours = {source: not _other(source) for source in set(sources)}
    mask = formats & np.array([ours[source] for source in sources]) & (number["head_dim"] <= WIDEST_HEAD)
    if not mask.any():
        raise KvperfError(
            f"{gpu} {stack} {version} holds no {dtype} prefill attention of the family's kernels",
            "take another table or dtype",
        )
    chosen = {name: values[mask] for name, values in number.items()}
    launch = PrefillAttention(
        batch=chosen["batch_size"],
        new=chosen["isl"],
        heads=chosen["num_heads"],
        kv_heads=chosen["num_key_value_heads"],
        head_dim=chosen["head_dim"],
        prefix=chosen["step"],
        window=chosen["window_size"],
        kv_dtype=FORMATS[dtype],
        stack=stack,
        warm=True,
    )
    shape = (launch.heads, launch.kv_heads, launch.head_dim, launch.window)
    keys = [f"{int(h)},{int(k)},{int(d)},{int(w)},{dtype}" for h, k, d, w in zip(*shape, strict=True)]
    return Rows(launch, chosen["latency"] * 1e-3, keys), int(formats.sum() - mask.sum())


def lint(found: Rows, gpu: Gpu) -> tuple[Rows, dict[str, int]]:
    """The rows physics allows, and how many each rule took: no FLOPs above the peak, no bytes above HBM and L2."""
    launch = found.launch
    beyond = launch.flops / found.measured_s > float(gpu.peak(launch.operand).flops_per_s)
    under = found.measured_s < floor(launch, gpu)
    finite = np.isfinite(found.measured_s) & (found.measured_s > 0)
    kept = found.where(finite & ~beyond & ~under)
    return kept, {"flops above the peak": int(beyond.sum()), "bytes above HBM": int((under & ~beyond).sum())}


def _other(source: str) -> bool:
    return source.startswith(OTHER_KERNELS) or "triton" in source or "decode" in source
