"""`kvperf analyze` as a user meets it: formats, streams, exit codes, mistakes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvperf
from kvperf.cli import run
from kvperf.record import Analysis
from kvperf.render import table
from kvperf.render.analysis import ceiling_table, headline, stage_table


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["analyze", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_record_is_that_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "--gpu", "h100", "--batch", "16", "--format", "json")
    assert (code, err) == (0, "")
    record = kvperf.analyze(gpu="h100", batch=16)
    assert json.loads(out) == json.loads(msgspec.json.encode(record))
    assert msgspec.json.decode(out, type=Analysis) == record


def test_the_keys_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "--format", "json")
    record = json.loads(out)
    assert record["schema"] == "kvperf.analysis/1"
    assert record["model"]["parameters"] == 8030261248
    stage = {
        *(
            [
                "name",
                "layers",
                "kernels",
                "flops",
                "matrix_flops",
                "weight_bytes",
                "activation_bytes",
                "kv_read_bytes",
                "kv_write_bytes",
            ]
        ),
        *(
            [
                "hbm_bytes",
                "compulsory_bytes",
                "link_bytes",
                "network_bytes",
                "flops_per_byte",
                "mma_utilisation",
                "resources",
                "bound_s",
                "bound_by",
            ]
        ),
        *(
            [
                "ceilings",
                "achievable_s",
                "predicted_s",
                "predicted_low_s",
                "predicted_high_s",
                "calibration",
                "launches",
                "share",
                "covered_by",
            ]
        ),
    }
    assert set(record["stages"][0]) == stage
    assert set(record["stages"][0]["resources"]) == {"tensor_s", "hbm_s", "link_s"}
    ceilings = {"cuda_core_s", "sfu_s", "conversion_s", "l2_s", "launch_s"}
    assert set(record["stages"][0]["ceilings"]) == ceilings
    step = stage - {"name", "layers", "share", "covered_by"}
    step |= {"serial_bound_s", "tokens_per_s_bound", "tokens_per_s_predicted", "host_s", "pipeline_wait_s", "hidden_s"}
    assert set(record["step"]) == step
    workload = {"phase", "batch", "context_tokens", "new_tokens", "requests"}
    workload |= {"weight_dtype", "activation_dtype", "kv_dtype"}
    workload |= {"page_tokens", "fusion", "tp", "pp", "cp", "ep", "attention_dp", "stack", "cuda_graphs", "cache_state"}
    assert workload <= set(record["workload"])
    memory = {
        *("resident_weight_bytes", "kv_cache_bytes", "kv_bytes_per_token", "activation_peak_bytes", "reserve_bytes"),
    }
    assert memory | {"capacity_bytes", "fits", "max_batch", "max_context_tokens"} <= set(record["memory"])


def test_no_format_prints_nan_or_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    for gpu in ("b100", "h20", "mi355x", "t4"):
        options = ("--gpu", gpu, "--model", "llama-3.2-1b", "--seq", "1")
        _, out, _ = ran(capsys, *options, "--format", "json")
        json.loads(out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
        _, out, _ = ran(capsys, *options, "--format", "csv")
        assert not {"nan", "inf", "-inf"} & {cell for row in csv.reader(io.StringIO(out)) for cell in row}


def test_csv_has_a_row_a_stage_in_base_units(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    record = kvperf.analyze()
    assert [row["stage"] for row in rows] == [*(s.name for s in record.stages), "step"]
    for row, stage in zip(rows, (*record.stages, record.step), strict=True):
        assert float(row["bound_s"]) == stage.bound_s
        assert float(row["hbm_s"]) == stage.resources.hbm_s
        assert float(row["kv_read_bytes"]) == stage.kv_read_bytes
        assert float(row["predicted_low_s"]) == stage.predicted_low_s
        assert (row["stack"], row["cuda_graphs"]) == ("vllm", "True")
    assert rows[-1]["host_s"] == str(record.step.host_s)
    assert [row["stage"] for row in rows if row["covered_by"]] == ["kv_update"]


def test_without_a_prediction_its_cells_are_empty(capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown is empty, never 0."""
    for options in (("--stack", "none"), ("--gpu", "mi300x"), ("--fusion", "eager")):
        _, out, _ = ran(capsys, *options, "--format", "csv")
        rows = list(csv.DictReader(io.StringIO(out)))
        absent = {"predicted_s", "predicted_low_s", "predicted_high_s", "calibration", "launches", "host_s"}
        assert {row[name] for row in rows for name in absent} == {""}


