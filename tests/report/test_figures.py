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
from kvperf.report.payoff import LEAST
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
    record, alone = (api.analyze("h100", "llama-3.1-8b", batch=4, tp=tp) for tp in (degree, 1))
    own, one = record.step.bound_s, alone.step.bound_s
    sent = (degree - 1) / degree * (2 * 65 * 4 * 4096 * 2 + 4 * 128256 * 2)
    assert _figure(found, f"link.tp{degree}.sent") == pytest.approx(sent)
    assert _figure(found, f"link.tp{degree}.leaves") == 65 * 4 * 4096 * 2 + 8 * 4 == record.step.link_bytes
    assert _figure(found, f"link.tp{degree}.serial_speed_up") == pytest.approx(one / (own + sent / 450e9))


@pytest.mark.parametrize("degree", [2, 4, 8])
def test_collectives_have_their_part_of_the_predicted_step(degree: int) -> None:
    found, record = document(), api.analyze("h100", "llama-3.1-8b", batch=4, tp=degree)
    parts = [float(stage.predicted_s or 0) for stage in record.stages if stage.name in ("all_reduce", "all_gather")]
    assert _figure(found, f"link.tp{degree}.predicted_s") == record.step.predicted_s
    assert _figure(found, f"link.tp{degree}.collectives_s") == sum(parts) > _figure(found, f"link.tp{degree}.leaves_s")
    share = _figure(found, f"link.tp{degree}.collectives_share")
    assert share == pytest.approx(sum(parts) / float(record.step.predicted_s or 0)) and 0 < share < 1
    assert _figure(found, f"link.tp{degree}.predicted_speed_up") < _figure(found, f"tp{degree}.speed_up")


def test_links_bind_a_long_prefill_over_pcie() -> None:
    found = document(gpu="l4", phase="prefill", tp=8)
    assert _figure(found, "link.tp8.s") > _figure(found, "tp8.bound_s") >= _figure(found, "link.tp8.leaves_s")
    assert _figure(found, "step.bound_by") == "links"
    assert _figure(found, "link.kind") == "host links"


@pytest.mark.parametrize("changes", [{}, {"tp": 8}, {"model": "deepseek-v3", "gpu": "h200", "tp": 8}], ids=str)
def test_predicted_stages_and_the_host_add_up_to_the_step(changes: dict[str, Any]) -> None:
    for graphs in (True, False):
        found = document(**changes, cuda_graphs=graphs).figures
        stages = [name for name in found if name.startswith("predicted.") and name.endswith(".share")]
        parts: list[Any] = [found[name.removesuffix("hare")] for name in stages]
        assert sum(parts) == pytest.approx(found["predicted.step.s"])
        assert found["predicted.kv_update.covered_by"] == "in attention"
        assert found["predicted.step.low_s"] < found["predicted.step.s"] < found["predicted.step.high_s"]  # type: ignore[operator]
        assert found["predicted.step.s"] > found["step.bound_s"]  # type: ignore[operator]


def test_whose_constants() -> None:
    own, other = document(), document(gpu="h800-sxm")
    assert "Borrowed: " not in markdown(own).partition("## ")[0]
    assert "Borrowed: nothing was fitted for " in markdown(other).partition("## ")[0]
    assert "predicted.constants.h100-sxm/vllm, borrowed" in other.figures
    assert _figure(own, "gpu.h100-sxm.constants") == "own"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"gpu": "mi300x"}, "no calibration has constants for"),
        ({"stack": "none"}, "none was asked for (--stack none)"),
        ({"fusion": "eager"}, "for --fusion eager: "),
    ],
)
def test_without_a_prediction_one_sentence_says_why(changes: dict[str, Any], why: str) -> None:
    found = document(**changes)
    opening = markdown(found).partition("## ")[0]
    assert opening.count("There is no prediction") == 1 and why in opening
    assert "is predicted to take" not in markdown(found)
    assert {name for name in found.figures if name.startswith("predicted.")} <= {"predicted.why_not", "predicted.stack"}
    assert _figure(found, "link.tp8.predicted_s") is None


def test_a_change_is_predicted_beside_its_bound() -> None:
    found, record = document(), api.analyze("h100", "llama-3.1-8b", batch=4, kv_dtype="fp8")
    assert _figure(found, "tuning.kv.predicted.s") == record.step.predicted_s
    gain = record.step.tokens_per_s_predicted / api.analyze("h100", batch=4).step.tokens_per_s_predicted  # type: ignore[operator]
    assert _figure(found, "tuning.kv.predicted.gain") == pytest.approx(gain)
    assert _figure(found, "tuning.kv.predicted.pays") == ("yes" if gain > LEAST else "no")
    larger = api.analyze("h100", "llama-3.1-8b", batch=8)
    assert _figure(found, "tuning.batch_2.predicted.s") == larger.step.predicted_s


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
