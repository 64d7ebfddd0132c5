"""One input changed at a time changes exactly the figures that depend on it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from kvperf.kernel import compile as compiler
from kvperf.report.document import Document
from tests.nvrtc import needs_nvrtc
from tests.report.subjects import H100, LLAMA, changed, document, skeleton

BOUNDS = (
    "step.bound_s",
    "step.tokens_per_s",
    "step.hbm_s",
    "step.serial_s",
    "stage.*.bound_s",
    "tuning.*.bound_s",
    "tuning.*.tokens_per_s",
    "launch.average_s",
    "chunk.saved_s",
    "chunk.added_s",
)

# By input: patterns of the names that change, and of those among them that do not.
BANDWIDTH = (
    *BOUNDS,
    "hierarchy.HBM3.bandwidth",
    "hierarchy.l2_over_memory",
    "hierarchy.memory.measured_share",
    "attention.cold_s",
    "attention.hbm_s",
    "attention.ridge",
    "attention.memory_over_matrix",
    "kernel.*.hbm_s",
    "kernel.async_ring.design_s",
    "kernel.bulk_copy.design_s",
    "kernel.tensor_cores.design_s",
    "flight.needed.*",
    "padding.hbm_s",
    "peak.*.ridge",
    "scores.*.saved_s",
    "launch.fusion_saved_s",
    "tp?.bound_s",
    "tuning.weights.tokens",
    "tuning.inputs.tokens",
    "tuning.*.saved_s",
    "tuning.kv.read_s",
    "gemv.share",
    "gemv.weights_at_peak_s",
    "gpu.h100-sxm.bandwidth",
    "gpu.h100-sxm.bound_s",
    "gpu.*.speed_up",
)
NOT_BANDWIDTH = ("stage.rope.bound_s", "tuning.now.saved_s", "gpu.h100-sxm.speed_up")

SMS = (
    "hierarchy.sms",
    "hierarchy.registers.total",
    "hierarchy.shared_memory.bandwidth",
    "peak.*.derived",
    "flight.needed.*",
    "kernel.*.waves",
    "idea.split_kv.waves.*",
    "beside.sfu_s",
    "tuning.kv.conversion_s",
)

L2_CAPACITY = ("hierarchy.L2_cache.size", "attention.layer_over_l2", "attention.warm_s")

KV_HEADS = (
    *BOUNDS,
    "attention.kv_heads",
    "attention.kv_read",
    "attention.bytes",
    "attention.intensity",
    "attention.hbm_s",
    "attention.cold_s",
    "attention.warm_s",
    "attention.memory_over_matrix",
    "attention.layer_bytes",
    "attention.layer_over_l2",
    "bottleneck.share",
    "beside.cuda_core_s",
    "beside.l2_s",
    "chunk.alone_s",
    "stage.*.share",
    "stage.attention.*_bytes",
    "stage.attention.intensity",
    "stage.kv_update.*_bytes",
    "stage.qkv_projection.*_bytes",
    "stage.qkv_projection.intensity",
    "stage.qkv_projection.flop",
    "stage.rope.plan_bytes",
    "stage.rope.flop",
    "stage.step.*_bytes",
    "stage.step.flop",
    "stage.step.intensity",
    "step.tensor_s",
    "step.achievable_s",
    "step.*_share",
    "memory.kv",
    "memory.kv_per_token",
    "memory.max_*",
    "memory.needed",
    "memory.weights",
    "page_*.cache",
    "padding.group",
    "padding.hbm_s",
    "padding.tensor_s",
    "padding.*.rows",
    "padding.*.useful",
    "scores.decode.*",
    "scores.prefill.*",
    "prefill.three_pass",
    "prefill.flash",
    "tp.kv_heads",
    "tp?.bound_s",
    "tp?.kv_per_token",
    "tp?.max_batch",
    "tp?.speed_up",
    "tp?.weights",
    "tp8.kv_copies",
    "gemv.weights_s",
    "gemv.weights_at_peak_s",
    "gpu.*.bound_s",
    "tuning.*.gain",
    "tuning.*.max_batch",
    "tuning.*.saved_s",
    "tuning.kv.conversion_s",
    "tuning.kv.share",
    "tuning.kv.read_s",
    # Kernels that share a read of K and V; the others read them once for each query head.
    "kernel.*.compulsory",
    "kernel.*.hbm_s",
    "kernel.cached_attention.reread",
    "kernel.flash.reread",
    "kernel.split_kv.reread",
    "kernel.*.requested",
    "kernel.*.l2_s",
    "kernel.*.splits",
    "kernel.*.design_s",
    "kernel.async_ring.blocks",
    "kernel.async_ring.blocks_per_sm",
    "kernel.async_ring.grid",
    "kernel.async_ring.occupancy",
    "kernel.async_ring.registers",
    "kernel.async_ring.shared",
    "kernel.async_ring.shared.q",
    "kernel.async_ring.shared_share",
    "kernel.async_ring.split_tokens",
    "flight.async_ring.held",
    "idea.async_ring.bytes_on_their_way_to_an_SM.after",
    "idea.async_ring.bytes_requested.after",
    "idea.async_ring.times_each_is_read.before",
    "idea.tensor_cores.arithmetic.after",
)
PER_QUERY_HEAD = tuple(
    f"kernel.{name}.{figure}"
    for name in ("cached_attention", "flash", "split_kv")
    for figure in ("requested", "l2_s", "splits", "design_s")
)
NOT_KV_HEADS = (
    *PER_QUERY_HEAD,
    *(f"stage.{name}.bound_s" for name in ("embedding", "attention_norm", "rope", "output_projection", "mlp_norm")),
    *(f"stage.{name}.bound_s" for name in ("mlp", "final_norm", "lm_head", "sampling")),
    "stage.rope.share",
    "scores.*.saved_s",
    "scores.batch",
    "scores.context",
    "tp1.speed_up",
    "tp8.bound_s",  # eight ranks hold one KV head each, of eight or of four
    "tp8.kv_per_token",
    "tp8.max_batch",
    "tp8.weights",
    "tuning.now.gain",
    "tuning.now.saved_s",
)

CASES = {
    "HBM bandwidth": ("gpu", H100, [(r"3\.35 TB/s", "3.36 TB/s")], BANDWIDTH, NOT_BANDWIDTH),
    "SM count": ("gpu", H100, [(r"^sms: \{value: 132", "sms: {value: 130")], SMS, ()),
    "L2 capacity": ("gpu", H100, [(r"capacity: \{value: 50 MiB", "capacity: {value: 12 MiB")], L2_CAPACITY, ()),
    "KV heads": (
        "model",
        LLAMA,
        [("kv_heads: 8", "kv_heads: 4"), (r"^published:\n(  .*\n)+", "")],
        KV_HEADS,
        NOT_KV_HEADS,
    ),
}


@pytest.fixture(scope="module")
def as_shipped() -> Iterator[Document]:
    with pytest.MonkeyPatch.context() as patch:
        _without_machine_code(patch)
        yield document()


@needs_nvrtc
@pytest.mark.parametrize("case", CASES)
def test_exactly_the_figures_that_depend_on_it_change(
    case: str, as_shipped: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_machine_code(monkeypatch)
    option, source, edits, patterns, spared = CASES[case]
    found = document(**{option: _beside(source, tmp_path, edits)})
    before, after = as_shipped.figures, found.figures
    assert set(after) == set(before)
    different = {name for name in before if not _same(before[name], after[name])}
    expected = {name for name in before if _any(name, patterns) and not _any(name, spared)}
    assert different == expected
    unused = [pattern for pattern in (*patterns, *spared) if not any(fnmatchcase(name, pattern) for name in before)]
    assert unused == []


@needs_nvrtc
@pytest.mark.parametrize("case", CASES)
def test_nothing_but_named_figures_changes(
    case: str, as_shipped: Document, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _without_machine_code(monkeypatch)
    option, source, edits, *_ = CASES[case]
    found = document(**{option: _beside(source, tmp_path, edits)})
    assert skeleton(found) == skeleton(as_shipped)


def _beside(source: Path, tmp_path: Path, edits: list[tuple[str, str]]) -> Path:
    """A changed copy where its architecture is found too."""
    target = tmp_path / source.name
    if source == H100:
        (tmp_path / "architectures").symlink_to(source.parent / "architectures")
    return changed(source, target, *edits)


def _without_machine_code(patch: pytest.MonkeyPatch) -> None:
    """Issue slots need a disassembler, which not every machine has."""
    patch.setattr(compiler, "disassemble", lambda cubin: None)


def _any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _same(before: Any, after: Any) -> bool:
    """Equal, but for the last bits of a quotient."""
    if isinstance(before, float) and isinstance(after, float):
        return math.isclose(before, after, rel_tol=1e-12)
    return before == after
