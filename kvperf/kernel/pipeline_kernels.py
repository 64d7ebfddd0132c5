"""The small kernels of a decode step: launch geometry and requested bytes in closed form.

Claims: `stage` of each buffer adds up to the bytes of the stage formula in `kvperf/stages`, so that every difference
between a kernel and its stage stands in the table. The sources are kernels/pipeline/*.cu.
"""

from __future__ import annotations

from typing import Any

from kvperf.kernel import declared
from kvperf.kernel.declared import Buffer, Declared, Limit


def launch(name: str, dtype: str = "fp16", sms: int = 132, **sizes: int) -> declared.Launch:
    """The launch of a pipeline kernel at given sizes."""
    return declared.launch(PIPELINE, name, dtype, sms, sizes)


# Elements of a piece: 16 bytes where rows are aligned to them. Threads: one a piece, whole warps, at most 1024.
_ROW: dict[str, Any] = {
    "piece": "8 if d % 8 == 0 else 1",
    "threads": "least(1024, ceil_div(ceil_div(d, piece), 32) * 32)",
}
_IDS = "every thread of a block reads the same number: one sector a warp"
_NORM: dict[str, Any] = {
    "macros": {"HIDDEN": "d"},
    "grid": ("T",),
    "sizes": ("T", "d"),
    "where": _ROW,
    "limits": (Limit("d <= 32768", "a row of at most 32768 elements stays in the registers of a block"),),
}
_WEIGHT = Buffer("weight", "a*T*d", "a*d")
_WEIGHTS = "the weights are requested by the block of each row, from L2 after the first"

_APPEND: dict[str, Any] = {
    "file": "pipeline/kv_append.cu",
    "stages": ("kv_update",),
    "sizes": ("T", "K", "D", "Dv", "page"),
    "where": {
        "threads": "128",
        "pieces": "most(D // 8 if D % 8 == 0 else D, Dv // 8 if Dv % 8 == 0 else Dv)",
        "lanes": "1 if pieces <= 1 else least(32, 2 ** (pieces - 1).bit_length())",
        "parts": "2 if Dv else 1",
        "vectors": "T*K*parts",
        "cached": "K*(D + Dv)",
    },
    "macros": {"HEAD_DIM": "D", "VALUE_DIM": "Dv", "KV_HEADS": "K", "PAGE": "page", "LANES": "lanes"},
    "arguments": {"tokens": "T", "k_stride": "K*D", "v_stride": "K*Dv"},
    "grid": ("ceil_div(T*K*lanes, threads)", "parts"),
    "loads": (Buffer("k", "a*T*K*D"), Buffer("v", "a*T*K*Dv"), Buffer("slots", "8*vectors*lanes", "8*T")),
    "limits": (Limit("pieces <= 128", "a head vector has at most 1024 elements, 128 where not a multiple of 8"),),
}
_BYTES = (Buffer("k_cache", "T*K*D"), Buffer("v_cache", "T*K*Dv"))
_LANES = "every lane reads the slot of its token: one sector a warp"
_SAMPLE: dict[str, Any] = {"file": "pipeline/sampling.cu", "stages": ("sampling",), "dtypes": ()}
_STRETCH = "ceil_div(ceil_div(V, splits), 4) * 4"
_KEPT = "8*T*splits*top_k"
_TOP_K: dict[str, Any] = {"VOCABULARY": "V", "TOP_K": "top_k"}
_TOP_K_WHERE: dict[str, Any] = {
    "threads": "1024",
    "splits": "most(1, least(least(ceil_div(sms, T), ceil_div(V, 4*threads)), 1024 // top_k))",
    "stretch": _STRETCH,
}
_TOP_K_LIMIT = (Limit("top_k <= 1024", "at most 1024 logits take part in a draw"),)

