"""GPUs in nodes: what clusters are read as, which links a layout uses, mistakes, 1024 GPUs, and what fits on them."""

from __future__ import annotations

from typing import Any

import pytest

import kvperf
from kvperf import api
from kvperf.cli import run
from kvperf.errors import KvperfError
from kvperf.evaluation import step
from kvperf.hardware import gpu_names, load_gpu
from kvperf.hardware.cluster import joined, load_cluster, node_size
from kvperf.hardware.network import load_network, network_names
from kvperf.layout import Group, Parallelism, on_nodes
from kvperf.model import load_model
from kvperf.record import Analysis
from kvperf.workload import Requests, Workload

GB = 1e9


@pytest.mark.parametrize(
    ("text", "name", "node", "nodes"),
    [
        ("h100-sxm:8x2", "h100-sxm", 8, 2),
        ("h100:8×2", "h100-sxm", 8, 2),
        ("h100:8", "h100-sxm", 8, 1),
        ("H100 SXM:4x1", "h100-sxm", 4, 1),
        ("gb200:72x14", "gb200", 72, 14),
        ("b200:1x64", "b200", 1, 64),
    ],
)
def test_a_cluster_is_a_gpu_in_nodes(text: str, name: str, node: int, nodes: int) -> None:
    gpu = load_cluster(text)
    assert (gpu.name, gpu.cluster.node_gpus, gpu.cluster.nodes) == (name, node, nodes)
    assert node_size(gpu) == node
    assert joined(gpu, node * nodes).beside == node
    with pytest.raises(KvperfError, match=f"the layout has {node * nodes + 1} GPUs on"):
        joined(gpu, node * nodes + 1)


def test_a_path_with_a_colon_is_told_from_a_shape(tmp_path: Any) -> None:
    path = tmp_path / "a:b.yaml"
    path.write_text(load_gpu("h100").path.read_text(encoding="utf-8"), encoding="utf-8")
    assert load_cluster(f"{path}:8x2").cluster.nodes == 2


@pytest.mark.parametrize("text", ["h100", "h100:8x2x2", "h100:x2", "h100:8x", ":8x2", "h100:-8", "h100:8.5x2", ""])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(KvperfError, match="is no cluster"):
        load_cluster(text)


def test_without_a_cluster_nodes_are_those_that_the_gpus_are_sold_in() -> None:
    assert node_size(load_gpu("h100-sxm")) == 8
    assert node_size(load_gpu("gb200")) == 72  # one NVLink domain, though a machine has 4
    assert node_size(load_gpu("l40s")) == 8
    assert node_size(load_gpu("h100-nvl")) == 8  # a bridge is no machine
    for name in gpu_names():
        assert node_size(load_gpu(name)) >= 1


def test_a_network_is_what_the_gpu_usually_has_or_what_is_named() -> None:
    usual = joined(load_gpu("h100-sxm"), 16)
    assert (usual.network_bytes_per_s, usual.cluster.network.name) == (50 * GB, "infiniband-ndr")  # type: ignore[union-attr]
    for name in network_names():
        gpu = joined(load_cluster("l40s:8x2", name), 16)
        assert gpu.network_bytes_per_s == min(load_network(name).bytes_per_s, 32 * GB)  # behind the card's PCIe
        assert joined(load_cluster("h100:8x2", name), 16).network_bytes_per_s == load_network(name).bytes_per_s
    inside = joined(load_gpu("h100-sxm"), 8)
    assert inside.network_bytes_per_s is None and inside.network_latency_s is None


# Links.


