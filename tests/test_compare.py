"""`kvperf compare`: each column is `kvperf.analyze` for its combination, side by side in 80 columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

import kvperf
from kvperf.cli import run
from kvperf.comparison import BEST_MOST, SEVERAL, Column, Comparison, compare
from kvperf.predict.step import COLLECTIVES
from kvperf.render.comparison import metrics, tables
from kvperf.render.table import plain

SCHEMA = Path(kvperf.__file__).parent / "schemas" / "comparison-1.json"
LLAMA_70B = ("--gpu", "h100,h200,b200", "--model", "llama-3.1-70b")


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["compare", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def record(capsys: pytest.CaptureFixture[str], *arguments: str) -> Comparison:
    code, out, _ = ran(capsys, *arguments, "--format", "json")
    assert code == 0
    return msgspec.json.decode(out, type=Comparison)


def same_figures(column: Column, **options: Any) -> None:
    """The column's figures are those of the analysis of these options."""
    found = kvperf.analyze(**options)
    step, kept = found.step, found.memory
    for name in ("bound_s", "bound_by", "predicted_s", "predicted_low_s", "predicted_high_s", "tokens_per_s_predicted"):
        assert getattr(column, name) == getattr(step, name)
    for name in ("resident_weight_bytes", "kv_cache_bytes", "fits", "spare_bytes", "max_batch", "max_context_tokens"):
        assert getattr(column, name) == getattr(kept, name)
    assert kept.capacity_bytes is not None and column.needed_bytes is not None
    assert kept.capacity_bytes * kept.usable_fraction - column.needed_bytes == pytest.approx(kept.spare_bytes)
    assert (column.gpus, column.nodes, column.warnings) == (found.workload.gpus, found.workload.nodes, found.warnings)
    if step.predicted_s is None or step.tokens_per_s_predicted is None:
        assert column.tokens_per_s_per_gpu is column.communication_s is None
        return
    assert column.tokens_per_s_per_gpu == step.tokens_per_s_predicted / found.workload.gpus
    talking = sum(stage.predicted_s or 0 for stage in found.stages if stage.name in COLLECTIVES)
    assert column.communication_s == pytest.approx(talking)
    assert column.communication_share == pytest.approx(talking / step.predicted_s)
    assert column.tokens_per_s_per_user == (1 / step.predicted_s if found.workload.phase == "decode" else None)


def test_every_column_is_the_analysis_of_its_combination(capsys: pytest.CaptureFixture[str]) -> None:
    found = record(capsys, *LLAMA_70B, "--tp", "4,8", "--batch", "16", "--seq", "8Ki")
    assert found.varied == ("gpu", "tp")
    assert [column.label for column in found.columns] == [
        *("h100-sxm TP 4", "h100-sxm TP 8", "h200-sxm TP 4", "h200-sxm TP 8", "b200 TP 4", "b200 TP 8"),
    ]
    for column, (gpu, tp) in zip(
        found.columns, [(g, t) for g in ("h100", "h200", "b200") for t in (4, 8)], strict=True
    ):
        same_figures(column, gpu=gpu, model="llama-3.1-70b", tp=tp, batch=16, seq=8192)
        assert column.options["tp"] == tp and column.options["batch"] == 16


@pytest.mark.parametrize(
    "options",
    [
        {"gpu": ["h100", "mi300x"]},
        {"model": ["llama-3.1-8b", "qwen3-next-80b-a3b"], "gpu": "h200", "tp": 2},
        {"weight_dtype": ["bf16", "fp8"], "kv_dtype": ["bf16", "fp8"]},
        {"stack": ["vllm", "sglang", "none"], "phase": "prefill"},
        {"batch": [1, 64], "chunk_tokens": 512},
        {"cluster": ["h100-sxm:8x2", "h200-sxm:8x2"], "model": "llama-3.1-70b", "tp": 8, "pp": [1, 2]},
        {"model": "deepseek-v3", "gpu": "b200", "attention_dp": [1, 8], "tp": 8, "ep": [8, 1], "batch": 64},
    ],
)
def test_every_kind_of_option_may_have_several_values(options: dict[str, Any]) -> None:
    found = compare(**options)
    assert set(found.varied) == {name for name, value in options.items() if isinstance(value, list)}
    for column in found.columns:
        same_figures(column, **(options | {name: column.chosen[name] for name in found.varied}))


def test_the_command_takes_every_option_of_analyze(capsys: pytest.CaptureFixture[str]) -> None:
    flags = []
    for command in ("analyze", "compare"):
        assert run([command, "--help"]) == 0
        words = capsys.readouterr().out.split()
        flags.append({word for word in words if word.startswith("--") and word.strip("-").replace("-", "").isalpha()})
        several = words.count("Several:")
    assert flags[0] - flags[1] <= {"--explain", "--ceilings"}
    assert several == len(SEVERAL)


