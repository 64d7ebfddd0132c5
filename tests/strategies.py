"""Random models, GPUs and workloads for the property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kvperf.hardware import gpu_names, load_gpu
from kvperf.model.architecture import (
    Compressed,
    DeltaNet,
    Dense,
    Experts,
    GroupedQuery,
    Indexer,
    Latent,
    Layer,
    Lightning,
    Mamba2,
    Model,
    Norm,
    Run,
)
from kvperf.workload import Requests, Workload

sizes = st.sampled_from([16, 32, 64, 128])
counts = st.sampled_from([8, 16, 32])
gpus = st.sampled_from(gpu_names()).map(load_gpu)


@st.composite
def grouped_query(draw: Any) -> GroupedQuery:
    kv_heads = draw(st.sampled_from([8, 16]))
    return GroupedQuery(
        heads=kv_heads * draw(st.sampled_from([1, 2, 5])),
        kv_heads=kv_heads,
        head_dim=draw(sizes),
        v_head_dim=draw(st.none() | sizes),
        rotary_dim=draw(st.sampled_from([0, 16])),
        window=draw(st.none() | st.integers(1, 5000)),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        qk_norm=draw(st.sampled_from(["none", "head", "unweighted", "full"])),
        output_gate=draw(st.booleans()),
        sinks=draw(st.booleans()),
    )


indexers = st.builds(Indexer, heads=counts, head_dim=sizes, top_k=st.integers(1, 4096), bytes_per_token=st.just(132))
latents = st.builds(
    Latent,
    heads=counts,
    kv_lora_rank=sizes,
    nope_head_dim=sizes,
    rope_head_dim=sizes,
    v_head_dim=sizes,
    q_lora_rank=st.none() | sizes,
    indexer=st.none() | indexers,
)
compressed = st.builds(
    Compressed,
    heads=counts,
    head_dim=sizes,
    q_lora_rank=sizes,
    rope_head_dim=st.just(16),
    window=st.integers(1, 300),
    ratio=st.just(4),
    output_groups=st.just(8),
    output_lora_rank=sizes,
    hyper_streams=st.just(4),
    indexer=st.none() | indexers,
)
recurrent = (
    st.builds(DeltaNet, k_heads=counts, k_head_dim=sizes, v_heads=counts, v_head_dim=sizes, conv_kernel=st.just(4))
    | st.builds(Lightning, heads=counts, head_dim=sizes)
    | st.builds(Mamba2, heads=counts, head_dim=sizes, groups=st.just(8), state_size=sizes, conv_kernel=st.just(4))
)
mixers = grouped_query() | latents | compressed | recurrent
dense = st.builds(Dense, intermediate=sizes.map(lambda i: 8 * i), gated=st.booleans(), bias=st.booleans())
experts = st.builds(
    Experts,
    experts=st.integers(4, 64),
    top_k=st.integers(1, 4),
    intermediate=sizes,
    gated=st.booleans(),
    shared_intermediate=st.sampled_from([0, 64]),
    shared_gate=st.booleans(),
    score_bias=st.booleans(),
    expert_bias=st.booleans(),
    latent=st.none() | sizes,
    dense=st.none() | dense,
)


@st.composite
def models(draw: Any, mixer: Any = mixers) -> Model:
    """A model of up to four layers of two kinds."""
    streams = draw(mixer)
    return Model(
        schema_version="kvperf.model/1",
        name="random",
        source=("drawn at random",),
        hidden_size=draw(sizes) * 8,
        vocab_size=draw(st.integers(100, 5000)),
        max_context_tokens=1 << 30,
        tied_embeddings=draw(st.booleans()),
        mixers={"first": streams, "second": draw(mixer)},
        ffns={"dense": draw(dense), "moe": draw(experts)},
        layers=(Run(draw(st.integers(1, 2)), (Layer("first", "dense", 2), Layer("second", "moe", draw(norm_counts)))),),
        norm=draw(st.sampled_from([Norm("rmsnorm"), Norm("layernorm", True)])),
        learned_positions=draw(st.none() | st.integers(1, 3000)),
        lm_head_bias=draw(st.booleans()),
    )


norm_counts = st.sampled_from([1, 2, 4])
weight_dtypes = st.sampled_from(["fp32", "bf16", "fp16", "fp8", "fp8-block", "int8", "int4", "mxfp4", "nvfp4"])


@st.composite
def workloads(draw: Any) -> Workload:
    phase = draw(st.sampled_from(["decode", "prefill", "verify"]))
    requests = []
    for _ in range(draw(st.integers(1, 2))):
        context = draw(st.integers(8, 100_000))
        new = {"decode": 1, "prefill": draw(st.integers(1, context)), "verify": draw(st.integers(2, 8))}[phase]
        requests.append(Requests(draw(st.integers(1, 300)), context, new))
    return Workload(
        phase=phase,
        requests=tuple(requests),
        weight_dtype=draw(weight_dtypes),
        activation_dtype=draw(st.sampled_from([None, "bf16", "fp8"])),
        kv_dtype=draw(st.sampled_from([None, "fp8", "int8", "int4", "nvfp4"])),
        page_tokens=draw(st.sampled_from([1, 16, 64])),
        fusion=draw(st.sampled_from(["eager", "serving", "megakernel"])),
        qkv_gemms=draw(st.sampled_from([1, 3])),
        sampling=draw(st.sampled_from(["argmax", "top-k", "top-p", "cpu"])),
        logits="all" if phase == "verify" else "last",
    )
