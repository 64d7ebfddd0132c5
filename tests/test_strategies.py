"""Strategies: their figures are those of an analysis of that layout, their sentences have no other numbers."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec
import pytest

from kvperf.analysis import analyse
from kvperf.api import prepare
from kvperf.errors import KvperfError
from kvperf.evaluation import step
from kvperf.layout import ALONE, Parallelism
from kvperf.model import load_model
from kvperf.model.architecture import Compressed, GroupedQuery, Latent
from kvperf.predict.step import COLLECTIVES
from kvperf.render.analysis import cell
from kvperf.render.output import csv_text, json_text
from kvperf.render.strategies import best_use, rows, text
from kvperf.strategies import TITLES, Strategy, layout, strategies
from kvperf.units import binary, decimal, significant
from tests.kinds import one_of_each_kind

CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "dense decode": ("h100", "llama-3.1-70b", 8, {"batch": 16}),
    "latent decode": ("h200", "deepseek-v3", 8, {"batch": 64}),
    "long prefill": ("h100", "llama-3.1-8b", 4, {"phase": "prefill", "seq": 131072}),
    "ragged, six": ("l4", "nemotron-3-nano-30b-a3b", 6, {"contexts": (100, 30000, 7)}),
    "small experts": ("h200", "qwen3-30b-a3b", 4, {"batch": 32}),
}
LAID_OUT = [name for name in TITLES if name != "replicas"]


@cache
def found(case: str, stack: str = "vllm") -> dict[str, Strategy]:
    gpu, model, degree, options = CASES[case]
    return {s.name: s for s in strategies(*prepare(gpu, model, **options), degree, stack)}


@pytest.mark.parametrize("stack", ["vllm", "none"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", LAID_OUT)
def test_figures_are_those_of_an_analysis(case: str, name: str, stack: str) -> None:
    gpu, model, degree, options = CASES[case]
    told, prepared = found(case, stack)[name], prepare(gpu, model, **options)
    if told.refused is not None:
        with pytest.raises(KvperfError, match=re.escape(told.refused)):
            analyse(*prepared, layout(name, degree), stack)
        return
    record, alone = analyse(*prepared, layout(name, degree), stack), analyse(*prepared, ALONE, stack)
    assert told.kv is not None and told.communication is not None and told.speed is not None and told.room is not None
    own, single = record.step.predicted_s or record.step.bound_s, alone.step.predicted_s or alone.step.bound_s
    assert (told.speed.step_s, told.speed.step_alone_s) == (own, single)
    assert told.tier == ("bound" if stack == "none" else "predicted")
    assert told.speed.tokens_per_s_per_gpu == pytest.approx(len(options.get("contexts", ())) / own / degree) or (
        "contexts" not in options
    )
    assert (told.room.fits, told.room.max_batch) == (record.memory.fits, record.memory.max_batch)
    assert told.kv.cache_bytes_alone == alone.memory.kv_cache_bytes
    if name == "pipeline":
        return
    assert told.kv.cache_bytes == record.memory.kv_cache_bytes
    assert told.kv.bytes_per_token == record.memory.kv_bytes_per_token
    talking = [stage for stage in record.stages if stage.name in COLLECTIVES]
    assert {c.name: c.count for c in told.communication.collectives} == {s.name: s.kernels for s in talking}
    assert told.communication.link_bytes == record.step.link_bytes
    said = [stage.bound_s if stage.predicted_s is None else stage.predicted_s for stage in talking]
    assert told.communication.time_s == pytest.approx(sum(said))


@pytest.mark.parametrize("case", ["dense decode", "latent decode", "long prefill"])
def test_a_pipeline_hands_over_every_micro_batch(case: str) -> None:
    gpu, model, degree, options = CASES[case]
    whole = step(*prepare(gpu, model, **options), Parallelism(pp=degree), "vllm")
    said = found(case)["pipeline"].communication
    assert said is not None
    assert [(c.name, c.count) for c in said.collectives] == [("send_receive", whole.micro_batches)]
    assert said.link_bytes == whole.micro_batches * whole.ranks[0].work.link_bytes > 0


def test_replicas_are_one_gpu_with_a_part_of_the_sequences() -> None:
    gpu, model, degree, options = CASES["dense decode"]
    part = analyse(*prepare(gpu, model, batch=options["batch"] // degree), ALONE, "vllm")
    told = found("dense decode")["replicas"]
    assert told.speed is not None and told.kv is not None and told.communication is not None
    assert told.speed.step_s == part.step.predicted_s
    assert told.kv.cache_bytes == part.memory.kv_cache_bytes
    assert told.communication.collectives == ()
    beside = found("dense decode")["attention_data"].speed
    assert beside is not None and beside.step_s == told.speed.step_s


@pytest.mark.parametrize("name", one_of_each_kind())
def test_kv_stops_falling_at_the_kv_heads_and_latents_never_fall(name: str) -> None:
    model = load_model(name)
    mixers = [model.mixers[layer.mixer] for layer in model.layer_sequence()]
    tensor = next(s for s in strategies(*prepare("h100", name), 2) if s.name == "tensor")
    grouped = [mixer for mixer in mixers if isinstance(mixer, GroupedQuery)]
    if any(isinstance(mixer, Latent | Compressed) for mixer in mixers):
        assert (tensor.limit.kv_degree, tensor.limit.kv_by) == (1, "latents")
        assert tensor.kv is not None and tensor.kv.cache_bytes == tensor.kv.cache_bytes_alone
    else:
        assert (tensor.limit.kv_degree, tensor.limit.kv_by) == (max(m.kv_heads for m in grouped), "kv_heads")


def test_latents_fall_where_tokens_or_sequences_are_shared_out() -> None:
    told = found("latent decode")
    for name, falls in (("ring", True), ("attention_data", True), ("expert", True), ("tensor", False)):
        kv = told[name].kv
        assert kv is not None and kv.cache_share is not None
        assert (kv.cache_share < 0.2) is falls


def test_refused_strategies_say_why() -> None:
    assert "has no experts" in (found("dense decode")["expert"].refused or "")
    assert "does not divide the 64 state-space heads" in (found("ragged, six")["tensor"].refused or "")
    deep = {s.name: s for s in strategies(*prepare("h100", "llama-3.1-8b"), 64, maximum=64)}
    assert "KV heads" not in (deep["tensor"].refused or "")
    assert "query heads" in (deep["tensor"].refused or "")
    assert "32 layers" in (deep["pipeline"].refused or "")
    for told in deep.values():
        assert (told.verdict == "refused") is (told.refused is not None)
        assert told.refused is None or told.refused in best_use(told)
    assert deep["tensor"].limit.kv_degree == 8


def test_the_limit_is_the_fastest_degree_and_the_next_is_refused_or_slower() -> None:
    deep = strategies(*prepare("h100", "llama-3.1-8b", batch=4), 4, "vllm", maximum=64)
    for told in deep:
        limit = told.limit
        if limit.stopped == "slower":
            assert limit.next_s is not None and limit.next_s >= limit.step_s
        elif limit.stopped == "refused":
            assert limit.next_refused and limit.next_s is None
        else:
            assert limit.degree == 64
        assert told.speed is None or limit.step_s <= told.speed.step_s
    pipeline = next(s for s in deep if s.name == "pipeline")
    assert pipeline.limit.kv_degree == 32


def test_the_even_batch_gives_a_gpu_what_one_gives_alone() -> None:
    gpu, model, degree, options = CASES["small experts"]
    told = found("small experts")["replicas"].speed
    assert told is not None and told.even_batch is not None and told.even_batch > options["batch"]
    alone = analyse(*prepare(gpu, model, **options), ALONE, "vllm").step.tokens_per_s_predicted
    for batch, pays in ((told.even_batch, True), (told.even_batch // 2, False)):
        part = analyse(*prepare(gpu, model, batch=batch // degree), ALONE, "vllm").step.tokens_per_s_predicted
        assert alone is not None and part is not None
        assert (part >= alone * (1 - 1e-9)) is pays


@pytest.mark.parametrize("stack", ["vllm", "none"])
@pytest.mark.parametrize("case", CASES)
def test_every_number_of_the_text_is_one_of_the_record(case: str, stack: str) -> None:
    told = tuple(found(case, stack).values())
    shown = text(told).split("\n\n", 1)[1]
    refusals = [r for s in told for r in (s.refused, s.limit.next_refused) if r]
    shown = re.sub(r"\s+", " ", shown)
    for refusal in refusals:
        shown = shown.replace(refusal, "")
    known = {form for value in _numbers(msgspec.to_builtins(told)) for form in _forms(value)}
    numbers = re.findall(r"(?<![\w.])\d[\d.]*\d|(?<![\w.])\d", shown)
    assert len(numbers) > 30
    assert [number for number in numbers if number not in known] == []


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict | list | tuple):
        return [n for part in (value.values() if isinstance(value, dict) else value) for n in _numbers(part)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _forms(value: float) -> set[str]:
    shown = {str(value), significant(value), significant(100 * value), cell(value, 1)}
    return shown | {
        form(value).split(" ")[0] for form in (binary, lambda v: decimal(v, "s"), lambda v: decimal(v, "B"))
    }


@pytest.mark.parametrize("stack", ["vllm", "none"])
@pytest.mark.parametrize("case", CASES)
def test_the_text_fits_a_terminal_and_every_strategy_has_a_note(case: str, stack: str) -> None:
    shown = text(tuple(found(case, stack).values()))
    assert max(len(line) for line in shown.splitlines()) <= 80
    for title in TITLES.values():
        assert len(re.findall(rf"^{re.escape(title)}(:| {{2}}|$)", shown, re.MULTILINE)) == 2
    assert "None" not in shown


@pytest.mark.parametrize("case", CASES)
def test_records_serialise(case: str) -> None:
    told = tuple(found(case).values())
    flat = rows(told)
    assert len({tuple(row) for row in flat}) == 1
    assert csv_text(flat).count("\n") == len(TITLES) + 1
    assert msgspec.json.decode(json_text(told), type=tuple[Strategy, ...]) == told


def test_what_has_no_strategies_is_refused() -> None:
    with pytest.raises(KvperfError, match="none") as refused:
        strategies(*prepare("h100", "llama-3.1-8b"), 1)
    assert "2 or more" in refused.value.hint
    with pytest.raises(KvperfError, match="attention alone"):
        strategies(*prepare("h100", None, heads=32), 2)
