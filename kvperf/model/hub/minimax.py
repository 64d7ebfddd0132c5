"""MiniMax-M1 (lightning and softmax attention) and MiniMax-M2."""

from __future__ import annotations

from kvperf.model.architecture import Experts, Layer, Lightning, Model
from kvperf.model.hub.keys import ROUTING, Keys, table
from kvperf.model.hub.llama import with_drafts
from kvperf.model.hub.shape import OUTLINE, grouped_query, outline, same

_HEADS = "num_attention_heads num_key_value_heads head_dim rotary_dim"
MINIMAX_M1 = table(
    f"{OUTLINE} {_HEADS} intermediate_size hidden_act attn_type_list num_local_experts num_experts_per_tok "
    "tie_word_embeddings",
    only={"shared_intermediate_size": (0,), "sliding_window": (None,)},
    inert="postnorm shared_moe_mode layernorm_full_attention_alpha layernorm_full_attention_beta "
    "layernorm_linear_attention_alpha layernorm_linear_attention_beta layernorm_mlp_alpha layernorm_mlp_beta",
)
MINIMAX_M2 = table(
    f"{OUTLINE} {_HEADS} intermediate_size hidden_act use_qk_norm num_local_experts num_experts_per_tok "
    "use_routing_bias attn_type_list",
    {"tie_word_embeddings": False, "num_mtp_modules": None, "use_mtp": False},
    only={
        "qk_norm_type": ("per_layer",),
        "shared_intermediate_size": (0,),
        "mtp_transformer_layers": (1,),
        "attn_window_size": (None,),
        "sliding_window": (None,),
    },
    inert=f"{ROUTING} max_model_len shared_moe_mode "
    "layernorm_full_attention_beta layernorm_linear_attention_beta layernorm_mlp_beta",
)


def minimax_m1(keys: Keys) -> Model:
    """attn_type_list: 0 is a lightning layer, 1 a softmax layer."""
    keys.activation()
    mixers = {
        "lightning": Lightning(keys.count("num_attention_heads"), keys.count("head_dim")),
        "full": grouped_query(keys, rotary_dim=keys.count("rotary_dim")),
    }
    kinds = keys.each_layer("attn_type_list", keys.count("num_hidden_layers"), {0: "lightning", 1: "full"})
    return outline(keys, mixers, {"moe": _experts(keys)}, [Layer(kind, "moe") for kind in kinds])


def minimax_m2(keys: Keys) -> Model:
    keys.activation()
    mixer = grouped_query(
        keys, rotary_dim=keys.count("rotary_dim"), qk_norm="full" if keys.flag("use_qk_norm") else "none"
    )
    experts = _experts(keys, score_bias=keys.flag("use_routing_bias"))
    layers = keys.count("num_hidden_layers")
    keys.each_layer("attn_type_list", layers, {1: "full"})
    model = outline(keys, {"full": mixer}, {"moe": experts}, same(layers, ffn="moe"))
    return with_drafts(model, keys.count("num_mtp_modules") if keys.flag("use_mtp") else 0)


def _experts(keys: Keys, score_bias: bool = False) -> Experts:
    return Experts(
        keys.count("num_local_experts"),
        keys.count("num_experts_per_tok"),
        keys.count("intermediate_size"),
        score_bias=score_bias,
    )
