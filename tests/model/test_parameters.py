"""Parameters by hand: small parts whose count can be checked on paper, and sums that must close."""

from __future__ import annotations

import pytest

from kvperf.model import load_model, model_names
from kvperf.model.architecture import Dense, Experts, GroupedQuery, Indexer, Latent, Layer, NoFfn, NoMixer
from kvperf.model.hub.shape import same
from kvperf.model.parameters import (
    ffn_parameters,
    layer_parameters,
    mixer_parameters,
    outer_parameters,
    parameters,
)
from kvperf.model.runs import runs


def test_grouped_query_matrices_and_vectors() -> None:
    plain = mixer_parameters(GroupedQuery(4, 2, 8), 32)["attention"]
    assert (plain.matrices, plain.vectors) == (32 * (32 + 16 + 16) + 32 * 32, 0)
    biased = mixer_parameters(GroupedQuery(4, 2, 8, qkv_bias=True, output_bias=True, sinks=True), 32)["attention"]
    assert (biased.matrices, biased.vectors) == (plain.matrices, 32 + 16 + 16 + 32 + 4)
    assert mixer_parameters(GroupedQuery(4, 2, 8, qk_norm="head"), 32)["attention"].vectors == 16
    assert mixer_parameters(GroupedQuery(4, 2, 8, qk_norm="full"), 32)["attention"].vectors == 48
    assert mixer_parameters(GroupedQuery(4, 2, 8, qk_norm="unweighted"), 32)["attention"].vectors == 0
    gated = mixer_parameters(GroupedQuery(4, 2, 8, output_gate=True), 32)["attention"]
    assert gated.matrices - plain.matrices == 32 * 32
    one = mixer_parameters(GroupedQuery(4, 2, 8, shared_kv_projection=True), 32)["attention"]
    assert plain.matrices - one.matrices == 32 * 16
    narrow = mixer_parameters(GroupedQuery(4, 2, 8, v_head_dim=4), 32)["attention"]
    assert plain.matrices - narrow.matrices == 32 * 8 + 16 * 32


def test_the_indexer_of_deepseek_v3_2() -> None:
    """The difference of the published totals of V3.2 and V3: 13,959,424 values a layer, 824 scales apart."""
    mixer = load_model("deepseek-v3.2").mixers["mla"]
    assert mixer_parameters(mixer, 7168)["indexer"].total == 13_959_424


def test_latent_attention_without_a_query_latent() -> None:
    mixer = Latent(2, kv_lora_rank=8, nope_head_dim=4, rope_head_dim=2, v_head_dim=4, indexer=Indexer(1, 4, 8))
    sizes = mixer_parameters(mixer, 16)
    assert sizes["attention"].matrices == 16 * 12 + 16 * 10 + 8 * 2 * 8 + 8 * 16
    assert sizes["indexer"].matrices == 16 * 4 + 16 * 4 + 16


def test_ffns() -> None:
    assert ffn_parameters(Dense(10), 4)["mlp"].total == 120
    assert ffn_parameters(Dense(10, gated=False, bias=True), 4)["mlp"].total == 80 + 14
    sizes = ffn_parameters(Experts(8, 2, 10, shared_intermediate=5, shared_gate=True, score_bias=True), 4)
    assert {name: size.total for name, size in sizes.items()} == {
        "experts": 8 * 120,
        "router": 40,
        "shared_experts": 64,
    }
    latent = ffn_parameters(Experts(8, 2, 10, gated=False, latent=2), 4)
    assert (latent["experts"].total, latent["mlp"].total) == (8 * 40, 16)
    assert ffn_parameters(NoFfn(), 4) == {} and mixer_parameters(NoMixer(), 4) == {}


@pytest.mark.parametrize("name", model_names())
def test_modules_sum_to_the_total(name: str) -> None:
    model = load_model(name)
    count = parameters(model)
    total = 0
    for layer in model.layer_sequence():
        for size in layer_parameters(model, layer).values():
            total += size.total
    for size in outer_parameters(model).values():
        total += size.total
    assert count.total == total
    assert count.active_core <= count.active_streamed <= count.active <= count.total
    assert model.extra_parameters == 0


def test_hyper_connections_of_deepseek_v4_flash() -> None:
    mixer = load_model("deepseek-v4-flash").mixers["compressed_4"]
    assert mixer_parameters(mixer, 4096)["hyper_connections"].total == 786_486


def test_runs_find_the_block_that_covers_most() -> None:
    a, b, c = Layer("a", "x"), Layer("b", "x"), Layer("c", "x")
    assert [(r.repeat, len(r.block)) for r in runs([a, a, b] * 3 + [a, a])] == [(3, 3), (2, 1)]
    assert [(r.repeat, len(r.block)) for r in runs([a, b, a, b, c])] == [(2, 2), (1, 1)]
    assert runs([]) == ()
    assert runs(same(5))[0].repeat == 5
