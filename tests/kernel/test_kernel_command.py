"""`kvperf kernel`: the list, one kernel, the ladder, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from kvperf.cli import run
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.kernel import toolkit
from kvperf.kernel.account import account
from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.geometry import Shape
from tests.nvrtc import needs_nvrtc

SHAPE = Shape(batch=4, heads=32, kv_heads=8, head_dim=128, seq=4096, dtype="bf16")


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["kernel", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_list_has_every_rung(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("list",)):
        code, out, _ = ran(capsys, *arguments)
        assert code == 0
        assert all(name in out for name in KERNELS)
        assert max(len(line) for line in out.splitlines()) <= 80
    _, out, _ = ran(capsys, "list", "--format", "json")
    assert [k["kernel"] for k in json.loads(out)["kernels"]] == list(KERNELS)


def test_without_nvrtc_the_page_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise KvperfError("NVRTC is not installed", "pip install kvperf[kernels]")

    monkeypatch.setattr(toolkit, "nvrtc", missing)
    code, out, _ = ran(capsys, "show", "split_kv")
    assert code == 0
    said = " ".join(out.split())
    assert "registers and occupancy unknown: NVRTC is not installed: pip install kvperf[kernels]" in said
    assert "splits are chosen as if an SM held one block" in said
    assert "K and V in flight unknown" in said


@needs_nvrtc
def test_a_page_shows_the_launch_the_traffic_and_the_roofs(capsys: pytest.CaptureFixture[str]) -> None:
    shape = ("--heads", "32", "--kv-heads", "8", "--head-dim", "128", "--batch", "4", "--seq", "4096")
    code, out, err = ran(capsys, "show", "split_kv", "--gpu", "h100", *shape)
    assert (code, err) == (0, "")
    for said in ("grid (2, 32, 4) = 256 blocks", "0 bytes spilled", "occupancy 2 blocks an SM", "waves 0.97"):
        assert said in out
    for said in (
        "K and V are read 4.00 times",
        "compulsory 67.17 MB",
        "4.00 FLOP/B compulsory, 0.999 FLOP/B requested",
        "splits 2 of 2048 tokens",
        "requested loads 269 MB: q",
        "partial maxima and sums",
        "L2, requested bytes: 55.3 µs",
        "waiting for bytes in flight: not a limit",
        "issue slots (an estimate): unknown",
        "bound 20.05 µs (hbm) for any kernel",
        "this design: at least 55.27 µs, because of L2, requested bytes",
    ):
        assert said in " ".join(out.split())
    assert max(len(line) for line in out.splitlines()) <= 80


@needs_nvrtc
def test_the_record_agrees_with_the_stage_of_a_model() -> None:
    """The kernel's compulsory bytes and FLOPs are those of `kvperf analyze` for attention alone."""
    import kvperf

    found = account("tensor_cores", SHAPE, load_gpu("h100"))
    stage = kvperf.analyze(gpu="h100", heads=32, kv_heads=8, head_dim=128, batch=4, seq=4096).step
    assert found.compulsory_bytes == stage.compulsory_bytes
    assert found.matrix_flops == stage.matrix_flops
    assert found.bound_s == stage.bound_s
    assert found.mma_utilisation == 4 / 16


@needs_nvrtc
def test_the_original_design_reads_k_and_v_once_a_query_head() -> None:
    h100 = load_gpu("h100")
    for name in ("three_pass", "cached_attention", "flash", "split_kv"):
        assert account(name, SHAPE, h100).reread_factor == 4
    for name in ("vector_loads", "async_ring", "tensor_cores", "persistent", "int8_kv"):
        assert account(name, SHAPE, h100).reread_factor == 1


@needs_nvrtc
def test_the_ladder_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "compare", "--batch", "4", "--format", "csv")
    assert code == 0
    rows = {row["kernel"]: row for row in csv.DictReader(io.StringIO(out))}
    assert set(rows) == set(KERNELS) - {"mla"}
    assert err == "left out: mla does not take head_dim 128\n"
    assert all(row["spill_bytes"] == "0" for row in rows.values())
    assert float(rows["flash"]["l2_s"]) > 3 * float(rows["vector_loads"]["l2_s"])


