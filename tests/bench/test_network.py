"""A step on the interpreter against float64: decode and prefill, several sequences, and faults that must show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kvperf.bench.attention import Plan
from kvperf.bench.network import Network
from kvperf.bench.outcome import failed
from kvperf.bench.run import architecture_of
from kvperf.bench.step import LIMITS, checked, error_of, read, stages, step
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.inputs import step_workload
from kvperf.kernel import reference
from kvperf.model import load_model
from tests.bench.metronome import Metronome
from tests.nvrtc import needs_nvrtc

pytestmark = needs_nvrtc
TINY = str(Path(__file__).parents[1] / "data" / "bench" / "tiny.yaml")


def network(batch: int = 1, seq: int = 17, new_tokens: int = 1, dtype: str = "fp16", rig: Any = None) -> Network:
    from kvperf.bench.standin import Standin

    rig = rig or Standin(load_gpu("h100"))
    built = Network(load_model(TINY), batch, seq, new_tokens, dtype, 2, rig, architecture_of(rig.facts))
    built.place(1)
    return built


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize(("batch", "seq", "new_tokens"), [(1, 17, 1), (3, 40, 1), (2, 9, 9)])
def test_a_step_is_that_of_the_model(batch: int, seq: int, new_tokens: int, dtype: str) -> None:
    assert error_of(network(batch, seq, new_tokens, dtype)) <= LIMITS[dtype]


@pytest.mark.parametrize("name", ["qkv_projection", "k", "v", "output_projection", "gate_up", "down", "mlp_norm"])
def test_another_weight_shows(name: str) -> None:
    """The reference has read the right ones; the step then runs on others."""
    from kvperf.bench import step as steps

    built = network(batch=2)
    expected = steps.logits(built)
    held = built.weights[1][name].reshape(-1)
    held[...] = held[::-1].copy() if name != "mlp_norm" else 2 * held
    for operation in built.operations():
        operation.call()
    assert reference.relative_error(built.shared["logits"].astype(np.float64), expected) > 5 * LIMITS["fp16"]


def test_a_wrong_step_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    built = network()
    assert checked(built).keys() == {"error", "error_limit"}
    monkeypatch.setattr("kvperf.bench.step.logits", lambda n: np.ones((1, 500)))
    assert checked(built)["refused"].startswith("wrong result: error")


def test_stages_and_step_stand_side_by_side() -> None:
    rig = Metronome(lambda call: 1e-5)
    built, workload = network(rig=rig, dtype="bf16"), step_workload(batch=1, seq=17, weight_dtype="bf16")
    how = Plan(budget_s=0.01)
    alone = stages(rig, load_gpu("h100"), built, workload, how)
    assert [case.subject for case in alone] == [
        "embedding", "attention_norm", "qkv_projection", "rope", "kv_update", "attention", "output_projection",
        "mlp_norm", "mlp", "final_norm", "lm_head", "sampling",
    ]  # fmt: skip
    by_name = {case.subject: case for case in alone}
    assert by_name["mlp"].work.compulsory_bytes == 3 * 128 * 96 * 2
    assert by_name["rope"].flush == "memset-read"  # its tables stay in the L2 otherwise
    readings = read(rig, built, workload, how)
    whole = step(rig, load_gpu("h100"), built, workload, alone, {"error": 1e-3, "error_limit": 2e-3}, readings, how)
    assert all(case.refused is None for case in alone)
    layers = [int(case.shape["layers"]) for case in alone]
    assert whole.beside["sum of stages"] == pytest.approx(sum(layers) * 1e-5)
    short = step(rig, load_gpu("h100"), built, workload, [failed(alone[0], "why"), *alone[1:]], {}, readings, how)
    assert "sum of stages" not in short.beside  # a part of it would pass for the whole
    assert whole.error == 1e-3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("gpt2", "LayerNorm"),
        ("mixtral-8x7b", "another FFN"),
        ("qwen3-8b", "QK norms"),
        ("qwen2.5-7b", "a bias"),
        ("gemma-3-1b", "layers of several kinds"),
    ],
)
def test_what_is_not_built_is_said(name: str, why: str) -> None:
    rig = Metronome(lambda call: 1e-5)
    with pytest.raises(KvperfError, match=why):
        Network(load_model(name), 1, 16, 1, "bf16", 1, rig, architecture_of(rig.facts))