def test_what_is_impossible_is_a_column_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "--tp", "1,3,8")
    assert code == 0
    assert "not possible: --tp 3 does not divide the 32 query heads: TP 3\n" in out
    (line,) = [line for line in out.splitlines() if line.startswith("bound by")]
    assert line.split() == ["bound", "by", "hbm", "–", "hbm"]
    one, three, eight = record(capsys, "--tp", "1,3,8").columns
    assert three.refused == "--tp 3 does not divide the 32 query heads"
    assert three.bound_s is three.fits is None and three.best == ()
    assert three.options["gpu"] == one.options["gpu"] == "h100-sxm"
    assert one.refused is eight.refused is None


def test_where_nothing_is_possible_the_first_reason_is_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "--tp", "3,5")
    assert (code, out) == (2, "")
    assert err.startswith("error: --tp 3 does not divide the 32 query heads\nhint: ")


def test_what_does_not_fit_is_compared_and_never_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "--model", "llama-3.1-70b", "--tp", "1,4,8")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if line.startswith("fits")]
    assert line.split() == ["fits", "NO", "yes", "yes"]
    alone, *spread = record(capsys, "--model", "llama-3.1-70b", "--tp", "1,4,8").columns
    assert alone.fits is False and alone.best == ()
    rates = [column.tokens_per_s_per_gpu or 0 for column in spread]
    assert (alone.tokens_per_s_per_gpu or 0) > max(rates)  # and yet it is none
    assert ["tokens_per_s_per_gpu" in column.best for column in spread] == [rate == max(rates) for rate in rates]
    assert "* best of what fits\n" in out


def test_the_best_of_a_row_is_marked_and_ties_are_not() -> None:
    found = compare(gpu=["h100", "h200"], batch=1)
    h100, h200 = found.columns
    assert h100.best == ()  # both hold longer contexts than the model takes
    assert set(h200.best) == {"bound_s", "predicted_s", *BEST_MOST} - {"max_context_tokens"}
    (table,) = tables(found)
    rows = {row[0]: row[1:] for row in table.rows}
    assert [cell.strip() for cell in rows["bound by"]] == ["hbm", "hbm"]
    marked = [metric.name for metric in metrics(found) if metric.figure in h200.best]
    assert [name for name, cells in rows.items() if cells[1].endswith("*")] == marked
    assert not any("*" in cells[0] for cells in rows.values())


def test_a_row_has_one_unit_for_all_columns() -> None:
    (table,) = tables(compare(gpu=["b200", "t4"], model="llama-3.2-1b"))
    cells = {row[0]: [float(cell.strip(" *")) for cell in row[1:]] for row in table.rows if row[0] == "bound ms"}
    assert cells["bound ms"] == pytest.approx(
        [1e3 * kvperf.analyze(gpu, "llama-3.2-1b").step.bound_s for gpu in ("b200", "t4")], rel=0.01
    )


WIDE: list[dict[str, Any]] = [
    {"gpu": ["h100", "h200", "b200", "l4", "rtx-pro-6000"]},
    {"gpu": ["h100", "b200"], "tp": [4, 8], "model": "llama-3.1-70b"},
    {"model": ["nemotron-3-nano-30b-a3b", "qwen3-next-80b-a3b", "deepseek-v3", "llama-3.1-70b"], "tp": 8},
    {"weight_dtype": ["bf16", "fp8-block"], "kv_dtype": ["bf16", "fp8"], "stack": ["sglang", "vllm", "none"]},
    {"gpu": ["rtx-pro-6000", "b200"], "model": ["nemotron-3-nano-30b-a3b", "llama-3.1-70b"], "tp": [1, 3, 8]},
    {"cluster": ["h100-sxm:8x2", "h200-sxm:8x2"], "model": "llama-3.1-405b", "tp": 8, "pp": [1, 2]},
    {"heads": 32, "gpu": ["h100", "t4"], "batch": [1, 4096]},
    {"gpu": ["h100", "b200"], "batch": 1024, "phase": "prefill"},
]


@pytest.mark.parametrize("options", WIDE)
def test_everything_fits_80_columns(options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    text = [
        (f"--{n.replace('_', '-')}", ",".join(map(str, v)) if isinstance(v, list) else str(v))
        for n, v in options.items()
    ]
    code, out, _ = ran(capsys, *(word for pair in text for word in pair))
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80


@pytest.mark.parametrize("options", WIDE)
def test_no_figure_is_left_out_where_the_table_is_turned(options: dict[str, Any]) -> None:
    found = compare(**options)
    text = "\n".join(plain(table) for table in tables(found))
    for metric in metrics(found):
        for column in found.columns:
            assert column.refused is not None or metric.text(column) in text
    if len(found.columns) > 5:
        assert all(len(table.rows) == len(found.columns) for table in tables(found))


def test_the_head_says_what_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, *LLAMA_70B, "--tp", "4", "--kv-dtype", "fp8", "--batch", "8")
    first, second, third, *_ = out.splitlines()
    assert first == "llama-3.1-70b · decode · batch 8 · context 4096"
    assert second == "TP 4"
    assert third.startswith("bf16 weights, bf16 activations, fp8 KV; ") and third.endswith("; vllm")
    _, out, _ = ran(capsys, "--batch", "1,8", "--tp", "2")
    assert out.startswith("h100-sxm × 2 · llama-3.1-8b · decode · context 4096\nTP 2\n")


