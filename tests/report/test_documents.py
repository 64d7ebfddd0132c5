"""A report on anything: every model, every GPU, every phase; and what it says of a few that are known."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kvperf.hardware import gpu_names
from kvperf.kernel import target
from kvperf.render.report.markdown import markdown
from kvperf.render.report.text import WIDTH, text
from kvperf.report.document import Document, Section
from tests.kinds import one_of_each_kind
from tests.report.subjects import document

SECTIONS = ["step", "hierarchy", "attention", "tensor", "traffic", "parallelism", "tuning", "sources"]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are planned, not compiled: what takes long is not what is looked at."""
    monkeypatch.setattr(target, "obstacle", lambda gpu: "not compiled here")


def _whole(found: Document) -> str:
    """The Markdown of a document whose names are unambiguous and whose values are numbers or unknown."""
    for name, number in found.figures.items():
        assert not isinstance(number, float) or (number == number and abs(number) != float("inf")), name
    written = markdown(found)
    assert not re.search(r"\bNone\b|\bnan\b|\binf\b|[{}]", written)
    assert [section.name for section in found.sections] == SECTIONS
    assert all(section.blocks for section in found.sections)
    return written


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("model", one_of_each_kind())
def test_every_kind_of_model(model: str) -> None:
    assert f"# {model} on NVIDIA H100" in _whole(document(model=model))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("gpu", gpu_names())
def test_every_gpu(gpu: str) -> None:
    written = _whole(document(gpu=gpu))
    assert ("the kernels are CUDA" in written) == gpu.startswith("mi")


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "step",
    [
        {"phase": "prefill", "seq": 512},
        {"phase": "verify", "new_tokens": 4},
        {"phase": "chunk", "new_tokens": 64},
        {"chunk_tokens": 256},
        {"contexts": [100, 5000, 70000]},
        {"seq": 1},
        {"kv_dtype": "fp8", "weight_dtype": "int4"},
        {"kv_dtype": "int8"},
        {"fusion": "megakernel"},
        {"tp": 8},
        {"batch": 100000},
    ],
    ids=str,
)
@pytest.mark.parametrize(("gpu", "model"), [("h100", "llama-3.1-8b"), ("mi300x", "deepseek-v3"), ("t4", "gpt2")])
def test_every_kind_of_step(gpu: str, model: str, step: dict[str, Any]) -> None:
    if model == "gpt2" and step.get("tp") == 8:
        step = {**step, "tp": 4}
    _whole(document(gpu, model, **step))


@pytest.mark.usefixtures("uncompiled")
def test_the_figures_of_the_original_document() -> None:
    """What the document that this replaces printed, with the right numbers."""
    found = document().figures
    assert found["hierarchy.registers.size"] == 256 * 1024  # it said 64 KB
    assert found["hierarchy.shared_memory.size"] == 228 * 1024  # 166 KB
    assert found["hierarchy.L2_cache.size"] == 50 * 2**20
    assert found["hierarchy.L2_cache.latency_cycles.low"] == 219  # about 20 cycles
    assert found["hierarchy.HBM3.latency_cycles.low"] == pytest.approx(570.5)  # 300 to 400 cycles
    assert found["peak.fp16.fp32.wgmma.stated"] == 989.4e12  # 1970 TFLOPS, the sparse figure
    assert found["mma.mma.sync.m16n8k16 f16/bf16.flop"] == 4096  # a 16 × 16 × 16 product has twice that
    assert found["kernel.cached_attention.block"] == "(32, 32, 1)"
    assert found["kernel.cached_attention.grid"] == "(32, 4, 1)"
    assert found["kernel.cached_attention.shared.k_and_v"] == 8192
    assert found["kernel.cached_attention.reread"] == 4
    assert found["attention.flop"] == 268_435_456
    assert found["attention.intensity"] == pytest.approx(4, rel=0.01)
    assert found["tp.kv_heads"] == 8  # not the query heads


@pytest.mark.usefixtures("uncompiled")
def test_one_read_of_keys_and_values_whatever_the_passes() -> None:
    found = document().figures
    scores = found["scores.decode.three_pass"] - found["scores.decode.flash"]  # type: ignore[operator]
    assert scores == 32 * 4 * (2 * 2 * 32 * 4096) * 2  # layers, sequences, both ways, scores and weights, bf16
    assert found["requests.three_pass.k"] == found["requests.flash.k"]


@pytest.mark.usefixtures("uncompiled")
def test_copies_of_kv_heads_past_their_number() -> None:
    found = document(model="gemma-2b").figures  # one KV head
    assert [found[f"tp{n}.kv_copies"] for n in (1, 2, 4, 8)] == [1, 2, 4, 8]


@pytest.mark.usefixtures("uncompiled")
def test_unknown_is_a_word() -> None:
    written = markdown(document())
    assert "| launches, as nodes of a graph | unknown | unknown |" in written
    assert "Registers and occupancy are unknown: not compiled here." in written


@pytest.mark.usefixtures("uncompiled")
def test_graphs_are_quantified_where_launches_were_measured() -> None:
    found = document(gpu="a100").figures
    assert found["launch.graph_saved_s"] == pytest.approx(324 * (2.62e-6 - 1.34e-6))


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(("gpu", "model"), [("h100", "llama-3.1-8b"), ("mi300x", "deepseek-v3")])
def test_text_is_as_wide_as_a_page(gpu: str, model: str) -> None:
    body, _, sources = text(document(gpu, model)).partition("\nSources\n")
    assert sources  # with paths that cannot be folded
    assert [line for line in body.splitlines() if len(line) > WIDTH] == []


@pytest.mark.usefixtures("uncompiled")
def test_a_name_stands_for_one_number() -> None:
    found = document()
    first = found.sections[0]
    other = document(batch=8).sections[0]
    twice = Document(found.title, (), (first, Section(other.name, other.title, other.blocks)))
    with pytest.raises(ValueError, match=r"is .* and"):
        _ = twice.figures
