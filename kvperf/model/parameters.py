"""Exact parameter counts, module by module.

Matrices and vectors (norm weights, biases, sinks, convolution-free scalars) are counted apart, because
a quantised checkpoint quantises the first and keeps the second. Symbols: d hidden size, H heads,
K KV heads, D head size, I FFN width, E experts, V vocabulary.
"""

from __future__ import annotations

import msgspec

from kvperf.model.architecture import (
    Compressed,
    DeltaNet,
    Dense,
    Experts,
    Ffn,
    GroupedQuery,
    Indexer,
    Latent,
    Layer,
    Lightning,
    Mamba2,
    Mixer,
    Model,
)


class Size(msgspec.Struct, frozen=True):
    """Learned values of one module: `matrices` are those a quantised checkpoint may quantise."""

    matrices: int = 0
    vectors: int = 0

    @property
    def total(self) -> int:
        return self.matrices + self.vectors

    def __add__(self, other: Size) -> Size:
        return Size(self.matrices + other.matrices, self.vectors + other.vectors)

    def __mul__(self, times: int) -> Size:
        return Size(self.matrices * times, self.vectors * times)


Sizes = dict[str, Size]


class ParameterCount(msgspec.Struct, frozen=True):
    """Learned values of a model. A tied head is the embedding table and counts 0.

    experts         all routed experts;  active_experts: those one token meets
    other           learned positions, hyper-connections and values outside every module
    gathered        part of the total that a token gathers rows from (embedding and position tables)
    """

    embedding: int
    lm_head: int
    attention: int
    indexer: int
    mlp: int
    experts: int
    shared_experts: int
    router: int
    norms: int
    other: int
    active_experts: int
    gathered: int
    tied: bool

    @property
    def total(self) -> int:
        """Every learned value, multi-token-prediction modules left out."""
        dense = self.attention + self.indexer + self.mlp + self.shared_experts + self.router + self.norms + self.other
        return self.embedding + self.lm_head + dense + self.experts

    @property
    def active(self) -> int:
        """What one token uses, embedding table and head included."""
        return self.total - self.experts + self.active_experts

    @property
    def active_streamed(self) -> int:
        """What one decoded token reads whole: the head is in it, tables of which it gathers a row are not."""
        return self.active - self.gathered + (self.embedding if self.tied else 0)

    @property
    def active_core(self) -> int:
        """What one token uses without embedding table and head."""
        return self.active - self.gathered - self.lm_head


def mixer_parameters(mixer: Mixer, hidden_size: int) -> Sizes:
    """Sizes of a mixer's modules: `attention`, and where it has them `indexer` and `hyper_connections`."""
    if isinstance(mixer, GroupedQuery):
        return {"attention": _grouped_query(mixer, hidden_size)}
    if isinstance(mixer, Latent):
        return _latent(mixer, hidden_size)
    if isinstance(mixer, Compressed):
        return _compressed(mixer, hidden_size)
    if isinstance(mixer, DeltaNet):
        return {"attention": _delta_net(mixer, hidden_size)}
    if isinstance(mixer, Lightning):
        width = mixer.heads * mixer.head_dim
        # Q, K, V, output gate and output projection; one norm over all heads.
        return {"attention": Size(5 * hidden_size * width, width)}
    if isinstance(mixer, Mamba2):
        return {"attention": _mamba2(mixer, hidden_size)}
    return {}


def ffn_parameters(ffn: Ffn, hidden_size: int) -> Sizes:
    """Sizes of an FFN's modules: `mlp`, `experts` (all routed ones), `shared_experts`, `router`."""
    if isinstance(ffn, Dense):
        return {"mlp": _mlp(hidden_size, ffn.intermediate, ffn.gated, ffn.bias)}
    if isinstance(ffn, Experts):
        return _experts(ffn, hidden_size)
    return {}


def norm_parameters(model: Model, norms: int) -> Size:
    """`norms` norms over the hidden size: a weight, for a layernorm with bias a second vector."""
    return Size(0, norms * model.hidden_size * (2 if model.norm.bias else 1))