def test_what_differs_by_default_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Checkpoints differ in their formats: neither the head nor the headers say which."""
    _, out, _ = ran(capsys, "--model", "llama-3.1-8b,deepseek-v3", "--tp", "8")
    (line,) = [line for line in out.splitlines() if line.startswith("weights  ")]
    assert line.split() == ["weights", "bf16", "fp8-block"]
    assert "uniform routing" in out


def test_csv_has_a_row_a_column_in_base_units(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "--tp", "1,3,8", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    columns = record(capsys, "--tp", "1,3,8").columns
    assert [row["label"] for row in rows] == [column.label for column in columns] == ["TP 1", "TP 3", "TP 8"]
    for row, column in zip(rows, columns, strict=True):
        assert row["tp"] == str(column.options["tp"])
        if column.refused:
            assert row["refused"] == column.refused and row["bound_s"] == row["fits"] == ""
            continue
        assert float(row["bound_s"]) == column.bound_s and float(row["needed_bytes"]) == column.needed_bytes
        assert row["best"].split() == list(column.best)


def test_json_has_what_the_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))["$defs"]
    _, out, _ = ran(capsys, "--tp", "1,3", "--format", "json")
    found = json.loads(out, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert found["schema"] == "kvperf.comparison/1"
    assert set(found) == set(schema["Comparison"]["properties"])
    for column in found["columns"]:
        assert set(column) == set(schema["Column"]["properties"])
    assert msgspec.json.decode(out, type=Comparison) == compare(tp=[1, 3])


def test_markdown_is_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, *LLAMA_70B, "--tp", "4,8", "--format", "md")
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert code == 0 and {line.count("|") for line in lines} == {8}
    assert "| h100-sxm TP 4 |" in lines[0]
    assert "**" in out and "- bold: best of all\n" in out


def test_the_output_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "compared.txt"
    assert ran(capsys, "--gpu", "h100,h200", "--output", str(file)) == (0, "", "")
    assert file.read_text(encoding="utf-8") == ran(capsys, "--gpu", "h100,h200")[1]


def test_a_warning_is_said_once_with_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = ran(capsys, "--gpu", "h100,mi300x", "--batch", "1,2")
    assert err.startswith("warning: mi300x batch 1, mi300x batch 2: no prediction: ") and err.count("\n") == 1
    _, _, err = ran(capsys, "--gpu", "h100,h200", "--seq", "200000")
    assert err.startswith("warning: context 200000 is beyond llama-3.1-8b's maximum")


def test_two_gpus_of_one_name_keep_the_names_they_were_given() -> None:
    assert [column.label for column in compare(gpu=["h100", "h100-sxm"]).columns] == ["h100", "h100-sxm"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ([], "compare needs two or more", "--gpu h100,h200"),
        (["--gpu", "h100"], "compare needs two or more", "comma list"),
        (["--gpu", "h100,"], "a value is missing", "a,b"),
        (["--gpu", "h100,h2000"], "unknown GPU 'h2000'", "h200"),
        (["--model", "llama-3.1-8b,llama-3.1-8"], "unknown model 'llama-3.1-8'", "llama-3.1-8b"),
        (["--stack", "vllm,vlm"], "unknown stack 'vlm'", "sglang"),
        (["--kv-dtype", "bf16,fp9"], "unknown number format 'fp9'", "fp8"),
        (["--tp", "4,eight"], "--tp 'eight' is not a whole number", "--tp 4,8"),
        (["--batch", "0,1"], "--batch '0' is not a whole number", "--batch 4,8"),
        (["--tp", "2,2"], "--tp has 2 twice", "leave one"),
        (["--gpu", "h100,h200,b200,l4,l40s,a40,a100", "--tp", "1,2"], "7 --gpu × 2 --tp would be 14 columns", "12"),
        (["--batch", "1,2,3,4,5,6,7,8,9,10,11,12,13"], "13 --batch would be 13 columns", "12"),
        (["--gpu", "h100", "--cluster", "h100:8x2,h100:8x1"], "--gpu h100 beside --cluster", "leave --gpu out"),
        (["--gpu", "h100,h200", "--seq", "4k"], "4k", "4Ki"),
        (["--gpu", "h100,h200", "--explain", "attention"], "no such option: --explain", "kvperf compare --help"),
        (["--gpu", "h100,h200", "--memory-fraction", "2"], "--memory-fraction 2.0 is no share", "0.9"),
    ],
)
def test_a_mistake_is_two_lines_and_exit_2(
    arguments: list[str], message: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ") and message in first
    assert second.startswith("hint: ") and hint in second
