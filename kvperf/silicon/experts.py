"""Rows of `moe/moe_perf`: routed experts, sort and sum included, the router not."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from kvperf.hardware import load_gpu
from kvperf.launches.experts import Experts, kernel_of
from kvperf.predict.experts import BLACKWELL
from kvperf.silicon.rows import Rows
from kvperf.silicon.tables import read

NUMBERS = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "latency"]
TEXTS = ["kernel_source", "moe_dtype", "distribution"]
# Shapes of Nemotron-3, whose experts have no gate. SGLang's Triton kernel ran 1024×2688 with one.
UNGATED = {(128, 2688, 1856), (512, 2048, 5120), (512, 8192, 5120), (512, 4096, 2688)}

# Rules for rows that are left out: name and reason.
UNTUNED = ("untuned_kernel", "a kernel measured untuned or as a fallback, several times slower than the stack's own")
SLOWER = ("slower_with_less", "takes 1.3 times as long as a rank that holds twice as much: a failed tactic search")


def rows(
    gpu: str,
    stack: str,
    version: str,
    dtypes: Sequence[str] = ("fp8_block",),
    distributions: Sequence[str] = ("balanced",),
    tokens: tuple[int, int] = (1, 256),
) -> Rows:
    """Rows of some formats (the table's names) and routings, from and up to so many tokens."""
    table = read(gpu, "moe/moe_perf", stack, version, NUMBERS + TEXTS)
    source, name, distribution = (np.array(table[text].to_pylist(), dtype=str) for text in TEXTS)
    count = table["num_tokens"].to_numpy()
    chosen = np.isin(name, dtypes) & np.isin(distribution, distributions)
    chosen &= (count >= tokens[0]) & (count <= tokens[1])
    # A second kernel of TensorRT-LLM, measured without its sum and with another router: another op.
    chosen &= np.char.find(source, "min_latency") < 0
    architecture = load_gpu(gpu).architecture.name
    chosen &= ~stand_ins(stack, architecture, source, name)
    tokens_, hidden, inter, topk, experts, tp, ep, ms = (table[c].to_numpy()[chosen].astype(float) for c in NUMBERS)
    source, name, distribution = source[chosen], name[chosen], distribution[chosen]
    shapes = list(zip(experts.astype(int), topk.astype(int), hidden.astype(int), inter.astype(int), strict=True))
    launch = Experts(
        tokens_,
        hidden,
        inter,
        topk,
        experts,
        tp,
        ep,
        _formats(stack, source, name),
        _gated(stack, source, shapes),
        _kernels(stack, architecture, source, name),
        _routings(stack, distribution, shapes),
        warm=True,
    )
    launch = msgspec.structs.replace(launch, routed=launch.routing)
    found = Rows(launch, ms * 1e-3, [",".join(map(str, shape)) for shape in shapes])
    return found.where(~slower_with_less(found)) if stack == "trtllm" else found


def slower_with_less(rows: Rows, slack: float = 1.3) -> np.ndarray:
    """Rows that take longer than the same tokens do on a rank that holds twice as much of each expert, or twice as many
    experts: the tactic search of TensorRT-LLM's CUTLASS went wrong for some ways to split, whole sweeps at once."""
    launch = rows.launch
    numbers = (launch.tokens, launch.moe_tp, launch.moe_ep)
    keys = list(zip(rows.keys, launch.dtype, launch.distribution, *(n.tolist() for n in numbers), strict=True))
    taken = dict(zip(keys, rows.measured_s.tolist(), strict=True))
    never = float("inf")
    larger = [
        min(taken.get((*rest, tp / 2, ep), never), taken.get((*rest, tp, ep / 2), never)) for *rest, tp, ep in keys
    ]
    return (launch.kernel == "cutlass") & (rows.measured_s > slack * np.array(larger))


def stand_ins(stack: str, architecture: str, source: np.ndarray, name: np.ndarray) -> np.ndarray:
    """Rows of a kernel that was measured untuned, several times slower than another does the same, or that the stack
    falls back to: they say nothing about the kernel that is predicted.

    FlashInfer's CUTLASS in vLLM and SGLang on Hopper and Blackwell without fp8 blocks: its tactics were not searched,
    2 to 5 times Triton's time.
    Triton in bf16 on Blackwell: default tiles, no tuned file, up to twice trtllm_gen's time.
    TensorRT-LLM's mxfp4 with bf16 on Blackwell: not trtllm_gen, 3 to 5 times what it takes in SGLang and vLLM.
    Marlin: weights of 4 bits in another kernel, which no launch here stands for.
    """
    blackwell = architecture in BLACKWELL

    def of(text: str) -> np.ndarray:
        return np.char.find(source, text) >= 0

    found = of("marlin")
    if blackwell or architecture == "sm_90":
        found |= of("flashinfer_cutlass") & (name != "fp8_block")
    if blackwell and stack == "sglang":
        found |= of("fused_moe_triton") & (name == "bfloat16")
    if blackwell and stack == "trtllm":
        found |= name == "w4a16_mxfp4"
    return found


def excluded(gpu: str, stack: str, version: str) -> dict[str, tuple[int, int]]:
    """Per format of a table: how many rows are stand-ins, of how many of its ordinary kernel."""
    table = read(gpu, "moe/moe_perf", stack, version, TEXTS)
    source, name = (np.array(table[text].to_pylist(), dtype=str) for text in TEXTS[:2])
    ordinary = np.char.find(source, "min_latency") < 0
    found = stand_ins(stack, load_gpu(gpu).architecture.name, source, name) & ordinary
    return {str(n): (int(found[name == n].sum()), int(ordinary[name == n].sum())) for n in np.unique(name)}


def _formats(stack: str, source: np.ndarray, name: np.ndarray) -> np.ndarray:
    """SGLang's Triton kernel has no mxfp4: the weights are unpacked to bf16 when they are loaded."""
    unpacked = (name == "w4a16_mxfp4") & (np.char.find(source, "fused_moe_triton") >= 0) & (stack == "sglang")
    return np.where(unpacked, "bfloat16", name)


def _gated(stack: str, source: np.ndarray, shapes: list[tuple[int, int, int, int]]) -> np.ndarray:
    if stack == "trtllm":
        return np.char.find(source, "nongated") < 0
    return np.array([(experts, hidden, inter) not in UNGATED for experts, _, hidden, inter in shapes], dtype=bool)


def _kernels(stack: str, architecture: str, source: np.ndarray, name: np.ndarray) -> np.ndarray:
    """By `kernel_source`; kernel_of is the rule for launches that no table names."""
    kernels = np.array([kernel_of(stack, architecture, text, 2) for text in name], dtype="U16")
    kernels[np.char.find(source, "trtllm") >= 0] = "trtllm_gen"
    kernels[np.char.find(source, "triton") >= 0] = "triton"
    kernels[(np.char.find(source, "cutlass") >= 0) & (name != "fp8_block")] = "cutlass"
    return kernels


def _routings(stack: str, distribution: np.ndarray, shapes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """SGLang's and vLLM's collectors route DeepSeek-V3's shape through its group-limited router."""
    grouped = np.array([shape == (256, 8, 7168, 2048) for shape in shapes], dtype=bool) & (stack != "trtllm")
    return np.where(grouped & (distribution == "balanced"), "grouped", distribution)
