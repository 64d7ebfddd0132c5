"""Which measured rows physics or the way they were taken rules out. Rules are stated before any fit, and count."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

ELEMENT_BYTES = {"half": 2, "float16": 2, "bfloat16": 2, "int8": 1, "fp8": 1}


class Finding(msgspec.Struct, frozen=True):
    """What one rule did to one table: `dropped` of `rows`, and why."""

    name: str
    reason: str
    dropped: int
    rows: int

    @property
    def share(self) -> float:
        return self.dropped / self.rows if self.rows else 0.0


def not_a_time(measured_s: Any) -> Any:
    """Rows whose time is not a positive finite number."""
    measured_s = np.asarray(measured_s, dtype=float)
    return ~(np.isfinite(measured_s) & (measured_s > 0))


def faster_than_physics(measured_s: Any, floor_s: Any, slack: float = 0.03) -> Any:
    """Rows below their floor by more than `slack` of it (clocks and datasheet figures are rounded)."""
    return np.asarray(measured_s, dtype=float) < np.asarray(floor_s, dtype=float) * (1 - slack)


def lone_spikes(size: Any, measured_s: Any, groups: Any = None, ratio: float = 3.0) -> Any:
    """Rows that took more than `ratio` times as long as both their neighbours in size within their group.

    A path's time does not fall when it is given more to do. A row above the next larger one by that much shows what
    happened to one sample (a clock, a stray kernel). The ends of a sweep have one neighbour and are left alone.
    """
    size, measured_s = np.asarray(size, dtype=float), np.asarray(measured_s, dtype=float)
    groups = np.zeros(len(size)) if groups is None else np.asarray(groups)
    spikes = np.zeros(len(size), dtype=bool)
    for group in np.unique(groups):
        index = np.flatnonzero(groups == group)
        index = index[np.argsort(size[index], kind="stable")]
        time = measured_s[index]
        spikes[index[1:-1]] = time[1:-1] > ratio * np.maximum(time[:-2], time[2:])
    return spikes


class Rule(msgspec.Struct, frozen=True):
    """Rows that were taken in a way that makes them useless here.

    tables, stacks, gpus  where it applies, gpus by kvperf's names; empty: everywhere
    before                only versions of the stack older than this one
    column, values        only rows that hold one of these texts there (a value that ends in * stands for a start, one
                          that starts with * for an end); no column: the whole table
    """

    name: str
    reason: str
    tables: tuple[str, ...]
    stacks: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    before: str | None = None
    column: str | None = None
    values: tuple[str, ...] = ()

    def applies(self, gpu: str, table: str, stack: str, version: str) -> bool:
        if table not in self.tables or (self.stacks and stack not in self.stacks):
            return False
        if self.gpus and gpu not in self.gpus:
            return False
        return self.before is None or release(version) < release(self.before)

    def rejects(self, columns: Mapping[str, Sequence[str]], rows: int) -> Any:
        """Boolean array over the rows of a table that it applies to."""
        if self.column is None:
            return np.ones(rows, dtype=bool)
        if self.column not in columns:
            return np.zeros(rows, dtype=bool)
        return np.array([any(_like(value, str(text)) for value in self.values) for text in columns[self.column]])


RULES = (
    Rule(
        "trtllm_decode_reads_k_only",
        "before 1.3.0rc20 TensorRT-LLM's decode attention tables time K without V: up to 1.8 times the HBM peak",
        ("attention/generation_attention_perf",),
        ("trtllm",),
        before="1.3.0rc20",
    ),
    Rule(
        "vllm_fp8_block_eager",
        "vLLM's fp8_block products were launched eagerly: the CPU's 55 µs (H100) to 282 µs (L40S), not the kernel's",
        ("gemm/gemm_perf",),
        ("vllm",),
        column="gemm_dtype",
        values=("fp8_block",),
    ),
    Rule(
        "eager_all_reduce",
        "all-reduces launched eagerly take the CPU's 20-45 µs at any small size; a step replays a graph",
        ("comm/custom_allreduce_perf",),
        column="kernel_source",
        values=("*_eager",),
    ),
    Rule(
        "sglang_mla_fp8_hopper",
        "SGLang's MLA decode with an fp8 cache on Hopper dequantises in another kernel: 6-8 % of the HBM peak",
        ("mla/generation_mla_perf",),
        ("sglang",),
        ("h100-sxm", "h200-sxm"),
        column="kv_cache_dtype",
        values=("fp8",),
    ),
    Rule(
        "sglang_quantise_in_torch",
        "SGLang's quantise rows time a chain of PyTorch operations at a tenth of the HBM peak, and its scales as 0",
        ("quantize/scale_matrix_perf", "quantize/computescale_perf"),
        ("sglang",),
    ),
)


def reject(
    gpu: str,
    table: str,
    stack: str,
    version: str,
    columns: Mapping[str, Sequence[str]],
    rows: int,
    rules: Sequence[Rule] = RULES,
) -> tuple[Any, list[Finding]]:
    """Which rows the named rules reject, and what each of them rejected first; rules that do not apply are absent."""
    rejected, findings = np.zeros(rows, dtype=bool), []
    for rule in rules:
        if rule.applies(gpu, table, stack, version):
            now = rule.rejects(columns, rows) & ~rejected
            rejected |= now
            findings.append(Finding(rule.name, rule.reason, int(now.sum()), rows))
    return rejected, findings


def screen(measured_s: Any, floor_s: Any, slack: float = 0.03) -> tuple[Any, list[Finding]]:
    """Which rows any kernel could have taken, and what the two physical checks dropped."""
    broken = not_a_time(measured_s)
    fast = ~broken & faster_than_physics(measured_s, floor_s, slack)
    rows = len(broken)
    findings = [
        Finding("not_a_time", "the time is missing, zero, negative or not finite", int(broken.sum()), rows),
        Finding("faster_than_physics", f"more than {slack:.0%} below the floor", int(fast.sum()), rows),
    ]
    return ~(broken | fast), findings


def message_bytes(elements: Any, dtype: str) -> Any:
    """Bytes of a `message_size`: the comm tables count elements. Read as bytes, 2.7e8 on 8 H100 would be 222 GB/s of
    bus bandwidth; they are 445, as nccl-tests shows."""
    return elements * ELEMENT_BYTES[dtype]


def release(version: str) -> tuple[int, ...]:
    """A version for comparing: release candidates sort before their release, post releases after it."""
    found = re.fullmatch(r"(\d+(?:\.\d+)*)(?:(rc|\.post)(\d+))?", version)
    if found is None:
        raise ValueError(f"not a version: {version!r}")
    numbers = [int(part) for part in found[1].split(".")]
    numbers += [0] * (4 - len(numbers))
    suffix = (0, int(found[3])) if found[2] == "rc" else (2, int(found[3])) if found[2] else (1, 0)
    return (*numbers, *suffix)


def _like(pattern: str, text: str) -> bool:
    if pattern.startswith("*"):
        return text.endswith(pattern[1:])
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern
