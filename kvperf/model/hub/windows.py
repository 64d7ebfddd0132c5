"""gpt-oss, MiMo-V2-Flash and Llama 4: experts behind alternating windows or chunks."""

from __future__ import annotations

from kvperf.model.architecture import Dense, Experts, GroupedQuery, Layer, Model
from kvperf.model.hub.keys import ROUTING, Keys, table
from kvperf.model.hub.rope import ROPE_KEYS
from kvperf.model.hub.shape import OUTLINE, grouped_query, outline

_HEADS = "num_attention_heads num_key_value_heads head_dim"
_LAYER_TYPES = {"sliding_attention": "sliding", "full_attention": "full"}

GPT_OSS = table(
    f"{OUTLINE} {_HEADS} intermediate_size sliding_window layer_types num_local_experts num_experts_per_tok "
    "attention_bias hidden_act tie_word_embeddings",
    {**ROPE_KEYS, "experts_per_token": None},
    inert="initial_context_length swiglu_alpha",
)
MIMO = table(
    f"{OUTLINE} {_HEADS} v_head_dim swa_num_attention_heads swa_num_key_value_heads swa_head_dim swa_v_head_dim "
    "partial_rotary_factor sliding_window hybrid_layer_pattern moe_layer_freq intermediate_size "
    "moe_intermediate_size n_routed_experts num_experts_per_tok add_swa_attention_sink_bias "
    "add_full_attention_sink_bias hidden_act tie_word_embeddings",
    {"sliding_window_size": None, "attention_chunk_size": None},
    only={"attention_bias": (False,), "n_shared_experts": (None, 0)},
    inert=f"{ROUTING} attention_value_scale",
)
LLAMA4 = table(
    f"{OUTLINE} {_HEADS} intermediate_size intermediate_size_mlp attention_chunk_size interleave_moe_layer_step "
    "num_local_experts num_experts_per_tok use_qk_norm hidden_act",
    {
        **ROPE_KEYS,
        "tie_word_embeddings": False,
        "moe_layers": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
    },
    only={"attention_bias": (False,)},
    inert="attn_temperature_tuning attn_scale floor_scale for_llm_compressor layer_types",
)


def gpt_oss(keys: Keys) -> Model:
    """Sinks in every layer; biases on attention, router and experts."""
    keys.activation()
    bias = keys.flag("attention_bias")
    full = grouped_query(keys, qkv_bias=bias, output_bias=bias, sinks=True)
    window = keys.count("sliding_window")
    mixers = {"sliding": grouped_query(keys, window=window, qkv_bias=bias, output_bias=bias, sinks=True), "full": full}
    top_k = keys.count("num_experts_per_tok")
    if keys.given("experts_per_token") and keys.count("experts_per_token") != top_k:
        raise keys.error("experts_per_token", f"is not {top_k} as num_experts_per_tok", "correct one of them")
    experts = Experts(
        keys.count("num_local_experts"), top_k, keys.count("intermediate_size"), router_bias=True, expert_bias=True
    )
    kinds = keys.each_layer("layer_types", keys.count("num_hidden_layers"), _LAYER_TYPES)
    return outline(keys, mixers, {"moe": experts}, [Layer(kind, "moe") for kind in kinds])


def mimo(keys: Keys) -> Model:
    """Keys and values of different sizes; hybrid_layer_pattern: 0 full, 1 window; moe_layer_freq: 1 experts."""
    keys.activation()
    window = keys.count("sliding_window")
    for twin in ("sliding_window_size", "attention_chunk_size"):
        if keys.given(twin) and keys.count(twin) != window:
            raise keys.error(twin, f"is not {window} as sliding_window", "correct one of them")
    full = _mimo_attention(keys, "", sinks=keys.flag("add_full_attention_sink_bias"))
    sliding = _mimo_attention(keys, "swa_", sinks=keys.flag("add_swa_attention_sink_bias"), window=window)
    experts = Experts(
        keys.count("n_routed_experts"),
        keys.count("num_experts_per_tok"),
        keys.count("moe_intermediate_size"),
        score_bias=True,
    )
    count = keys.count("num_hidden_layers")
    kinds = keys.each_layer("hybrid_layer_pattern", count, {0: "full", 1: "sliding"})
    ffns = keys.each_layer("moe_layer_freq", count, {0: "dense", 1: "moe"})
    layers = [Layer(kind, ffn) for kind, ffn in zip(kinds, ffns, strict=True)]
    parts = {"dense": Dense(keys.count("intermediate_size")), "moe": experts}
    return outline(keys, {"full": full, "sliding": sliding}, parts, layers)


def llama4(keys: Keys) -> Model:
    """Chunked rotary layers and, every no_rope_layer_interval-th, a full layer without rotary embedding."""
    keys.activation()
    count = keys.count("num_hidden_layers")
    norm = "unweighted" if keys.flag("use_qk_norm") else "none"
    mixers = {
        "chunked": grouped_query(keys, chunk=keys.count("attention_chunk_size"), qk_norm=norm),
        "full": grouped_query(keys, rotary_dim=0),
    }
    width = keys.count("intermediate_size")
    moe = Experts(keys.count("num_local_experts"), keys.count("num_experts_per_tok"), width, shared_intermediate=width)
    step, every = keys.count("interleave_moe_layer_step"), keys.count("no_rope_layer_interval")
    sparse = keys.values["moe_layers"]
    if sparse is None:
        sparse = list(range(step - 1, count, step))
    if not isinstance(sparse, list) or not all(isinstance(i, int) and 0 <= i < count for i in sparse):
        raise keys.error("moe_layers", f"is {sparse!r}", "a list of layer indices is needed")
    kinds = ["full" if (i + 1) % every == 0 else "chunked" for i in range(count)]
    if keys.values["no_rope_layers"]:
        kinds = keys.each_layer("no_rope_layers", count, {1: "chunked", 0: "full"})
    layers = [Layer(kind, "moe" if i in sparse else "dense") for i, kind in enumerate(kinds)]
    parts = {"moe": moe, "dense": Dense(keys.count("intermediate_size_mlp"))}
    return outline(keys, mixers, parts, layers)


def _mimo_attention(keys: Keys, prefix: str, sinks: bool, window: int | None = None) -> GroupedQuery:
    size = keys.count(f"{prefix}head_dim")
    return GroupedQuery(
        keys.count(f"{prefix}num_attention_heads"),
        keys.count(f"{prefix}num_key_value_heads"),
        size,
        v_head_dim=keys.count(f"{prefix}v_head_dim"),
        rotary_dim=int(size * keys.fraction("partial_rotary_factor")),
        window=window,
        sinks=sinks,
    )