def test_markdown_is_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    for options in ((), ("--stack", "none")):
        _, out, _ = ran(capsys, *options, "--format", "md")
        lines = [line for line in out.splitlines() if line.startswith("|")]
        stages = [line.split("|")[1].strip() for line in lines[2:] if not line.startswith("| host ")]
        assert stages == [*(stage.name for stage in kvperf.analyze().stages), "step"]
        assert len({line.count("|") for line in lines}) == 1
        assert {"kernels", "floor MB", "plan FLOP/B", "bound µs"} <= columns(lines[0])  # nothing is left out
        assert ("predicted µs" in columns(lines[0])) is (not options)


def columns(line: str) -> set[str]:
    return {cell.strip() for cell in line.split("|")}


def test_same_input_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    for format in ("table", "json", "csv", "md"):
        assert ran(capsys, "--format", format) == ran(capsys, "--format", format)


ALL_STAGES = [
    "llama-3.1-8b",
    "deepseek-v3.2",
    "deepseek-v4-pro",
    "qwen3-next-80b-a3b",
    "gpt2",
    "nemotron-3-nano-30b-a3b",
]


@pytest.mark.parametrize("model", ALL_STAGES)
def test_tables_fit_a_terminal_of_80_columns(model: str) -> None:
    from rich.console import Console

    for batch in (1, 1024):
        for gpu in ("h100", "b100"):
            record = kvperf.analyze(gpu=gpu, model=model, batch=batch)
            for drawn in (stage_table(record), ceiling_table(record)):
                file = io.StringIO()
                table.on_terminal(drawn, Console(file=file, width=80, force_terminal=True, no_color=True))
                assert "…" not in file.getvalue()
                assert max(len(line) for line in table.plain(drawn).splitlines()) <= 92


@pytest.mark.parametrize("model", ALL_STAGES)
def test_a_table_with_a_prediction_fits_80_columns_in_a_pipe(model: str) -> None:
    steps: list[dict[str, Any]] = [{"batch": 1}, {"batch": 1024}, {"tp": 8, "batch": 64}]
    for options in (*steps, {"phase": "prefill", "seq": 16384}):
        for stack in ("sglang", "trtllm"):
            try:
                record = kvperf.analyze(model=model, stack=stack, cuda_graphs=False, **options)
            except kvperf.KvperfError:  # a degree that does not divide the model
                continue
            drawn = stage_table(record)
            assert "predicted" in "".join(drawn.headers)
            assert max(len(line) for line in table.plain(drawn).splitlines()) <= 80


