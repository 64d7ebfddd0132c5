"""Qwen3-Next and Qwen3.5: gated DeltaNet in most layers, gated softmax attention in the others."""

from __future__ import annotations

from typing import Any

from kvperf.model.architecture import DeltaNet, Dense, Ffn, GroupedQuery, Layer, Model
from kvperf.model.hub.keys import ROUTING, Keys, table
from kvperf.model.hub.llama import qwen_experts, sparse_layers, with_drafts
from kvperf.model.hub.rope import PARTIAL_ROPE
from kvperf.model.hub.shape import OUTLINE, outline

_MIXERS = (
    "num_attention_heads num_key_value_heads head_dim linear_num_key_heads linear_key_head_dim "
    "linear_num_value_heads linear_value_head_dim linear_conv_kernel_dim hidden_act"
)
_SPARSE = "num_experts num_experts_per_tok moe_intermediate_size shared_expert_intermediate_size"
_LAYER_TYPES = {"linear_attention": "deltanet", "full_attention": "full"}

QWEN3_NEXT = table(
    f"{OUTLINE} {_MIXERS} {_SPARSE} intermediate_size full_attention_interval partial_rotary_factor "
    "tie_word_embeddings",
    {"decoder_sparse_step": 1, "mlp_only_layers": (), "layer_types": None, "attention_bias": False},
    only={"use_sliding_window": (False,)},
    inert=f"{ROUTING} rope_parameters",
)
_QWEN3_5: dict[str, Any] = {"full_attention_interval": None}
_QWEN3_5_ONLY = {
    "attention_bias": (False,),
    "mtp_use_dedicated_embeddings": (False,),
    "mamba_ssm_dtype": ("float32",),
    "mlp_only_layers": ([],),
}
_QWEN3_5_KEYS = (
    f"{OUTLINE} {_MIXERS} layer_types attn_output_gate rope_parameters mtp_num_hidden_layers tie_word_embeddings"
)
QWEN3_5 = table(f"{_QWEN3_5_KEYS} intermediate_size", _QWEN3_5, _QWEN3_5_ONLY)
QWEN3_5_MOE = table(f"{_QWEN3_5_KEYS} {_SPARSE}", _QWEN3_5, _QWEN3_5_ONLY, ROUTING)


def qwen3_next(keys: Keys) -> Model:
    """Every full_attention_interval-th layer is softmax attention; its queries are gated."""
    keys.activation()
    bias = keys.flag("attention_bias")
    full = _attention(keys, keys.fraction("partial_rotary_factor"), True, qkv_bias=bias, output_bias=bias)
    count, every = keys.count("num_hidden_layers"), keys.count("full_attention_interval")
    kinds = ["full" if (i + 1) % every == 0 else "deltanet" for i in range(count)]
    if keys.given("layer_types") and keys.each_layer("layer_types", count, _LAYER_TYPES) != kinds:
        raise keys.error("layer_types", "disagrees with full_attention_interval", "correct one of them")
    experts = qwen_experts(keys, keys.count("shared_expert_intermediate_size"))
    ffns: dict[str, Ffn] = {"moe": experts, "dense": Dense(keys.count("intermediate_size"))}
    layers = [Layer(kind, ffn) for kind, ffn in zip(kinds, sparse_layers(keys), strict=True)]
    return outline(keys, {"deltanet": _delta_net(keys), "full": full}, ffns, layers)


def qwen3_5(keys: Keys) -> Model:
    return _qwen3_5(keys, {"dense": Dense(keys.count("intermediate_size"))})


def qwen3_5_moe(keys: Keys) -> Model:
    return _qwen3_5(keys, {"moe": qwen_experts(keys, keys.count("shared_expert_intermediate_size"))})


def _qwen3_5(keys: Keys, ffns: dict[str, Ffn]) -> Model:
    """As Qwen3-Next; the multi-token-prediction layer is a softmax one."""
    keys.activation()
    rotary = keys.section("rope_parameters", PARTIAL_ROPE).fraction("partial_rotary_factor")
    full = _attention(keys, rotary, keys.flag("attn_output_gate"))
    count = keys.count("num_hidden_layers")
    kinds = keys.each_layer("layer_types", count, _LAYER_TYPES)
    if keys.given("full_attention_interval"):
        every = keys.count("full_attention_interval")
        if kinds != ["full" if (i + 1) % every == 0 else "deltanet" for i in range(count)]:
            raise keys.error("full_attention_interval", "disagrees with layer_types", "correct one of them")
    ffn = next(iter(ffns))
    model = outline(keys, {"deltanet": _delta_net(keys), "full": full}, ffns, [Layer(kind, ffn) for kind in kinds])
    return with_drafts(model, keys.count_or_zero("mtp_num_hidden_layers"), Layer("full", ffn))


def _attention(keys: Keys, rotary: float, gate: bool, **more: Any) -> GroupedQuery:
    size = keys.count("head_dim")
    return GroupedQuery(
        keys.count("num_attention_heads"),
        keys.count("num_key_value_heads"),
        size,
        rotary_dim=int(size * rotary),
        qk_norm="head",
        output_gate=gate,
        **more,
    )


def _delta_net(keys: Keys) -> DeltaNet:
    return DeltaNet(
        k_heads=keys.count("linear_num_key_heads"),
        k_head_dim=keys.count("linear_key_head_dim"),
        v_heads=keys.count("linear_num_value_heads"),
        v_head_dim=keys.count("linear_value_head_dim"),
        conv_kernel=keys.count("linear_conv_kernel_dim"),
    )
