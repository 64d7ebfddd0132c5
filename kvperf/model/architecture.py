"""The shape of a language model: what `models/*.yaml` says and what a `config.json` becomes.

A model is a sequence of layers; a layer is a mixer (attention, a linear-attention or state-space
mixer, or none) followed by an FFN (dense, mixture of experts, or none). Each distinct mixer and FFN
is described once, by name. Sizes count elements; nothing here knows a GPU, a batch or a precision.
"""

from typing import Literal

import msgspec


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the mixers and FFNs: strict about keys, told apart by `kind`."""


class Indexer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sparse-attention indexer: it scores every cached key and keeps `top_k` of them.

    bytes_per_token  bytes of one cached index key (128 fp8 + one fp32 scale in DeepSeek-V3.2); absent: in the KV dtype
    """

    heads: int
    head_dim: int
    top_k: int
    bytes_per_token: int | None = None


class GroupedQuery(Part, frozen=True, tag="gqa"):
    """Softmax attention with `kv_heads` KV heads shared by `heads` query heads (MHA and MQA included).

    rotary_dim   rotated elements of each head (0: no rotary embedding in this layer)
    window       attend to the last `window` tokens
    chunk        attend inside fixed chunks of this many tokens (Llama 4)
    qk_norm      "head": an RMSNorm of head_dim on Q and K; "unweighted": the same without weights;
                 "full": over all heads
    output_gate  the Q projection is doubled; its second half gates the output (Qwen3-Next)
    shared_kv_projection  K and V come from one projection, both are cached (Gemma 4)
    sinks        one learned sink logit a head
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int | None = None
    rotary_dim: int = 0
    window: int | None = None
    chunk: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "head", "unweighted", "full"] = "none"
    output_gate: bool = False
    shared_kv_projection: bool = False
    sinks: bool = False

    @property
    def value_dim(self) -> int:
        """Elements of one value head."""
        return self.head_dim if self.v_head_dim is None else self.v_head_dim


class Latent(Part, frozen=True, tag="mla"):
    """Multi-head latent attention (DeepSeek-V2): one latent of kv_lora_rank + rope_head_dim is cached a token.

    q_lora_rank      rank of the query's down-projection (None: queries are projected at once)
    indexer          DeepSeek sparse attention: this layer scores and selects tokens
    selected_tokens  attend to this many tokens chosen by an earlier layer's indexer (GLM-5.2)
    """

    heads: int
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    indexer: Indexer | None = None
    selected_tokens: int | None = None


class Compressed(Part, frozen=True, tag="compressed"):
    """DeepSeek-V4 attention: a window of plain keys, and one compressed key for each `ratio` tokens.

    One KV head of head_dim serves as key and value. ratio 0: the window alone; with an indexer, top_k
    compressed keys are read, without one all of them. The output projection is grouped and low-rank.
    hyper_streams    residual streams of the manifold hyper-connections around mixer and FFN
    """

    heads: int
    head_dim: int
    q_lora_rank: int
    rope_head_dim: int
    window: int
    ratio: int
    output_groups: int
    output_lora_rank: int
    hyper_streams: int
    indexer: Indexer | None = None


class DeltaNet(Part, frozen=True, tag="gated_deltanet"):
    """Gated DeltaNet linear attention (Qwen3-Next): a state of v_heads × k_head_dim × v_head_dim."""

    k_heads: int
    k_head_dim: int
    v_heads: int
    v_head_dim: int
    conv_kernel: int


class Lightning(Part, frozen=True, tag="lightning"):
    """Lightning linear attention (MiniMax): a state of heads × head_dim × head_dim."""

    heads: int
    head_dim: int


class Mamba2(Part, frozen=True, tag="mamba2"):
    """A Mamba-2 state-space mixer: a state of heads × head_dim × state_size."""

    heads: int
    head_dim: int
    groups: int
    state_size: int
    conv_kernel: int
    conv_bias: bool = True


class NoMixer(Part, frozen=True, tag="none"):
    """A layer without a mixer."""


class Dense(Part, frozen=True, tag="dense"):
    """A feed-forward network: gated (three matrices, SwiGLU) or plain (two matrices)."""

    intermediate: int
    gated: bool = True
    bias: bool = False


class Experts(Part, frozen=True, tag="moe"):
    """A mixture of experts: top_k of `experts` routed ones, and a shared one for every token.

    shared_intermediate  total width of the shared experts (0: none); shared_gate: one gate logit scales them
    score_bias    one correction value for each expert, added to the router's scores (DeepSeek-V3)
    router_bias   the router's matrix has a bias;  expert_bias: so has every matrix of the experts
    latent        experts work in a latent of this size, with a down- and an up-projection a layer (Nemotron 3)
    dense         a dense FFN that runs beside the experts (Gemma 4)
    router_scales learned values in the router beside its matrix (Gemma 4's per-channel and per-expert scales)
    """

    experts: int
    top_k: int
    intermediate: int
    gated: bool = True
    shared_intermediate: int = 0
    shared_gate: bool = False
    score_bias: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    latent: int | None = None
    dense: Dense | None = None
    router_scales: int = 0


class NoFfn(Part, frozen=True, tag="none"):
    """A layer without a feed-forward network."""


Mixer = GroupedQuery | Latent | Compressed | DeltaNet | Lightning | Mamba2 | NoMixer
Ffn = Dense | Experts | NoFfn


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer: the names of its mixer and FFN, and how many norms of hidden_size it has.

    scalar  one learned scalar scales the layer's output (Gemma 4)
    """

    mixer: str
    ffn: str
    norms: int = 2
    scalar: bool = False


class Run(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`block`, repeated."""

    repeat: int
    block: tuple[Layer, ...]


class Norm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """rmsnorm has a weight of hidden_size; layernorm may have a bias too."""

    kind: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    bias: bool = False


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Modules of the checkpoint that stay in its base dtype.

    module  one of MODULES;  layers: indices of the layers it holds for (absent: all)
    """

    module: str
    layers: tuple[int, ...] | None = None


# What a quantised checkpoint quantises or keeps, one by one.
MODULES = ("attention", "indexer", "mlp", "experts", "shared_experts", "router", "embedding", "lm_head")


class Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The precision the weights are published in.

    dtype             norms, biases and everything in `kept`
    quantised         dtype of the matrices (None: none is quantised)
    experts           dtype of the routed experts' matrices where it is another one (DeepSeek-V4: fp4 in an fp8 model)
    activation        dtype the inputs of quantised matrices are quantised to (None: they stay in `dtype`)
    kept              modules that are not quantised; embedding, lm_head and router are named when kept
    """

    dtype: str = "bf16"
    quantised: str | None = None
    experts: str | None = None
    activation: str | None = None
    kept: tuple[Kept, ...] = ()


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameter counts printed elsewhere.

    parameters  exact count of the whole (text) model; nominal and active: as advertised
    tensors     every value of the published safetensors files (duplicates, scales and MTP included)
    """

    source: str
    parameters: int | None = None
    nominal: float | None = None
    active: float | None = None
    tensors: int | None = None
    note: str | None = None


class MultiToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Multi-token-prediction modules: each one more layer, two norms, and a projection of 2·hidden to hidden."""

    modules: int
    parameters_each: int


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"schema_version": "schema"}):
    """One language model.

    learned_positions  rows of a learned position table (None: rotary or none)
    extra_parameters   learned values outside the layers that belong to no matrix here, explained in `notes`
    """

    schema_version: Literal["kvperf.model/1"]
    name: str
    source: tuple[str, ...]
    hidden_size: int
    vocab_size: int
    max_context_tokens: int
    tied_embeddings: bool
    mixers: dict[str, Mixer]
    ffns: dict[str, Ffn]
    layers: tuple[Run, ...]
    hub_id: str | None = None
    norm: Norm = Norm()
    final_norm: bool = True
    learned_positions: int | None = None
    lm_head_bias: bool = False
    checkpoint: Checkpoint = Checkpoint()
    mtp: MultiToken | None = None
    published: Published | None = None
    extra_parameters: int = 0
    notes: str | None = None

    def layer_sequence(self) -> list[Layer]:
        """The layers in order, one entry each."""
        return [layer for run in self.layers for _ in range(run.repeat) for layer in run.block]
