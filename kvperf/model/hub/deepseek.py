"""DeepSeek-V2, V3, V3.2, Kimi K2 and GLM-5: latent attention, experts after a few dense layers."""

from __future__ import annotations

from kvperf.model.architecture import Dense, Experts, Indexer, Latent, Layer, Model
from kvperf.model.hub.keys import ROUTING, Keys, table
from kvperf.model.hub.llama import with_drafts
from kvperf.model.hub.shape import OUTLINE, outline

# A cached index key of DeepSeek sparse attention: 128 fp8 values and one fp32 scale (deepseek-ai/FlashMLA).
INDEX_KEY_DIM, INDEX_KEY_BYTES = 128, 132

_LATENT = (
    f"{OUTLINE} num_attention_heads q_lora_rank kv_lora_rank qk_nope_head_dim qk_rope_head_dim v_head_dim "
    "intermediate_size moe_intermediate_size n_routed_experts n_shared_experts num_experts_per_tok "
    "first_k_dense_replace topk_method hidden_act tie_word_embeddings"
)
_INDEXER = "index_n_heads index_head_dim index_topk"
# num_key_value_heads says how K and V are expanded; the cache holds one latent whatever it is.
_INERT = " ".join(key for key in ROUTING.split() if key != "topk_method") + " num_key_value_heads rope_parameters"
_ONLY = {"attention_bias": (False,), "moe_layer_freq": (1,), "mlp_bias": (False,)}

DEEPSEEK_V2 = table(_LATENT, only=_ONLY, inert=_INERT)
DEEPSEEK_V3 = table(f"{_LATENT} num_nextn_predict_layers", only=_ONLY, inert=_INERT)
DEEPSEEK_V32 = table(f"{_LATENT} num_nextn_predict_layers {_INDEXER}", only=_ONLY, inert=_INERT)
GLM_MOE_DSA = table(
    f"{_LATENT} num_nextn_predict_layers {_INDEXER}",
    {"mlp_layer_types": None, "indexer_types": None, "index_topk_freq": None},
    only=_ONLY,
    inert=f"{_INERT} head_dim qk_head_dim indexer_rope_interleave index_share_for_mtp_iteration index_skip_topk_offset",
)
# Whether the router adds a learned correction to its scores.
_SCORE_BIAS = {"noaux_tc": True, "greedy": False, "group_limited_greedy": False}


def deepseek_v2(keys: Keys) -> Model:
    return _model(keys, {"mla": _latent(keys)})


def deepseek_v3(keys: Keys) -> Model:
    return with_drafts(_model(keys, {"mla": _latent(keys)}), keys.count_or_zero("num_nextn_predict_layers"))


def deepseek_v32(keys: Keys) -> Model:
    """Every layer has an indexer. GLM-5.2's `indexer_types` leaves some to the tokens an earlier layer chose."""
    indexer = _indexer(keys)
    mixers = {"mla": _latent(keys, indexer=indexer), "mla_shared": _latent(keys, selected_tokens=indexer.top_k)}
    model = _model(keys, mixers, _indexed(keys))
    draft = Layer("mla", "moe")
    return with_drafts(model, keys.count_or_zero("num_nextn_predict_layers"), draft)


def _latent(keys: Keys, indexer: Indexer | None = None, selected_tokens: int | None = None) -> Latent:
    return Latent(
        heads=keys.count("num_attention_heads"),
        kv_lora_rank=keys.count("kv_lora_rank"),
        nope_head_dim=keys.count("qk_nope_head_dim"),
        rope_head_dim=keys.count("qk_rope_head_dim"),
        v_head_dim=keys.count("v_head_dim"),
        q_lora_rank=keys.count_or_none("q_lora_rank"),
        indexer=indexer,
        selected_tokens=selected_tokens,
    )


def _indexer(keys: Keys) -> Indexer:
    size = keys.count("index_head_dim")
    if size != INDEX_KEY_DIM:
        raise keys.error(
            "index_head_dim", f"is {size}", f"the bytes of an index key are known for {INDEX_KEY_DIM} only"
        )
    return Indexer(keys.count("index_n_heads"), size, keys.count("index_topk"), INDEX_KEY_BYTES)


def _indexed(keys: Keys) -> list[str]:
    """The mixer of each layer: with an indexer of its own, or sharing."""
    count = keys.count("num_hidden_layers")
    if "indexer_types" not in keys.values:
        return ["mla"] * count
    if keys.given("indexer_types"):
        return keys.each_layer("indexer_types", count, {"full": "mla", "shared": "mla_shared"})
    if keys.given("index_topk_freq") and keys.count("index_topk_freq") != 1:
        raise keys.error("indexer_types", "is missing", "'index_topk_freq' says that not every layer has an indexer")
    return ["mla"] * count


def _model(keys: Keys, mixers: dict[str, Latent], mixer_of: list[str] | None = None) -> Model:
    keys.activation()
    count, width = keys.count("num_hidden_layers"), keys.count("moe_intermediate_size")
    experts = Experts(
        keys.count("n_routed_experts"),
        keys.count("num_experts_per_tok"),
        width,
        shared_intermediate=width * keys.count_or_zero("n_shared_experts"),
        score_bias=keys.choice("topk_method", _SCORE_BIAS),
    )
    ffns = {"dense": Dense(keys.count("intermediate_size")), "moe": experts}
    names = mixer_of or ["mla"] * count
    layers = [Layer(mixer, ffn) for mixer, ffn in zip(names, _ffns(keys, count), strict=True)]
    return outline(keys, mixers, ffns, layers)


def _ffns(keys: Keys, count: int) -> list[str]:
    dense = keys.dense_prefix(count)
    ffns = ["dense" if i < dense else "moe" for i in range(count)]
    if keys.values.get("mlp_layer_types") is not None:
        stated = keys.each_layer("mlp_layer_types", count, {"dense": "dense", "sparse": "moe"})
        if stated != ffns:
            raise keys.error("mlp_layer_types", "disagrees with first_k_dense_replace", "correct one of them")
    return ffns