@pytest.mark.parametrize(
    ("gpu", "tp", "rate"),
    [
        ("h100-sxm", 2, 450 * GB),
        ("h100-sxm", 8, 450 * GB),
        ("h100-nvl", 2, 300 * GB),  # the bridge
        ("h100-nvl", 4, 64 * GB),  # beyond it, PCIe
        ("l40s", 4, 32 * GB),
    ],
)
def test_an_all_reduce_takes_the_links_that_join_its_ranks(gpu: str, tp: int, rate: float) -> None:
    record = kvperf.analyze(gpu=gpu, model="llama-3.1-70b", tp=tp, batch=64, stack="none", weight_dtype="int4")
    found = next(stage for stage in record.stages if stage.name == "all_reduce")
    assert found.link_bytes == 161 * 2 * 64 * 8192
    assert found.resources.link_s == found.link_bytes / rate
    assert record.gpu.link_bytes_per_s == (None if rate < 100 * GB else rate)


def test_sixteen_ranks_send_a_slice_each_over_the_network() -> None:
    """Two nodes of 8: all of the message inside a node at 450 GB/s, an eighth across at 50 GB/s."""
    record = kvperf.analyze(gpu="h100", model="llama-3.1-70b", tp=16, batch=64, stack="none")
    found = next(stage for stage in record.stages if stage.name == "all_reduce")
    message = 161 * 2 * 64 * 8192
    assert found.network_bytes == message / 8
    assert found.link_bytes == message + message / 8
    assert found.resources.link_s == max(message / (450 * GB), message / 8 / (50 * GB))
    assert (record.workload.gpus, record.workload.nodes, record.workload.network) == (16, 2, "infiniband-ndr")
    # Smaller nodes, larger slices.
    apart = kvperf.analyze(cluster="h100:4x4", model="llama-3.1-70b", tp=16, batch=64, stack="none")
    assert next(s for s in apart.stages if s.name == "all_reduce").network_bytes == message / 4
    alone = kvperf.analyze(cluster="h100:1x16", model="llama-3.1-70b", tp=16, batch=64, stack="none")
    only = next(s for s in alone.stages if s.name == "all_reduce")
    assert only.link_bytes == only.network_bytes == message


@pytest.mark.parametrize("network", ["infiniband-hdr", "infiniband-ndr", "infiniband-xdr"])
def test_a_named_network_carries_at_its_rate(network: str) -> None:
    record = kvperf.analyze(gpu="h100", model="llama-3.1-70b", tp=16, batch=64, network=network, stack="none")
    found = next(stage for stage in record.stages if stage.name == "all_reduce")
    near_s = (found.link_bytes - found.network_bytes) / (450 * GB)
    assert found.resources.link_s == max(near_s, found.network_bytes / load_network(network).bytes_per_s)
    assert record.workload.network == network


def test_the_network_of_a_pcie_card_is_behind_its_pcie() -> None:
    record = kvperf.analyze(cluster="l40s:1x2", network="infiniband-ndr", tp=2, batch=64, stack="none")
    found = next(stage for stage in record.stages if stage.name == "all_reduce")
    assert found.resources.link_s >= found.network_bytes / (32 * GB)


# Mistakes.

