"""What ranks send one another: bytes against transfers carried out, the published exchange bound, the predictions.

Simulations move messages between ranks one by one and count what leaves each. On several nodes a message that all
ranks of a node have crosses the network in slices, one from each of them, as kvperf/stages/collective.py says.
"""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import msgspec
import pytest

import kvperf
from kvperf.errors import KvperfError
from kvperf.evaluation import step
from kvperf.hardware import load_gpu
from kvperf.hardware.gpu import Cluster
from kvperf.hardware.network import Network, load_network
from kvperf.launches.collective import KIB, MIB, Collective
from kvperf.layout import Group, Parallelism, Shard, one_rank
from kvperf.model import load_model
from kvperf.model.architecture import Experts, GroupedQuery, Model
from kvperf.pipeline import StageWork, pipeline
from kvperf.predict.calibration import Constants
from kvperf.predict.collective import COLLECTIVE, floor
from kvperf.stages import collective, context, exchange
from kvperf.stages.exchange import other_nodes_hit, ranks_hit, share_beside
from kvperf.workload import Requests, Workload

replace = msgspec.structs.replace


def step_of(new: int, count: int = 48, seen: int = 4096) -> Workload:
    return Workload("decode" if new == 1 else "prefill", (Requests(count, seen if new == 1 else new, new),))


def shard_of(name: str, spread: Parallelism, workload: Workload) -> Shard:
    return one_rank(load_model(name), workload, spread).kinds[-1].shard


def stages_of(name: str, spread: Parallelism, workload: Workload) -> dict[str, StageWork]:
    return {stage.name: stage for stage in pipeline(one_rank(load_model(name), workload, spread), workload)}


GROUPS = (Group(2), Group(4), Group(8), Group(4, 2), Group(16, 2), Group(16, 4), Group(4, 4))


class Sent:
    """Elements that left each rank, over the links of its node and over the network."""

    def __init__(self, group: Group) -> None:
        self.each, self.ranks = group.node_ranks, range(group.ranks)
        self.inside, self.across = [0.0] * group.ranks, [0.0] * group.ranks

    def node(self, rank: int) -> int:
        return rank // self.each

    def peers(self, rank: int) -> list[int]:
        """The other ranks of its node."""
        return [other for other in self.ranks if other != rank and self.node(other) == self.node(rank)]

    def one_rank(self) -> tuple[float, float]:
        """All ranks send the same."""
        assert len(set(self.inside)) == len(set(self.across)) == 1
        return self.inside[0], self.across[0]


def reduced(group: Group, elements: int, scatter: bool) -> tuple[float, float]:
    """Sums of a vector that every rank has a part of: each node adds up slices, the slices are added up over nodes.

    What a rank multicasts to its node leaves it once.
    """
    sent = Sent(group)
    each, nodes = group.node_ranks, group.nodes
    for element in range(elements):
        inside, home = element % each, element // each % nodes  # the slice's rank in a node; the node of the sum
        for rank in sent.ranks:
            if rank % each != inside:
                sent.inside[rank] += 1  # its part, to the slice's rank
            elif sent.node(rank) != home:
                sent.across[rank] += 1  # the node's part, to where it is added up
            elif not scatter and nodes > 1:
                sent.across[rank] += 1  # the sum, to the other nodes
            if rank % each == inside and not scatter and each > 1:
                sent.inside[rank] += 1  # the sum, to the node
    return sent.one_rank()


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_an_all_reduce_sends_what_sums_made_slice_by_slice_do(group: Group) -> None:
    workload = step_of(1)
    shard = replace(shard_of("llama-3.1-70b", Parallelism(), workload), tensor=group)
    elements = 64
    inside, across = reduced(group, elements, scatter=False)
    bytes_each = 2 * 48 * 8192 / elements
    work = collective.all_reduce(shard, workload)
    assert (work.link_bytes, work.network_bytes) == (inside * bytes_each, across * bytes_each)


@pytest.mark.parametrize(
    "group",
    [group if group.nodes == 1 or group.node_ranks == 1 else pytest.param(group) for group in GROUPS],
    ids=str,
)
def test_a_reduce_scatter_sends_what_sums_made_slice_by_slice_do(group: Group) -> None:
    workload = step_of(1)
    shard = replace(shard_of("llama-3.1-70b", Parallelism(), workload), tensor=group)
    elements = 64
    inside, across = reduced(group, elements, scatter=True)
    bytes_each = 2 * 48 * 8192 / elements
    work = collective.scatter_sums(shard, workload)
    assert (work.link_bytes, work.network_bytes) == (inside * bytes_each, across * bytes_each)


