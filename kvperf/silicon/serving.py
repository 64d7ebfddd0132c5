"""Measured serving steps: `silicon_sample.csv` of the package, one row a load test of one configuration.

A row is an open set of facts about a deployment: what ran, on how many GPUs, with how many requests at once, and what a
request saw: the time to its first token and the mean time of each later one.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from kvperf.silicon.tables import SYSTEMS, folder

# kvperf's names of the models in the file; the checkpoint's own format where `precision` says nothing.
MODELS = {
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "llama-3.1-8b",
    "meta-llama/Llama-3.1-70B": "llama-3.1-70b",
    "Qwen/Qwen3-32B": "qwen3-32b",
    "nvidia/Qwen3-32B-NVFP4": "qwen3-32b",
    "deepseek-ai/DeepSeek-V3": "deepseek-v3",
    "deepseek-ai/DeepSeek-R1": "deepseek-r1",
    "nvidia/DeepSeek-R1-NVFP4": "deepseek-r1",
    "nvidia/DeepSeek-V3.1-NVFP4": "deepseek-v3",
    "openai/gpt-oss-120b": "gpt-oss-120b",
    "moonshotai/Kimi-K2.5": "kimi-k2.5",
    "zhipuai/GLM-5": "glm-5",
    "Qwen/Qwen3.5-397B-A17B": "qwen3.5-397b-a17b",
    "Qwen/Qwen3-235B-A22B-FP8": "qwen3-235b-a22b",
    "MiniMaxAI/MiniMax-M2.5": "minimax-m2.5",
}
FORMATS = {"": "bf16", "fp8": "fp8", "fp8_block": "fp8-block", "nvfp4": "nvfp4", "int4_wo": "int4"}
# Rows of two load generators. InferenceX (SemiAnalysisAI/InferenceX, benchmarks/ and utils/bench_serving) draws lengths
# evenly between 0.8 of the named ones and these, and sends ten prompts for each that may be in flight; the other, named
# in the file's own source column, sends all alike.
INTERNAL = "aic-auto-gap-analysis"
RANDOM_SPREAD = 0.8
GPUS = {system: gpu for gpu, system in SYSTEMS.items()}


class Serving(msgspec.Struct, frozen=True):
    """One measured configuration, on one GPU kind and stack.

    concurrency     requests in flight over the whole deployment
    tp, ep, attention_dp  ranks of attention, groups of ranks that share out the experts, replicas of attention
    weight, experts  formats of the dense layers' matrices and of the experts'
    isl, osl        mean tokens of a prompt and of an answer
    spread          the shortest over the longest of each (1: all the same)
    tpot_s          mean time of an output token after the first;  ttft_s: mean time to the first
    """

    id: str
    line: int
    model: str
    gpu: str
    stack: str
    version: str
    weight: str
    experts: str
    isl: float
    osl: float
    concurrency: int
    tp: int
    pp: int
    ep: int
    attention_dp: int
    spread: float
    ttft_s: float
    tpot_s: float

    @property
    def half(self) -> str:
        """ "even" rows may fit what a stack's host costs, "odd" rows are scored."""
        return "odd" if hashlib.sha256(self.key.encode()).digest()[0] % 2 else "even"

    @property
    def key(self) -> str:
        """All configuration columns but the version: what decides the part a row is used for."""
        fields = [getattr(self, n) for n in self.__struct_fields__ if n not in ("id", "line", "version")]
        return ",".join(str(value) for value in fields[:-3])


def path() -> Path:
    return folder() / "silicon_sample.csv"


def serving_rows(file: Path | None = None) -> list[Serving]:
    """The aggregated rows: prefill and decode on the same GPUs."""
    with (file or path()).open(newline="", encoding="utf-8") as opened:
        rows = csv.DictReader(opened)
        return [_row(row, line) for line, row in enumerate(rows, start=2) if row["mode"] == "agg"]


def _row(row: dict[str, str], line: int) -> Serving:
    tp, ep, replicas = _ranks(row)
    spread = 1.0 if INTERNAL in row["silicon_data_source"] else RANDOM_SPREAD
    return Serving(
        id=row["id"],
        line=line,
        model=MODELS[row["model_path"]],
        gpu=GPUS[row["system"]],
        stack=row["backend"],
        version=row["backend_version"],
        weight=FORMATS[row["gemm_quant_mode"]],
        experts=FORMATS[row["moe_quant_mode"]],
        isl=int(row["isl"]) * (1 + spread) / 2,
        osl=int(row["osl"]) * (1 + spread) / 2,
        concurrency=int(row["batch_size"]) * replicas,
        tp=tp,
        pp=int(row["pp_size"]),
        ep=ep,
        attention_dp=replicas,
        spread=spread,
        ttft_s=float(row["silicon_ttft_ms"]) * 1e-3,
        tpot_s=float(row["silicon_tpot_ms"]) * 1e-3,
    )


def _ranks(row: dict[str, str]) -> tuple[int, int, int]:
    """Ranks of attention, groups of ranks that share out the experts, replicas of attention.

    N ranks that split attention and share out the experts stand in the file as N² ranks: it multiplied the two. Where
    the row's name holds the number of ranks, it decides.
    """
    tp, ep = int(row["tp_size"]), int(row["moe_ep_size"] or 1) or 1
    slices, replicas = int(row["moe_tp_size"] or 1) or 1, int(row["attention_dp_size"] or 1)
    named = re.search(r"_tp(\d+)_", row["id"])
    if slices == ep > 1 and tp * replicas == ep * ep and not (named and int(named[1]) == tp):
        return (1, ep, ep) if replicas > 1 else (ep, ep, 1)
    return tp, ep, replicas


class Left(msgspec.Struct, frozen=True):
    """Rows that a rule leaves out, and why."""

    rule: str
    reason: str
    rows: int


QUEUED_S = 3.0
SPECULATED = ("1.1.0rc2.post2", "1.2.0rc6.post3")
NODE_GPUS = 8
RULES: tuple[tuple[str, str, Callable[[Serving], bool]], ...] = (
    (
        "queued",
        f"the first token took more than {QUEUED_S:.0f} s: prompts waited for a place",
        lambda r: r.ttft_s > QUEUED_S,
    ),
    ("unstated", "the row does not say how many requests are in flight", lambda r: r.concurrency < 1),
    (
        "replicas",
        "attention is replicated over ranks: another layout than one tensor-parallel group",
        lambda r: r.attention_dp > 1 or r.pp > 1,
    ),
    ("more_than_a_node", f"more than {NODE_GPUS} ranks: collectives leave the node", lambda r: r.tp > NODE_GPUS),
    (
        "speculated",
        "TensorRT-LLM 1.1.0rc2.post2 and 1.2.0rc6.post3 ran DeepSeek with and without multi-token prediction, for "
        "which the file has no column: rows alike of the one differ by 1.5 times (median) and up to 2.2, and those of "
        "the other take 1.6 times less than rows alike of other versions",
        lambda r: r.stack == "trtllm" and r.model.startswith("deepseek") and r.version in SPECULATED,
    ),
)


def screened(rows: Sequence[Serving]) -> tuple[list[Serving], list[Left]]:
    """The rows that no rule leaves out, and what each rule took; a row counts for the first that does."""
    kept, left = list(rows), []
    for name, reason, leaves in RULES:
        out = [row for row in kept if leaves(row)]
        kept = [row for row in kept if not leaves(row)]
        left.append(Left(name, reason, len(out)))
    return kept, left
