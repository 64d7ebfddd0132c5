"""A pipeline of stages: step times against micro-batches sent through it one event after another."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

import kvperf
from kvperf.bound import resources
from kvperf.evaluation import Step, step
from kvperf.hardware import load_gpu
from kvperf.hardware.cluster import load_cluster
from kvperf.layout import Parallelism, stages
from kvperf.layout.rank import stage_layers
from kvperf.model import load_model
from kvperf.workload import Requests, Workload

H100 = load_gpu("h100")


class Run:
    """Micro-batches through stages in order; a stage has one at a time, a micro-batch waits for its last round's end.

    times  of each micro-batch on each stage: times[stage][micro-batch]
    """

    def __init__(self, times: list[list[float]], rounds: int) -> None:
        self.free = [0.0] * len(times)
        self.ends: list[list[float]] = []  # of each round, each micro-batch
        out = [0.0] * len(times[0])
        for _ in range(rounds):
            for part in range(len(out)):
                at = out[part]
                for stage, each in enumerate(times):
                    at = max(at, self.free[stage]) + each[part]
                    self.free[stage] = at
                out[part] = at
            self.ends.append(list(out))


def once(times: list[float], m: int) -> float:
    """One pass of m micro-batches: when the last is out."""
    return Run([[t] * m for t in times], 1).ends[0][-1]


def round_s(times: list[float], m: int) -> float:
    """The time between two tokens of a sequence, once the pipeline runs steadily."""
    ends = Run([[t] * m for t in times], 60).ends
    return (ends[-1][0] - ends[-21][0]) / 20


def decode(batch: int, seen: int = 4096) -> Workload:
    return Workload("decode", (Requests(batch, seen, 1),))


def prompts(batch: int, tokens: int = 2048) -> Workload:
    return Workload("prefill", (Requests(batch, tokens, tokens),))


def times_of(whole: Step) -> list[float]:
    """Seconds of a micro-batch on each stage, by the bound."""
    return [resources(rank.work, whole.gpu).longest_s for rank in whole.ranks]


def predictions_of(whole: Step) -> list[float]:
    return [rank.predicted.seconds - (rank.predicted.host_s or 0.0) for rank in whole.ranks]


SHAPES = [(2, 1), (2, 2), (2, 4), (3, 2), (4, 1), (4, 2), (4, 4), (4, 8), (5, 3), (8, 8), (8, 16)]


@pytest.mark.parametrize("model", ["llama-3.1-70b", "mixtral-8x7b", "gemma-3-12b"])
@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_rounds_of_decode_take_what_the_simulation_does(model: str, p: int, m: int) -> None:
    workload = decode(16 * m)
    whole = step(H100, load_model(model), workload, Parallelism(pp=p, micro_batches=m), "vllm")
    assert (len(whole.ranks), whole.micro_batches) == (p, m)
    for times, found, wait in (
        (times_of(whole), whole.bound_s, whole.bound_wait_s),
        (predictions_of(whole), whole.predicted_s - (whole.host_s or 0.0), whole.wait_s),
    ):
        assert found == pytest.approx(round_s(times, m), rel=1e-9)
        assert wait == pytest.approx(found - m * max(times), rel=1e-9, abs=1e-15)
        assert max(times) in (times[-1], times[0], *times[1:-1]) and found >= m * max(times)
        if m == 1:
            assert found == pytest.approx(sum(times), rel=1e-12)  # one sequence after the other through all stages
        if m >= 2 * p:
            assert wait == 0  # more than enough micro-batches: the slowest stage never waits


@pytest.mark.parametrize("model", ["llama-3.1-70b", "gemma-3-12b"])
@pytest.mark.parametrize(("p", "m"), SHAPES)
def test_a_pass_of_prompts_takes_what_the_simulation_does(model: str, p: int, m: int) -> None:
    workload = prompts(2 * m)
    whole = step(H100, load_model(model), workload, Parallelism(pp=p, micro_batches=m), "vllm")
    assert whole.micro_batches == m
    for times, found, wait in (
        (times_of(whole), whole.bound_s, whole.bound_wait_s),
        (predictions_of(whole), whole.predicted_s - (whole.host_s or 0.0), whole.wait_s),
    ):
        assert found == pytest.approx(once(times, m), rel=1e-12)
        # The bubble: the busiest stage waits while the others are filled and drained.
        assert wait == pytest.approx(sum(times) - max(times), rel=1e-9)
        # Of stages alike it is (p − 1)/m of the work (Narayanan et al. 2021, section 2.2.1).
        assert once([1.0] * p, m) / m - 1 == pytest.approx((p - 1) / m)


def test_the_simulation_of_stages_alike_gives_the_known_figures() -> None:
    assert round_s([1.0] * 4, 1) == pytest.approx(4)
    assert round_s([1.0] * 4, 4) == pytest.approx(4)  # m = p: every stage is always busy
    assert round_s([1.0] * 4, 8) == pytest.approx(8)
    assert once([1.0] * 4, 8) == 11
    assert round_s([1.0, 3.0, 1.0], 2) == pytest.approx(6)
    assert round_s([1.0, 3.0, 1.0], 1) == pytest.approx(5)


def test_a_record_tells_the_whole_step_and_the_busiest_stage() -> None:
    for m in (1, 4, 8):
        record = kvperf.analyze("h100", "llama-3.1-70b", batch=64, pp=4, micro_batches=m, stack="none")
        whole = step(H100, load_model("llama-3.1-70b"), decode(64), Parallelism(pp=4, micro_batches=m))
        busiest = whole.busiest
        assert times_of(whole)[whole.ranks.index(busiest)] == max(times_of(whole))
        assert record.workload.micro_batches == m
        assert record.step.weight_bytes == m * busiest.work.weight_bytes  # read again for every micro-batch
        assert record.step.kv_read_bytes == m * busiest.work.kv_read_bytes
        assert record.step.bound_s == whole.bound_s >= max(record.step.resources.hbm_s, record.step.resources.link_s)
        assert (
            record.step.pipeline_wait_s == whole.wait_s == pytest.approx(record.step.bound_s - m * max(times_of(whole)))
        )
        assert record.step.tokens_per_s_bound == 64 / whole.bound_s


def test_the_kv_of_a_stage_is_read_once_whatever_the_micro_batches() -> None:
    read = {
        m: kvperf.analyze("h100", "llama-3.1-70b", batch=64, pp=4, micro_batches=m, stack="none").step.kv_read_bytes
        for m in (1, 2, 4, 8)
    }
    assert set(read.values()) == {20 * 64 * 4096 * 2 * 8 * 256}  # 20 of 80 layers


def test_a_batch_that_does_not_divide_is_not_rounded_up_for_every_micro_batch() -> None:
    """5 sequences in 4 parts are 2, 1, 1, 1: 5 sequences' keys and values, not 8."""
    record = kvperf.analyze("h100", "llama-3.1-70b", batch=5, pp=4, stack="none")
    assert record.workload.micro_batches == 4
    assert record.step.kv_read_bytes == 20 * 5 * 4096 * 2 * 8 * 256


