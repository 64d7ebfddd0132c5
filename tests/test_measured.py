"""Only readings of this very step on this very GPU stand beside its bound."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

import kvperf
from kvperf.bench.record import Case, Record
from kvperf.errors import KvperfError
from kvperf.measured import measured
from tests.bench.made_up import ENVIRONMENT, made_up, made_up_case, made_up_record

SHAPE = {"model": "llama-3.1-8b", "batch": 1, "seq": 4096, "new_tokens": 1, "dtype": "bf16"}


def stage(name: str, **fields: Any) -> Case:
    layers = {"layers": 1 if name == "lm_head" else 32}
    return made_up_case(name, made_up(3), family="stage", **({"shape": SHAPE | layers} | fields))


def on_h100(*cases: Case, **fields: Any) -> Record:
    return made_up_record(*cases, environment=replace(ENVIRONMENT, profile="h100-sxm"), **fields)


def test_a_stage_takes_its_layers() -> None:
    step = made_up_case("step", made_up(4, 5e-3), family="step", shape=SHAPE | {"layers": 32})
    found = measured(on_h100(stage("mlp"), stage("lm_head"), step), kvperf.analyze())
    one = stage("mlp").statistics
    assert one and step.statistics
    assert found.stages == {"mlp": one.median_s * 32, "lm_head": one.median_s}
    assert found.step_s == step.statistics.median_s


def test_what_is_refused_warm_or_of_another_step_is_left_out() -> None:
    other = stage("attention", shape=SHAPE | {"layers": 32, "batch": 4})
    cases = stage("mlp"), stage("lm_head", refused="above the roof"), stage("qkv_projection", regime="warm"), other
    assert set(measured(on_h100(*cases), kvperf.analyze()).stages) == {"mlp"}


def test_attention_alone_takes_the_fastest_kernel_of_its_shape() -> None:
    fast, slow = made_up_case("flash", made_up(1, 25e-6)), made_up_case("three_pass", made_up(1, 90e-6))
    elsewhere = made_up_case("flash", made_up(1, 1e-6), shape={"batch": 1})
    alone = kvperf.analyze(heads=32, kv_heads=8, head_dim=128, batch=4, seq=4096)
    found = measured(on_h100(slow, fast, elsewhere), alone)
    assert fast.statistics and found.stages == {"attention": fast.statistics.median_s}


def test_the_error_says_what_the_record_is_of() -> None:
    cases = [made_up_case(shape=made_up_case().shape | {"batch": batch}) for batch in (1, 2, 4, 8, 16)]
    with pytest.raises(KvperfError) as caught:
        measured(on_h100(*cases), kvperf.analyze())
    assert caught.value.hint == (
        "it is of h100-sxm: attention (heads 32, kv heads 8, head dim 128, batch 1/2/4/8 and 1 more, seq 4096, "
        "dtype bf16); `kvperf bench stages` measures it"
    )
    with pytest.raises(KvperfError) as caught:
        measured(on_h100(stage("mlp")), kvperf.analyze(batch=2))
    of = "it is of h100-sxm: stage (model llama-3.1-8b, batch 1, seq 4096, new tokens 1, dtype bf16)"
    assert caught.value.hint == of


def test_the_whole_step_is_as_read_else_of_readings_and_bounds() -> None:
    analysis = kvperf.analyze()
    step = made_up_case("step", made_up(4, 5e-3), family="step", shape=SHAPE | {"layers": 32})
    assert step.statistics
    assert measured(on_h100(stage("mlp"), step), analysis).whole_s(analysis) == step.statistics.median_s
    found = measured(on_h100(stage("mlp")), analysis)
    others = sum(one.bound_s for one in analysis.stages if one.name != "mlp")
    assert found.whole_s(analysis) == pytest.approx(found.stages["mlp"] + others)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (on_h100(stage("mlp"), emulated=True), "an emulated record holds no reading"),
        (on_h100(stage("mlp", shape=SHAPE | {"layers": 32, "batch": 16})), "measured another step than llama-3.1-8b"),
        (on_h100(made_up_case()), "measured no stage of llama-3.1-8b, batch 1, context 4096, bf16"),
        (on_h100(stage("engine")), "stage 'engine' is not in this step"),
        (
            made_up_record(stage("mlp"), environment=replace(ENVIRONMENT, profile="a100-sxm")),
            "the record is of a100-sxm, not of h100-sxm",
        ),
    ],
)
def test_a_record_that_does_not_match_is_one_error(record: Record, said: str) -> None:
    with pytest.raises(KvperfError) as caught:
        measured(record, kvperf.analyze())
    assert said in caught.value.message and caught.value.hint