def layer_parameters(model: Model, layer: Layer) -> Sizes:
    """Sizes of one layer's modules, `norms` and a Gemma-4 layer's `scalar` included."""
    sizes = mixer_parameters(model.mixers[layer.mixer], model.hidden_size)
    sizes |= ffn_parameters(model.ffns[layer.ffn], model.hidden_size)
    sizes["norms"] = norm_parameters(model, layer.norms)
    if layer.scalar:
        sizes["scalar"] = Size(0, 1)
    return sizes


def outer_parameters(model: Model) -> Sizes:
    """Sizes outside the layers: `embedding`, `lm_head` (empty where tied), `positions`, `norms`, `other`."""
    d, V = model.hidden_size, model.vocab_size
    return {
        "embedding": Size(V * d),
        "lm_head": Size(0 if model.tied_embeddings else V * d, V if model.lm_head_bias else 0),
        "positions": Size((model.learned_positions or 0) * d),
        "norms": norm_parameters(model, 1 if model.final_norm else 0),
        "other": Size(0, hyper_head_parameters(model) + model.extra_parameters),
    }


def parameters(model: Model) -> ParameterCount:
    """Count every learned value of `model`; multi-token-prediction modules are in `model.mtp`."""
    outer = outer_parameters(model)
    sums = dict.fromkeys(("attention", "indexer", "mlp", "experts", "shared_experts", "router"), 0)
    norms, other, active_experts = outer["norms"].total, outer["positions"].total + outer["other"].total, 0
    for run in model.layers:
        for layer in run.block:
            for module, size in layer_parameters(model, layer).items():
                if module in sums:
                    sums[module] += run.repeat * size.total
                elif module == "norms":
                    norms += run.repeat * size.total
                else:
                    other += run.repeat * size.total
                if module == "experts":
                    active_experts += run.repeat * _active(model.ffns[layer.ffn], size.total)
    return ParameterCount(
        embedding=outer["embedding"].total,
        lm_head=outer["lm_head"].total,
        norms=norms,
        other=other,
        active_experts=active_experts,
        gathered=outer["embedding"].total + outer["positions"].total,
        tied=model.tied_embeddings,
        **sums,
    )


def draft_parameters(model: Model, layer: Layer) -> int:
    """Values of one multi-token-prediction module made of `layer`.

    Besides the layer: a projection of 2·d to d, a norm of each of its inputs, and a final norm
    (deepseek-ai/DeepSeek-V3 README_WEIGHTS.md); hyper-connected models have their own output mixing.
    Embedding and head are the main model's.
    """
    d = model.hidden_size
    inner = 0
    for size in layer_parameters(model, layer).values():
        inner += size.total
    return inner + 2 * d * d + norm_parameters(model, 3).total + hyper_head_parameters(model)


def hyper_head_parameters(model: Model) -> int:
    """The mixing of hc residual streams into one before the final norm: hc·(hc·d) + hc + 1, or 0."""
    streams = max((m.hyper_streams for m in model.mixers.values() if isinstance(m, Compressed)), default=0)
    return streams * streams * model.hidden_size + streams + 1 if streams else 0


def _active(ffn: Ffn, experts: int) -> int:
    return experts // ffn.experts * ffn.top_k if isinstance(ffn, Experts) else 0


def _grouped_query(m: GroupedQuery, d: int) -> Size:
    queries = m.heads * m.head_dim * (2 if m.output_gate else 1)
    keys = m.kv_heads * m.head_dim
    values = 0 if m.shared_kv_projection else m.kv_heads * m.value_dim
    vectors = queries + keys + values if m.qkv_bias else 0
    vectors += d if m.output_bias else 0
    vectors += {"head": 2 * m.head_dim, "full": (m.heads + m.kv_heads) * m.head_dim}.get(m.qk_norm, 0)
    vectors += m.heads if m.sinks else 0
    return Size(d * (queries + keys + values) + m.heads * m.value_dim * d, vectors)


def _latent(m: Latent, d: int) -> Sizes:
    queries = m.heads * (m.nope_head_dim + m.rope_head_dim)
    matrices = d * queries if m.q_lora_rank is None else m.q_lora_rank * (d + queries)
    matrices += d * (m.kv_lora_rank + m.rope_head_dim)
    matrices += m.kv_lora_rank * m.heads * (m.nope_head_dim + m.v_head_dim)
    matrices += m.heads * m.v_head_dim * d
    sizes = {"attention": Size(matrices, m.kv_lora_rank + (m.q_lora_rank or 0))}
    if m.indexer is not None:
        sizes["indexer"] = _indexer(m.indexer, d, m.q_lora_rank or d)
    return sizes


