"""`kvperf kernel verify`: what is right passes, what is wrong ends with exit 1, what cannot run is said."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from kvperf.cli import run
from kvperf.emulator import SCHEDULES, Fault
from kvperf.hardware import load_gpu
from kvperf.kernel import reference, verify
from kvperf.kernel.catalogue import KERNELS
from kvperf.kernel.trial import Case, Result, execute, small
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["kernel", "verify", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_right_kernel(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "split_kv", "vector_loads")
    assert (code, err) == (0, "")
    assert out.count("right") == 2
    assert max(len(line) for line in out.splitlines()) <= 80
    assert out.startswith("h100-sxm (sm_90) · bf16 · S 1–200 · splits 1, 2, 3 · random, rising values\nschedules: ")
    assert "limit" not in out.split("right")[-1]
    assert re.search(r"^split_kv +1–200 +6 ", out, re.MULTILINE)


def test_what_the_error_of_tensor_cores_in_bf16_is_of_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "tensor_cores", "--seq", "20")
    assert "on tensor cores in bf16: the error before the result is rounded to bf16" in out
    _, out, _ = ran(capsys, "tensor_cores", "--seq", "20", "--dtype", "fp16")
    assert "on tensor cores" not in out


def test_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ran(capsys, "flash", "--seq", "33", "--dtype", "bf16", "--gpu", "a100", "--format", "json")
    found = json.loads(out)
    assert found["schema"] == "kvperf.kernel-verification/1"
    assert found["capability"] == "80"
    for verdict in found["verdicts"]:
        assert verdict["requested_bytes"] == verdict["predicted_bytes"] == 2 * 33 * 2 * 128 * 2
        assert 0 < verdict["error"] < verdict["limit"]
    _, out, _ = ran(capsys, "flash", "--seq", "33", "--format", "csv")
    assert {row["verdict"] for row in csv.DictReader(io.StringIO(out))} == {"right"}


def test_what_the_gpu_does_not_run_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ran(capsys, "flash", "bulk_copy", "--seq", "5", "--gpu", "a100")
    assert code == 0
    assert "bulk_copy" not in out
    assert err == "left out: bulk_copy needs sm_90 or later, not sm_80\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("flsh",), "unknown kernel 'flsh'"),
        (("flash", "--gpu", "mi300x"), "the kernels are CUDA: mi300x does not run them"),
        (("flash", "--gpu", "v100"), "the kernels are not compiled for v100-sxm2-32gb (sm_70)"),
        (("flash", "--gpu", "b300"), "the kernels are not compiled for b300 (sm_103)"),
        (("flash", "--dtype", "fp32"), "flash does not take fp32 queries"),
        (("flash", "--seq", "0"), "seq"),
        (("bulk_copy", "--gpu", "a100"), "bulk_copy needs sm_90"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str) -> None:
    code, out, err = ran(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 2


def _spoilt(monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
    def wrong(case: Case) -> Result:
        return spoil(execute(case))

    monkeypatch.setattr(verify, "execute", wrong)


def _fault(result: Result) -> Result:
    raise Fault("bounds", "k is read past its end", "mask the tail")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: replace(r, found=r.found * 1.01), "2 wrong"),
        (lambda r: replace(r, found=np.full_like(r.found, math.nan)), "2 wrong"),
        (lambda r: replace(r, counts=r.counts * 2), "2 wrong"),
        (_fault, "k is read past its end"),
    ],
    ids=["result", "nan", "traffic", "fault"],
)
@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_a_wrong_kernel_ends_with_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, spoil: Any, said: str, format: str
) -> None:
    _spoilt(monkeypatch, spoil)
    code, out, err = ran(capsys, "flash", "--seq", "5", "--format", format)
    assert code == 1
    assert said in out + err or format != "table"
    assert "NaN" not in out
    assert "wrong" in out


@pytest.mark.parametrize("gpu", ["a100", "b200", "rtx-5090"])
def test_the_kernels_are_right_on_other_architectures(gpu: str) -> None:
    """The compiler's choice of instructions differs: sm_80 converts bf16 by shifts."""
    found = verify.verify(list(KERNELS), load_gpu(gpu), "bf16", 20)
    assert found.right
    assert len(found.left_out) == (2 if gpu == "a100" else 0)


def test_every_kernel_has_trials_on_the_gpu_it_is_for() -> None:
    arch = verify.capability(load_gpu("h100"))
    for name in KERNELS:
        chosen = list(verify.cases(name, arch, "fp16"))
        assert {case.schedule for case in chosen} == set(SCHEDULES)
        assert {case.splits for case in chosen} >= {1, 3}


def test_a_result_that_is_not_the_rounding_of_its_sums_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit off in one element of the stored result, far below any norm: it is still no rounding."""
    whole = verify.execute

    def one_bit_off(case: Case) -> Result:
        result = whole(case)
        if not case.output_fp32:
            bits = reference.encode(result.found, "bf16")
            bits.reshape(-1)[7] ^= 1
            result = replace(result, found=reference.decode(bits, "bf16"))
        return result

    case = small("tensor_cores", dtype="bf16", seq=33)
    assert verify.judge(case).verdict == "right"
    monkeypatch.setattr(verify, "execute", one_bit_off)
    assert verify.judge(case).verdict == "wrong"
