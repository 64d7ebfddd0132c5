"""DeepSeek-V4: a window in every layer, compressed keys in most, hash routing in the first layers."""

from __future__ import annotations

import msgspec

from kvperf.model.architecture import Checkpoint, Compressed, Experts, Indexer, Layer, Model
from kvperf.model.hub.keys import ROUTING, Keys, table
from kvperf.model.hub.llama import with_drafts
from kvperf.model.hub.shape import OUTLINE, outline

DEEPSEEK_V4 = table(
    f"{OUTLINE} num_attention_heads head_dim q_lora_rank qk_rope_head_dim sliding_window o_groups o_lora_rank hc_mult "
    "index_n_heads index_head_dim index_topk compress_ratios moe_intermediate_size n_routed_experts n_shared_experts "
    "num_experts_per_tok num_hash_layers num_nextn_predict_layers hidden_act tie_word_embeddings expert_dtype",
    only={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "num_key_value_heads": (1,),
        "first_k_dense_replace": (None,),
        "kv_lora_rank": (None,),
        "v_head_dim": (None,),
    },
    inert=f"{ROUTING} hc_eps hc_sinkhorn_iters compress_rope_theta compress_rope_parameters rope_parameters "
    "partial_rotary_factor qk_nope_head_dim",
)
# Ratio 4 has the indexer (compressed sparse attention), ratio 128 reads every compressed key.
_MIXERS = {0: "window", 4: "compressed_4", 128: "compressed_128"}


def deepseek_v4(keys: Keys) -> Model:
    """compress_ratios has one entry a layer, and one more for each multi-token-prediction module."""
    keys.activation()
    count, drafts = keys.count("num_hidden_layers"), keys.count_or_zero("num_nextn_predict_layers")
    ratios = keys.each_layer("compress_ratios", count, {ratio: ratio for ratio in _MIXERS}, spare=drafts)
    mixers = {name: _compressed(keys, ratio) for ratio, name in _MIXERS.items()}
    shared = keys.count("moe_intermediate_size") * keys.count_or_zero("n_shared_experts")
    experts = Experts(
        keys.count("n_routed_experts"),
        keys.count("num_experts_per_tok"),
        keys.count("moe_intermediate_size"),
        shared_intermediate=shared,
        score_bias=True,
    )
    ffns = {"moe": experts, "moe_hash": msgspec.structs.replace(experts, score_bias=False)}
    hashed = keys.count_or_zero("num_hash_layers")
    layers = [Layer(_MIXERS[ratios[i]], "moe_hash" if i < hashed else "moe") for i in range(count)]
    model = outline(keys, mixers, ffns, layers)
    # A draft module has the window alone unless compress_ratios says otherwise.
    draft_mixer = _MIXERS[ratios[count]] if len(ratios) > count else "window"
    every = msgspec.structs.replace(model, mixers=mixers, ffns=ffns)
    return msgspec.structs.replace(model, mtp=with_drafts(every, drafts, Layer(draft_mixer, "moe")).mtp)


def _compressed(keys: Keys, ratio: int) -> Compressed:
    indexer = Indexer(keys.count("index_n_heads"), keys.count("index_head_dim"), keys.count("index_topk"))
    return Compressed(
        heads=keys.count("num_attention_heads"),
        head_dim=keys.count("head_dim"),
        q_lora_rank=keys.count("q_lora_rank"),
        rope_head_dim=keys.count("qk_rope_head_dim"),
        window=keys.count("sliding_window"),
        ratio=ratio,
        output_groups=keys.count("o_groups"),
        output_lora_rank=keys.count("o_lora_rank"),
        hyper_streams=keys.count("hc_mult"),
        indexer=indexer if ratio == 4 else None,
    )


def expert_precision(keys: Keys, held: Checkpoint) -> Checkpoint:
    """`expert_dtype` says what the routed experts' matrices are in: fp4 with a scale for 32, or as the others."""
    stated = keys.values["expert_dtype"]
    if stated not in ("fp4", "fp8"):
        raise keys.error("expert_dtype", f"is {stated!r}", "only 'fp4' or 'fp8' can be expressed")
    if held.quantised != "fp8-block":
        raise keys.error("expert_dtype", f"is {stated!r} in a checkpoint that is not fp8", "state quantization_config")
    return msgspec.structs.replace(held, experts="mxfp4" if stated == "fp4" else None)