def _indexer(i: Indexer, d: int, query_rank: int) -> Size:
    """Queries from the query latent, one key head with a layernorm, one weight a head (DeepSeek-V3.2)."""
    return Size(query_rank * i.heads * i.head_dim + d * i.head_dim + d * i.heads, 2 * i.head_dim)


def _compressed(m: Compressed, d: int) -> Sizes:
    """DeepSeek-V4 (shapes as in transformers 5.23.0, models/deepseek_v4/modeling_deepseek_v4.py).

    A compressor has a key and a gate projection, a bias for each position of a group, and a norm. With
    an indexer its groups overlap, which doubles keys, gates and biases; the indexer owns another such
    compressor. Hyper-connections, twice a layer: 2·hc + hc² mixing values from hc·d inputs.
    """
    matrices = m.q_lora_rank * (d + m.heads * m.head_dim) + d * m.head_dim
    matrices += m.heads * m.head_dim * m.output_lora_rank + m.output_groups * m.output_lora_rank * d
    attention = Size(matrices, m.q_lora_rank + m.head_dim + m.heads)
    if m.ratio:
        attention += _compressor(d, m.head_dim, m.ratio, 2 if m.indexer else 1)
    mixing = 2 * m.hyper_streams + m.hyper_streams**2
    sizes = {"attention": attention, "hyper_connections": Size(0, 2 * (m.hyper_streams * d * mixing + mixing + 3))}
    if m.indexer is not None:
        i = m.indexer
        queries = Size(m.q_lora_rank * i.heads * i.head_dim + d * i.heads)
        sizes["indexer"] = queries + _compressor(d, i.head_dim, m.ratio, 2)
    return sizes


def _compressor(d: int, head_dim: int, ratio: int, series: int) -> Size:
    return Size(2 * d * series * head_dim, ratio * series * head_dim + head_dim)


def _delta_net(m: DeltaNet, d: int) -> Size:
    """Q, K, V, gate z; β and decay a head; a convolution over Q, K, V; decay and bias a head; a norm."""
    keys, values = m.k_heads * m.k_head_dim, m.v_heads * m.v_head_dim
    matrices = d * (2 * keys + 2 * values) + d * 2 * m.v_heads + values * d
    return Size(matrices, (2 * keys + values) * m.conv_kernel + 2 * m.v_heads + m.v_head_dim)


def _mamba2(m: Mamba2, d: int) -> Size:
    """Gate, x, B, C and Δ from one projection; a convolution over x, B, C; A, D and a Δ bias a head; a norm."""
    inner = m.heads * m.head_dim
    convolved = inner + 2 * m.groups * m.state_size
    vectors = convolved * (m.conv_kernel + (1 if m.conv_bias else 0)) + 3 * m.heads + inner
    return Size(d * (inner + convolved + m.heads) + inner * d, vectors)


def _mlp(width: int, intermediate: int, gated: bool, bias: bool) -> Size:
    inner = 2 if gated else 1
    return Size((inner + 1) * width * intermediate, inner * intermediate + width if bias else 0)


def _experts(f: Experts, d: int) -> Sizes:
    one = _mlp(f.latent or d, f.intermediate, f.gated, f.expert_bias)
    values = f.router_scales + (f.experts if f.score_bias else 0) + (f.experts if f.router_bias else 0)
    sizes = {"experts": one * f.experts, "router": Size(d * f.experts, values)}
    mlp = Size(2 * d * f.latent if f.latent else 0)
    if f.dense is not None:
        mlp += _mlp(d, f.dense.intermediate, f.dense.gated, f.dense.bias)
    if mlp.total:
        sizes["mlp"] = mlp
    if f.shared_intermediate:
        gate = Size(d if f.shared_gate else 0)
        sizes["shared_experts"] = _mlp(d, f.shared_intermediate, f.gated, f.expert_bias) + gate
    return sizes
