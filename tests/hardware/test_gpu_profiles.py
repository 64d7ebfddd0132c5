"""Every shipped profile and architecture: it loads, it passes the checks, and its figures hang together."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvperf import files, yaml_file
from kvperf.dtypes import WIDER
from kvperf.hardware import gpu_names, lint, load_gpu, loading, peaks

FOLDER = files.folder("hardware")
ARCHITECTURES = sorted((FOLDER / "architectures").glob("*.yaml"))
UNKNOWN_SMS = {"b100"}


def test_all_thirty_are_there() -> None:
    names = gpu_names()
    assert names == sorted(names)
    assert len(names) == 30
    assert {"t4", "a100-sxm", "h100-sxm", "h200-sxm", "b200", "gb300", "rtx-5090", "mi355x"} <= set(names)


@pytest.mark.parametrize("name", gpu_names())
def test_profile_loads_and_passes_its_checks(name: str) -> None:
    gpu = load_gpu(name)
    assert gpu.name == name == gpu.path.stem
    assert lint.check(gpu.path).findings == ()
    assert gpu.architecture.vendor == gpu.vendor


@pytest.mark.parametrize("name", gpu_names())
def test_every_figure_is_positive_or_unknown(name: str) -> None:
    gpu = load_gpu(name)
    optional = (
        gpu.sms,
        gpu.l2_capacity_bytes,
        gpu.l2_bytes_per_s,
        gpu.link_bytes_per_s,
        gpu.link_gpus,
        gpu.node_gpus,
        gpu.host_bytes_per_s,
        gpu.cuda_core_flops_per_s,
        gpu.exponentials_per_s,
        gpu.conversions_per_s,
        gpu.graph_launch_s,
        gpu.stream_launch_s,
        gpu.mma_rows,
        gpu.measured_hbm_bytes_per_s,
    )
    assert all(value is None or value > 0 for value in optional)
    assert (gpu.sms is None) == (name in UNKNOWN_SMS)
    assert gpu.hbm_bytes_per_s > 1e11
    assert isinstance(gpu.hbm_capacity_bytes, int)
    assert gpu.measured_hbm_bytes_per_s is None or gpu.measured_hbm_bytes_per_s <= gpu.hbm_bytes_per_s


@pytest.mark.parametrize("name", gpu_names())
def test_peaks_cover_the_operands_and_bound_what_was_measured(name: str) -> None:
    gpu = load_gpu(name)
    for operand in ("fp16", "bf16", "fp8", "int8", "int4", "fp4"):
        peak = gpu.peak(operand)
        assert peak.dtype in (operand, *WIDER[operand])
        assert peak.accumulator in ("fp32", "int32")
        measured = gpu.measured_peak(operand)
        assert measured is None or measured <= peak.flops_per_s
        # A wider unit can always stand in, so a narrower operand is never slower.
        assert all(peak.flops_per_s >= gpu.peak(wider).flops_per_s for wider in WIDER[operand] if wider in ("fp16",))


@pytest.mark.parametrize("name", sorted(set(gpu_names()) - UNKNOWN_SMS))
def test_stated_peaks_can_be_derived(name: str) -> None:
    gpu = load_gpu(name)
    derived = [peaks.derived(p, gpu.profile, gpu.architecture) for p in gpu.profile.peaks]
    # H20's tensor units are capped by firmware, so only its vector peaks have a rate.
    assert all(value is not None for value in derived) or name == "h20"
    for stated, value in zip(gpu.profile.peaks, derived, strict=True):
        if value is not None and stated.stated_reason is None:
            assert stated.value == pytest.approx(value, rel=0.02)


def test_only_documented_peaks_go_without_derivation() -> None:
    reasons = {
        (name, peak.dtype) for name in gpu_names() for peak in load_gpu(name).profile.peaks if peak.stated_reason
    }
    assert reasons == {
        ("l40s", "int4"),
        ("h20", "fp32"),
        ("h20", "fp64"),
        ("b300", "int8"),
        ("gb300", "int8"),
        ("gb300", "fp64"),
    }


@pytest.mark.parametrize("name", gpu_names())
def test_levels_run_from_registers_to_device_memory(name: str) -> None:
    gpu = load_gpu(name)
    levels = gpu.levels()
    assert levels[0].name == "registers"
    assert levels[-1].size_bytes == gpu.hbm_capacity_bytes
    assert levels[-1].bandwidth_bytes_per_s == gpu.hbm_bytes_per_s
    known = [level.latency_cycles[0] for level in levels if level.latency_cycles]
    assert known == sorted(known)
    for level in levels:
        assert level.use
        assert level.sources
        for span in (level.latency_cycles, level.latency_ns, level.far_latency_cycles, level.far_latency_ns):
            assert span is None or 0 < span[0] <= span[1]


def test_aliases_are_unique_and_lead_to_their_file() -> None:
    seen: dict[str, str] = {}
    for name in gpu_names():
        for alias in (name, *load_gpu(name).profile.aliases):
            folded = alias.lower()
            assert seen.setdefault(folded, name) == name, f"{alias} is claimed by {seen[folded]} and {name}"
            assert loading.profile_path(alias) == FOLDER / f"{name}.yaml"


@pytest.mark.parametrize("path", ARCHITECTURES, ids=lambda path: path.stem)
def test_architecture_loads_and_uses_its_sources(path: Path) -> None:
    architecture = loading.load_architecture(path)
    assert architecture.name == path.stem
    document = yaml_file.read(path)
    used = {key for _, key in loading.source_keys(document.value, "$")}
    assert used == set(architecture.sources)
    for source in architecture.sources.values():
        assert (source.document is None) != (source.repository is None)
        assert source.table or source.page or source.path


@pytest.mark.parametrize("path", [p for p in ARCHITECTURES if p.stem.startswith("sm_")], ids=lambda path: path.stem)
def test_limits_agree_with_each_other(path: Path) -> None:
    limits = loading.load_architecture(path).limits
    assert limits.threads_per_sm and limits.warps_per_sm and limits.registers_per_block and limits.shared_carveouts
    assert limits.shared_per_sm and limits.shared_per_block and limits.l1_and_shared
    assert limits.threads_per_sm.value == limits.warps_per_sm.value * limits.warp_threads.value
    assert limits.register_file.value == 4 * limits.registers_per_block.value == 256 * 1024
    assert max(limits.shared_carveouts.value) == limits.shared_per_sm.value < limits.l1_and_shared.value
    reserved = limits.shared_reserved_per_block
    assert limits.shared_per_block.value + (reserved.value if reserved else 0) == limits.shared_per_sm.value


def test_profiles_stand_alone() -> None:
    """No profile points at a file that its reader does not have."""
    for path in (*FOLDER.glob("*.yaml"), *FOLDER.glob("networks/*.yaml"), *ARCHITECTURES):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"hardware_facts|04_hardware|/work/|source: \[(local_|derived|arithmetic)", text), path
