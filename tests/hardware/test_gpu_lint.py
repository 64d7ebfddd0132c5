"""Each rule of `kvperf gpus check` finds the fault it is for, and no other rule does."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvperf import files
from kvperf.errors import KvperfError
from kvperf.hardware import lint


def shipped(name: str) -> str:
    return (files.folder("hardware") / f"{name}.yaml").read_text(encoding="utf-8")


def messages(tmp_path: Path, name: str, old: str, new: str) -> list[str]:
    text = shipped(name)
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    findings = lint.check(path).findings
    assert all(finding.where.startswith(f"{path}:") for finding in findings)
    return [finding.message for finding in findings]


SOURCES = "\nsources:\n"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("h100-sxm", "value: 989.4 TFLOP/s", "value: 1978 TFLOP/s", "looks like a 2:4 sparse number"),
        ("h100-sxm", "value: 989.4 TFLOP/s", "value: 1010 TFLOP/s", "is 2.1% above"),
        (
            "h100-sxm",
            "bandwidth: {value: 3.35 TB/s",
            "bandwidth: {value: 3.7 TB/s",
            "of 3.7 TB/s is not bus × clock × pumps = 3.352 TB/s",
        ),
        ("h100-sxm", "pumps: {value: 2", "pumps: {value: 4", "is not bus × clock × pumps"),
        ("h100-sxm", "visible: {value: 84942979072 B", "visible: {value: 96 GiB", "more memory than the card has"),
        ("h100-sxm", "near_capacity: {value: 25 MiB", "near_capacity: {value: 60 MiB", "larger than the L2"),
        (
            "h100-sxm",
            "dtype: bf16, value: 956 TFLOP/s",
            "dtype: bf16, value: 1100 TFLOP/s",
            "gemm of 1100 TFLOP/s is above its roof of 989.4 TFLOP/s:",
        ),
        ("h100-sxm", "value: 3.05 TB/s", "value: 3500 GB/s", "of 3500 GB/s is above its roof of 3350 GB/s:"),
        (
            "h100-sxm",
            "value: 3.05 TB/s",
            "value: 3.5 TB/s",
            "copy_bandwidth of 3.5 TB/s is above its roof of 3.35 TB/s:",
        ),
        (
            "h100-sxm",
            "value: 59.1 TFLOP/s",
            "value: 70 TFLOP/s",
            "vector of 70 TFLOP/s is above its roof of 66.9 TFLOP/s:",
        ),
        ("h200-sxm", "value: 396 GB/s", "value: 784 GB/s", "gpu_link_bandwidth"),
        ("h200-sxm", "value: 55.4 GB/s", "value: 70 GB/s", "host_link_bandwidth"),
        (
            "h200-sxm",
            ", clock: 1980 MHz, note: WMMA",
            ", clock: 1700 MHz, note: WMMA",
            "gemm of 684 TFLOP/s is above",
        ),
        ("rtx-5090", ", clock: 2900 MHz", "", "gemm of 247 TFLOP/s is above"),
        (
            "b300",
            ', stated_reason: "Blackwell Ultra all but removes int8: fp16 is faster"',
            "",
            "is below the fp16 peak of 2250 TFLOP/s",
        ),
        ("mi300x", "value: 1307.4 TFLOP/s", "value: 1.5 PFLOP/s", "above CUs × clock × FLOP/clock/CU = 1.307 PFLOP/s"),
        ("h100-sxm", SOURCES, SOURCES + "  extra: {document: a, page: b}\n", "source 'extra' is never used"),
        ("h100-sxm", "mt4g: {repository: caps-tum/mt4g@4cc5566, ", "mt4g: {", "names neither a document nor"),
        ("h100-sxm", "mt4g: {", "mt4g: {document: both, ", "names neither a document nor"),
        ("h100-sxm", "mt4g@4cc5566, path: sample_results/*.json", "mt4g@4cc5566", "names no table, page or path"),
    ],
)
def test_finds(tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    found = messages(tmp_path, name, old, new)
    assert len(found) == 1
    assert message in found[0]


def test_finds_everything_at_once_with_its_line(tmp_path: Path) -> None:
    text = shipped("h100-sxm").replace("value: 989.4", "value: 1978", 2).replace("value: 3.05 TB/s", "value: 4 TB/s")
    path = tmp_path / "edited.yaml"
    path.write_text(text, encoding="utf-8")
    lines = [int(finding.where.split(":")[-2]) for finding in lint.check(path).findings]
    edited = [i + 1 for i, line in enumerate(text.splitlines()) if "value: 1978 " in line or "value: 4 TB/s" in line]
    assert lines == edited
    assert len(lines) == 3


def test_in_switch_reduction_may_pass_the_wire(tmp_path: Path) -> None:
    """469 GB/s of bus bandwidth on 450 GB/s links: the switch adds, so fewer bytes cross."""
    assert messages(tmp_path, "h100-sxm", "value: 469 GB/s", "value: 480 GB/s") == []


def test_what_cannot_be_loaded_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(KvperfError, match="unknown key"):
        messages(tmp_path, "h100-sxm", "power:", "powr:")


@pytest.mark.parametrize(
    ("name", "unchecked"),
    [
        ("h100-sxm", ()),
        ("t4", ("GDDR6 bandwidth against the memory clock (no memory clock)",)),
        ("b300", ("HBM3e bandwidth against the memory clock (no bus width and no memory clock)",)),
        (
            "b100",
            (
                "peaks against SMs × clock × FLOP/clock/SM (no SM count)",
                "HBM3e bandwidth against the memory clock (no memory clock)",
            ),
        ),
        ("h800-sxm", ("1 reading of another card",)),
    ],
)
def test_says_what_it_could_not_check(name: str, unchecked: tuple[str, ...]) -> None:
    assert lint.check(files.folder("hardware") / f"{name}.yaml").unchecked == unchecked


def test_a_peak_without_a_clock_or_a_rate_and_a_reading_without_a_roof(tmp_path: Path) -> None:
    h20 = lint.check(files.folder("hardware") / "h20.yaml").unchecked
    assert len(h20) == 1 and h20[0].endswith("int8 wgmma against SMs × clock × FLOP/clock/SM (no clock)")
    path = tmp_path / "edited.yaml"
    old = "- {what: gemm, dtype: bf16, value: 956 TFLOP/s"
    path.write_text(shipped("h100-sxm").replace(old, old.replace("bf16", "fp4")), encoding="utf-8")
    assert lint.check(path).unchecked == ("gemm fp4 against their roofs (no such peak or link)",)
