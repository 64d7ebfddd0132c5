"""From which batch a change pays no longer: the analysis says so one below and at the threshold."""

from __future__ import annotations

from typing import Any

import pytest

from kvperf import api
from kvperf.kernel import target
from kvperf.record import Analysis
from kvperf.report.document import Document
from kvperf.report.payoff import LEAST, Batches, said, window
from kvperf.report.subject import Subject
from tests.report.subjects import document

BOTH = {"weight_dtype": "fp8", "activation_dtype": "fp8"}


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "obstacle", lambda gpu: "not compiled here")


def _at(model: str, batch: int, **formats: str) -> Analysis:
    return api.analyze("h100", model, batch=batch, seq=128, **formats)  # pyright: ignore[reportArgumentType]


def _gain(model: str, batch: int, **formats: str) -> float:
    return float(_at(model, batch).step.bound_s / _at(model, batch, **formats).step.bound_s)


def _figure(found: Document, name: str) -> Any:
    return found.figures[name]


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b"])
@pytest.mark.parametrize(("name", "formats"), [("weights", {"weight_dtype": "fp8"}), ("kv", {"kv_dtype": "fp8"})])
def test_one_below_and_at_the_threshold(model: str, name: str, formats: dict[str, str]) -> None:
    stop = _figure(document(model=model, seq=128), f"tuning.{name}.stops_at")
    assert _gain(model, stop - 1, **formats) > LEAST
    assert _gain(model, stop, **formats) <= LEAST
    assert _gain(model, 2 * stop, **formats) <= LEAST


def test_thresholds_that_are_known() -> None:
    """Weights alone pay to where products bind; it was said to be 148 tokens."""
    dense, routed = document(seq=128), document(model="mixtral-8x7b", seq=128)
    assert _figure(dense, "tuning.weights.stops_at") == 426
    assert _gain("llama-3.1-8b", 148, weight_dtype="fp8") == pytest.approx(1.66, abs=0.01)
    assert _gain("llama-3.1-8b", 295, weight_dtype="fp8") == pytest.approx(1.33, abs=0.01)
    assert _figure(routed, "tuning.weights.stops_at") == 1303  # few rows an expert


def test_narrow_inputs_never_stop_paying_while_their_peak_is_higher() -> None:
    found = document(seq=128)
    assert "tuning.inputs.stops_at" not in found.figures
    assert _figure(found, "tuning.inputs.peaks") == pytest.approx(2, rel=1e-3)
    assert _figure(found, "tuning.inputs.left") == pytest.approx(_gain("llama-3.1-8b", 65536, **BOTH))
    assert _gain("llama-3.1-8b", 295, **BOTH) == pytest.approx(1.54, abs=0.01)
    assert _gain("llama-3.1-8b", 1024, **BOTH) == pytest.approx(1.86, abs=0.01)


def test_where_it_begins_to_pay() -> None:
    first = _figure(document(seq=128), "tuning.kv.pays_from")
    assert _gain("llama-3.1-8b", first - 1, kv_dtype="fp8") <= LEAST < _gain("llama-3.1-8b", first, kv_dtype="fp8")


@pytest.mark.parametrize(
    ("pays", "first", "stop"),
    [
        (lambda n: n < 100, 1, 100),
        (lambda n: 37 <= n < 426, 37, 426),
        (lambda n: n >= 37, 37, None),
        (lambda n: False, None, None),
        (lambda n: n == 1, 1, 2),
    ],
)
def test_windows(pays: Any, first: int | None, stop: int | None) -> None:
    found = window(lambda size: 2.0 if pays(size) else 1.0)
    assert (found.first, found.stop) == (first, stop)


def test_a_ragged_batch_grows_by_whole_copies() -> None:
    subject = Subject(*api.prepare("h100", "llama-3.1-8b", contexts=[100, 3000]))
    batches = Batches(subject)
    assert batches.sequences(3) == 6
    assert [(r.count, r.context_tokens) for r in batches.requests(3)] == [(3, 100), (3, 3000)]
    gain = batches.of_formats(weight_dtype="fp8")
    assert said("x", batches, gain, lambda size: batches.at(size, weight_dtype="fp8"))


def test_conversion_of_the_cache_limits_what_is_saved() -> None:
    """Old attention less the longer of its new bound and its conversion, not the conversion of the whole step."""
    now, changed = (
        api.analyze("h100", "llama-3.1-8b", batch=4),
        api.analyze("h100", "llama-3.1-8b", batch=4, kv_dtype="fp8"),
    )
    old, new = (next(s for s in r.stages if s.name == "attention") for r in (now, changed))
    assert new.ceilings.conversion_s is not None
    assert new.ceilings.conversion_s > new.bound_s
    update = [next(s for s in r.stages if s.name == "kv_update").bound_s for r in (now, changed)]
    expected = old.bound_s - new.ceilings.conversion_s + update[0] - update[1]
    assert _figure(document(), "tuning.kv.saved_if_converted_s") == pytest.approx(expected)
    assert expected < now.step.bound_s - changed.step.bound_s


def test_a_chunk_beside_decode_saves_no_more_than_the_shorter_step() -> None:
    found = document()
    assert 0 < _figure(found, "chunk.saved_s") <= _figure(found, "chunk.saved_at_most_s")
    assert _figure(found, "chunk.saved_at_most_s") == _figure(found, "step.bound_s")
