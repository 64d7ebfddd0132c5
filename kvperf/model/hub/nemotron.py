"""Nemotron-H and Nemotron 3 (one block a layer), and the searched Llama-Nemotron (DeciLM)."""

from __future__ import annotations

from typing import Any

from kvperf.model.architecture import (
    Dense,
    Experts,
    Ffn,
    GroupedQuery,
    Layer,
    Mamba2,
    Mixer,
    Model,
    NoFfn,
    NoMixer,
)
from kvperf.model.hub.keys import ROUTING, Keys, Table, table
from kvperf.model.hub.llama import with_drafts
from kvperf.model.hub.shape import OUTLINE, head_dim, outline

_MOE = "n_routed_experts num_experts_per_tok moe_intermediate_size moe_shared_expert_intermediate_size"
NEMOTRON_H = table(
    "hidden_size vocab_size max_position_embeddings num_attention_heads num_key_value_heads intermediate_size "
    "mamba_num_heads mamba_head_dim ssm_state_size n_groups conv_kernel use_conv_bias mlp_hidden_act "
    "tie_word_embeddings",
    {
        **dict.fromkeys(("hybrid_override_pattern", "layers_block_type", "num_hidden_layers")),
        **dict.fromkeys(("head_dim", "attention_head_dim")),
        **dict.fromkeys((*_MOE.split(), "moe_latent_size", "num_nextn_predict_layers", "mtp_layers_block_type")),
        "moe_shared_expert_overlap": None,
    },
    only={
        **dict.fromkeys(("attention_bias", "mamba_proj_bias", "mlp_bias", "use_bias"), (False,)),
        "sliding_window": (None,),
        "n_shared_experts": (1,),
        "mamba_ssm_cache_dtype": ("float32",),
    },
    # Nemotron-H has no rotary embedding, whatever its rotary keys say.
    inert=f"{ROUTING} partial_rotary_factor expand chunk_size time_step_floor time_step_limit time_step_max "
    "time_step_min time_step_rank use_mamba_kernels mamba_hidden_act",
)
NEMOTRON_NAS = table(
    f"{OUTLINE} num_attention_heads block_configs hidden_act tie_word_embeddings attention_bias mlp_bias",
    {"head_dim": None},
    only={"num_key_value_heads": (None,), "intermediate_size": (None,)},
)
_BLOCK = table("attention ffn", inert="parallel_blocks")
_PART_ONLY: dict[str, tuple[Any, ...]] = {
    "replace_with_linear": (False,),
    "sparsify": (None,),
    "window_length": (None,),
    "num_sink_tokens": (None,),
    "unshifted_sink": (False, None),
    "use_prefill_window_in_sink_attention": (False,),
    "sparse": (None,),
}
_ATTENTION = Table(frozenset({"no_op", "n_heads_in_group"}), {}, _PART_ONLY)
_FFN = Table(frozenset({"no_op", "ffn_mult"}), {}, _PART_ONLY)

# What a letter of hybrid_override_pattern and a name of layers_block_type stand for: mixer and FFN.
_LETTERS = {"M": ("mamba2", "none"), "*": ("full", "none"), "-": ("none", "dense"), "E": ("none", "moe")}
_NAMES = {
    "mamba": ("mamba2", "none"),
    "attention": ("full", "none"),
    "mlp": ("none", "dense"),
    "moe": ("none", "moe"),
}


def nemotron_h(keys: Keys) -> Model:
    """Every layer is one block behind one norm; FFNs are squared-ReLU with two matrices."""
    if keys.values["mlp_hidden_act"] != "relu2":
        raise keys.error("mlp_hidden_act", f"is {keys.values['mlp_hidden_act']!r}", "only 'relu2' can be expressed")
    blocks = _blocks(keys)
    mixers: dict[str, Mixer] = {"mamba2": _mamba2(keys), "full": _attention(keys), "none": NoMixer()}
    ffns: dict[str, Ffn] = {"none": NoFfn(), "dense": Dense(keys.count("intermediate_size"), gated=False)}
    if any(ffn == "moe" for _, ffn in blocks):
        ffns["moe"] = _experts(keys)
    model = outline(keys, mixers, ffns, [Layer(mixer, ffn, 1) for mixer, ffn in blocks])
    if keys.given("mtp_layers_block_type") and not keys.given("num_nextn_predict_layers"):
        raise keys.error("num_nextn_predict_layers", "is missing", "'mtp_layers_block_type' says that there are some")
    drafts = keys.count_or_zero("num_nextn_predict_layers")
    if drafts and keys.values["mtp_layers_block_type"] != ["attention", "moe"]:
        stated = keys.values["mtp_layers_block_type"]
        raise keys.error("mtp_layers_block_type", f"is {stated!r}", "only ['attention', 'moe'] can be expressed")
    return with_drafts(model, drafts, Layer("full", "moe", 2))


