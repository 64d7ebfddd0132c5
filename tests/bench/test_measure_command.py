"""`kvperf bench` without a GPU: the interpreter path end to end, and what a wrong call prints."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kvperf.bench.facts import facts
from kvperf.bench.monitor import Monitor, slowdown
from kvperf.bench.record import read
from kvperf.bench.run import profile_of
from kvperf.cli import run as kvperf
from tests.nvrtc import needs_nvrtc

TINY = str(Path(__file__).parents[1] / "data" / "bench" / "tiny.yaml")
ROOT = Path(__file__).parents[2]
no_cupy = pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="with CuPy there may be one")


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = kvperf(["bench", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@no_cupy
@pytest.mark.parametrize("command", [[], ["ceilings"], ["attention"], ["stages"], ["step"]])
def test_without_a_gpu_it_says_so_and_exits_3(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    code, out, err = ran(capsys, *command)
    assert (code, out) == (3, "")
    assert err.count("\n") == 2
    assert err.startswith("error: no GPU to measure on")
    assert "--emulate" in err and "kvperf bench show" in err


@needs_nvrtc
def test_emulated_attention(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    names = ["--kernel", "vector_loads", "--kernel", "mla"]
    code, out, err = ran(capsys, "attention", "--emulate", "--seq", "5,33", *names, "--record", str(file))
    assert code == 0
    assert "left out: mla" in err and f"record: {file}" in err
    assert "nothing was timed" in out and "vector_loads" in out
    record = read(file)
    assert record.emulated and record.complete
    assert [case.shape["seq"] for case in record.cases] == [5, 33]
    assert all(case.verdict == "requests what the closed form says" for case in record.cases)
    assert record.environment.capability == "90"
    assert len(record.left_out) == 1 and record.left_out[0].startswith("mla ")
    assert err.count("left out") == 1  # once for both shapes


@needs_nvrtc
def test_an_emulated_record_does_not_land_among_reports(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    file = tmp_path / "reports" / "record.json"
    code, out, err = ran(capsys, "attention", "--emulate", "--record", str(file))
    assert code == 2 and "an emulated record is no measurement" in err
    assert not file.exists() and out == ""


@needs_nvrtc
def test_a_wrong_kernel_exits_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text("def zero(q, k, v, out):\n    out[...] = 0\n")
    arguments = ["attention", "--emulate", "--dtype", "fp16", "--kernel", f"{mine}:zero"]
    code, out, _ = ran(capsys, *arguments, "--record", str(tmp_path / "r.json"))
    assert code == 1
    squeezed = "".join(out.split())  # a long path is folded anywhere
    assert "refused:" in squeezed and "mine.py:zerocold" in squeezed and "wrongresult:error1," in squeezed


@needs_nvrtc
def test_emulated_ceilings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, _ = ran(capsys, "ceilings", "--emulate", "--record", str(tmp_path / "r.json"))
    assert code == 0
    cases = read(tmp_path / "r.json").cases
    assert all(case.refused is None for case in cases)
    assert {case.subject for case in cases} >= {"read", "triad", "l2_read", "mma_sync_bf16", "exp2"}


@needs_nvrtc
def test_emulated_step(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["step", "--emulate", "--model", TINY, "--seq", "33", "--batch", "2"]
    code, _, _ = ran(capsys, *arguments, "--record", str(tmp_path / "r.json"))
    assert code == 0
    *stages, case = read(tmp_path / "r.json").cases
    assert case.error is not None and case.error_limit is not None and 0 < case.error <= case.error_limit
    assert {"rope", "attention", "mlp", "sampling"} <= {stage.subject for stage in stages}
    assert next(s for s in stages if s.subject == "embedding").counts["loads table"] == 2 * 128 * 2


@needs_nvrtc
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--emulate", "--batch", "1,x"], "--batch '1,x' is no list of numbers"),
        (["attention", "--regime", "hot"], "unknown regime 'hot'"),
        (["attention", "--emulate", "--regime", "cold"], "--regime with --emulate: readings need a GPU"),
        (["attention", "--flush", "memset", "--emulate"], "--flush with --emulate: readings need a GPU"),
        (["attention", "--emulate", "--budget", "10"], "--budget with --emulate: readings need a GPU"),
        (["ceilings", "--budget", "0", "--emulate"], "--budget with --emulate: readings need a GPU"),
        (["step", "--emulate", "--budget", "1"], "--budget with --emulate: readings need a GPU"),
        (["attention", "--emulate", "--seq", ""], "--seq '' is no list of numbers"),
        (["attention", "--emulate", "--batch", "1,"], "--batch '1,' is no list of numbers"),
        (["attention", "--emulate", "--seq", "0"], "seq is 0"),
        (["attention", "--emulate", "--kernel", ""], "unknown kernel ''"),
        (["attention", "--emulate", "--kv-dtype", ""], "unknown KV format ''"),
        (["attention", "--emulate", "--gpu", ""], "unknown GPU ''"),
        (
            ["attention", "--emulate", "--record", "a.json", "--output", "./a.json"],
            "--record and --output are one file",
        ),
        (["attention", "--emulate", "--record", "none/a.json"], "cannot write none/a.json"),
        (["attention", "--emulate", "--kv-dtype", "fp4"], "unknown KV format 'fp4'"),
        (["attention", "--emulate", "--kernel", "split_vk"], "unknown kernel 'split_vk'"),
        (["attention", "--emulate", "--kernel", "a.py:f"], "a.py: no such file"),
        (["attention", "--emulate", "--heads", "3", "--kv-heads", "2"], "3 heads cannot share 2 KV heads"),
        (["attention", "--emulate", "--head-dim", "96"], "head_dim 96"),
        (["attention", "--emulate", "--against", "cudnn"], "unknown library 'cudnn'"),
        (["ceilings", "--emulate", "--write-profile", "x.yaml"], "--write-profile with --emulate"),
        (["--emulate", "attention"], "--emulate stands before the command"),
        (["step", "--emulate"], "GB are free"),
        (["step", "--emulate", "--model", "deepseek-v3"], "not built on the GPU yet"),
        (["step", "--emulate", "--model", TINY, "--layers", "9"], "--layers 9"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err and "\nhint: " in err
    assert "Traceback" not in err and "kept" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--seed", "-1"], "'--seed': -1 is not in the range x>=0"),
        (["ceilings", "--budget", "-0.5"], "'--budget': -0.5 is not in the range x>=0"),
        (["step", "--budget", "nan"], "'--budget': it is no number of seconds"),
        (["--seed", "-3"], "'--seed': -3 is not in the range x>=0"),
        (["attention", "--flush", "broom"], "'broom' is not one of 'rotation', 'memset', 'memset-read'"),
    ],
)
def test_what_no_option_takes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err and "--help` lists what it takes" in err


def test_help_says_what_bench_does_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "--help")
    assert code == 0 and "Without a command: the ceilings and the ladder at the default shape" in out
    for command in ("ceilings", "attention", "step"):
        assert "0: the fewest rounds" in " ".join(ran(capsys, command, "--help")[1].split())


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert kvperf(["doctor"]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("NVRTC", "driver", "CuPy", "NVML", "disassembler"))
    assert kvperf(["doctor", "--format", "json"]) == 0
    assert '"schema":"kvperf.doctor/1"' in capsys.readouterr().out.replace(" ", "")


def test_only_one_file_calls_the_gpu() -> None:
    callers = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "kvperf").rglob("*.py")
        if "import cupy" in file.read_text(encoding="utf-8")
    }
    assert callers == {"kvperf/bench/device.py"}
    assert len((ROOT / "kvperf/bench/device.py").read_text(encoding="utf-8").splitlines()) <= 200


def test_the_script_for_a_gpu_is_shell() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "scripts" / "gpu_run.sh")], check=True)


class Nvml:
    """An NVML that answers some questions."""

    class NVMLError(Exception):
        pass

    def nvmlSystemGetDriverVersion(self) -> bytes:  # noqa: N802
        return b"580.1"

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 512_000

    def nvmlDeviceGetMaxClockInfo(self, handle: str, domain: int) -> int:  # noqa: N802
        return {1: 1980, 2: 3201}[domain]

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return 0x4 | 0x40

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        raise self.NVMLError


def test_what_nvml_does_not_answer_is_unknown() -> None:
    found = Monitor(Nvml(), "gpu").conditions()
    assert (found.power_w, found.temperature_c, found.memory_clock_hz) == (512, None, None)
    assert found.throttled == "power cap, hardware thermal"
    assert slowdown(0x1) is None  # idle


def test_facts_of_a_driver() -> None:
    attributes = {"MultiProcessorCount": 132, "L2CacheSize": 60 << 20, "MemoryClockRate": 1, "EccEnabled": 1}
    found = facts("NVIDIA H200", "90", attributes, 13000, Monitor(Nvml(), "gpu"))
    assert (found.sm_clock_max_hz, found.memory_clock_max_hz) == (1980e6, 3201e6)
    assert (found.cuda, found.driver, found.ecc, found.mig) == ("13.0", "580.1", True, None)
    bare = facts("NVIDIA H200", "90", attributes, 13000, None)
    assert (bare.sm_clock_max_hz, bare.memory_clock_max_hz, bare.driver) == (None, 1e3, None)
    gpu = profile_of(found, None)
    assert gpu is not None and gpu.name == "h200-sxm"
    assert profile_of(facts("Some GPU", "90", attributes, 13000, None), None) is None


def test_the_script_finds_the_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    """Its one line of Python, on what `kernel list` prints."""
    from kvperf.kernel.catalogue import KERNELS

    text = (ROOT / "scripts" / "gpu_run.sh").read_text(encoding="utf-8")
    (line,) = re.findall(r"-c '(import json.*)'\)", text)
    assert kvperf(["kernel", "list", "--format", "json"]) == 0
    listing = capsys.readouterr().out
    found = subprocess.run([sys.executable, "-c", line], input=listing, capture_output=True, text=True, check=True)
    assert found.stdout.split() == list(KERNELS)
