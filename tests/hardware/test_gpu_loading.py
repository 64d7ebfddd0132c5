"""From a name to a GPU, and everything that a profile is refused for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvperf import files
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu

H100 = (files.folder("hardware") / "h100-sxm.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("h100", "h100-sxm"),
        ("H100", "h100-sxm"),
        ("h100-sxm5", "h100-sxm"),
        ("H100_SXM", "h100-sxm"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-sxm"),
        ("a100", "a100-sxm"),
        ("h200", "h200-sxm"),
        ("v100", "v100-sxm2-32gb"),
        ("4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("  mi300x ", "mi300x"),
    ],
)
def test_names_and_aliases(given: str, name: str) -> None:
    assert load_gpu(given).name == name


@pytest.mark.parametrize(("given", "nearest"), [("h10", "h100"), ("b20", "b200"), ("a100sxm", "a100-sxm")])
def test_a_wrong_name_gets_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(KvperfError) as problem:
        load_gpu(given)
    assert problem.value.message == f"unknown GPU '{given}'"
    assert problem.value.hint == f"did you mean '{nearest}'? `kvperf gpus` lists what there is"


@pytest.mark.parametrize("given", ["", " ", "zzzzzzzz", "architectures"])
def test_a_name_unlike_any_other(given: str) -> None:
    with pytest.raises(KvperfError, match="unknown GPU"):
        load_gpu(given)


def test_a_path_is_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(H100.replace("name: h100-sxm", "name: mine", 1), encoding="utf-8")
    gpu = load_gpu(str(path))
    assert (gpu.name, gpu.path, gpu.architecture.name) == ("mine", path, "sm_90")
    with pytest.raises(KvperfError, match="No such file"):
        load_gpu("./absent")


def refusal(tmp_path: Path, old: str, new: str) -> KvperfError:
    """What the loader says to an H100 profile with one thing changed."""
    assert H100.count(old) >= 1, old
    path = tmp_path / "bad.yaml"
    path.write_text(H100.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(KvperfError) as problem:
        load_gpu(str(path))
    return problem.value


BANDWIDTH = "bandwidth: {value: 3.35 TB/s, kind: spec, source: [stas, aic]}"


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        (BANDWIDTH, BANDWIDTH.replace("3.35 TB/s", "3.35e12"), "'3.35e12' is not a number with a unit", "'3.35 TB/s'"),
        (BANDWIDTH, BANDWIDTH.replace("3.35 TB/s", "3350"), "'3350' has no unit", "'3.35 TB/s'"),
        (BANDWIDTH, BANDWIDTH.replace("3.35 TB/s", "3.35"), "'3.35' has no unit", "'3.35 TB/s'"),
        (BANDWIDTH, BANDWIDTH.replace("TB/s", "TB"), "'3.35 TB' is not in B/s", "'3.35 TB/s'"),
        (BANDWIDTH, BANDWIDTH.replace("TB/s", "tb/s"), "'3.35 tb/s' is not in B/s", "case-sensitive"),
        (BANDWIDTH, BANDWIDTH.replace("3.35", "0"), "0 is not a positive number", "leave out what is unknown"),
        ("80 GiB", "80 gb", "'80 gb' is not in B", "'80 GB'"),
        ("value: 29.9 cycles", "value: 29.9 MHz", "'29.9 MHz' is not in cycles", "'219 cycles'"),
        (BANDWIDTH, BANDWIDTH + "\n    bandwidth: {}", "the key 'bandwidth' stands twice", "delete one"),
        (BANDWIDTH, BANDWIDTH.replace("kind:", "kindd:"), "unknown key 'kindd'", "'kind'"),
        ("  hbm:", "  hbmm: {}\n  hbm:", "unknown key 'hbmm'", "'hbm'"),
        (BANDWIDTH, BANDWIDTH.replace("[stas, aic]", "[stass]"), "unknown source 'stass'", "'stas'"),
        (BANDWIDTH, BANDWIDTH.replace(", source: [stas, aic]", ""), "missing required field `source`", ""),
        (BANDWIDTH, BANDWIDTH.replace("[stas, aic]", "[]"), "length >= 1", ""),
        (BANDWIDTH, BANDWIDTH.replace("spec", "guess"), "guess", ""),
        ("architecture: sm_90", "architecture: sm_91", "unknown architecture 'sm_91'", "'sm_90'"),
        ("schema: kvperf.gpu/1", "schema: kvperf.gpu/9", "kvperf.gpu/9", ""),
        ("value: 989.4 TFLOP/s", "value: 1979 TFLOP/s", "looks like a 2:4 sparse number", "stated_reason"),
        ("value: 989.4 TFLOP/s", "value: 1020 TFLOP/s", "3.1% above SMs × clock × FLOP/clock/SM", "stated_reason"),
        ("value: 66.9 TFLOP/s", "value: 61.8 TFLOP/s", "below SMs × clock × FLOP/clock/SM", "stated_reason"),
        ("sms: {value: 132", "sms: {value: 132 SMs", "Expected `int`, got `str`", ""),
        ("what: read_bandwidth, value: 2.75 TB/s", "what: read_bandwidth, value: 2.75 TFLOP/s", "in B/s", "FLOP/s"),
        ("what: gemm, dtype: bf16,", "what: gemm,", "gemm has no dtype", "dtype: bf16"),
    ],
)
def test_refuses(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    problem = refusal(tmp_path, old, new)
    assert message in problem.message
    assert hint in problem.hint
    line = problem.message.split(".yaml:")[1].split(":")[0]
    assert int(line) == H100[: H100.index(old)].count("\n") + 1 + (new.count("\n") if "twice" in message else 0)


def test_a_wrong_sm_count_contradicts_the_peaks(tmp_path: Path) -> None:
    problem = refusal(tmp_path, "sms: {value: 132", "sms: {value: 114")
    assert "above SMs × clock × FLOP/clock/SM" in problem.message
    assert "SM count" in problem.hint


def test_a_stated_reason_excuses_a_peak(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    old = "value: 989.4 TFLOP/s, kind: spec"
    path.write_text(H100.replace(old, "value: 700 TFLOP/s, stated_reason: capped, kind: spec"), encoding="utf-8")
    assert load_gpu(str(path)).peak("bf16").flops_per_s == 700e12


def test_importing_loads_nothing_heavy() -> None:
    program = (
        "import sys, kvperf.hardware as h; h.load_gpu('h100');"
        "print([m for m in ('numpy', 'rich', 'matplotlib', 'difflib', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
