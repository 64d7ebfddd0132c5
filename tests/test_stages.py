"""Every stage of every model: the golden totals, the printed formulas, brute-force references."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from kvperf import workload as w
from kvperf.layout import Parallelism, one_rank
from kvperf.model import load_model, model_names
from kvperf.model.architecture import Experts
from kvperf.model.parameters import parameters
from kvperf.pipeline import ORDER, StageWork, pipeline, total_work
from kvperf.stages.moe import expected_experts
from kvperf.stages.symbols import SYMBOLS, _names, explain, formulas
from kvperf.work import Work
from kvperf.workload import Requests, Span, Workload


def stages_of(name: str, count: int, context: int, new: int = 1, tp: int = 1, **options: Any) -> tuple[StageWork, ...]:
    options.setdefault("phase", "decode" if new == 1 else "prefill")
    workload = Workload(requests=(Requests(count, context, new),), **options)
    return pipeline(one_rank(load_model(name), workload, Parallelism(tp=tp)), workload)


def step(*arguments: Any, **options: Any) -> Work:
    return total_work(tuple(stage.work for stage in stages_of(*arguments, **options)))


def test_golden_totals_of_llama() -> None:
    one = step("llama-3.1-8b", 1, 4096)
    assert f"{one.flops:.4e}" == "1.7182e+10"
    assert one.weight_bytes == 15_009_849_344
    assert one.kv_read_bytes == 536_870_912
    assert one.kv_write_bytes == 131_072
    assert one.kernels == 324
    assert f"{step('llama-3.1-8b', 64, 4096).flops:.5e}" == "1.09965e+12"
    assert f"{step('llama-3.1-8b', 1, 4096, 4096).flops:.4e}" == "6.1635e+13"


def test_golden_totals_of_the_70b() -> None:
    big = step("llama-3.1-70b", 1, 8192)
    assert f"{big.flops:.3e}" == "1.607e+11"
    assert big.kernels == 804


def test_golden_totals_of_deepseek() -> None:
    stages = {s.name: s.work for s in stages_of("deepseek-v3", 128, 4096, weight_dtype="fp8")}
    assert f"{total_work(tuple(stages.values())).flops:.3e}" == "1.831e+13"
    assert f"{stages['moe_experts'].weight_bytes / 1e9:.1f}" == "642.7"
    every = {s.name: s.work for s in stages_of("deepseek-v3", 10**6, 1, weight_dtype="fp8")}
    assert f"{every['moe_experts'].weight_bytes / 1e9:.1f}" == "653.9"


@pytest.mark.parametrize("name", model_names())
def test_weights_of_a_step_are_the_published_parameters_once(name: str) -> None:
    model = load_model(name)
    count = parameters(model)
    tables = (model.learned_positions or 0) * model.hidden_size + model.extra_parameters
    streamed = count.total - tables - (0 if model.tied_embeddings else count.embedding)
    assert step(name, 10**7, 4096, weight_dtype="bf16").weight_bytes == pytest.approx(2 * streamed, rel=1e-13)


STEPS = [
    {"count": 3, "context": 5000},
    {"count": 3, "context": 5000, "fusion": "eager", "kv_dtype": "int4", "weight_dtype": "int8", "sampling": "top-p"},
    {"count": 1, "context": 5000, "new": 3000, "fusion": "megakernel", "activation_dtype": "fp8"},
    {"count": 2, "context": 900, "new": 4, "phase": "verify", "logits": "all", "sampling": "cpu", "kv_dtype": "fp8"},
]


@pytest.mark.parametrize("options", STEPS, ids=["decode", "eager", "chunk", "verify"])
def test_every_printed_formula_gives_what_the_stage_returned(options: dict[str, Any]) -> None:
    options = dict(options)
    requests = (Requests(options.pop("count"), options.pop("context"), options.pop("new", 1)),)
    workload = Workload(phase=options.pop("phase", "decode"), requests=requests, **options)
    for name in model_names():
        for stage in pipeline(one_rank(load_model(name), workload), workload):
            for part in stage.parts:
                found = explain(part.formula, part.shard, workload)
                work = part.formula(part.shard, workload)
                printed = {formula.name: formula.value for formula in found.formulas}
                for figure in (*Work.__struct_fields__, "matrix_flops", "conversions"):
                    if figure in ("matrix_by_operand", "padded_flops", "conversions_by_format", "widest_kernel_bytes"):
                        continue
                    value = getattr(work, figure)
                    assert printed.get(figure, 0) == pytest.approx(value, rel=1e-12), (name, stage.name, figure)


def test_every_symbol_is_explained_and_every_stage_has_a_source() -> None:
    workload = Workload("decode", (Requests(1, 4096, 1),))
    functions = {
        part.formula: part.shard
        for name in model_names()
        for stage in pipeline(one_rank(load_model(name), workload), workload)
        for part in stage.parts
    }
    assert len(functions) >= 25
    for function, shard in functions.items():
        found = explain(function, shard, workload)
        used = {n for expression in formulas(function).values() for n in _names(expression)} - {"least", "power"}
        assert used <= set(found.symbols), function.__name__
        assert found.source, function.__name__
        assert found.formulas, function.__name__


def test_a_wrong_formula_is_noticed() -> None:
    def doubled(shard: Any, workload: Any) -> Work:
        """Twice as much.

        kernels = 2*launches
        """
        launches = 1
        return Work(kernels=launches)

    assert not formulas(doubled)  # formulas stand at the indent of a module's function
    text = re.sub(r"^ {4}", "", doubled.__doc__ or "", flags=re.MULTILINE)
    doubled.__doc__ = text
    assert formulas(doubled) == {"kernels": "2*launches"}


def test_the_notation_has_no_duplicates() -> None:
    assert len(set(SYMBOLS.values())) == len(SYMBOLS)
    assert len(set(ORDER)) == len(ORDER)


SPANS = [Span(), Span(window=7), Span(window=1), Span(chunk=8), Span(top_k=5)]


def _visible(context: int, new: int, span: Span) -> list[list[int]]:
    """For each new token, the positions it attends to (an indexer picks the first ones it may)."""
    rows = []
    for position in range(context - new + 1, context + 1):
        first = 1
        if span.window is not None:
            first = max(1, position - span.window + 1)
        if span.chunk is not None:
            first = (position - 1) // span.chunk * span.chunk + 1
        row = list(range(first, position + 1))
        rows.append(row if span.top_k is None else row[: span.top_k])
    return rows


@pytest.mark.parametrize("span", SPANS, ids=str)
def test_pairs_and_tokens_agree_with_a_mask_written_out(span: Span) -> None:
    for context in range(1, 26):
        for new in range(1, context + 1):
            rows = _visible(context, new, span)
            assert w.visible_pairs(context, new, span) == sum(len(row) for row in rows)
            seen = set(itertools.chain(*rows))
            if span.top_k is None:
                assert w.read_tokens(context, new, span) == len(seen)
                past = {p for p in seen if p <= context - new}
                assert w.cached_tokens(context, new, span) == len(past)
                later = set(_visible(context + 1, 1, span)[0]) & set(range(context - new + 1, context + 1))
                assert w.kept_tokens(context, new, span) == len(later)
            else:
                assert len(seen) <= w.read_tokens(context, new, span) <= context
                assert w.cached_tokens(context, new, span) <= context - new
            assert w.resident_tokens(context, span) >= len(_visible(context, 1, Span(span.window, span.chunk))[0])


def test_expected_experts_agree_with_every_outcome_written_out() -> None:
    for experts, top_k, tokens in ((4, 1, 3), (4, 2, 2), (5, 2, 3), (3, 3, 2)):
        choices = list(itertools.combinations(range(experts), top_k))
        outcomes = [len(set(itertools.chain(*outcome))) for outcome in itertools.product(choices, repeat=tokens)]
        mean = sum(outcomes) / len(outcomes)
        ffn = Experts(experts=experts, top_k=top_k, intermediate=1)
        assert expected_experts(ffn, tokens) == pytest.approx(mean, rel=1e-12)


def test_expected_experts_of_deepseek_v3_at_batch_64() -> None:
    """A Monte Carlo run of the same routing gave 222.43 distinct experts; min(E, k·T) would say 256."""
    assert expected_experts(Experts(experts=256, top_k=8, intermediate=1), 64) == pytest.approx(222.43, rel=1e-3)


def test_one_gemm_or_three_reads_the_input_so_often() -> None:
    fused = {s.name: s.work for s in stages_of("llama-3.1-8b", 1, 4096)}["qkv_projection"]
    apart = {s.name: s.work for s in stages_of("llama-3.1-8b", 1, 4096, qkv_gemms=3)}["qkv_projection"]
    assert apart.kernels == 3 * fused.kernels
    assert apart.hbm_bytes - fused.hbm_bytes == 32 * 2 * 2 * 4096
    assert apart.weight_bytes == fused.weight_bytes


def test_a_mixed_batch_reads_the_weights_once() -> None:
    requests = (Requests(32, 4096, 1), Requests(1, 2048, 512))
    mixed = Workload("mixed", requests)
    model = load_model("llama-3.1-8b")
    together = total_work(tuple(s.work for s in pipeline(one_rank(model, mixed), mixed)))
    decode = step("llama-3.1-8b", 32, 4096)
    assert together.weight_bytes == decode.weight_bytes
    assert together.kv_read_bytes == decode.kv_read_bytes + 131072 * 2048
    assert together.kv_write_bytes == 131072 * (32 + 512)


def test_verification_sends_every_speculated_row_to_the_head() -> None:
    rows = {s.name: s.work for s in stages_of("llama-3.1-8b", 4, 4096, 5, phase="verify", logits="all")}["lm_head"]
    assert rows.matrix_flops == 2 * 20 * 4096 * 128256


def test_a_ragged_batch_is_the_sum_of_its_sequences() -> None:
    model = load_model("gpt-oss-120b")
    contexts = (1024, 4096, 131072)
    ragged = Workload("decode", tuple(Requests(1, s, 1) for s in contexts))
    found = {s.name: s.work for s in pipeline(one_rank(model, ragged), ragged)}["attention"]
    alone = [{s.name: s.work for s in stages_of("gpt-oss-120b", 1, s)}["attention"] for s in contexts]
    assert found.kv_read_bytes == sum(a.kv_read_bytes for a in alone)
    assert found.matrix_flops == sum(a.matrix_flops for a in alone)


def test_mla_decodes_absorbed_and_prefills_expanded() -> None:
    decode = {s.name: s.work for s in stages_of("deepseek-v3", 1, 4096)}
    assert decode["attention"].matrix_flops == 61 * 278_528 * 4096  # 2·128·(2·512 + 64) a cached token
    prefill = {s.name: s.work for s in stages_of("deepseek-v3", 1, 4096, 4096)}
    assert prefill["attention"].matrix_flops == 61 * 2 * 128 * 320 * (4096 * 4097 // 2)
    # The cheaper algorithm is chosen for keys and for values apart: GLM-5's heads are 192 and 256 wide.
    glm = {s.name: s.work for s in stages_of("glm-5", 1, 8192, 1338, phase="chunk")}
    assert glm["absorb_query"].matrix_flops != glm["absorb_value"].matrix_flops * 192 / 256
    assert prefill["absorb_query"].matrix_flops == 61 * 2 * 4096 * 128 * 128 * 512


def test_gqa_packing_fills_the_tile() -> None:
    attention = {s.name: s.work for s in stages_of("llama-3.1-70b", 1, 4096)}["attention"]
    assert attention.matrix_flops / attention.padded_flops[16] == pytest.approx(8 / 16)
    assert attention.matrix_flops / attention.padded_flops[64] == pytest.approx(8 / 64)
    projection = {s.name: s.work for s in stages_of("llama-3.1-70b", 1, 4096)}["mlp"]
    assert projection.matrix_flops / projection.padded_flops[64] == pytest.approx(1 / 64)


def test_an_indexer_that_can_select_nothing_needs_only_its_key() -> None:
    short = {s.name: s.work for s in stages_of("glm-5", 4, 2048)}["indexer"]
    long = {s.name: s.work for s in stages_of("glm-5", 4, 2049)}["indexer"]
    d, heads, dim, rank, layers = 6144, 32, 128, 2048, 78
    assert short.compulsory_bytes == layers * (2 * d * dim + 2 * 2 * dim + 132 * 4)
    queries = 2 * (rank * heads * dim + d * heads)
    assert long.compulsory_bytes == short.compulsory_bytes + layers * (queries + 132 * 4 * 2048)
    assert short.weight_bytes == long.weight_bytes  # the plan runs it all the same


def test_expanded_latents_enter_like_the_inputs_of_any_projection() -> None:
    """In an fp8 checkpoint kv_b_proj is an fp8 product when it expands latents, a bf16 one when it is absorbed."""
    prefill = {s.name: s.work for s in stages_of("deepseek-v3", 1, 4096, 4096)}["absorb_query"]
    decode = {s.name: s.work for s in stages_of("deepseek-v3", 1, 4096)}["absorb_query"]
    assert prefill.matrix_by_operand["fp8"] > 0 == prefill.matrix_by_operand["bf16"]
    assert decode.matrix_by_operand["bf16"] > 0 == decode.matrix_by_operand["fp8"]
