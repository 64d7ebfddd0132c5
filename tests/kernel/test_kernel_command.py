"""`kvperf kernel`: the list, one kernel, the ladder, and what it refuses."""

from __future__ import annotations

import csv
import io
import json

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
    assert "registers and occupancy unknown: NVRTC is not installed" in out


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
        "L2, requested bytes: 55.3 µs",
        "bound 20.05 µs",
    ):
        assert said in out
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
    (("compare", "--head-dim", "96"), "does not take head_dim 96", "64, 128, 256"),
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