@pytest.mark.parametrize("group", GROUPS, ids=str)
def test_a_reduce_scatter_and_an_all_gather_send_what_an_all_reduce_does(group: Group) -> None:
    workload = step_of(1)
    shard = replace(shard_of("llama-3.1-70b", Parallelism(), workload), tensor=group)
    apart = collective.scatter_sums(shard, workload) + collective.gather_tokens(shard, workload)
    whole = collective.all_reduce(shard, workload)
    assert apart.link_bytes == pytest.approx(whole.link_bytes, rel=1e-12)
    assert apart.network_bytes == pytest.approx(whole.network_bytes, rel=1e-12)


SEQUENCE = Parallelism(tp=4, sequence_parallel=True)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_an_all_gather_sends_a_ranks_tokens_once(ranks: int) -> None:
    """A switch multiplies them; and of logits only the largest of a row travels, with its token."""
    workload = step_of(1)
    stages = stages_of("llama-3.1-70b", replace(SEQUENCE, tp=ranks), workload)
    tokens = [list(range(rank, 48, ranks)) for rank in range(ranks)]
    *gathers, logits = stages["all_gather"].parts
    assert logits.work.link_bytes == 8 * 48
    assert {part.of_a_layer.link_bytes for part in gathers} == {2 * 8192 * len(tokens[0])}
    scattered = 2 * 8192 * (48 - len(tokens[0])) * (2 * 80 + 1)  # after mixer and FFN of 80 layers, and the embedding
    assert stages["reduce_scatter"].work.link_bytes == scattered


def test_what_is_scattered_is_gathered() -> None:
    """Before 80 mixers, 80 FFNs and the head, which stand between 161 reduce-scatters."""
    stages = stages_of("llama-3.1-70b", SEQUENCE, step_of(1))
    assert stages["all_gather"].layers - 1 == stages["reduce_scatter"].layers == 161


@pytest.mark.parametrize(
    "name",
    [
        "mlp_norm",
        pytest.param("attention_norm"),
    ],
)
def test_norms_and_residuals_work_on_their_own_tokens_under_sequence_parallelism(name: str) -> None:
    workload = step_of(1)
    whole = stages_of("llama-3.1-70b", Parallelism(tp=4), workload)
    parts = stages_of("llama-3.1-70b", SEQUENCE, workload)
    assert "all_reduce" not in parts and "reduce_scatter" not in whole
    assert parts[name].work.weight_bytes == whole[name].work.weight_bytes
    assert parts["mlp"].work.matrix_flops == whole["mlp"].work.matrix_flops
    assert 4 * parts[name].work.vector_flops == whole[name].work.vector_flops


# Context parallelism.


@pytest.mark.parametrize("ranks", [2, 3, 4, 8])
def test_a_ring_passes_every_block_past_every_rank(ranks: int) -> None:
    entries, count = 96 * ranks, 2
    workload = Workload("prefill", (Requests(count, entries, entries),), kv_dtype="bf16")
    has = [{rank} for rank in range(ranks)]  # blocks that each rank has seen
    holds, sent = list(range(ranks)), [0] * ranks
    while any(len(blocks) < ranks for blocks in has):
        for rank in range(ranks):
            sent[rank] += count * entries // ranks
        holds = [holds[rank - 1] for rank in range(ranks)]
        for rank, block in enumerate(holds):
            has[rank].add(block)
    assert len(set(sent)) == 1
    found = stages_of("llama-3.1-70b", Parallelism(cp=ranks), workload)["send_receive"]
    assert found.work.link_bytes == 80 * 2 * 8 * 256 * sent[0]  # layers, bytes, KV heads, key and value
    assert found.work.kernels == 80 * (ranks - 1)