MISTAKES = [
    ("--gpu l40s --model llama-3.1-70b --tp 16", "nobody says what joins nodes of l40s", "--network"),
    ("--cluster l40s:8x2", "nobody says what joins nodes of l40s", "--network"),
    (
        "--cluster h100:8x2 --model llama-3.1-70b --tp 8 --pp 4",
        "the layout has 32 GPUs on 4 nodes, the cluster 2 of 8",
        "degrees",
    ),
    ("--gpu h100 --cluster h100:8x2", "--gpu h100 beside --cluster h100:8x2", "leave --gpu out"),
    ("--gpu h100:8x2", "--gpu h100:8x2 is a cluster", "--cluster h100:8x2"),
    ("--cluster h100", "--cluster h100 is no cluster", "h100-sxm:8x2"),
    ("--cluster h100:0x2", "--cluster h100:0x2 has no GPUs", "h100-sxm:8x2"),
    ("--cluster h10:8x2", "unknown GPU 'h10'", "did you mean"),
    ("--network infiniband-nrd", "unknown network 'infiniband-nrd'", "infiniband-ndr"),
    ("--model llama-3.1-70b --tp 3", "--tp 3 does not divide the 64 query heads", "divides 64"),
    ("--model mixtral-8x7b --attention-dp 3 --ep 3", "--ep 3 does not divide the 8 experts", "divisor of 8"),
    (
        "--model mixtral-8x7b --tp 4 --ep 3",
        "--ep 3 does not divide the GPUs that hold the experts, 4",
        "--attention-dp",
    ),
    ("--model llama-3.1-70b --tp 2 --ep 2", "--ep 2, but llama-3.1-70b has no experts", "leave --ep out"),
    ("--tp 0", "--tp 0 is not a number of GPUs", "1 or more"),
    ("--pp 33", "--pp 33, but the model has 32 layers", "at most 32"),
    ("--micro-batches 2", "--micro-batches without --pp", "--pp"),
    ("--sequence-parallel", "--sequence-parallel without --tp", "--tp"),
    ("--cluster h100:6x2 --tp 8", "--tp 8 does not fill nodes of 6 GPUs evenly", "divisor or a multiple of 6"),
    ("--tp 2 --cp 3 --context-scheme ulysses", "--tp × --cp 6 does not divide the 32 query heads", "divide 32"),
    ("--model mixtral-8x7b --attention-dp 8 --ep 8 --redundant-experts 3", "and their 3 copies", "--redundant-experts"),
    ("--expert-imbalance 0.5", "--expert-imbalance 0.5", "1 or more"),
    ("--routed-nodes 0", "--routed-nodes 0", "1 or more"),
    ("--all-reduce magic", "'magic' is not one of", "--help"),
]


def test_groups_lie_on_as_many_gpus_of_a_node_as_they_fill() -> None:
    """Two stages of TP 4 on nodes of 6: one on each, and two GPUs of each idle; no group reaches over both."""
    record = kvperf.analyze(cluster="h100-sxm:6x2", model="llama-3.1-70b", tp=4, pp=2)
    assert (record.workload.gpus, record.workload.nodes) == (8, 2)
    assert any("8 of the cluster's 12 GPUs" in warning for warning in record.warnings)
    one = kvperf.analyze(cluster="h100-sxm:4x2", model="llama-3.1-70b", tp=4, pp=2)
    assert one.step == record.step
    wide = on_nodes(Parallelism(tp=4, attention_dp=3), 8)
    assert (wide.node_gpus, wide.expert_group) == (4, Group(12, 3))


@pytest.mark.parametrize(("asked", "message", "hint"), MISTAKES, ids=[asked for asked, _, _ in MISTAKES])
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_mistake_is_two_lines(
    asked: str, message: str, hint: str, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["analyze", *asked.split(), "--format", form]) == 2
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert message in lines[0] and hint in lines[1]
    assert "Traceback" not in err


def test_a_named_network_mends_the_first_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["analyze", "--gpu", "l40s", "--model", "llama-3.1-70b", "--tp", "16", "--network", "infiniband-hdr"]
    assert run([*asked, "--format", "csv"]) == 0
    assert "all_reduce" in capsys.readouterr().out


# Large layouts.

DEEPSEEK = {"model": "deepseek-v3", "batch": 128 * 1024, "gpu": "h200"}
LARGE: list[dict[str, Any]] = [
    {**DEEPSEEK, "attention_dp": 256, "ep": 256, "pp": 4},
    {**DEEPSEEK, "attention_dp": 1024, "ep": 256},
    {**DEEPSEEK, "attention_dp": 128, "tp": 8, "ep": 128},
    {**DEEPSEEK, "attention_dp": 32, "tp": 8, "cp": 4, "ep": 256, "context_scheme": "ulysses"},
    {"model": "llama-3.1-405b", "gpu": "gb200", "tp": 8, "pp": 16, "cp": 8, "batch": 256, "seq": 1 << 17},
    {"model": "llama-3.1-405b", "gpu": "h100", "tp": 8, "pp": 126, "cp": 8, "batch": 126},  # a layer a stage
    {"model": "gpt-oss-120b", "cluster": "h100:8x128", "attention_dp": 1024, "ep": 128, "batch": 1024},
]


