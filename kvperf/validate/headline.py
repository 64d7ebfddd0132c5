"""The figures the model is judged by: slices of the held-out rows, and what each should reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from kvperf.calibrate.family import cold
from kvperf.calibrate.score import score
from kvperf.hardware import load_gpu
from kvperf.predict.calibration import Constants, Used, folder, load
from kvperf.predict.families import FAMILIES
from kvperf.silicon.catalogue import tables

Slice = Callable[[Any], Any]


class Headline(msgspec.Struct, frozen=True):
    """A slice of one table: `chosen` picks the rows by their launch.

    limit     mean error to reach, as a share
    constants  whose constants predict it, where they are not its own
    """

    name: str
    family: str
    group: str
    gpu: str
    stack: str
    chosen: Slice
    limit: float
    constants: str | None = None


class Reached(msgspec.Struct, frozen=True):
    """A slice scored on the rows that no fit has seen."""

    headline: Headline
    rows: int
    naive: float
    mean: float
    median: float
    p90: float

    @property
    def good(self) -> bool:
        return self.mean <= self.headline.limit


def _serving_shapes(launch: Any) -> Any:
    """D = 128, at least 256 keys, no window."""
    launch = launch.launch
    return (launch.head_dim == 128) & (launch.context >= 256) & (launch.window == 0)


def _all_shapes(launch: Any) -> Any:
    """D 64 to 256, at least 2 keys."""
    return launch.launch.head_dim <= 256


def _decode_products(launch: Any) -> Any:
    """At most 128 rows, weights of at least 1024 by 1024."""
    return (launch.m <= 128) & (launch.n >= 1024) & (launch.k >= 1024)


def _every(launch: Any) -> Any:
    return True


def _decode_experts(launch: Any) -> Any:
    """At most 256 tokens, balanced routing."""
    return (launch.tokens <= 256) & ((launch.distribution == "balanced") | (launch.distribution == "grouped"))


def _reductions(launch: Any) -> Any:
    return launch.operation == "all_reduce"


def headlines() -> Iterator[Headline]:
    for gpu in ("h100-sxm", "h200-sxm"):
        for stack in ("sglang", "vllm"):
            yield _decode("decode attention, D 128, S ≥ 256", gpu, stack, _serving_shapes, 0.06)
    for gpu in ("a100-sxm", "b200", "l40s"):
        yield _decode("decode attention, D 128, S ≥ 256", gpu, "vllm", _serving_shapes, 0.08)
    for stack in ("sglang", "vllm"):
        yield _decode("decode attention, all shapes", "h100-sxm", stack, _all_shapes, 0.07)
    yield _decode("decode attention, all shapes", "h100-sxm", "trtllm", _all_shapes, 0.12)
    for stack in ("vllm", "trtllm"):
        for gpu, limit in (("h100-sxm", 0.05), ("h200-sxm", 0.05), ("b200", 0.08)):
            yield Headline("decode GEMM bf16, m ≤ 128", "gemm", "bfloat16", gpu, stack, _decode_products, limit)
    for stack in ("vllm", "trtllm", "sglang"):
        yield Headline("GEMM bf16, all shapes", "gemm", "bfloat16", "h100-sxm", stack, _every, 0.08)
    for stack in ("sglang", "vllm", "trtllm"):
        yield Headline("prefill attention bf16", "prefill_attention", "bfloat16", "h100-sxm", stack, _every, 0.08)
    for gpu, stack in (("h100-sxm", "sglang"), ("h100-sxm", "trtllm"), ("h200-sxm", "trtllm"), ("b200", "trtllm")):
        yield Headline("MLA decode bf16", "latent_attention", "bfloat16", gpu, stack, _every, 0.10)
    for gpu, stack in (("h100-sxm", "vllm"), ("h100-sxm", "sglang"), ("h200-sxm", "trtllm"), ("b200", "trtllm")):
        yield Headline("MoE decode fp8_block", "experts", "fp8_block", gpu, stack, _decode_experts, 0.10)
    for stack in ("sglang", "vllm", "trtllm"):
        yield Headline("all-reduce 2/4/8, graph", "collective", stack, "h100-sxm", stack, _reductions, 0.06)
    yield Headline("all-reduce 2/4/8, NCCL", "collective", "nccl", "h100-sxm", "vllm", _reductions, 0.06)
    for stack in ("sglang", "vllm"):
        carried = _decode("H100 constants on H200, D 128, S ≥ 256", "h200-sxm", stack, _serving_shapes, 0.08)
        yield msgspec.structs.replace(carried, constants=f"h100-sxm.{stack}")


def _decode(name: str, gpu: str, stack: str, chosen: Slice, limit: float) -> Headline:
    return Headline(name, "decode_attention", "bfloat16", gpu, stack, chosen, limit)


def reached(headline: Headline) -> Reached:
    """Score a slice. Raises ValueError where a prediction is not a number."""
    import numpy as np

    device, kind = load_gpu(headline.gpu), FAMILIES[headline.family]
    found = tables(headline.family, headline.gpu, headline.stack)
    assert found is not None
    rows = next(group.rows for group in found.groups if group.label == headline.group)
    chosen = np.broadcast_to(headline.chosen(rows.launch), (len(rows.keys),))
    held = rows.where((rows.parts() == "score") & chosen)
    predicted = score(kind.seconds(held.launch, device, _constants(headline).constants), held.measured_s)
    naive = score(kind.floor(cold(held.launch), device), held.measured_s)
    return Reached(headline, predicted.rows, naive.mean, predicted.mean, predicted.median, predicted.p90)


def _constants(headline: Headline) -> Used:
    if headline.constants is None:
        return Constants(load_gpu(headline.gpu), headline.stack).of(headline.family)
    fitted = load(folder() / f"{headline.constants}.yaml").families[headline.family]
    return Used(headline.constants, True, fitted.numbers(), fitted.intervals)