def test_the_table_says_what_is_predicted_and_by_whose_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys)
    record = kvperf.analyze()
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    assert rows["kv_update"][-2:] == ["in", "attention"]
    for stage in record.stages:
        if stage.predicted_s and not stage.covered_by:
            assert float(rows[stage.name][-2]) == pytest.approx(stage.predicted_s * 1e6, rel=0.01)
            assert rows[stage.name][-1] == f"{100 * stage.share:.1f}"
    assert float(rows["step"][-1]) == pytest.approx((record.step.predicted_s or 0) * 1e6, rel=0.01)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What is printed, each paragraph in one line."""
    return ran(capsys, *arguments)[1].replace("\n  ", " ")


def test_the_summary_says_on_what_a_prediction_rests(capsys: pytest.CaptureFixture[str]) -> None:
    own = said(capsys)
    step = kvperf.analyze().step
    assert step.predicted_s is not None
    ends = f"{(step.predicted_low_s or 0) * 1e3:.3f} ms to {(step.predicted_high_s or 0) * 1e3:.3f} ms"
    assert f"predicted {step.predicted_s * 1e3:.3f} ms (80 % interval {ends})" in own
    assert f"{step.predicted_s / step.bound_s:.2f} × the bound" in own
    assert f"{step.tokens_per_s_predicted:.1f} tokens/s over the batch" in own
    assert f"as vllm runs it, with CUDA graphs, from a cold L2, {step.launches} launches" in own
    assert "constants of the prediction: h100-sxm/vllm; small kernels from publications" in own
    borrowed = said(capsys, "--gpu", "h100-nvl", "--stack", "sglang", "--no-cuda-graphs")
    label = kvperf.analyze(gpu="h100-nvl", stack="sglang").step.calibration
    assert label is not None and label.endswith(", borrowed")
    assert "as sglang runs it, without CUDA graphs" in borrowed
    assert f"BORROWED from {label.removesuffix(', borrowed')}, as h100-nvl/sglang has none" in borrowed


def test_time_beside_the_kernels_has_a_row_of_its_own() -> None:
    record = kvperf.analyze(model="qwen3-0.6b", cuda_graphs=False)
    assert record.step.host_s and record.step.predicted_s
    rows = stage_table(record).rows
    assert (rows[-2][0], rows[-1][0]) == ("host", "step")
    assert rows[-2][-1] == f"{100 * record.step.host_s / record.step.predicted_s:.1f}"


def test_without_a_stack_the_view_is_that_of_the_bound(capsys: pytest.CaptureFixture[str]) -> None:
    for options in (("--stack", "none"), ("--fusion", "eager"), ("--gpu", "mi300x")):
        out = said(capsys, *options)
        assert "predicted" not in out
        assert {"kernels", "FLOP/B", "floor", "share"} <= set(out.partition("embedding")[0].split())


def test_units_stand_in_the_header_and_the_defaults_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys)
    head = out.splitlines()
    assert head[0] == "h100-sxm · llama-3.1-8b · decode · batch 1 · context 4096"
    assert "bf16 weights" in head[1]
    assert head[1].endswith("; vllm")
    assert {"MFLOP", "MB", "predicted", "µs", "%"} <= set(" ".join(head[3:5]).split())


def test_what_does_not_fit_still_prints_and_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "--model", "llama-3.1-70b")
    assert code == 1
    assert "DOES NOT FIT" in out
    assert err.startswith(
        "warning: this step does not fit: it needs 136.2 GiB of the 71.2 GiB that 90% of h100-sxm gives"
    )


def test_a_context_beyond_the_models_maximum_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ran(capsys, "--seq", "131073", "--format", "json")
    assert code == 0
    assert err == "warning: context 131073 is beyond llama-3.1-8b's maximum of 131072 tokens\n"


MISTAKES = [
    (["--gpu", "h1000"], "unknown GPU 'h1000'", "did you mean 'h100'"),
    (["--model", "lama-3.1-8b"], "unknown model 'lama-3.1-8b'", "did you mean 'llama-3.1-8b'"),
    (["--kv-dtype", "fp9"], "unknown number format 'fp9'", "did you mean 'fp8'"),
    (["--explain", "atention"], "unknown stage of this step 'atention'", "did you mean 'attention'"),
    (["--batch", "0"], "--batch 0", "1 or more"),
    (["--batch", "-3"], "--batch -3", "1 or more"),
    (["--batch", "many"], "invalid value for '--batch'", "--help"),
    (["--seq", "0"], "context of 0 tokens", "1 or more"),
    (["--seq", "4k"], "'4k' is not a number of tokens", "4Ki"),
    (["--tp", "3"], "--tp 3 does not divide the 32 query heads", "divides 32"),
    (["--tp", "0"], "--tp 0", "1 or more"),
    (["--stack", "vlm"], "invalid value for '--stack'", "--help"),
    (["--phase", "verify"], "--phase verify needs --new-tokens", "speculated"),
    (["--phase", "verify", "--new-tokens", "5000"], "5000 new tokens don't fit", "--seq"),
    (["--phase", "mixed"], "--phase mixed needs --chunk-tokens", "prompt"),
    (["--phase", "prefill", "--chunk-tokens", "5"], "--chunk-tokens does not go with --phase prefill", "decode"),
    (["--new-tokens", "4"], "one new token a sequence", "--phase verify"),
    (["--contexts", "1024,x"], "'x' is not a whole number", "whole numbers"),
    (["--contexts", "nowhere.txt"], "--contexts nowhere.txt: No such file", "path of a file"),
    (["--contexts", "1,2", "--batch", "3"], "--batch 3 but 2 contexts", "leave --batch out"),
    (["--heads", "32", "--kv-heads", "5"], "32 query heads cannot share 5 KV heads", "divide"),
    (["--heads", "32", "--model", "gpt2"], "--heads and --model", "without a model"),
    (["--kv-heads", "8"], "--kv-heads without --heads", "--heads"),
    (["--head-dim", "64"], "--head-dim without --heads", "--heads"),
    (["--heads", "8", "--weight-dtype", "fp8"], "--weight-dtype means nothing for attention alone", "--model"),
    (["--heads", "8", "--sampling", "top-p"], "--sampling means nothing for attention alone", "--model"),
    (["--chunk-cached", "64"], "--chunk-cached without --chunk-tokens", "how many tokens"),
    (["--chunk-tokens", "64", "--new-tokens", "5"], "--new-tokens 5 beside --chunk-tokens", "one each"),
    (["--contexts", "1024,4096", "--seq", "300"], "--seq 300 beside --contexts", "leave --seq out"),
    (["--contexts", ""], "--contexts is empty", "numbers like"),
    (["--contexts", "\u00b2"], "--contexts \u00b2: No such file", "path of a file"),
    (["--explain", "mlp", "--ceilings"], "--explain and --ceilings", "leave one of them out"),
    (["--explain"], "option '--explain' requires an argument", "kvperf analyze --help"),
    (["--batch", "1" + 400 * "0"], "is beyond any machine", "fewer"),
    (["--seq", "1" + 400 * "0"], "is beyond any machine", "fewer"),
    (["--chunk-tokens", "0"], "0 new tokens", "1 or more"),
    (["--model", ""], "unknown model ''", "kvperf models"),
    (["--page-tokens", "0"], "--page-tokens 0", "1 or more"),
    (["--qkv-gemms", "2"], "--qkv-gemms 2", "fused"),
    (["--memory-fraction", "1.5"], "--memory-fraction 1.5", "0.9"),
    (["--memory-fraction", "nan"], "--memory-fraction nan", "0.9"),
    (["--reserve", "3 gb"], "is not in B", "case-sensitive"),
    (["--explain", "attention", "--format", "csv"], "--explain has no --format csv", "json"),
    (["--output", "no/such/folder/file.json"], "cannot write no/such/folder/file.json", "folder that exists"),
    (["--batchsize", "4"], "no such option: --batchsize", "--help"),
]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_a_mistake_gets_two_lines_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    code, out, err = ran(capsys, *arguments)
    assert code == 2
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]


def test_a_wrong_command_suggests_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analize"]) == 2
    assert capsys.readouterr().err == (
        "error: unknown command 'analize'\nhint: did you mean 'analyze'? `kvperf --help` lists what there is\n"
    )


def test_output_is_whole_or_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "record.json"
    assert ran(capsys, "--format", "json", "--output", str(target)) == (0, "", "")
    assert json.loads(target.read_text())["schema"] == "kvperf.analysis/1"
    below_a_file = target / "below" / "record.json"
    assert ran(capsys, "--output", str(below_a_file))[0] == 2
    onto_a_folder = tmp_path / "folder"
    onto_a_folder.mkdir()
    assert ran(capsys, "--output", str(onto_a_folder))[0] == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "record.json"]


def test_a_device_a_pipe_or_a_link_is_written_to_never_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, link, pipe = tmp_path / "record.json", tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(target)
    assert ran(capsys, "--format", "json", "--output", str(link))[0] == 0
    assert link.is_symlink() and json.loads(target.read_text())["schema"] == "kvperf.analysis/1"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    assert ran(capsys, "--format", "json", "--output", str(pipe))[0] == 0
    assert json.loads(reader.communicate(timeout=20)[0])["schema"] == "kvperf.analysis/1"
    assert pipe.is_fifo()


def test_a_terminal_without_the_signs_still_gets_its_text() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "kvperf", "analyze"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "llama-3.1-8b" in done.stdout and done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_an_error_of_two_lines() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "kvperf", "gpus", "--output", "/dev/full"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot write /dev/full: No space left on device\nhint: ")


def test_contexts_from_a_file_are_those_of_the_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "contexts.txt"
    file.write_text("1024\n4Ki 131072  # three sequences\n")
    assert ran(capsys, "--contexts", str(file)) == ran(capsys, "--contexts", "1024,4096,131072")


def test_a_profile_of_ones_own_is_taken_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = Path(kvperf.__file__).parent.parent / "hardware" / "h100-sxm.yaml"
    mine = tmp_path / "mine.yaml"
    text = shipped.read_text(encoding="utf-8")
    mine.write_text(
        text.replace("bandwidth: {value: 3.35 TB/s, kind: spec", "bandwidth: {value: 6.7 TB/s, kind: measured")
    )
    code, out, _ = ran(capsys, "--gpu", str(mine), "--format", "json")
    assert code == 0
    assert json.loads(out)["gpu"]["hbm_bytes_per_s"] == 6.7e12


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("value: 3.35 TB/s", "value: 3.35e12", "3.35e12"),
        ("value: 80 GiB", "value: 80 gb", "80 gb"),
        ("sms: {value: 132", "sms: {value: 132}\nsms: {value: 132", "twice"),
        ("bandwidth: {value: 3.35", "bandwith: {value: 3.35", "bandwith"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str
) -> None:
    shipped = Path(kvperf.__file__).parent.parent / "hardware" / "h100-sxm.yaml"
    text = shipped.read_text(encoding="utf-8")
    assert old in text
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace(old, new, 1))
    code, out, err = ran(capsys, "--gpu", str(mine))
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert message in first and second.startswith("hint: ")
    assert first.startswith(f"error: {mine}:") and first.split(":")[2].isdigit() and first.split(":")[3].isdigit()


def test_explain_prints_the_formula_its_symbols_and_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "--explain", "attention")
    assert code == 0
    assert "matrix_flops           = 2*H*(D + Dv)*P" in out
    assert "= 67,108,864" in out  # 4·32·128·4096, one layer
    assert "P         = 4,096  query-key pairs under the causal mask" in out
    assert "arXiv:2205.14135" in out
    code, out, _ = ran(capsys, "--explain", "attention", "--format", "json")
    assert json.loads(out)["parts"][0]["layers"] == 32


@pytest.mark.parametrize("name", ALL_STAGES)
def test_the_python_api_refuses_what_the_command_line_could_not_say(name: str) -> None:
    wrong: list[dict[str, Any]] = [{"batch": 1.5}, {"seq": "4096"}, {"contexts": "a.txt"}, {"contexts": [1, 2.5]}]
    for arguments in wrong:
        with pytest.raises(kvperf.KvperfError):
            kvperf.analyze(model=name, **arguments)


def test_the_python_api_lists_and_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert "h100-sxm" in kvperf.gpus() and "llama-3.1-8b" in kvperf.models()
    _, out, _ = ran(capsys, "--format", "json")
    assert kvperf.to_json(kvperf.analyze()) == out


@pytest.mark.parametrize("name", ALL_STAGES)
def test_every_stage_explains_what_the_record_holds(name: str) -> None:
    from kvperf import api
    from kvperf.explanation import explain_stage

    record = kvperf.analyze(gpu="h100", model=name, batch=4)
    gpu, model, workload = api.prepare("h100", name, batch=4)
    for stage in record.stages:
        found = explain_stage(gpu, model, workload, stage.name)
        sums: dict[str, Any] = {}
        for part in found.parts:
            for formula in part.explanation.formulas:
                sums[formula.name] = sums.get(formula.name, 0) + part.layers * formula.value
        for figure in (
            "matrix_flops",
            "weight_bytes",
            "kv_read_bytes",
            "kv_write_bytes",
            "compulsory_bytes",
            "kernels",
        ):
            assert sums.get(figure, 0) == pytest.approx(getattr(stage, figure), rel=1e-12), (stage.name, figure)
        assert found.bound_s == stage.bound_s


def test_a_pipe_that_closes_early_is_no_error() -> None:
    command = f"{sys.executable} -m kvperf analyze | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("h100-sxm · llama-3.1-8b")
    assert done.stderr == ""


def test_mixed_and_chunked_steps_say_what_they_are() -> None:
    mixed = headline(kvperf.analyze(batch=32, chunk_tokens=512, chunk_cached=1536))
    assert mixed.endswith("mixed · batch 32 · context 4096 · and a chunk of 512 after 1536")
    ragged = headline(kvperf.analyze(phase="prefill", contexts=[1024, 4096]))
    assert ragged.endswith("batch 2 · contexts 1024–4096 · 1024–4096 new tokens")
    chunk = kvperf.analyze(phase="prefill", seq=8192, new_tokens=2048)
    assert chunk.workload.phase == "chunk"
    assert "2048 new tokens" in headline(chunk)