@needs_nvrtc
def test_mla_has_a_shape_of_its_own() -> None:
    latent = Shape(batch=4, heads=128, kv_heads=1, head_dim=576, seq=4096, dtype="bf16")
    found = account("mla", latent, load_gpu("h100"))
    assert found.matrix_flops == 2 * 4 * 128 * (576 + 512) * 4096
    assert found.compulsory_bytes == 4 * 4096 * 1152 + 2 * 4 * 128 * (576 + 512)


@needs_nvrtc
@pytest.mark.parametrize(
    ("name", "dtype", "kv_dtype"),
    [
        ("tensor_cores", "fp16", "fp16"),
        ("fp8_kv", "bf16", "fp8"),
        ("int8_kv", "bf16", "int8"),
        ("int8_mma", "bf16", "int8"),
    ],
)
def test_compulsory_bytes_are_those_of_the_stage(name: str, dtype: str, kv_dtype: str) -> None:
    """Scales of an INT8 cache included; what is read again is counted without them."""
    import kvperf

    shape = Shape(batch=4, heads=32, kv_heads=8, head_dim=128, seq=4096, dtype=dtype)
    found = account(name, shape, load_gpu("h100"))
    options = {"activation_dtype": dtype, "kv_dtype": kv_dtype}
    stage = kvperf.analyze(gpu="h100", heads=32, kv_heads=8, head_dim=128, batch=4, seq=4096, **options).step  # type: ignore[arg-type]
    assert found.compulsory_bytes == stage.compulsory_bytes
    assert found.bound_s == pytest.approx(stage.bound_s, rel=1e-12)
    assert found.reread_factor == 1


@needs_nvrtc
def test_splits_that_whole_tiles_do_not_give_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "show", "vector_loads", "--splits", "57")
    assert code == 0
    assert "splits 43 of 96 tokens, 64 in the last; 57 were asked for: whole tiles give 43" in " ".join(out.split())
    found = account("vector_loads", SHAPE, load_gpu("h100"), 57)
    assert (found.splits, found.requested_splits, found.split_tokens) == (43, 57, 96)


@needs_nvrtc
def test_a_persistent_grid_is_pieces_or_slots(capsys: pytest.CaptureFixture[str]) -> None:
    """The occupancy counts also where the splits are given."""
    for splits in (None, 1, 8, 32):
        found = account("persistent", SHAPE, load_gpu("h100"), splits)
        held = found.launches[0].occupancy
        assert held is not None
        assert found.launches[0].grid[0] == min(4 * 8 * found.splits, 132 * held.blocks_per_sm)


@needs_nvrtc
def test_mla_brings_its_own_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "show", "mla")
    assert (code, err) == (0, "")
    assert "1 KV heads · head_dim 576" in " ".join(out.split())


@needs_nvrtc
def test_a_cache_that_does_not_fit_is_printed_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (("show", "flash"), ("compare",)):
        code, out, err = ran(capsys, *command, "--batch", "1000", "--seq", "100000", "--format", "json")
        assert code == 1
        assert json.loads(out)
        assert "does not fit: " in err.splitlines()[-1]
        assert err.splitlines()[-1].endswith("h100-sxm has 79.11 GiB")


@needs_nvrtc
def test_a_gpu_that_nothing_is_compiled_for_still_has_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "show", "flash", "--gpu", "b300")
    assert code == 0
    assert "registers and occupancy unknown: the kernels are not compiled for sm_103" in " ".join(out.split())
    assert "NVRTC" not in out


@needs_nvrtc
def test_what_is_unknown_is_left_out_of_the_designs_time_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "show", "tensor_cores", "--gpu", "b200")
    assert "that leaves out what is unknown here: arithmetic; L2, requested bytes" in " ".join(out.split())
    _, out, _ = ran(capsys, "show", "vector_loads")
    assert "leaves out" not in out


@needs_nvrtc
def test_pages_have_a_size_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "show", "paged", "--page-tokens", "128", "--splits", "4")
    assert "pages of 128 tokens" in out
    _, out, _ = ran(capsys, "show", "paged", "--format", "json")
    assert json.loads(out)["page_tokens"] == 64