def nemotron_nas(keys: Keys) -> Model:
    """Llama with, layer by layer, its own attention group, its own FFN width, or neither."""
    keys.activation()
    count, blocks = keys.count("num_hidden_layers"), keys.values["block_configs"]
    if not isinstance(blocks, list) or len(blocks) != count:
        raise keys.error("block_configs", f"does not have {count} entries", "one entry a layer is needed")
    mixers: dict[str, Mixer] = {}
    ffns: dict[str, Ffn] = {}
    layers = []
    for i, block in enumerate(blocks):
        parts = Keys(block, _BLOCK, keys.name, f"block_configs[{i}].")
        mixer_name, mixer = _searched_attention(keys, parts.section("attention", _ATTENTION))
        ffn_name, ffn = _searched_ffn(keys, parts.section("ffn", _FFN))
        mixers[mixer_name], ffns[ffn_name] = mixer, ffn
        layers.append(Layer(mixer_name, ffn_name, (mixer_name != "none") + (ffn_name != "none")))
    return outline(keys, mixers, ffns, layers)


def _searched_attention(keys: Keys, block: Keys) -> tuple[str, Mixer]:
    if block.flag("no_op"):
        return "none", NoMixer()
    heads, group, size = keys.count("num_attention_heads"), block.count("n_heads_in_group"), head_dim(keys)
    if heads % group:
        raise block.error("n_heads_in_group", f"is {group}, which does not divide {heads} heads", "correct it")
    bias = keys.flag("attention_bias")
    mixer = GroupedQuery(heads, heads // group, size, rotary_dim=size, qkv_bias=bias, output_bias=bias)
    return f"full_{mixer.kv_heads}", mixer


def _searched_ffn(keys: Keys, block: Keys) -> tuple[str, Ffn]:
    """The width is 2·ffn_mult·hidden/3, cut to an integer and rounded up to a multiple of 256."""
    if block.flag("no_op"):
        return "none", NoFfn()
    multiple = block.values["ffn_mult"]
    if not isinstance(multiple, (int, float)) or isinstance(multiple, bool) or multiple <= 0:
        raise block.error("ffn_mult", f"is {multiple!r}", "a number above 0 is needed")
    width = -(-int(2 * multiple * keys.count("hidden_size") / 3) // 256) * 256
    return f"dense_{width}", Dense(width, bias=keys.flag("mlp_bias"))


def _blocks(keys: Keys) -> list[tuple[str, str]]:
    key = "hybrid_override_pattern" if keys.given("hybrid_override_pattern") else "layers_block_type"
    if not keys.given(key):
        raise keys.error("hybrid_override_pattern' or 'layers_block_type", "is missing", "it says what each layer is")
    blocks = keys.values[key]
    counted = len(blocks) if isinstance(blocks, (str, list)) and blocks else 1
    stated = keys.count("num_hidden_layers") if keys.given("num_hidden_layers") else counted
    return keys.each_layer(key, stated, _LETTERS if key == "hybrid_override_pattern" else _NAMES)


def _attention(keys: Keys) -> GroupedQuery:
    key = "head_dim" if keys.given("head_dim") else "attention_head_dim"
    return GroupedQuery(keys.count("num_attention_heads"), keys.count("num_key_value_heads"), keys.count(key))


def _mamba2(keys: Keys) -> Mamba2:
    return Mamba2(
        heads=keys.count("mamba_num_heads"),
        head_dim=keys.count("mamba_head_dim"),
        groups=keys.count("n_groups"),
        state_size=keys.count("ssm_state_size"),
        conv_kernel=keys.count("conv_kernel"),
        conv_bias=keys.flag("use_conv_bias"),
    )


def _experts(keys: Keys) -> Experts:
    """Nemotron 3 Super and Ultra, which state moe_shared_expert_overlap, state moe_latent_size too; Nano neither."""
    if keys.given("moe_shared_expert_overlap") and "moe_latent_size" not in keys.present:
        raise keys.error("moe_latent_size", "is missing", "null where the experts work in hidden_size")
    return Experts(
        keys.count("n_routed_experts"),
        keys.count("num_experts_per_tok"),
        keys.count("moe_intermediate_size"),
        gated=False,
        shared_intermediate=keys.count("moe_shared_expert_intermediate_size"),
        score_bias=True,
        latent=keys.count_or_none("moe_latent_size"),
    )
