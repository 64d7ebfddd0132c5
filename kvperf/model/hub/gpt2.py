"""GPT-2, OPT and Phi: layernorms with biases, two-matrix FFNs, biases everywhere."""

from __future__ import annotations

from kvperf.model.architecture import Dense, GroupedQuery, Layer, Model, Norm
from kvperf.model.hub.keys import Keys, table
from kvperf.model.hub.rope import rotary_dim
from kvperf.model.hub.shape import OUTLINE, head_dim, outline, same
from kvperf.model.runs import runs

GPT2 = table(
    "n_layer n_head n_embd vocab_size n_positions activation_function",
    {"n_inner": None, "tie_word_embeddings": True},
    only={"add_cross_attention": (False,)},
    inert="n_ctx attn_pdrop summary_activation summary_first_dropout summary_proj_to_labels summary_type "
    "summary_use_proj scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn",
)
OPT = table(
    f"{OUTLINE} num_attention_heads ffn_dim activation_function word_embed_proj_dim do_layer_norm_before",
    {"tie_word_embeddings": True},
    only={
        "enable_bias": (True,),
        "layer_norm_elementwise_affine": (True,),
        "_remove_final_layer_norm": (False,),
    },
)
PHI = table(
    f"{OUTLINE} num_attention_heads num_key_value_heads intermediate_size hidden_act partial_rotary_factor",
    {"tie_word_embeddings": False, "head_dim": None, "rope_parameters": None},
    only={"qk_layernorm": (False,)},
)
GPT_NEOX = table(
    f"{OUTLINE} num_attention_heads intermediate_size hidden_act rotary_pct",
    {"tie_word_embeddings": False, "attention_bias": True, "head_dim": None},
    only={"use_parallel_residual": (True, False)},
    inert="rotary_emb_base rope_parameters",
)
_NORM = Norm("layernorm", bias=True)
# OPT looks positions up two rows further down (facebook/opt: OPTLearnedPositionalEmbedding).
_OPT_OFFSET = 2


def gpt2(keys: Keys) -> Model:
    keys.activation("activation_function")
    width, heads = keys.count("n_embd"), keys.count("n_head")
    if width % heads:
        raise keys.error("n_head", f"is {heads}, which does not divide {width}", "correct one of them")
    size = width // heads
    mixer = GroupedQuery(heads, heads, size, qkv_bias=True, output_bias=True)
    return Model(
        schema_version="kvperf.model/1",
        name=keys.name,
        source=(),
        hidden_size=width,
        vocab_size=keys.count("vocab_size"),
        max_context_tokens=keys.count("n_positions"),
        tied_embeddings=keys.flag("tie_word_embeddings"),
        mixers={"full": mixer},
        ffns={"dense": Dense(keys.count_or_none("n_inner") or 4 * width, gated=False, bias=True)},
        layers=runs(same(keys.count("n_layer"))),
        norm=_NORM,
        learned_positions=keys.count("n_positions"),
    )


def opt(keys: Keys) -> Model:
    keys.activation("activation_function")
    width = keys.count("hidden_size")
    if keys.count("word_embed_proj_dim") != width:
        raise keys.error("word_embed_proj_dim", "differs from hidden_size", "projected embeddings are not expressible")
    if not keys.flag("do_layer_norm_before"):
        raise keys.error("do_layer_norm_before", "is False", "only True can be expressed (no final norm otherwise)")
    mixers = {"full": _multi_head(keys)}
    ffns = {"dense": Dense(keys.count("ffn_dim"), gated=False, bias=True)}
    positions = keys.count("max_position_embeddings") + _OPT_OFFSET
    layers = same(keys.count("num_hidden_layers"))
    return outline(keys, mixers, ffns, layers, norm=_NORM, learned_positions=positions)


def phi(keys: Keys) -> Model:
    """Attention and FFN stand side by side behind one norm; the head has a bias."""
    keys.activation()
    size = head_dim(keys)
    heads, kv_heads = keys.count("num_attention_heads"), keys.count_or_none("num_key_value_heads")
    mixer = GroupedQuery(
        heads, kv_heads or heads, size, rotary_dim=rotary_dim(keys, size), qkv_bias=True, output_bias=True
    )
    ffns = {"dense": Dense(keys.count("intermediate_size"), gated=False, bias=True)}
    layers = [Layer("full", "dense", 1)] * keys.count("num_hidden_layers")
    return outline(keys, {"full": mixer}, ffns, layers, norm=_NORM, lm_head_bias=True)


def gpt_neox(keys: Keys) -> Model:
    """Two norms a layer, whether attention and FFN stand side by side or not."""
    keys.activation()
    bias = keys.flag("attention_bias")
    mixer = _multi_head(keys, int(head_dim(keys) * keys.fraction("rotary_pct")), bias)
    ffns = {"dense": Dense(keys.count("intermediate_size"), gated=False, bias=True)}
    return outline(keys, {"full": mixer}, ffns, same(keys.count("num_hidden_layers")), norm=_NORM)


def _multi_head(keys: Keys, rotary: int = 0, bias: bool = True) -> GroupedQuery:
    width, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    if width % heads:
        raise keys.error("num_attention_heads", f"is {heads}, which does not divide {width}", "correct one of them")
    return GroupedQuery(heads, heads, width // heads, rotary_dim=rotary, qkv_bias=bias, output_bias=bias)