@needs_nvrtc
def test_markdown_has_headings_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "show", "split_kv_single", "--format", "md")
    assert out.startswith("# split_kv_single: ")
    assert "## Launch split_kv_single\n\n- grid" in out
    assert "| arrival counters |  | 128 | 256 |" in out
    assert "| waiting for bytes in flight |" in out
    _, out, _ = ran(capsys, "list", "--format", "md")
    assert out.splitlines()[1].startswith("| ---")
    for chosen in KERNELS.values():
        assert chosen.changes in out and chosen.buys in out and chosen.title in out


@needs_nvrtc
def test_the_ladder_fits_a_terminal_and_says_what_its_columns_are(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, "compare", "--batch", "4")
    assert code == 0
    assert max(len(line) for line in out.splitlines()) <= 80
    assert out.startswith("h100-sxm (sm_90) · batch 4 · 32 heads")
    assert re.search(r"^flash +1 +128 +0.48 +100 +269 +4.00 +20.1 +55.2 +L2$", out, re.MULTILINE)
    assert "of the first launch" in out


@needs_nvrtc
def test_a_row_says_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "show", "tensor_cores", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(out))
    assert (row["bound_by"], row["launches"], row["slowest_roof"]) == ("hbm", "2", "hbm")
    assert row["mma"].startswith("m16n8k16.bf16=")
    assert int(row["held_bytes_per_sm"]) > 0
    assert float(row["requested_flops_per_byte"]) < float(row["flops_per_byte"])


MISTAKES = [
    (("show", "splitkv"), "unknown kernel 'splitkv'", "did you mean 'split_kv'"),
    (("show", "flash", "--head-dim", "96"), "flash does not take head_dim 96", "64, 128, 256"),
    (("show", "fp8_kv", "--gpu", "a100"), "fp8_kv needs sm_89 or later", "int8_kv"),
    (("show", "bulk_copy", "--gpu", "l40s"), "bulk_copy needs sm_90 or later", "async_ring"),
    (("show", "flash", "--heads", "64", "--kv-heads", "2"), "up to 16 query heads per KV head, not 32", "use"),
    (("show", "cached_attention", "--seq", "100000"), "keeps 100000 scores in shared memory", "flash needs no room"),
    (("show", "flash", "--gpu", "mi300x"), "the kernels are CUDA", "h100"),
    (("show", "flash", "--gpu", "b100"), "does not say its number of SMs", "GPUs that do"),
    (("show", "flash", "--seq", "0"), "seq is 0", "at least 1"),
    (("show", "flash", "--seq", "3000000000"), "3000000000 cached tokens", "at most"),
    (("show", "flash", "--batch", "70000"), "70000 blocks along y: the limit is 65535", "smaller batch"),
    (("show", "flash", "--splits", "2"), "flash does not split a sequence", "split_kv"),
    (("show", "split_kv", "--splits", "129"), "129 splits", "1 to 128"),
    (("show", "flash", "--head-dim", "576"), "flash does not take head_dim 576", "mla takes 576"),
    (("show", "mla", "--kv-heads", "8"), "MLA has one KV head", "--kv-heads 1"),
    (("show", "flash", "--gpu", "v100"), "not compiled for v100-sxm2-32gb (sm_70)", "they are for sm_80"),
    (("compare", "--gpu", "t4"), "not compiled for t4 (sm_75)", "they are for sm_80"),
    (("compare", "--head-dim", "96"), "no kernel takes head_dim 96", "mla takes 576"),
    (("--format", "json", "list"), "no such option", "kvperf kernel --help"),
]


@pytest.mark.parametrize(("arguments", "message", "hint"), MISTAKES, ids=lambda v: " ".join(v) if v else "")
def test_what_no_kernel_runs_is_refused_in_two_lines(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str, hint: str
) -> None:
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    first, second = err.splitlines()
    assert first.startswith("error: ") and message in first
    assert second.startswith("hint: ") and hint in second
    assert "failed" not in first
