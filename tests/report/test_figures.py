"""Figures of single sections against the same by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvperf import api
from kvperf.cli import run
from kvperf.errors import KvperfError
from kvperf.hardware import gpu_names, load_gpu
from kvperf.kernel import target
from kvperf.render.report.html import html
from kvperf.render.report.markdown import markdown
from kvperf.report import pictures
from kvperf.report.document import Document, Figure
from kvperf.report.other_gpus import against
from kvperf.report.splits import reached
from kvperf.report.subject import Subject
from kvperf.report.tensor_cores import verdict
from tests.report.subjects import document

LAYER = 4 * 4096 * 2 * 8 * 128 * 2  # sequences, tokens, K and V, heads, elements, bytes: of one layer


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "obstacle", lambda gpu: "not compiled here")


def _figure(found: Document, name: str) -> Any:
    return found.figures[name]


@pytest.mark.parametrize("step", [{}, {"phase": "prefill"}, {"phase": "chunk", "new_tokens": 64}], ids=str)
def test_the_cache_of_a_layer_is_read_by_decode_whatever_the_phase(step: dict[str, Any]) -> None:
    found = document(**step)
    assert _figure(found, "attention.layer_bytes") == pytest.approx(LAYER, rel=1e-3)
    assert _figure(found, "attention.layer_over_l2") == pytest.approx(1.28, abs=0.01)
    assert _figure(found, "attention.cold_s") == pytest.approx(LAYER / 3.35e12, rel=1e-3)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ((1, 2, 3), "memory binds with or without them"),
        ((1, 3, 2), "the padding binds"),
        ((2, 3, 1), "the products bind with or without them"),
    ],
)
def test_what_empty_rows_change(times: tuple[float, float, float], said: str) -> None:
    assert verdict(*times) == said


def test_prefill_is_bound_by_products_whatever_the_padding() -> None:
    assert _figure(document(phase="prefill"), "padding.verdict") == "the products bind with or without them"


@pytest.mark.parametrize("gpu", [name for name in gpu_names() if load_gpu(name).vendor == "nvidia"])
def test_every_matrix_instruction_has_its_numbers(gpu: str) -> None:
    found = document(gpu=gpu).figures
    shapes = [f"mma.{path.path}.{shape}" for path in load_gpu(gpu).architecture.mma for shape in path.shapes]
    assert shapes
    for name in shapes:
        assert found[f"{name}.flop"] == 2 * found[f"{name}.multiply_adds"]  # type: ignore[operator]
        assert found[f"{name}.rows"] in (8, 16, 64, 128, 256)


def test_blackwell_instructions() -> None:
    found = document(gpu="b200").figures
    assert found["mma.tcgen05.m128nNk64 fp4 with block scales.flop"] == 2 * 128 * 64  # a column of N


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_what_tensor_parallelism_sends_slows_it(degree: int) -> None:
    found = document()
    own = api.analyze("h100", "llama-3.1-8b", batch=4, tp=degree).step.bound_s
    one = api.analyze("h100", "llama-3.1-8b", batch=4).step.bound_s
    sent = (degree - 1) / degree * (2 * 65 * 4 * 4096 * 2 + 4 * 128256 * 2)
    assert _figure(found, f"link.tp{degree}.sent") == pytest.approx(sent)
    assert _figure(found, f"link.tp{degree}.overlapped_s") == max(own, sent / 450e9)
    assert _figure(found, f"link.tp{degree}.serial_speed_up") == pytest.approx(one / (own + sent / 450e9))


def test_links_bind_a_long_prefill_over_pcie() -> None:
    found = document(gpu="l4", phase="prefill")
    assert _figure(found, "link.tp8.overlapped_s") == _figure(found, "link.tp8.s") > _figure(found, "tp8.bound_s")
    assert _figure(found, "link.kind") == "host links"


def test_what_crosses_in_context_parallelism_depends_on_the_phase() -> None:
    decode, prefill = document(), document(phase="prefill")
    assert _figure(decode, "context.message") == _figure(decode, "context.partials") == 4 * 4 * 32 * 129
    assert _figure(prefill, "context.message") == _figure(prefill, "context.ring") == LAYER * 7 / 8


def test_gpus_that_hold_a_chosen_expert() -> None:
    assert reached(8, 2, 8) == pytest.approx(2 / 8)
    assert reached(8, 8, 8) == 1
    assert reached(256, 8, 8) == pytest.approx(1 - 0.8713**8, abs=0.01)
    found = document(model="mixtral-8x7b")
    assert _figure(found, "expert.others") == pytest.approx(7 / 4)
    assert _figure(found, "expert.message") == pytest.approx(7 / 4 * 4 * 4096 * 2 / 8)


def test_a_ragged_batch_is_read_as_it_is() -> None:
    contexts = [100, 5000, 70000]
    found = document(contexts=contexts)
    token = 2 * 8 * 128 * 2
    assert _figure(found, "ragged.step_reads") == sum(contexts) * token
    assert _figure(found, "ragged.kernels_read") == pytest.approx(3 * 70000 * token)
    assert _figure(found, "scores.decode.flash") == pytest.approx(32 * sum(contexts) * token, rel=0.01)
    assert "ragged.step_reads" not in document().figures


def test_other_gpus_that_are_as_fast() -> None:
    assert [against(bound, 1.0) for bound in (1 + 1e-12, 1.1, 0.9)] == ["as fast", "slower", "faster"]
    assert "gpu.h800-sxm.against" not in document().figures


def test_a_latency_of_another_gpu_is_no_time_of_this_one() -> None:
    found, owner = document(), document(gpu="v100-sxm2-32gb")
    assert _figure(found, "hierarchy.registers.latency_ns") is None
    assert "V100 pipeline" in markdown(found)
    assert "4 cycles (another GPU's)" in markdown(found)
    assert _figure(owner, "hierarchy.registers.latency_ns") > 0
    assert "another GPU's" not in markdown(owner)


def test_pictures_are_drawn_of_what_was_analysed() -> None:
    prepared = api.prepare("h100", "llama-3.1-8b")
    step = Subject(*prepared, asked={"gpu": "h100", "model": "llama-3.1-8b", "batch": 4})
    drawn = pictures.memory(step)
    assert drawn is not None
    assert drawn.drawn_of.sweep.over == "batch"  # type: ignore[union-attr]
    assert pictures.memory(Subject(*prepared)) is None


def test_why_a_picture_is_missing(tmp_path: Path) -> None:
    assert run(["report", "--contexts", "100,2000", "--format", "html", "--output", str(tmp_path / "r.html")]) == 0
    written = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Not drawn: " in written
    assert "--contexts beside --over batch" in written
    assert written.count("<svg") == 2


def test_why_a_picture_cannot_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvperf.render.report import figures

    def refuse(*_: object) -> None:
        raise KvperfError("no <such> font", "install one")

    monkeypatch.setattr(figures, "_drawn", refuse)
    found = document(gpu="mi300x")
    first = found.sections[0]
    only = msgspec.structs.replace(first, blocks=tuple(b for b in first.blocks if isinstance(b, Figure)))
    assert "Not drawn: no &lt;such&gt; font." in html(Document(found.title, (), (only,)))