@pytest.mark.parametrize("layout", LARGE, ids=str)
def test_a_thousand_gpus_are_one_rank_for_each_stage(layout: dict[str, Any]) -> None:
    record = kvperf.analyze(**layout, stack="sglang")
    degrees = [layout.get(name, 1) for name in ("tp", "pp", "cp", "attention_dp")]
    gpus = degrees[0] * degrees[1] * degrees[2] * degrees[3]
    node = 64 if layout.get("gpu") == "gb200" else 8  # of 72 GPUs a stage of 64 uses these
    assert gpus >= 1024
    assert (record.workload.gpus, record.workload.nodes) == (gpus, -(-gpus // node))
    assert record.step.network_bytes > 0
    assert 0 < record.step.bound_s <= record.step.predicted_low_s <= record.step.predicted_s  # type: ignore[operator]
    assert all(replicated.bytes > 0 for replicated in record.replicated if replicated.kind == "weights")
    one = kvperf.analyze(gpu="h200", model=layout["model"], stack="none").memory.resident_weight_bytes
    held = record.memory.resident_weight_bytes * gpus
    assert held >= one  # every weight is somewhere


def test_a_thousand_gpus_hold_the_experts_once() -> None:
    record = kvperf.analyze(**LARGE[1], stack="none")
    model = load_model("deepseek-v3")
    found = {r.name: r.bytes for r in record.replicated}
    assert "moe_experts" not in found  # four ranks slice each of 256 experts
    assert found["final_norm"] == 1023 * model.hidden_size * 2
    assert found["lm_head"] == 1023 * model.vocab_size * model.hidden_size * 2


# What fits.

FULL: list[dict[str, Any]] = [
    {"gpu": "h100", "model": "llama-3.1-70b", "tp": 4, "batch": 64, "seq": 8192},
    {"gpu": "h100", "model": "llama-3.1-70b", "tp": 2, "batch": 8, "seq": 4096},
    {"gpu": "h200", "model": "gpt-oss-120b", "batch": 512, "seq": 32768},
    {"gpu": "h100", "model": "llama-3.1-70b", "tp": 2, "pp": 2, "batch": 400, "seq": 4096},
    {"gpu": "h100", "model": "llama-3.1-8b", "batch": 512, "phase": "prefill", "seq": 2048},
    {"gpu": "h100", "model": "gemma-3-12b", "batch": 300, "seq": 20000},
    {"gpu": "h200", "model": "deepseek-v3", "attention_dp": 8, "ep": 8, "batch": 4096, "seq": 4096},
    {"gpu": "h100", "model": "llama-3.1-70b", "tp": 4, "cp": 2, "batch": 64, "seq": 65536},
    {"gpu": "h100", "model": "nemotron-h-56b", "tp": 2, "batch": 300, "seq": 20000},
]
NARROWER = {"--kv-dtype": ("fp8", "int4"), "--weight-dtype": ("fp8", "int4")}


def analysed(asked: dict[str, Any], **changes: Any) -> Analysis:
    return kvperf.analyze(**{**asked, **changes}, stack="none")


def key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


@pytest.mark.parametrize("asked", FULL, ids=str)
def test_changes_that_would_fit_do_and_one_step_less_does_not(asked: dict[str, Any]) -> None:
    record = analysed(asked)
    assert record.memory.fits is False and record.would_fit
    for change in record.would_fit:
        value: Any = int(change.value) if change.value.isdigit() else change.value
        assert analysed(asked, **{key(change.option): value}).memory.fits is True, change
        if change.option in ("--batch", "--seq"):
            assert 0 < value < asked[key(change.option)]
            assert analysed(asked, **{key(change.option): value + 1}).memory.fits is False, change
        elif change.option in NARROWER:
            wider = NARROWER[change.option][: NARROWER[change.option].index(value)]
            assert not any(analysed(asked, **{key(change.option): name}).memory.fits for name in wider), change
        else:
            had = asked.get(key(change.option), 1)
            assert value in [had * 2**n for n in range(1, 11)]
            if value // 2 > had:
                assert not analysed(asked, **{key(change.option): value // 2}).memory.fits, change
    # What is not listed would not be enough.
    listed = {change.option for change in record.would_fit}
    for option, names in NARROWER.items():
        if option not in listed:
            assert not any(analysed(asked, **{key(option): name}).memory.fits for name in names)
    if "--batch" not in listed:
        assert not analysed(asked, batch=1).memory.fits
    if "--seq" not in listed:
        assert not analysed(asked, seq=1).memory.fits


@pytest.mark.parametrize("asked", FULL, ids=str)
def test_the_largest_batch_and_context_are_the_last_that_fit(asked: dict[str, Any]) -> None:
    kept = analysed(asked).memory
    assert kept.max_batch and kept.max_batch % asked.get("attention_dp", 1) == 0
    assert analysed(asked, batch=kept.max_batch).memory.fits
    assert not analysed(asked, batch=kept.max_batch + 1).memory.fits
    if kept.max_context_tokens:
        assert analysed(asked, seq=kept.max_context_tokens).memory.fits
        assert not analysed(asked, seq=kept.max_context_tokens + 1).memory.fits


def test_what_fits_needs_no_change() -> None:
    record = analysed({"gpu": "h100", "model": "llama-3.1-70b", "tp": 4, "batch": 8})
    assert record.memory.fits and record.would_fit == ()


BUFFERS = {1: 0, 2: 358_612_992, 4: 411_041_792, 8: 411_041_792}


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
@pytest.mark.parametrize("degree", ["tp", "pp", "cp", "attention_dp"])
@pytest.mark.parametrize(("fraction", "reserve"), [(0.9, 3_758_096_384), (1.0, 0)])
def test_spare_bytes_are_what_the_parts_leave(gpus: int, degree: str, fraction: float, reserve: int) -> None:
    record = kvperf.analyze(
        "h200",
        "llama-3.1-70b",
        batch=16,
        stack="none",
        memory_fraction=fraction,
        reserve_bytes=reserve,
        **{degree: gpus},
    )
    kept = record.memory
    assert kept.capacity_bytes is not None and kept.spare_bytes is not None
    # Between pipeline stages two ranks at a time talk.
    assert kept.collective_buffer_bytes == (BUFFERS[min(gpus, 2)] if degree == "pp" else BUFFERS[gpus])
    parts = (
        *(kept.resident_weight_bytes, kept.kv_cache_bytes, kept.activation_peak_bytes),
        *(kept.collective_buffer_bytes, kept.reserve_bytes),
    )
    assert kept.reserve_bytes == reserve and min(parts[:3]) > 0
    assert kept.spare_bytes == pytest.approx(kept.capacity_bytes * fraction - sum(parts), rel=1e-12, abs=1)
    assert kept.fits == (kept.spare_bytes >= 0)


def test_the_memory_is_that_of_the_fullest_stage() -> None:
    """Of 61 layers in 4 stages the second and third have more, the first the table, the last the head."""
    gpu, model, spread = load_gpu("h200"), load_model("deepseek-v3"), Parallelism(pp=4, tp=8)
    workload = Workload("decode", (Requests(64, 4096, 1),))
    ranks = step(gpu, model, workload, spread).ranks
    streamed = [rank.work.weight_bytes for rank in ranks]
    kept = api.analyze("h200", "deepseek-v3", batch=64, pp=4, tp=8, stack="none").memory
    layers = [sum(owned.layers for owned in rank.layout.kinds) for rank in ranks]
    assert sum(layers) == 61 and kept.kv_cache_bytes == max(layers) * 64 * 4096 * 576 * 2
    assert kept.resident_weight_bytes >= max(streamed)
