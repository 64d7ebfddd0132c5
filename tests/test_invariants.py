"""Physics that holds for every model, GPU and workload."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvperf.analysis import analyse
from kvperf.errors import KvperfError
from kvperf.layout import Parallelism, one_rank
from kvperf.model.architecture import GroupedQuery, Latent, Model
from kvperf.model.parameters import parameters
from kvperf.pipeline import StageWork, pipeline, total_work
from kvperf.record import Analysis
from kvperf.stages.kv_update import cached_bytes
from kvperf.work import Work
from kvperf.workload import Requests, Workload
from tests.strategies import gpus, grouped_query, latents, models, workloads

settings.register_profile("invariants", deadline=None, max_examples=60)
settings.load_profile("invariants")


def stages_of(model: Model, workload: Workload, tp: int = 1) -> tuple[StageWork, ...]:
    return pipeline(one_rank(model, workload, Parallelism(tp=tp)), workload)


def work_of(model: Model, workload: Workload, tp: int = 1) -> Work:
    return total_work(tuple(stage.work for stage in stages_of(model, workload, tp)))


def record_of(gpu: Any, model: Model, workload: Workload) -> Analysis | None:
    try:
        return analyse(gpu, model, workload)
    except KvperfError:  # a card whose profile lists no unit for the format
        return None


@given(gpus, models(), workloads())
def test_a_bound_is_no_less_than_any_resource(gpu: Any, model: Model, workload: Workload) -> None:
    record = record_of(gpu, model, workload)
    if record is None:
        return
    for row in (*record.stages, record.step):
        assert row.bound_s >= row.compulsory_bytes / gpu.hbm_bytes_per_s
        fastest = max((p.flops_per_s for p in record.gpu.peaks), default=1.0)
        assert row.bound_s >= row.matrix_flops / fastest * (1 - 1e-12)
        assert row.bound_s == max(row.resources.tensor_s, row.resources.hbm_s, row.resources.link_s)
    step = record.step
    assert max(s.bound_s for s in record.stages) <= step.bound_s * (1 + 1e-12)
    assert step.bound_s <= step.serial_bound_s * (1 + 1e-12) <= 3 * step.bound_s * (1 + 1e-12)
    assert sum(s.share for s in record.stages) == pytest.approx(1)


@given(models(), workloads())
def test_boundary_traffic_is_no_less_than_compulsory_traffic(model: Model, workload: Workload) -> None:
    for stage in stages_of(model, workload):
        # Keys and values of this step are written by one stage and need not be read back by another.
        assert stage.work.compulsory_bytes <= stage.work.hbm_bytes * (1 + 1e-12) + 1e-9, stage.name


@given(models(), workloads())
def test_the_bound_knows_no_plan(model: Model, workload: Workload) -> None:
    """Fusion, page size and the number of QKV products change the traffic, never the floor."""
    plans = [
        msgspec.structs.replace(workload, fusion=fusion, page_tokens=page, qkv_gemms=gemms)
        for fusion, page, gemms in (("eager", 1, 3), ("serving", 16, 1), ("megakernel", 128, 3))
    ]
    works = [work_of(model, plan) for plan in plans]
    assert len({w.compulsory_bytes for w in works}) == 1
    assert len({tuple(w.matrix_by_operand.items()) for w in works}) == 1
    eager, serving, mega = works
    assert eager.hbm_bytes >= serving.hbm_bytes >= mega.hbm_bytes
    assert eager.kernels > serving.kernels > mega.kernels == 1


@given(models(), workloads())
def test_weights_of_a_step_are_the_parameters_once(model: Model, workload: Workload) -> None:
    every_expert = (Requests(10**6, 2000, 1),)
    whole = msgspec.structs.replace(workload, weight_dtype="bf16", requests=every_expert)
    count = parameters(model)
    positions = (model.learned_positions or 0) * model.hidden_size
    streamed = count.total - positions - (0 if model.tied_embeddings else count.embedding)
    assert work_of(model, whole).weight_bytes == pytest.approx(2 * streamed, rel=1e-12)


@given(models(grouped_query()), workloads())
def test_keys_and_values_are_counted_once(model: Model, workload: Workload) -> None:
    layout = one_rank(model, workload)
    expected_read = expected_write = 0.0
    for owned in layout.kinds:
        mixer = owned.shard.mixer
        assert isinstance(mixer, GroupedQuery)
        entry = mixer.kv_heads * (mixer.head_dim + mixer.value_dim) * cached_bytes(mixer, owned.shard.kv)
        for r in workload.requests:
            seen = r.context_tokens if mixer.window is None else min(r.context_tokens, mixer.window + r.new_tokens - 1)
            expected_read += owned.layers * r.count * seen * entry
            expected_write += owned.layers * r.count * r.new_tokens * entry
    work = work_of(model, workload)
    assert work.kv_read_bytes == pytest.approx(expected_read, rel=1e-12)
    assert work.kv_write_bytes == pytest.approx(expected_write, rel=1e-12)


@given(gpus, models(), workloads(), st.integers(1, 50))
def test_nothing_falls_when_the_batch_grows(gpu: Any, model: Model, workload: Workload, more: int) -> None:
    grown = tuple(msgspec.structs.replace(r, count=r.count + more) for r in workload.requests)
    _never_falls(gpu, model, workload, msgspec.structs.replace(workload, requests=grown))


@given(gpus, models(grouped_query() | latents), workloads(), st.integers(1, 5000))
def test_nothing_falls_when_the_context_grows(gpu: Any, model: Model, workload: Workload, more: int) -> None:
    grown = tuple(msgspec.structs.replace(r, context_tokens=r.context_tokens + more) for r in workload.requests)
    _never_falls(gpu, model, workload, msgspec.structs.replace(workload, requests=grown))


def _never_falls(gpu: Any, model: Model, less: Workload, more: Workload) -> None:
    before, after = record_of(gpu, model, less), record_of(gpu, model, more)
    if before is None or after is None:
        return
    names = ["flops", "compulsory_bytes"]
    # Latents switch to the algorithm with fewer FLOPs; on units of different speed the step may then be faster.
    if len(after.gpu.peaks) == 1 or not any(isinstance(mixer, Latent) for mixer in model.mixers.values()):
        names.append("bound_s")
    for name in names:
        assert getattr(after.step, name) >= getattr(before.step, name) * (1 - 1e-12), name


@given(models(), workloads())
def test_one_gpu_talks_to_nobody(model: Model, workload: Workload) -> None:
    assert work_of(model, workload).link_bytes == 0


TP = (1, 2, 4, 8)


@given(models(), workloads())
def test_a_rank_never_moves_more_with_more_ranks(model: Model, workload: Workload) -> None:
    works = [work_of(model, workload, tp) for tp in TP]
    for fewer, more in itertools.pairwise(works):
        for name in ("weight_bytes", "kv_read_bytes", "kv_write_bytes"):
            assert getattr(more, name) <= getattr(fewer, name) * (1 + 1e-12), name


@given(models(grouped_query()), workloads(), st.sampled_from([8, 16, 32]))
def test_kv_stops_falling_at_the_number_of_kv_heads(model: Model, workload: Workload, kv_heads: int) -> None:
    mixer = GroupedQuery(heads=64, kv_heads=kv_heads, head_dim=64)
    uniform = msgspec.structs.replace(model, mixers={"first": mixer, "second": mixer})
    read = {tp: _kv_read(uniform, workload, tp) for tp in (1, 8, 16, 32, 64)}
    for tp, found in read.items():
        assert found == pytest.approx(read[1] / min(tp, kv_heads), rel=1e-12)


def _kv_read(model: Model, workload: Workload, tp: int) -> float:
    # FFN widths need not divide: only the mixers matter here.
    model = msgspec.structs.replace(
        model, ffns={name: msgspec.structs.replace(f, intermediate=64, **_plain(f)) for name, f in model.ffns.items()}
    )
    return work_of(model, workload, tp).kv_read_bytes


def _plain(ffn: Any) -> dict[str, Any]:
    return {"shared_intermediate": 64, "dense": None} if hasattr(ffn, "experts") else {}


@given(models(latents), workloads(), st.sampled_from(TP))
def test_latents_never_fall(model: Model, workload: Workload, tp: int) -> None:
    assert all(isinstance(mixer, Latent) for mixer in model.mixers.values())
    assert work_of(model, workload, tp).kv_read_bytes == work_of(model, workload).kv_read_bytes