def uneven(p: int, m: int, batch: int) -> tuple[float, float]:
    """The bound's round and the simulated one, of parts as a batch really falls into."""
    whole = step(H100, load_model("llama-3.1-70b"), decode(batch), Parallelism(pp=p, micro_batches=m))
    sizes = [batch // m + (i < batch % m) for i in range(m)]
    each = {
        n: times_of(step(H100, load_model("llama-3.1-70b"), decode(n), Parallelism(pp=p, micro_batches=1)))
        for n in sizes
    }
    ends = Run([[each[n][stage] for n in sizes] for stage in range(p)], 60).ends
    return whole.bound_s, (ends[-1][0] - ends[-21][0]) / 20


@pytest.mark.parametrize(("p", "m", "batch"), [(2, 2, 8), (4, 4, 64), (4, 8, 64)])
def test_an_even_batch_takes_what_its_parts_do(p: int, m: int, batch: int) -> None:
    found, simulated = uneven(p, m, batch)
    assert found == pytest.approx(simulated, rel=1e-9)


@pytest.mark.parametrize(("p", "m", "batch"), [(2, 4, 5), (4, 8, 9)])
def test_an_uneven_batch_takes_no_longer_than_its_parts_do(p: int, m: int, batch: int) -> None:
    found, simulated = uneven(p, m, batch)
    assert found <= simulated * (1 + 1e-9)


def test_there_are_no_more_micro_batches_than_sequences() -> None:
    for batch, dp, expected in ((1, 1, 1), (3, 1, 3), (4, 1, 4), (9, 1, 4), (8, 4, 2), (9, 4, 3)):
        spread = Parallelism(pp=4, attention_dp=dp)
        assert step(H100, load_model("llama-3.1-70b"), decode(batch), spread).micro_batches == expected
    asked = Parallelism(pp=2, micro_batches=16)
    assert step(H100, load_model("llama-3.1-70b"), decode(64), asked).micro_batches == 16


@pytest.mark.parametrize("p", range(1, 33))
@pytest.mark.parametrize("layers", [32, 36, 61, 80])
def test_layers_are_shared_out_whole_and_even(layers: int, p: int) -> None:
    ends = [stage_layers(layers, p, stage) for stage in range(p)]
    assert (ends[0][0], ends[-1][1]) == (0, layers)
    assert all(high == low for (_, high), (low, _) in itertools.pairwise(ends))
    sizes = [high - low for low, high in ends]
    assert max(sizes) - min(sizes) <= 1
    if layers % p and p > 2:
        assert sizes[0] == sizes[-1] == min(sizes) or layers % p > p - 2  # the ends have embedding and head too


@pytest.mark.parametrize("model", ["llama-3.1-70b", "deepseek-v3", "gpt-oss-120b", "gemma-3-12b", "nemotron-h-56b"])
@pytest.mark.parametrize("p", [2, 3, 7])
def test_all_stages_together_are_the_model(model: str, p: int) -> None:
    workload, loaded = decode(64), load_model(model)
    whole = step(H100, loaded, workload, Parallelism(pp=p, micro_batches=1))
    alone = step(H100, loaded, workload)
    assert sum(rank.work.matrix_flops for rank in whole.ranks) == pytest.approx(alone.ranks[0].work.matrix_flops)
    assert sum(rank.work.kv_read_bytes for rank in whole.ranks) == pytest.approx(alone.ranks[0].work.kv_read_bytes)
    assert sum(rank.work.weight_bytes for rank in whole.ranks) == pytest.approx(alone.ranks[0].work.weight_bytes)
    names = [{stage.name for stage in rank.stages} for rank in whole.ranks]
    assert ["embedding" in found for found in names] == [True] + [False] * (p - 1)
    assert (
        ["lm_head" in found for found in names]
        == ["sampling" in found for found in names]
        == [False] * (p - 1) + [True]
    )
    assert ["send_receive" in found for found in names] == [True] * (p - 1) + [False]
    sent = {stage.work.link_bytes for rank in whole.ranks for stage in rank.stages if stage.name == "send_receive"}
    assert sent == {2 * 64 * loaded.hidden_size}
    # Layers of one kind that stages have alike are one object; the first differs from the last.
    layouts = stages(loaded, workload, Parallelism(pp=p))
    assert layouts[0] is not layouts[-1]


def test_the_first_layers_norm_alone_has_no_residual_to_add() -> None:
    """A later stage's first norm adds the residual that came over the link."""
    whole = step(H100, load_model("llama-3.1-70b"), decode(64), Parallelism(pp=2, micro_batches=1))
    first, second = ({s.name: s.work for s in rank.stages} for rank in whole.ranks)
    assert second["attention_norm"].vector_flops - first["attention_norm"].vector_flops == 64 * 8192


def test_more_stages_buy_room_not_latency() -> None:
    """One sequence: the same work one stage after the other, and predicted the hand-overs between them too."""
    model: Any = load_model("llama-3.1-70b")
    found = [step(H100, model, decode(1), Parallelism(pp=p), "vllm") for p in (1, 2, 4, 8)]
    assert [f.bound_s for f in found] == pytest.approx([found[0].bound_s] * 4, rel=1e-3)
    assert all(fewer.predicted_s < more.predicted_s for fewer, more in itertools.pairwise(found))


def test_a_hand_over_between_nodes_takes_the_network() -> None:
    """Of 4 ranks each sends a quarter, over 450 GB/s to GPUs or 50 GB/s to a node, where they gather the slices."""
    model, spread = load_model("llama-3.1-70b"), Parallelism(tp=4, pp=2)
    near, far = (step(load_cluster(shape), model, decode(64), spread, "vllm") for shape in ("h100:8x1", "h100:4x2"))
    quarter = 2 * 32 * 8192 / 4  # of the 32 sequences of a micro-batch
    seconds = []
    for whole, (links, network) in ((near, (2, 0)), (far, (1, 1))):
        first, last = whole.ranks
        assert "send_receive" not in {stage.name for stage in last.stages}
        index = next(i for i, stage in enumerate(first.stages) if stage.name == "send_receive")
        work = first.stages[index].work
        assert (work.link_bytes, work.network_bytes) == (links * quarter, network * quarter)
        assert first.busy[index].link_s == max(links * quarter / 450e9, network * quarter / 50e9)
        seconds.append(first.predicted.stages[index].seconds)
    assert seconds[0] < seconds[1]
