"""The names that checkpoints give to a model's matrices, and which of them an ignore list means."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache

import msgspec

from kvperf.errors import KvperfError
from kvperf.model.architecture import (
    Compressed,
    DeltaNet,
    Dense,
    Experts,
    Ffn,
    GroupedQuery,
    Indexer,
    Kept,
    Latent,
    Lightning,
    Mamba2,
    Mixer,
    Model,
)

# A text model stands at one of these places of a checkpoint.
PREFIXES = ("model.", "", "model.language_model.", "language_model.model.", "language_model.", "backbone.")
# What an ignore list may name outside the text model's layers: vision, audio, projectors, draft modules.
OUTSIDE = re.compile(
    r"(model\.|language_model\.)*(vision|visual|audio|mm_|multi_modal|multimodal|embed_vision|embed_audio|mtp|projector)"
)
_GATED = ("gate_proj", "up_proj", "down_proj")


class Naming(msgspec.Struct, frozen=True):
    """The words one family uses. `mlp`, `expert`: the matrices of a dense FFN and of one expert."""

    attention: str = "self_attn"
    output: str = "o_proj"
    ffn: str = "mlp"
    mlp: tuple[str, ...] = _GATED
    expert: tuple[str, ...] = _GATED
    dense_beside: str = "mlp"
    moe: str = "mlp"
    shared: str = "shared_experts"
    router: str = "gate"
    embedding: tuple[str, ...] = ("embed_tokens", "embed", "embeddings", "wte")
    head: tuple[str, ...] = ("lm_head", "head", "output")


# Names whose precision the model does not tell apart: norms, convolutions, gates of one column a head or expert.
_SMALL = "small"


def layer_matrices(naming: Naming, mixer: Mixer, ffn: Ffn) -> list[tuple[str, str]]:
    """(module, name below `layers.N.`) of every matrix of a layer; module "small" where it does not matter."""
    found = [("attention", f"{naming.attention}.{name}") for name in _attention(naming, mixer)]
    found += [("indexer", f"{naming.attention}.indexer.{name}") for name in _indexer(mixer)]
    found += [(_SMALL, f"{naming.attention}.{name}") for name in ("q_norm", "k_norm", "indexer.weights_proj")]
    if isinstance(mixer, DeltaNet):
        small = ("conv1d", "in_proj_ba", "in_proj_a", "in_proj_b", "norm")
        found += [("attention", f"linear_attn.{name}") for name in ("in_proj_qkvz", "out_proj")]
        found += [(_SMALL, f"linear_attn.{name}") for name in small]
    if isinstance(mixer, Mamba2):
        found += [("attention", f"mixer.{name}") for name in ("in_proj", "out_proj")]
        found += [(_SMALL, f"mixer.{name}") for name in ("conv1d", "norm")]
    found += _ffn(naming, ffn)
    norms = "input_layernorm post_attention_layernorm pre_feedforward_layernorm post_feedforward_layernorm norm"
    return found + [(_SMALL, name) for name in norms.split()]


def kept_modules(model: Model, naming: Naming, patterns: Iterable[str], where: str) -> list[Kept]:
    """What a list of ignored modules keeps, module by module and layer by layer.

    Raises KvperfError for a pattern that names nothing of the model, and where it keeps some matrices of
    a module and quantises the others: a Checkpoint cannot say that.
    """
    patterns = list(dict.fromkeys(patterns))
    used = {pattern for pattern in patterns if OUTSIDE.match(pattern.removeprefix("re:").lstrip(".*^"))}
    layers: dict[str, list[int]] = {}
    present: dict[str, int] = {}
    sequence = model.layer_sequence()
    for index, layer in enumerate(sequence):
        matched: dict[str, list[bool]] = {}
        for module, name in layer_matrices(naming, model.mixers[layer.mixer], model.ffns[layer.ffn]):
            hits = [pattern for pattern in patterns if _names(pattern, index, name)]
            used.update(hits)
            if module != _SMALL:
                matched.setdefault(module, []).append(bool(hits))
        for module, hits in matched.items():
            present[module] = present.get(module, 0) + 1
            if all(hits):
                layers.setdefault(module, []).append(index)
            elif any(hits):
                raise KvperfError(
                    f"{where} keeps some matrices of the {module} of layer {index} and quantises the others",
                    "a checkpoint keeps or quantises a module whole",
                )
    kept = [
        Kept(module, None if len(indices) == present[module] else tuple(indices)) for module, indices in layers.items()
    ]
    for module, names in (("embedding", naming.embedding), ("lm_head", naming.head)):
        hits = [pattern for pattern in patterns if any(_matches(pattern, name) for name in names)]
        used.update(hits)
        kept += [Kept(module)] if hits else []
    used |= {pattern for pattern in patterns if _matches(pattern, "norm") or _is_draft(pattern, len(sequence))}
    for pattern in patterns:
        if pattern not in used:
            raise KvperfError(f"{where} names '{pattern}', which is no module of the model", "correct or remove it")
    return kept


def _attention(naming: Naming, mixer: Mixer) -> tuple[str, ...]:
    if isinstance(mixer, GroupedQuery):
        values = () if mixer.shared_kv_projection else ("v_proj",)
        return ("q_proj", "k_proj", *values, naming.output)
    if isinstance(mixer, Latent):
        queries = ("q_proj",) if mixer.q_lora_rank is None else ("q_a_proj", "q_b_proj")
        return (*queries, "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")
    if isinstance(mixer, Compressed):
        return ("wq_a", "wq_b", "wkv", "wo_a", "wo_b", *(("compressor.wkv", "compressor.wgate") if mixer.ratio else ()))
    if isinstance(mixer, Lightning):
        return ("qkv_proj", "out_proj", "output_gate")
    return ()


def _indexer(mixer: Mixer) -> tuple[str, ...]:
    if isinstance(mixer, Compressed) and mixer.indexer is not None:
        return ("wq_b", "compressor.wkv", "compressor.wgate")
    held: Indexer | None = mixer.indexer if isinstance(mixer, Latent) else None
    return ("wq_b", "wk") if held is not None else ()


def _ffn(naming: Naming, ffn: Ffn) -> list[tuple[str, str]]:
    if isinstance(ffn, Dense):
        return [("mlp", f"{naming.ffn}.{name}") for name in naming.mlp]
    if not isinstance(ffn, Experts):
        return []
    # Lists name experts all or none: the first and the last one stand for the rest.
    ends = ("0", str(ffn.experts - 1))
    found = [("experts", f"{naming.moe}.experts.{expert}.{name}") for expert in ends for name in naming.expert]
    found.append(("router", f"{naming.moe}.{naming.router}"))
    if ffn.dense is not None:
        found += [("mlp", f"{naming.dense_beside}.{name}") for name in naming.mlp]
    if ffn.latent is not None:
        found += [("mlp", f"{naming.moe}.{name}") for name in ("fc1_latent_proj", "fc2_latent_proj")]
    if ffn.shared_intermediate:
        found += [("shared_experts", f"{naming.moe}.{naming.shared}.{name}") for name in naming.expert]
        found.append((_SMALL, f"{naming.moe}.shared_expert_gate"))
    return found


def _names(pattern: str, layer: int, name: str) -> bool:
    """Whether a list entry means a matrix of this layer. An entry without a digit means it in every layer or none."""
    place = layer if any(mark.isdigit() for mark in pattern) else 0
    return _matches(pattern, f"layers.{place}.{name}")


@cache
def _matches(pattern: str, name: str) -> bool:
    """Whether a list entry means the matrix `name`: a regular expression, a wildcard, or whole components of it."""
    full = [prefix + name for prefix in PREFIXES]
    if pattern.startswith("re:"):
        return any(re.match(pattern[3:], candidate) for candidate in full)
    if "*" in pattern:
        return any(fnmatchcase(candidate, pattern) or fnmatchcase(candidate, f"{pattern}.*") for candidate in full)
    return any(f".{pattern}." in f".{candidate}." for candidate in full)


def _is_draft(pattern: str, layers: int) -> bool:
    """Whether a list entry names a layer after the last one, where multi-token-prediction modules stand."""
    numbered = re.search(r"layers\.(\d+)\b", pattern)
    return numbered is not None and int(numbered.group(1)) >= layers
