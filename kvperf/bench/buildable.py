"""Which models a step can be built of: dense ones with rotary grouped-query attention and RMSNorm."""

from __future__ import annotations

from kvperf.errors import KvperfError
from kvperf.model.architecture import Dense, GroupedQuery, Model


def parts(model: Model) -> tuple[GroupedQuery, Dense]:
    """The mixer and the FFN of every layer. Raises KvperfError for what is not built."""
    mixers = {layer.mixer for layer in model.layer_sequence()}
    ffns = {layer.ffn for layer in model.layer_sequence()}
    mixer, ffn = model.mixers[sorted(mixers)[0]], model.ffns[sorted(ffns)[0]]
    problems = {
        "layers of several kinds": len(mixers) > 1 or len(ffns) > 1,
        "another mixer than grouped-query attention": not isinstance(mixer, GroupedQuery),
        "another FFN than a dense one": not isinstance(ffn, Dense),
        "LayerNorm": model.norm.kind != "rmsnorm",
        "learned positions": model.learned_positions is not None,
        "no final norm": not model.final_norm,
    }
    if isinstance(mixer, GroupedQuery):
        problems |= {
            "no rotary embedding": mixer.rotary_dim == 0,
            "a window or chunks": mixer.window is not None or mixer.chunk is not None,
            "QK norms": mixer.qk_norm != "none",
            "a bias": mixer.qkv_bias or mixer.output_bias,
            "sinks or gates": mixer.sinks or mixer.output_gate or mixer.shared_kv_projection,
            "value heads of another size": mixer.value_dim != mixer.head_dim,
        }
    if isinstance(ffn, Dense):
        problems["an FFN without a gate, or with a bias"] = not ffn.gated or ffn.bias
    found = [words for words, true in problems.items() if true]
    if found or not isinstance(mixer, GroupedQuery) or not isinstance(ffn, Dense):
        hint = "llama, mistral and the like are; `kvperf bench attention` measures attention alone"
        raise KvperfError(f"{model.name} has {', '.join(found)}: not built on the GPU yet", hint)
    return mixer, ffn