def test_under_a_window_only_the_neighbours_keys_are_needed() -> None:
    """A block of which the last W − 1 entries reach the next piece: two pieces a rank, so at most 2·(W − 1)."""
    ranks, tokens, window = 4, 32768, 1024
    workload = Workload("prefill", (Requests(1, tokens, tokens),), kv_dtype="bf16")
    piece = tokens // (2 * ranks)
    owner = {i: min(i, 2 * ranks - 1 - i) for i in range(2 * ranks)}
    needed = [0] * ranks  # entries of each rank that some other rank needs, for each that does
    for i in range(2 * ranks - 1):
        if owner[i] != owner[i + 1]:
            needed[owner[i]] += min(window - 1, piece)
    model = load_model("gemma-3-12b")
    layers = [model.mixers[layer.mixer] for layer in model.layer_sequence()]
    enough = 0
    for mixer in layers:
        assert isinstance(mixer, GroupedQuery)
        entries = max(needed) if mixer.window else (ranks - 1) * tokens // ranks
        enough += entries * 2 * mixer.kv_heads * 2 * mixer.head_dim
    found = stages_of("gemma-3-12b", Parallelism(cp=ranks), workload)["send_receive"]
    assert found.work.link_bytes <= enough * 1.001


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_in_decode_queries_go_out_once_and_partial_outputs_home(ranks: int) -> None:
    workload = step_of(1)
    home = [token % ranks for token in range(48)]
    queries, outputs = [0] * ranks, [0] * ranks
    for token, rank in itertools.product(range(48), range(ranks)):
        if home[token] == rank:
            queries[rank] += 64 * 128  # multicast
        else:
            outputs[rank] += 64 * (128 + 1)  # its partial output with a log-sum-exp a head
    stages = stages_of("llama-3.1-70b", Parallelism(cp=ranks), workload)
    assert stages["all_gather"].work.link_bytes == 80 * 2 * max(queries)
    assert stages["reduce_scatter"].work.link_bytes == 80 * 4 * max(outputs)


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize("new", [1, 512])
def test_swapping_heads_moves_each_element_to_its_rank_and_back(ranks: int, new: int) -> None:
    workload = step_of(new)
    tokens = 48 * new
    sent = 0
    for heads, dim in ((64, 128), (8, 256), (64, 128)):  # queries, keys and values, outputs: heads by owner
        for head in range(heads):
            owner = head * ranks // heads
            sent += dim * (tokens // ranks) * (owner != 0)  # what rank 0 does not keep; outputs come back as many
    found = stages_of("llama-3.1-70b", Parallelism(cp=ranks, context="ulysses"), workload)["all_to_all"]
    assert found.work.link_bytes == 80 * 2 * sent


def test_swapped_heads_of_expanded_latents_are_narrow() -> None:
    """DeepSeek-V3's prompts run with 192-wide queries and 128-wide outputs (stages/latent.py: the cheaper way)."""
    workload = step_of(4096, count=1)
    found = stages_of("deepseek-v3", Parallelism(cp=2, context="ulysses"), workload)["all_to_all"]
    swapped = sum(part.work.link_bytes for part in found.parts if part.formula is context.swap_heads)
    assert swapped == 61 * 2 * 2048 * (128 * (192 + 128) + 2 * 576) / 2  # latents go to both


@pytest.mark.parametrize("group", [Group(4, 2), Group(8, 2), Group(8, 4)], ids=str)
def test_on_several_nodes_context_ranks_cross_the_network_as_a_simulation_does(group: Group) -> None:
    """Directly to the rank that is concerned; partial outputs of a node are joined before they leave it."""
    workload = step_of(1)
    shard = replace(shard_of("llama-3.1-70b", Parallelism(), workload), context=group)
    sent = Sent(group)
    elements = 0
    for source, target in itertools.product(sent.ranks, sent.ranks):
        if source == 0 and sent.node(target) != 0:
            elements += 48 * (64 * 128 + 8 * 256 + 64 * 128) // group.ranks
    swapped = context.swap_heads(replace(shard, swaps_heads=True), workload)
    assert swapped.network_bytes == 2 * elements
    # Rank 0 joins its node's outputs for the ranks of its own index elsewhere, 48 tokens each.
    homes = [target for target in sent.ranks if target % group.node_ranks == 0 and sent.node(target) != 0]
    assert context.join_outputs(shard, workload).network_bytes == 4 * len(homes) * 48 * 64 * 129
    assert context.share_queries(shard, workload).network_bytes == 2 * 48 * 64 * 128
    # The keys of other nodes come in once, over the ports of all ranks of this one.
    others = 2 * 48 * 4096 * 8 * 256 * (group.ranks - group.node_ranks)
    assert context.pass_keys(shard, workload).network_bytes == others / group.node_ranks


@pytest.mark.parametrize("group", [Group(4, 2), Group(8, 2)], ids=str)
def test_on_several_nodes_links_carry_what_stays_in_the_node(group: Group) -> None:
    """Partial outputs: a rank keeps the tokens of its index on every node, the rest goes to its node's other ranks."""
    workload = step_of(1)
    shard = replace(shard_of("llama-3.1-70b", Parallelism(), workload), context=group)
    others = group.ranks - group.nodes
    assert context.join_outputs(shard, workload).link_bytes == 4 * others * 48 * 64 * 129
    swapped = context.swap_heads(replace(shard, swaps_heads=True), workload)
    kept = 48 * (64 * 128 + 8 * 256 + 64 * 128) * (group.node_ranks - 1)
    assert swapped.link_bytes <= 2 * kept / group.node_ranks


# A pipeline's hand-over.


@pytest.mark.parametrize(("tp", "inside", "across"), [(1, 1, 0), (4, 2 / 4, 0), (8, 1 / 8, 1 / 8)])
def test_a_hand_over_sends_a_slice_and_gathers_it(tp: int, inside: float, across: float) -> None:
    """Slices of the hidden states go to the next stage's ranks, which multicast them to one another."""
    workload = step_of(1)
    layout = one_rank(load_model("llama-3.1-70b"), workload, Parallelism(tp=tp, pp=2, node_gpus=8))
    found = {s.name: s.work for s in pipeline(layout, workload)}["send_receive"]
    whole = 2 * 48 * 8192
    assert (found.link_bytes, found.network_bytes) == (inside * whole, across * whole)


# Experts' exchange.


def routed(experts: int, top_k: int, ep: int, ranks: int, nodes: int, tokens: int) -> tuple[Shard, Any]:
    spread = Parallelism(ep=ep, attention_dp=ranks, node_gpus=ranks // nodes)
    model = load_model("deepseek-v3")
    ffns = {n: replace(f, experts=experts, top_k=top_k) for n, f in model.ffns.items() if isinstance(f, Experts)}
    model = replace(model, ffns={**model.ffns, **ffns})
    workload = Workload("decode", (Requests(tokens * ranks, 4096, 1),), weight_dtype="bf16")
    return one_rank(model, workload, spread).kinds[-1].shard, workload


def drawn(experts: int, top_k: int, ep: int, ranks: int, nodes: int, limit: int | None = None) -> dict[str, float]:
    """Copies of tokens on random ranks, sent as DeepSeek-V3 does: to each node once, there to each rank once."""
    draw, trials = random.Random(7), 6000
    each, slices = ranks // nodes, ranks // ep
    inside = across = copies = 0
    for _ in range(trials):
        home = draw.randrange(ranks)
        pool = range(experts)
        if limit is not None:
            chosen = set(draw.sample(range(nodes), limit))
            pool = [e for e in range(experts) if e * ep // experts * slices // each in chosen]  # type: ignore[assignment]
        groups = {expert * ep // experts for expert in draw.sample(pool, top_k)}
        holders = {group * slices + i for group in groups for i in range(slices)}
        copies += len(holders)
        reached = {rank // each for rank in holders}
        across += len(reached - {home // each})
        # On every node it is at the rank of the home's index, or is brought there; from it to the others.
        inside += sum(rank % each != home % each for rank in holders)
    return {"inside": inside / trials, "across": across / trials, "copies": copies / trials}


EXCHANGES = [
    (256, 8, 8, 8, 1),
    (256, 8, 64, 64, 8),
    (256, 8, 32, 32, 4),
    (128, 4, 16, 16, 2),
    (8, 2, 8, 8, 1),
    (8, 2, 4, 8, 1),  # two ranks slice each expert
    (16, 2, 8, 16, 2),
    (32, 8, 32, 32, 32),  # one GPU a node
]


@pytest.mark.parametrize(("experts", "top_k", "ep", "ranks", "nodes"), EXCHANGES)
def test_dispatch_and_combine_send_what_drawn_tokens_do(
    experts: int, top_k: int, ep: int, ranks: int, nodes: int
) -> None:
    tokens, hidden = 16, 7168
    shard, whole = routed(experts, top_k, ep, ranks, nodes, tokens)
    workload = Workload("decode", (Requests(tokens, 4096, 1),), weight_dtype="bf16", routed_tokens=whole.tokens)
    found = drawn(experts, top_k, ep, ranks, nodes)
    assert ranks_hit(shard) == pytest.approx(found["copies"], rel=0.02)
    for formula in (exchange.expert_dispatch, exchange.expert_combine):
        work = formula(shard, workload)
        unit = 2 * tokens * hidden
        assert work.link_bytes / unit == pytest.approx(found["inside"] if ranks > nodes else 0, rel=0.02)
        assert work.network_bytes / unit == pytest.approx(found["across"], rel=0.02)
        assert (work.link_bytes > 0, work.network_bytes > 0) == (ranks > nodes, nodes > 1)


@pytest.mark.parametrize(("experts", "top_k", "ep", "ranks", "nodes"), [(256, 8, 1, 16, 2), (256, 8, 2, 32, 4)])
def test_slices_of_an_expert_on_several_nodes_all_get_the_token(
    experts: int, top_k: int, ep: int, ranks: int, nodes: int
) -> None:
    shard, _ = routed(experts, top_k, ep, ranks, nodes, 16)
    assert other_nodes_hit(shard) == pytest.approx(drawn(experts, top_k, ep, ranks, nodes)["across"], rel=0.02)


def test_experts_of_few_nodes_are_on_fewer_ranks_and_rarely_on_all_of_the_nodes() -> None:
    shard, _ = routed(256, 8, 64, 64, 8, 16)
    found = drawn(256, 8, 64, 64, 8, limit=4)
    limited = replace(shard, routed_nodes=4)
    assert other_nodes_hit(limited) == pytest.approx(found["across"], rel=0.02)
    assert ranks_hit(limited) * share_beside(limited) == pytest.approx(found["inside"], rel=0.02)


@pytest.mark.parametrize(("groups", "experts", "top_k"), [(4, 8, 2), (2, 6, 3), (8, 8, 3), (3, 9, 1), (5, 5, 5)])
def test_expected_groups_agree_with_every_choice_written_out(groups: int, experts: int, top_k: int) -> None:
    choices = list(itertools.combinations(range(experts), top_k))
    mean = sum(len({e * groups // experts for e in choice}) for choice in choices) / len(choices)
    assert exchange.groups_hit(experts, top_k, groups) == pytest.approx(mean, rel=1e-12)


def test_tensor_ranks_share_their_tokens_journey() -> None:
    """Tokens of a group are on each of its tensor-parallel ranks: each sends its part, but not to those."""
    workload = step_of(1)
    apart = stages_of("deepseek-v3", Parallelism(attention_dp=8, ep=8), workload)["all_to_all"]
    paired = stages_of("deepseek-v3", Parallelism(attention_dp=4, tp=2, ep=8), workload)["all_to_all"]
    for one, two in zip(apart.parts, paired.parts, strict=True):
        out = one.formula is exchange.expert_dispatch
        assert two.work.link_bytes == pytest.approx(one.work.link_bytes * (6 / 7 if out else 1), rel=1e-12)
    assert "all_to_all" not in stages_of("deepseek-v3", Parallelism(tp=8, ep=8), workload)


# DeepSeek-AI 2025 (ISCA, arXiv:2505.09343), section 2.3.2: the lower bound of a layer's exchange.

PUBLISHED = [(7000, 50e9, 120.96e-6, 14.76e-3), (7000, 900e9, 6.72e-6, 0.82e-3), (7168, 50e9, 123.86e-6, None)]


def ninth_expert(experts: int, hidden: int) -> Model:
    """DeepSeek-V3 as the paper counts: every layer routes, and the shared expert is a ninth that travels."""
    model = load_model("deepseek-v3")
    found = next(ffn for ffn in model.ffns.values() if isinstance(ffn, Experts))
    routed = replace(found, experts=experts, top_k=9, shared_intermediate=0)
    return replace(model, hidden_size=hidden, ffns=dict.fromkeys(model.ffns, routed))


def network_of(bytes_per_s: float) -> Network:
    given = load_network("infiniband-ndr")
    assert given.bytes_per_s == 50e9
    return replace(given, per_direction=replace(given.per_direction, value=bytes_per_s))


@pytest.mark.parametrize(("hidden", "rate", "layer_s", "step_s"), PUBLISHED)
@pytest.mark.parametrize("gpus", [64, 320])
def test_the_published_bound_of_the_exchange(
    hidden: int, rate: float, layer_s: float, step_s: float | None, gpus: int
) -> None:
    """(1 + 2 bytes) × 32 tokens × 9 copies × 7000 over 50 GB/s. One GPU a node and one expert a GPU, so that all
    copies cross the network, but for those (1 in n) whose expert is at home: kvperf's figure is the published one
    times (n − 1)/n, exactly."""
    assert 3 * 32 * 9 * hidden / rate == pytest.approx(layer_s, rel=1e-4)
    model = ninth_expert(gpus, hidden)
    gpu = replace(load_gpu("h800"), cluster=Cluster(1, gpus, network_of(rate)))
    workload = Workload("decode", (Requests(32 * gpus, 4096, 1),))
    found = step(gpu, model, workload, Parallelism(ep=gpus, attention_dp=gpus)).ranks[0]
    index = next(i for i, stage in enumerate(found.stages) if stage.name == "all_to_all")
    stage = found.stages[index]
    assert {part.layers for part in stage.parts} == {3, 58} or {part.layers for part in stage.parts} == {61}
    assert stage.work.link_bytes == 0
    exact_s = 3 * 32 * 9 * hidden / rate
    assert found.busy[index].link_s / 61 == pytest.approx(exact_s * (gpus - 1) / gpus, rel=1e-12)
    assert found.busy[index].longest_s == found.busy[index].link_s
    if step_s is not None:  # two micro-batches, one after the other, of 61 layers
        assert 2 * found.busy[index].link_s == pytest.approx(step_s * (gpus - 1) / gpus, rel=1e-3)


# Predictions.

SIZES = [1 << n for n in range(8, 31)]
ALGORITHMS = ("stack", "nccl", "one-shot", "two-shot", "ring", "tree", "nvls")
CARDS = ("h100-sxm", "a100-sxm", "b200", "gb200", "l40s", "rtx-pro-6000")


def constants(gpu: Any, stack: str) -> dict[str, float]:
    return dict(Constants(gpu, stack).of("collective").constants)


def seconds(gpu: Any, launch: Collective, stack: str = "vllm") -> float:
    return float(COLLECTIVE.seconds(launch, gpu, constants(gpu, stack)))


H100 = load_gpu("h100-sxm")


@pytest.mark.parametrize("stack", ["sglang", "vllm", "trtllm"])
def test_sixteen_kib_on_eight_h100(stack: str) -> None:
    """Measured (aiconfigurator's tables): 3.6 to 5.2 µs by the stacks' own kernels, 16.6 µs by NCCL."""
    launch = Collective(16 * KIB, 8, stack=stack)
    assert 3e-6 < seconds(H100, replace(launch, algorithm="one-shot"), stack) < 6e-6
    assert 15e-6 < seconds(H100, replace(launch, algorithm="nccl"), stack) < 19e-6
    assert seconds(H100, launch, stack) == seconds(H100, replace(launch, algorithm="one-shot"), stack)


@pytest.mark.parametrize("stack", ["sglang", "vllm", "trtllm"])
def test_the_option_forces_the_algorithm_of_all_reduces_alone(stack: str) -> None:
    records = {
        name: kvperf.analyze(gpu="h100", model="llama-3.1-70b", tp=8, stack=stack, all_reduce=name)
        for name in ALGORITHMS
    }
    found = {name: {s.name: s for s in record.stages} for name, record in records.items()}
    own = found["stack"]
    for name, stages in found.items():
        assert records[name].workload.all_reduce == name
        assert stages["all_reduce"].launches == 161  # 80 layers, twice, and the embedding
        expected = 161 * seconds(H100, Collective(16 * KIB, 8, stack=stack, algorithm=name), stack)  # type: ignore[arg-type]
        assert stages["all_reduce"].predicted_s == pytest.approx(expected, rel=1e-12)
        for stage in stages:
            if stage != "all_reduce":
                assert stages[stage].predicted_s == own[stage].predicted_s
            # No algorithm changes the floor.
            assert (stages[stage].bound_s, stages[stage].link_bytes) == (own[stage].bound_s, own[stage].link_bytes)
    times = {name: stages["all_reduce"].predicted_s for name, stages in found.items()}
    assert times["stack"] == times["one-shot"] < min(times["two-shot"], times["ring"], times["nvls"])  # type: ignore[type-var]
    assert len(set(times.values())) == 5  # the stack's is one-shot, NCCL's is its ring


def test_each_algorithm_costs_what_it_says() -> None:
    used = constants(H100, "vllm")
    rate, own = 450e9 * used["link_efficiency"], 450e9 * used["own_efficiency"]
    size, ranks = 32 * MIB, 8

    def piped(wire_s: float) -> float:
        return wire_s + 2 * math.sqrt(wire_s * used["chunk_s"])

    ring = used["nccl_launch_s"] + 14 * used["hop_s"] + piped(14 / 8 * size / rate)
    switch = used["multicast_start_s"] + 9 / 8 * size / (0.85 * rate)
    direct = used["own_launch_s"] + 7 * used["peer_s"]
    expected = {
        "ring": ring,
        "nvls": direct + used["barrier_s"] + 9 / 8 * size / (0.85 * own),
        "nccl": min(ring, switch),
        "one-shot": direct + max(7 * size / own, size / (36 * 512 * 16) * used["read_s"]),
        "two-shot": direct + used["barrier_s"] + 14 / 8 * size / own,
    }
    for name, expected_s in expected.items():
        launch = Collective(size, ranks, stack="vllm", algorithm=name)  # type: ignore[arg-type]
        assert seconds(H100, launch) == pytest.approx(expected_s, rel=1e-12), name
    # Its bytes go up the tree and down; how its hops are counted has a test of its own.
    tree, wire_s = seconds(H100, Collective(size, ranks, stack="vllm", algorithm="tree")), piped(2 * size / rate)
    assert wire_s + used["nccl_launch_s"] < tree <= wire_s + used["nccl_launch_s"] + 14 * used["hop_s"]
    small = {name: seconds(H100, Collective(KIB, ranks, stack="vllm", algorithm=name)) for name in expected}  # type: ignore[arg-type]
    assert small["one-shot"] < small["two-shot"]
    assert expected["two-shot"] < expected["one-shot"]


def test_swapped_heads_reach_every_rank_that_needs_them() -> None:
    """8 KV heads over 8 tensor-parallel ranks: each of 4 context ranks needs the rank's one KV head."""
    shard = shard_of("llama-3.1-70b", Parallelism(tp=8), step_of(1))
    four = replace(shard, swaps_heads=True, context=Group(4, 1))
    elements = 8 * 128 + 4 * 256 + 8 * 128
    assert context.swap_heads(four, step_of(1)).link_bytes == 2 * 48 * elements * 3 / 4


def test_the_busiest_experts_receive_more_and_no_more_than_everything() -> None:
    def stages(imbalance: float) -> dict[str, StageWork]:
        spread = Parallelism(attention_dp=8, ep=8, expert_imbalance=imbalance)
        return stages_of("deepseek-v3", spread, step_of(1))

    even, twice, most, beyond = (stages(imbalance) for imbalance in (1.0, 2.0, 8.0, 100.0))
    for name in ("all_to_all", "moe_experts"):
        figure = "link_bytes" if name == "all_to_all" else "matrix_flops"
        one, two = (getattr(found[name].work, figure) for found in (even, twice))
        assert two == pytest.approx(2 * one)
    assert most["moe_experts"].work == beyond["moe_experts"].work  # one rank has all there is
    alone = stages_of("deepseek-v3", Parallelism(), step_of(1))
    assert beyond["moe_experts"].work.matrix_flops == pytest.approx(alone["moe_experts"].work.matrix_flops)
    with pytest.raises(KvperfError, match="without --ep"):
        kvperf.analyze(model="mixtral-8x7b", expert_imbalance=2.0)


@pytest.mark.parametrize("gpu", ["h100", "l40s", "b200"])
@pytest.mark.parametrize("step_", [{"batch": 1, "seq": 512}, {"batch": 64, "seq": 4096}, {"phase": "prefill"}], ids=str)
def test_overlap_never_goes_below_the_bound(gpu: str, step_: dict[str, Any]) -> None:
    for options in ({"tp": 8}, {"tp": 8, "all_reduce": "nccl"}, {"tp": 4, "pp": 2}):
        figures = kvperf.analyze(gpu, "llama-3.1-70b", overlap=True, **step_, **options).step  # type: ignore[arg-type]
        assert figures.predicted_low_s is not None
        assert figures.predicted_low_s >= figures.bound_s * (1 - 1e-12)


def test_what_overlap_hides_is_told() -> None:
    hidden = kvperf.analyze("h100", "llama-3.1-70b", tp=8, batch=16, overlap=True)
    stages = sum(stage.predicted_s or 0 for stage in hidden.stages)
    step_s = (hidden.step.predicted_s or 0) + hidden.step.hidden_s
    assert stages + (hidden.step.host_s or 0) == pytest.approx(step_s)


def test_a_switch_that_does_not_reduce_is_refused() -> None:
    with pytest.raises(KvperfError, match="no switch of l40s reduces"):
        kvperf.analyze("l40s", "llama-3.1-8b", tp=4, all_reduce="nvls")


def test_cards_with_bridges_reduce_as_cards_do() -> None:
    """More than two: no stack's own kernel runs without a link between all, so that NCCL's does."""
    times = [
        next(s for s in kvperf.analyze("h100-pcie", "llama-3.1-70b", tp=8, **choice).stages if s.name == "all_reduce")
        for choice in ({}, {"all_reduce": "nccl"})  # type: ignore[arg-type]
    ]
    assert times[0].predicted_s == times[1].predicted_s


def test_nccls_tree_inside_a_node_is_a_chain() -> None:
    """NCCL (src/graph/tuning.cc): 2·((ranks/nodes − 1)·intraLat + log₂(nodes)·interLat), of one node the first term."""
    used = Constants(H100, "vllm").of("collective").constants
    few, more = (seconds(H100, Collective(1.0, ranks, algorithm="tree")) for ranks in (4, 8))
    assert more - few == pytest.approx(8 * used["hop_s"], rel=1e-6)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_collective_is_faster_than_its_bytes_and_more_bytes_never_are(card: str, algorithm: Any) -> None:
    gpu = load_gpu(card)
    network = {"network_bytes_per_s": 50e9, "network_latency_s": 3.7e-6}
    for stack, ranks, (nodes, more) in itertools.product(
        ("vllm", "trtllm", "nccl"), (2, 4, 8, 16), ((1, {}), (2, network))
    ):
        before = 0.0
        for size in SIZES:
            launch = Collective(size, ranks, stack=stack, algorithm=algorithm, nodes=nodes, **more)  # type: ignore[arg-type]
            if nodes > 1:
                launch = replace(launch, stack="nccl", algorithm="nccl" if "shot" in algorithm else algorithm)
            found = seconds(gpu, launch, "vllm" if stack == "nccl" else stack)
            least = floor(launch, gpu)
            assert 0 < least <= found
            # Floors by hand: what a rank has must leave it or come in, of several nodes over the network.
            assert least >= 0.999 * (ranks - 1) / ranks * size / (gpu.link_bytes_per_s or gpu.host_bytes_per_s)
            if nodes > 1:
                assert least >= 0.999 * (nodes - 1) / nodes * size / (ranks / nodes) / 50e9
            if algorithm != "stack" or stack == "nccl":
                assert found > before
            before = found


@pytest.mark.parametrize("operation", ["all_gather", "reduce_scatter", "alltoall", "send"])
@pytest.mark.parametrize("card", ["h100-sxm", "a100-sxm", "b200"])
def test_other_collectives_cost_more_on_several_nodes(card: str, operation: Any) -> None:
    gpu, network = load_gpu(card), {"network_bytes_per_s": 50e9, "network_latency_s": 3.7e-6}
    for ranks, size in itertools.product((2, 8, 16), SIZES):
        before = seconds(gpu, Collective(size, ranks, operation))
        assert before >= floor(Collective(size, ranks, operation), gpu) > 0
        for nodes in (2, 8):
            if nodes <= ranks:
                beyond = Collective(size, ranks, operation, nodes=nodes, **network)  # type: ignore[arg-type]
                assert seconds(gpu, beyond) >= max(before, floor(beyond, gpu))


@pytest.mark.parametrize("card", ["h100-sxm", "a100-sxm", "b200"])
def test_a_stack_never_reduces_faster_on_several_nodes(card: str) -> None:
    """Against the kernels of its own, which reach no other node: eight GPUs, and rings of any number."""
    gpu, network = load_gpu(card), {"network_bytes_per_s": 50e9, "network_latency_s": 3.7e-6}
    for nodes, size in itertools.product((2, 4, 8), SIZES):
        one = seconds(gpu, Collective(size, 8, stack="sglang"), "sglang")
        assert seconds(gpu, Collective(size, 8, nodes=nodes, **network), "sglang") > one  # type: ignore[arg-type]
        for ranks in (8, 16, 32):
            ring = Collective(size, ranks, algorithm="ring")
            assert seconds(gpu, replace(ring, nodes=nodes, **network)) > seconds(gpu, ring)


@pytest.mark.parametrize(("card", "ranks"), [("b200", 8), ("gb200", 16), ("a100-sxm", 16), ("h100-sxm", 16)])
def test_nccl_never_reduces_faster_on_several_nodes(card: str, ranks: int) -> None:
    gpu, network = load_gpu(card), {"network_bytes_per_s": 100e9, "network_latency_s": 3.7e-6}
    for size in SIZES:
        one = Collective(size, ranks)
        assert seconds(gpu, replace(one, nodes=2, **network)) >= seconds(gpu, one), size


@pytest.mark.parametrize(
    ("options", "waits_for_links"),
    [
        ({"tp": 8}, False),
        ({"tp": 8, "phase": "prefill", "seq": 8192}, False),
        ({"tp": 2, "cp": 4}, False),
        ({"tp": 8, "phase": "prefill", "seq": 8192, "gpu": "l40s"}, True),  # PCIe
    ],
)
def test_overlap_takes_the_longer_of_communication_and_the_rest(options: dict[str, Any], waits_for_links: bool) -> None:
    asked = {"gpu": "h100", "model": "llama-3.1-70b", "batch": 4, "stack": "sglang", **options}
    apart, over = (kvperf.analyze(**asked, overlap=overlap) for overlap in (False, True))
    talking = rest = 0.0
    for stage in apart.stages:
        assert stage.predicted_s is not None
        between = stage.name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_receive")
        assert between == (stage.link_bytes > 0)
        talking, rest = talking + between * stage.predicted_s, rest + (not between) * stage.predicted_s
    assert min(talking, rest) > 0 and (talking > rest) == waits_for_links
    host_s = apart.step.host_s or 0.0
    assert apart.step.predicted_s == pytest.approx(talking + rest + host_s, rel=1e-12)
    assert over.step.predicted_s == pytest.approx(max(talking, rest) + host_s, rel=1e-12)
    assert [s.predicted_s for s in over.stages] == [s.predicted_s for s in apart.stages]
    assert over.step.bound_s == apart.step.bound_s <= over.step.predicted_low_s <= over.step.predicted_s  # type: ignore[operator]