_TABLE = (
    Declared(
        name="embedding",
        file="pipeline/embedding.cu",
        what="gather a row of the embedding table for each token",
        stages=("embedding",),
        sizes=("T", "d"),
        where=_ROW | {"threads": "least(256, ceil_div(ceil_div(d, piece), 32) * 32)"},
        macros={"HIDDEN": "d"},
        grid=("T",),
        loads=(Buffer("table", "a*T*d"), Buffer("ids", "4*T*threads", "4*T")),
        stores=(Buffer("out", "a*T*d"),),
        beyond=_IDS,
    ),
    Declared(
        **_NORM,
        what="RMSNorm",
        name="rms_norm",
        file="pipeline/rms_norm.cu",
        stages=("input_norm",),
        loads=(Buffer("x", "a*T*d"), _WEIGHT),
        stores=(Buffer("out", "a*T*d"),),
        beyond=_WEIGHTS,
    ),
    Declared(
        **_NORM,
        what="add the update to the residual, RMSNorm of the sum",
        name="add_rms_norm",
        file="pipeline/rms_norm.cu",
        stages=("attention_norm", "mlp_norm", "final_norm"),
        loads=(Buffer("residual", "a*T*d"), Buffer("x", "a*T*d"), _WEIGHT),
        stores=(Buffer("residual", "a*T*d"), Buffer("out", "a*T*d")),
        beyond=_WEIGHTS,
    ),
    Declared(
        name="rope",
        file="pipeline/rope.cu",
        what="rotate queries and keys by their position, half-rotation layout, the first r elements of a head",
        stages=("rope",),
        sizes=("T", "H", "K", "D", "r"),
        where={"threads": "256"},
        macros={"HEAD_DIM": "D", "ROTARY": "r", "Q_HEADS": "H", "KV_HEADS": "K"},
        grid=("T",),
        loads=(
            Buffer("q", "a*T*H*D"),
            Buffer("k", "a*T*K*D"),
            Buffer("positions", "4*T*threads", "0"),
            Buffer("table", "4*T*r"),
        ),
        stores=(Buffer("q_out", "a*T*H*D"), Buffer("k_out", "a*T*K*D")),
        beyond="the stage counts no positions (4 bytes a token; every thread reads its)",
        limits=(Limit("r % 2 == 0 and r <= D", "r is even and not above D"),),
    ),
    Declared(
        name="silu_mul",
        file="pipeline/silu_mul.cu",
        what="the activation of a gated FFN: silu(gate) * up",
        stages=("mlp",),
        sizes=("T", "I"),
        where={"piece": "8 if I % 8 == 0 else 1", "threads": "256"},
        macros={"WIDTH": "I"},
        grid=("T", "ceil_div(I, piece*threads)"),
        loads=(Buffer("gate_up", "2*a*T*I"),),
        stores=(Buffer("out", "a*T*I"),),
        beyond="the stage has the three products besides",
    ),
    Declared(
        name="gemv",
        file="pipeline/gemv.cu",
        what="the product of a matrix and one token, split along K inside the block",
        stages=("qkv_projection", "output_projection", "lm_head"),
        sizes=("k", "n"),
        where={"threads": "256", "rows": "4", "split_k": "4", "teams": "threads // 32 // split_k"},
        macros={"INPUTS": "k", "ROWS": "rows", "SPLIT_K": "split_k", "OUTPUT_FP32": "y == 4"},
        arguments={"outputs": "n"},
        grid=("ceil_div(n, rows*teams)",),
        loads=(Buffer("weight", "a*n*k"), Buffer("x", "a*k*ceil_div(n, rows)", "a*k")),
        stores=(Buffer("y", "y*n"),),
        beyond="x is requested once for each 4 rows of the matrix, from L1 and L2 after the first",
    ),
    Declared(
        **_APPEND,
        name="kv_append",
        what="append keys and values to the paged cache as they are",
        stores=(Buffer("k_cache", "a*T*K*D"), Buffer("v_cache", "a*T*K*Dv")),
        beyond=_LANES,
    ),
    Declared(
        **_APPEND,
        name="kv_append_int8",
        what="append keys and values in int8, one scale for each token and head",
        stores=(*_BYTES, Buffer("k_scales", "4*T*K"), Buffer("v_scales", "4*T*K*(parts - 1)")),
        beyond=_LANES,
    ),
    Declared(
        **_APPEND,
        name="kv_append_e4m3",
        what="append keys and values in e4m3, one scale for each token and head",
        stores=(*_BYTES, Buffer("k_scales", "4*T*K", "0"), Buffer("v_scales", "4*T*K*(parts - 1)", "0")),
        beyond=f"{_LANES}; the stage has one scale a tensor and counts no scales of fp8",
    ),
    Declared(
        **_APPEND,
        name="kv_append_e4m3_tensor",
        what="append keys and values in e4m3 with the given scales of the cache",
        stores=_BYTES,
        beyond=_LANES,
    ),
    Declared(
        **_SAMPLE,
        name="argmax",
        what="the largest logit of each row; several blocks share a row, the last one writes the id",
        sizes=("T", "V"),
        where=_TOP_K_WHERE | {"splits": "most(1, least(ceil_div(sms, T), ceil_div(V, 4*threads)))"},
        macros={"VOCABULARY": "V"},
        arguments={"stretch": "stretch"},
        grid=("T", "splits"),
        loads=(Buffer("logits", "4*T*V"),),
        stores=(Buffer("ids", "8*T"), Buffer("arrived", "4*T if splits > 1 else 0", "0")),
        atomics={"best": "T*(splits + 1) if splits > 1 else 0", "arrived": "T*splits if splits > 1 else 0"},
        beyond="where blocks share a row, they meet in 12 bytes a row by atomics",
    ),
    Declared(
        **_SAMPLE,
        name="top_k_select",
        what="the top_k largest logits of each stretch of a row, by radix select in two passes",
        sizes=("T", "V", "top_k"),
        where=_TOP_K_WHERE,
        macros=_TOP_K,
        arguments={"stretch": "stretch"},
        grid=("T", "splits"),
        loads=(Buffer("logits", "8*T*V"),),
        stores=(Buffer("kept", _KEPT, "0"),),
        beyond="the candidates travel to the second launch; one more pass for each further digit, where more than "
        "1024 logits of a stretch are not below the leading 11 bits of its top_k-th",
        limits=_TOP_K_LIMIT,
    ),
    Declared(
        **_SAMPLE,
        name="top_k_draw",
        what="merge the stretches, softmax of the top_k, draw with a given uniform number",
        sizes=("T", "V", "top_k"),
        where=_TOP_K_WHERE,
        macros=_TOP_K,
        arguments={"splits": "splits"},
        grid=("T",),
        loads=(Buffer("kept", _KEPT, "0"), Buffer("uniforms", "4*32*T", "0")),
        stores=(Buffer("ids", "8*T"),),
        beyond="the candidates come from the first launch; a uniform number a row, read by the 32 lanes that draw; "
        "exponentials are taken of the top_k, not of all logits",
        limits=_TOP_K_LIMIT,
    ),
)
PIPELINE = {kernel.name: kernel for kernel in _TABLE}
