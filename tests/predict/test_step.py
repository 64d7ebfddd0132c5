"""A predicted step: every stage is priced once, never below its bound, and alike for one point and for arrays."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import kvperf
from kvperf.bound import resources
from kvperf.errors import KvperfError
from kvperf.hardware import load_gpu
from kvperf.inputs import step_workload
from kvperf.launches import decode_attention
from kvperf.launches.experts import Experts
from kvperf.launches.plan import Asked, covered_by, plan
from kvperf.layout import Parallelism, one_rank
from kvperf.model import load_model, model_names
from kvperf.model.architecture import Compressed
from kvperf.pipeline import StageWork, pipeline
from kvperf.predict.calibration import Constants, folder
from kvperf.predict.families import FAMILIES
from kvperf.predict.step import PredictedStep, predict_step
from kvperf.workload import Requests, Workload
from tests.test_any_number import Unasked, _plain, _requests

STEPS: dict[str, dict[str, Any]] = {
    "decode": {"batch": 8, "seq": 4096},
    "prefill": {"phase": "prefill", "seq": 2048},
    "mixed": {"batch": 8, "seq": 4096, "chunk_tokens": 512, "chunk_cached": 1536},
    "verify": {"phase": "verify", "new_tokens": 5, "batch": 4, "seq": 4096},
}
# One model of each kind of mixer and FFN.
KINDS = (
    "llama-3.1-8b",
    "gemma-3-4b",
    "gpt2",
    "mixtral-8x7b",
    "gpt-oss-120b",
    "deepseek-v3",
    "deepseek-v3.2",
    "deepseek-v4-pro",
    "qwen3-next-80b-a3b",
    "nemotron-3-ultra-550b-a55b",
)
ROUNDING = 1e-12


def stages_of(name: str, workload: Workload, tp: int = 1) -> tuple[StageWork, ...]:
    """Those of a model; none where `tp` does not divide it."""
    try:
        return pipeline(one_rank(load_model(name), workload, Parallelism(tp=tp)), workload)
    except KvperfError:
        return ()


def predicted(name: str, workload: Workload, gpu: str = "h100", stack: str = "vllm") -> PredictedStep:
    device, stages = load_gpu(gpu), stages_of(name, workload)
    bounds = [resources(stage.work, device).longest_s for stage in stages]
    return predict_step(stages, bounds, workload, device, stack)


# Exactly once

# Stages that no measured family prices as products: their traffic at the pace of a streaming kernel.
STREAMED = {"indexer", "hyper_connection"}
# Prompts that the measured kernels stand for with other heads: keys and values of 128 elements of a latent, values as
# wide as keys.
OTHER_HEADS = ("glm-5", "mimo-v2-flash")


Flops = dict[str, float]


def executed_flops(launch: Any) -> float:
    if isinstance(launch, Experts):
        return launch.flops(launch.routing)
    return getattr(launch, "flops", 0.0)


def launched(stages: tuple[StageWork, ...], workload: Workload, stack: str) -> tuple[Flops, Flops]:
    """Matrix FLOPs by the stage that is priced for them: of the formulas, and of the launches."""
    asked: Flops = {}
    done: Flops = {}
    layers = {(stage.name, id(part.shard)) for stage in stages for part in stage.parts}
    for stage in stages:
        for part in stage.parts:
            target = covered_by(stage.name, part.shard) or stage.name
            asked[target] = asked.get(target, 0.0) + part.work.matrix_flops
            if target != stage.name:
                assert (target, id(part.shard)) in layers, "covered by a stage that these layers lack"
                assert covered_by(target, part.shard) is None, "covered by a stage that is covered"
                continue
            launches = plan(Asked(stage.name, part.shard, workload, part.work, stack, "sm_90", part.formula.__name__))
            assert launches, "neither launched nor covered"
            for one in launches:
                done[target] = done.get(target, 0.0) + executed_flops(one.launch) * one.times * part.layers
    return asked, done


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("tp", [1, 8])
def test_every_stage_of_every_model_is_priced_once(step: str, tp: int) -> None:
    """By its own launches or those of the stage that covers it: their matrix FLOPs are those of the formulas."""
    workload = step_workload(**STEPS[step])
    for name in model_names():
        stages = stages_of(name, workload, tp)
        asked, done = launched(stages, workload, "vllm")
        for stage, flops in asked.items():
            compressed = any(isinstance(p.shard.mixer, Compressed) for s in stages for p in s.parts)
            if stage in STREAMED or (stage == "attention" and compressed):
                assert done[stage] == 0.0
            elif stage != "attention" or not name.startswith(OTHER_HEADS) or step not in ("prefill", "mixed"):
                assert done[stage] == pytest.approx(flops, rel=0.01), (name, stage)


def test_a_covered_stage_adds_nothing_and_says_whose_kernel_does_it() -> None:
    record = kvperf.analyze(model="deepseek-v3", batch=8, tp=8, stack="sglang")
    names = {stage.name: stage for stage in record.stages}
    covered = {stage.name: stage.covered_by for stage in record.stages if stage.covered_by}
    assert covered == {
        "kv_down": "query_down",
        "kv_update": "attention",
        "activation_quantise": "output_projection",
        "moe_dispatch": "moe_experts",
        "moe_combine": "moe_experts",
        "shared_experts": "moe_experts",
    }
    for name, target in covered.items():
        assert (names[name].predicted_s, names[name].launches, names[name].share) == (0, 0, 0)
        assert (names[target].predicted_low_s or 0) >= (names[name].bound_s + names[target].bound_s) * (1 - ROUNDING)


def test_the_stages_and_the_host_make_the_step() -> None:
    for graphs in (True, False):
        record = kvperf.analyze(batch=4, cuda_graphs=graphs)
        step = record.step
        assert step.host_s is not None and step.predicted_s is not None
        whole = sum(stage.predicted_s or 0 for stage in record.stages) + step.host_s
        assert step.predicted_s == pytest.approx(whole, rel=ROUNDING)
        shares = sum(stage.share for stage in record.stages) + step.host_s / step.predicted_s
        assert shares == pytest.approx(1, rel=ROUNDING)
        assert step.launches == sum(stage.launches or 0 for stage in record.stages)
        assert step.tokens_per_s_predicted == pytest.approx(4 / step.predicted_s)


# Never below the bound


@pytest.mark.parametrize("gpu", ["h100", "h200", "b200", "a100", "l40s", "rtx-5090"])
@pytest.mark.parametrize("stack", ["vllm", "sglang", "trtllm", "kvperf"])
def test_no_interval_reaches_below_the_bound(gpu: str, stack: str) -> None:
    for name in KINDS:
        for options in STEPS.values():
            record = kvperf.analyze(gpu, name, stack=stack, **options)
            assert not any("prediction" in warning for warning in record.warnings)
            for row in (*record.stages, record.step):
                low, seconds, high = row.predicted_low_s, row.predicted_s, row.predicted_high_s
                assert low is not None and seconds is not None and high is not None
                if getattr(row, "covered_by", None) is None:
                    assert low >= row.bound_s * (1 - ROUNDING) and row.bound_s >= 0, (name, options, row)
                    assert 0 < low <= seconds <= high
                    assert row.calibration
    name = load_gpu(gpu).name
    own = {f"{name}/{stack}"} if (folder() / f"{name}.{stack}.yaml").is_file() else set()
    labels = {stage.calibration for stage in kvperf.analyze(gpu, stack=stack).stages if stage.calibration}
    assert "published" in labels  # small kernels everywhere
    assert own <= {label for label in labels if not label.endswith(", borrowed")} - {"published"} <= own


# Every point alike

ROWS = (("llama-3.1-8b", "h100", "vllm"), ("gpt-oss-120b", "b200", "sglang"), ("deepseek-v3", "h200", "trtllm"))
ROWS += (("gemma-3-4b", "l40s", "sglang"), ("qwen3-next-80b-a3b", "a100", "vllm"), ("deepseek-v3.2", "h100", "sglang"))


@pytest.mark.parametrize(("name", "gpu", "stack"), ROWS)
def test_an_array_of_points_equals_the_points(name: str, gpu: str, stack: str) -> None:
    batches, contexts = np.array([1.0, 7.0, 64.0, 256.0]), np.array([1.0, 4095.0, 20000.0, 131072.0])
    for phase in ("decode", "prefill"):
        requests = Requests(batches, contexts, 1 if phase == "decode" else contexts)
        many = predicted(name, Workload(phase, (requests,)), gpu, stack)
        for i in range(4):
            batch, context = int(batches[i]), int(contexts[i])
            group = Requests(batch, context, 1 if phase == "decode" else context)
            one = predicted(name, Workload(phase, (group,)), gpu, stack)
            for array, point in zip((many, *many.stages), (one, *one.stages), strict=True):
                for figure in ("seconds", "low_s", "high_s"):
                    at = np.broadcast_to(getattr(array, figure), 4)[i]
                    assert at == pytest.approx(getattr(point, figure), rel=ROUNDING), (phase, i)


@pytest.mark.parametrize("phase", ["decode", "prefill", "verify"])
def test_no_prediction_branches_on_a_numeric_axis(phase: Any) -> None:
    for name, gpu, stack in (*ROWS, ("deepseek-v4-pro", "b200", "vllm"), ("mixtral-8x7b", "h100", "trtllm")):
        asked = predicted(name, Workload(phase, _requests(float, phase)), gpu, stack)
        unasked = predicted(name, Workload(phase, _requests(Unasked, phase)), gpu, stack)
        for plain, wrapped in zip((asked, *asked.stages), (unasked, *unasked.stages), strict=True):
            for figure in ("seconds", "low_s", "high_s"):
                assert _plain(getattr(wrapped, figure)) == pytest.approx(getattr(plain, figure), rel=ROUNDING), name


# With the batch


def test_attention_takes_longer_with_the_batch_while_its_plan_stays() -> None:
    gpu, found = load_gpu("h100"), 0
    constants = Constants(gpu, "vllm").of("decode_attention").constants
    before: tuple[Any, float] | None = None
    for batch in range(1, 400):
        launch = decode_attention.DecodeAttention(batch, 32, 8, 128, 4096, stack="vllm")
        planned = decode_attention.plan(launch, gpu)
        shape = planned.kind, planned.splits, planned.waves, planned.rows, planned.blocks
        seconds = FAMILIES["decode_attention"].seconds(launch, gpu, constants)
        if before and before[0] == shape:
            assert seconds >= before[1] * (1 - ROUNDING), batch
            found += 1
        before = shape, seconds
    assert found > 200


def test_products_and_small_kernels_take_longer_with_the_batch_inside_one_tile() -> None:
    """Up to 64 rows every product has the same tiles."""
    times = [kvperf.analyze(batch=batch).stages for batch in (1, 2, 4, 8, 16, 32, 64)]
    for smaller, larger in pairwise(times):
        for before, after in zip(smaller, larger, strict=True):
            assert before.predicted_s is not None and after.predicted_s is not None
            assert before.name == "attention" or after.predicted_s >= before.predicted_s, before.name


# What changes it, and where there is none


def test_tensor_parallel_steps_hold_their_collectives() -> None:
    record = kvperf.analyze(model="llama-3.1-70b", tp=8, batch=16)
    found = {stage.name: stage for stage in record.stages}
    reduced = found["all_reduce"]
    assert reduced.launches == 2 * 80 + 1  # after mixer and FFN of every layer, and of the embedding
    assert reduced.predicted_s is not None and reduced.predicted_s > reduced.bound_s > 0
    assert found["all_gather"].predicted_s
    assert kvperf.analyze(model="llama-3.1-70b", batch=16).stages[-1].name == "sampling"
    assert "all_reduce" not in {stage.name for stage in kvperf.analyze(batch=16).stages}


def test_without_cuda_graphs_small_steps_take_longer() -> None:
    replayed, eager = kvperf.analyze(model="qwen3-0.6b"), kvperf.analyze(model="qwen3-0.6b", cuda_graphs=False)
    assert replayed.step.predicted_s is not None and eager.step.predicted_s is not None
    assert eager.step.predicted_s > replayed.step.predicted_s
    assert (eager.step.host_s or 0) > (replayed.step.host_s or 0)
    assert eager.workload.cuda_graphs is False
    assert [s.predicted_s for s in eager.stages] == [s.predicted_s for s in replayed.stages]


def test_attention_alone_has_no_scheduler_beside_it() -> None:
    record = kvperf.analyze(heads=32, kv_heads=8, batch=4)
    (stage,) = record.stages
    assert (record.step.host_s, record.step.predicted_s, record.step.launches) == (0, stage.predicted_s, 1)


def nothing_predicted(record: Any) -> bool:
    figures = ("predicted_s", "predicted_low_s", "predicted_high_s", "calibration", "launches")
    rows = (*record.stages, record.step)
    return all(getattr(row, figure) is None for row in rows for figure in figures) and record.step.host_s is None


def test_no_stack_no_prediction() -> None:
    record = kvperf.analyze(stack="none")
    assert nothing_predicted(record)
    assert (record.workload.stack, record.warnings) == (None, ())
    shares = [stage.share * record.step.serial_bound_s for stage in record.stages]
    assert shares == pytest.approx([stage.bound_s for stage in record.stages])


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"gpu": "mi300x"}, "no prediction: no calibration has constants for gemm on mi300x"),
        ({"gpu": "b100"}, "no prediction: nobody says how many SMs b100 has"),
        ({"fusion": "eager"}, "no prediction for --fusion eager"),
        ({"fusion": "megakernel"}, "no prediction for --fusion megakernel"),
    ],
)
def test_what_cannot_be_predicted_is_said_and_null(options: dict[str, Any], why: str) -> None:
    record = kvperf.analyze(**options)
    assert nothing_predicted(record)
    assert any(warning.startswith(why) for warning in record.warnings)


def test_a_step_names_fitted_constants_before_published_and_borrowed_before_fitted() -> None:
    assert kvperf.analyze(gpu="h100").step.calibration == "h100-sxm/vllm"
    borrowed = kvperf.analyze(gpu="h100-nvl")  # nobody published measurements of it
    others = {stage.calibration for stage in borrowed.stages if stage.calibration} - {"published"}
    assert borrowed.step.calibration in others
    assert all(label.endswith(", borrowed") for label in others)


def test_a_stack_that_nobody_knows_is_refused() -> None:
    with pytest.raises(KvperfError, match="unknown stack 'vlm'") as refused:
        kvperf.analyze(stack="vlm")
    assert "'vllm'" in refused.value.hint


def test_a_gpu_without_a_matrix_unit_for_the_operands_has_no_prediction() -> None:
    step = kvperf.analyze(gpu="t4", batch=1, seq=1024).step
    assert step.predicted_s is None and step.bound_s > 0
    assert any("t4 multiplies bf16 on no matrix unit" in w for w in kvperf.analyze(gpu="t4", seq=1024).warnings)


def test_formats_that_no_table_measures_are_named() -> None:
    said = "\n".join(kvperf.analyze(gpu="h100", model="deepseek-v3", seq=4096).warnings)
    assert "gemm in fp8_block was not measured with h100-sxm/vllm" in said
    assert not [w for w in kvperf.analyze(gpu="h100", seq=4096).warnings if "measured" in w]


def test_the_host_is_charged_by_step_and_by_request() -> None:
    numbers = Constants(load_gpu("h100-sxm"), "vllm").host().numbers()
    for batch in (1, 64):
        step = kvperf.analyze(gpu="h100", batch=batch, seq=1024).step
        assert step.host_s == pytest.approx(numbers["step_s"] + batch * numbers["request_s"])
    assert kvperf.analyze(gpu="l40s", seq=1024).step.host_s is None
