"""From a name to a GPU, and everything that a profile is refused for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kvperf import files
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.model import load_model

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
        (
            BANDWIDTH,
            BANDWIDTH.replace(", source: [stas, aic]", ""),
            "bandwidth: 'source' is missing",
            "write {value: 3.35 TB/s, kind: spec, source: [datasheet]}",
        ),
        (BANDWIDTH, BANDWIDTH.replace("[stas, aic]", "[]"), "with at least one entry", "write [datasheet]"),
        (
            BANDWIDTH,
            BANDWIDTH.replace("spec", "specs"),
            "kind: Invalid value 'specs'",
            "did you mean 'spec'? known: spec, me",
        ),
        (
            BANDWIDTH,
            "bandwidth: 864 GB/s",
            "Expected a mapping {…}, got '864 GB/s'",
            "write {value: 864 GB/s, kind: spec,",
        ),
        (BANDWIDTH, BANDWIDTH.replace("[stas, aic]", "stas"), "Expected a list […], got 'stas'", "write [stas]"),
        (BANDWIDTH, BANDWIDTH.replace("3.35 TB/s", ""), "bandwidth.value: nothing stands here", "leave the whole"),
        (BANDWIDTH, BANDWIDTH.replace("[stas, aic]", "[zzzzzz]"), "unknown source 'zzzzzz'", "add zzzzzz: {document: "),
        (
            "{dtype: bf16, accumulator: fp32, path: wgmma",
            "{dtype: bfloat16",
            "'bfloat16'",
            "did you mean 'bf16'? known",
        ),
        ("architecture: sm_90", "architecture: ada", "unknown architecture 'ada'", "mean 'sm_89', NVIDIA Ada Lovelace"),
        ("architecture: sm_90", "architecture: zzz", "unknown architecture 'zzz'", "known: gfx90a, gfx942,"),
        ("memory: #", "memory: 3\nother: #", "Expected a mapping {…}, got 3", "`kvperf gpus show h100` says where"),
        ("architecture: sm_90", "architecture: sm_91", "unknown architecture 'sm_91'", "'sm_90'"),
        ("schema: kvperf.gpu/1", "schema: kvperf.gpu/9", "kvperf.gpu/9", "write kvperf.gpu/1"),
        ("value: 989.4 TFLOP/s", "value: 1979 TFLOP/s", "looks like a 2:4 sparse number", "stated_reason"),
        ("value: 989.4 TFLOP/s", "value: 1020 TFLOP/s", "3.1% above SMs × clock × FLOP/clock/SM", "stated_reason"),
        ("value: 66.9 TFLOP/s", "value: 61.8 TFLOP/s", "below SMs × clock × FLOP/clock/SM", "stated_reason"),
        ("sms: {value: 132", "sms: {value: 132 SMs", "got '132 SMs'", "write 132"),
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


MODEL = (files.folder("models") / "llama-3.1-8b.yaml").read_text(encoding="utf-8")
ARCHITECTURE = (files.folder("hardware") / "architectures" / "sm_90.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "text", "message", "hint"),
    [
        ("m.yaml", MODEL, "this is a model (kvperf.model/1)", "give it to --model"),
        ("a.yaml", ARCHITECTURE, "this is a GPU architecture (kvperf.architecture/1)", "under 'architecture'"),
        ("config.json", '{"model_type": "llama"}', "this is a model's config.json", "give it to --model"),
        ("config.json", '{\n\t"model_type": "llama"\n}', "this is a model's config.json", "give it to --model"),
        ("c.yaml", "architectures: [LlamaForCausalLM]\n", "this is a model's config.json", "give it to --model"),
    ],
)
def test_another_kind_of_file(tmp_path: Path, name: str, text: str, message: str, hint: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(KvperfError) as problem:
        load_gpu(str(path))
    assert message in problem.value.message
    assert hint in problem.value.hint


def test_a_gpu_profile_is_no_model() -> None:
    with pytest.raises(KvperfError, match=r"this is a GPU profile \(kvperf\.gpu/1\)") as problem:
        load_model(files.folder("hardware") / "h100-sxm.yaml")
    assert problem.value.hint == "give it to --gpu"


def test_a_file_beside_a_wrong_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my-h100.yaml").write_text(H100, encoding="utf-8")
    Path("plain").write_text(H100, encoding="utf-8")
    Path("config.json").write_text('{"architectures": []}', encoding="utf-8")
    for given, hint in (
        ("my-h100", "for a file write ./my-h100.yaml"),
        ("./my-h100", "for a file write ./my-h100.yaml"),
        ("plain", "for a file write ./plain"),
        ("config.json", "give it to --model"),
    ):
        with pytest.raises(KvperfError) as problem:
            load_gpu(given)
        assert problem.value.hint == hint


def test_a_source_may_be_called_source(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(H100.replace("  stas: {", "  source: {").replace("stas,", "source,").replace("stas]", "source]"))
    assert "source" in load_gpu(str(path)).profile.sources
