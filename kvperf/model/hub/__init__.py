"""The importer of Hugging Face `config.json` files. What a config says and a Model cannot hold is an error."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from kvperf.errors import KvperfError, nearest
from kvperf.model.architecture import Model
from kvperf.model.hub import deepseek, deepseek_v4, gemma, gpt2, llama, minimax, nemotron, qwen_next, windows
from kvperf.model.hub.keys import REMOVE, Keys, MissingKeysError, Table, UnknownKeysError, table
from kvperf.model.hub.matrices import Naming
from kvperf.model.hub.quantization import checkpoint
from kvperf.model.validation import problems


class Family(msgspec.Struct, frozen=True):
    """How one model_type is read: its keys, what builds the model from them, and its matrices' names."""

    table: Table
    build: Callable[[Keys], Model]
    naming: Naming = Naming()


_VISION = (
    "vision_config audio_config vision_tower_config image_token_id image_token_index video_token_id audio_token_id "
    "boi_token_id boi_token_index eoi_token_id eoi_token_index boa_token_id eoa_token_id eoa_token_index "
    "vision_start_token_id vision_end_token_id vision_soft_tokens_per_image mm_tokens_per_image "
    "media_placeholder_token_id use_unified_vision_chunk video_placeholder vision_feature_select_strategy"
)
# A multimodal config: the text model stands below text_config; the towers are not modelled.
MULTIMODAL = table("text_config", {"tie_word_embeddings": None}, inert=_VISION)

_MOE_W = Naming(expert=("w1", "w2", "w3"), moe="block_sparse_moe")
_LLAMA4 = Naming(ffn="feed_forward", moe="feed_forward", shared="shared_expert", router="router")
_QWEN_MOE = Naming(shared="shared_expert")
_PLAIN = ("up_proj", "down_proj")
_NEMOTRON = Naming(attention="mixer", ffn="mixer", moe="mixer", mlp=_PLAIN, expert=_PLAIN)
_PHI = Naming(output="dense", mlp=("fc1", "fc2"))
_OPT = Naming(output="out_proj", ffn="", mlp=("fc1", "fc2"))
_GPT2 = Naming(attention="attn", output="c_proj", mlp=("c_fc", "c_proj"))
_V4 = Naming(attention="attn", ffn="ffn", moe="ffn", expert=("w1", "w2", "w3"))

FAMILIES = {
    "llama": Family(llama.LLAMA, llama.llama),
    "mistral": Family(llama.MISTRAL, llama.mistral),
    "mixtral": Family(llama.MIXTRAL, llama.mixtral, _MOE_W),
    "phi3": Family(llama.PHI3, llama.phi3),
    "qwen2": Family(llama.QWEN2, llama.qwen2),
    "qwen2_moe": Family(llama.QWEN2_MOE, llama.qwen2_moe, _QWEN_MOE),
    "qwen3": Family(llama.QWEN3, llama.qwen3),
    "qwen3_moe": Family(llama.QWEN3_MOE, llama.qwen3_moe),
    "glm4_moe": Family(llama.GLM4_MOE, llama.glm4_moe),
    "minimax_m1": Family(minimax.MINIMAX_M1, minimax.minimax_m1, _MOE_W),
    "minimax_m2": Family(minimax.MINIMAX_M2, minimax.minimax_m2, _MOE_W),
    "deepseek_v2": Family(deepseek.DEEPSEEK_V2, deepseek.deepseek_v2),
    "deepseek_v3": Family(deepseek.DEEPSEEK_V3, deepseek.deepseek_v3),
    "deepseek_v32": Family(deepseek.DEEPSEEK_V32, deepseek.deepseek_v32),
    "deepseek_v4": Family(deepseek_v4.DEEPSEEK_V4, deepseek_v4.deepseek_v4, _V4),
    "kimi_k2": Family(deepseek.DEEPSEEK_V3, deepseek.deepseek_v3),
    "glm_moe_dsa": Family(deepseek.GLM_MOE_DSA, deepseek.deepseek_v32),
    "gemma": Family(gemma.GEMMA, gemma.gemma),
    "gemma2": Family(gemma.GEMMA2, gemma.gemma2),
    "gemma3_text": Family(gemma.GEMMA3, gemma.gemma3),
    "gemma4_text": Family(gemma.GEMMA4, gemma.gemma4, Naming(moe="moe", router="router")),
    "qwen3_next": Family(qwen_next.QWEN3_NEXT, qwen_next.qwen3_next, _QWEN_MOE),
    "qwen3_5_text": Family(qwen_next.QWEN3_5, qwen_next.qwen3_5),
    "qwen3_5_moe_text": Family(qwen_next.QWEN3_5_MOE, qwen_next.qwen3_5_moe, _QWEN_MOE),
    "nemotron_h": Family(nemotron.NEMOTRON_H, nemotron.nemotron_h, _NEMOTRON),
    "nemotron-nas": Family(nemotron.NEMOTRON_NAS, nemotron.nemotron_nas),
    "gpt_oss": Family(windows.GPT_OSS, windows.gpt_oss, Naming(router="router")),
    "mimo_v2_flash": Family(windows.MIMO, windows.mimo),
    "llama4_text": Family(windows.LLAMA4, windows.llama4, _LLAMA4),
    "gpt2": Family(gpt2.GPT2, gpt2.gpt2, _GPT2),
    "gpt_neox": Family(gpt2.GPT_NEOX, gpt2.gpt_neox, _GPT2),
    "opt": Family(gpt2.OPT, gpt2.opt, _OPT),
    "phi": Family(gpt2.PHI, gpt2.phi, _PHI),
}
# Multimodal model_types and the text family inside.
NESTED = {
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "llama4": "llama4_text",
    "kimi_k25": "kimi_k2",
}
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def import_path(path: Path) -> Model:
    """The model of a `config.json`, or of a directory that holds one (with its `hf_quant_config.json`, if any)."""
    file = path / "config.json" if path.is_dir() else path
    config = _json(file)
    beside = file.parent / "hf_quant_config.json"
    return import_config(config, _name(file, config), str(file), _json(beside) if beside.is_file() else None)


# Folders that say nothing about the model in them; so do the hashes of a download cache and names of two letters.
_UNTELLING = {"", "checkpoint", "checkpoints", "config", "configs", "data", "download", "downloads", "hub", "model"}
_UNTELLING |= {"models", "path", "repo", "root", "snapshot", "snapshots", "src", "temp", "tmp", "weights"}
_HASH = re.compile(r"[0-9a-f]{12,}")
_CACHED = re.compile(r"models--[^/]+--([^/]+)")  # the hub client's cache: models--ORG--NAME/snapshots/HASH


def _name(file: Path, config: Any) -> str:
    """The file's own name, its folder's, or the hub id that the config states; the folder's again where none tells."""
    folder = file.parent.resolve()
    if file.stem != "config":
        return file.stem.lower()
    stated = config.get("_name_or_path") if isinstance(config, Mapping) else None
    stated = stated if isinstance(stated, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", stated) else ""
    cached = next((found.group(1) for part in folder.parts if (found := _CACHED.fullmatch(part))), "")
    untelling = folder.name.lower() in _UNTELLING or len(folder.name) < 3 or _HASH.fullmatch(folder.name)
    telling = "" if untelling else folder.name
    return (cached or telling or stated.rpartition("/")[2] or folder.name or "model").lower()


def import_config(config: Mapping[str, Any], name: str, source: str = "config.json", quantization: Any = None) -> Model:
    """The model a config describes.

    name          what the model is called
    quantization  the content of hf_quant_config.json, used where the config has no quantization_config
    Raises KvperfError naming every key that is unknown, or missing, or the first that says what a Model cannot hold.
    """
    if not isinstance(config, Mapping):
        raise KvperfError(f"{source}: not a JSON object", "give the config.json of a model")
    try:
        return _import(config, name, source, quantization)
    except UnknownKeysError as first:
        raise _all_unknown(first, config, name, source, quantization) from None


def _import(config: Mapping[str, Any], name: str, source: str, quantization: Any) -> Model:
    kind = config.get("model_type")
    if isinstance(kind, str) and kind in NESTED:
        keys, family, outer = _nested(config, source, NESTED[kind])
    else:
        keys, family, outer = Keys(config, _family(kind, source).table, source), _family(kind, source), None
    model = family.build(keys)
    held = checkpoint(_stated(keys, outer, quantization), keys, model, family.naming, _dtype(keys, outer))
    if kind == "deepseek_v4":
        held = deepseek_v4.expert_precision(keys, held)
    imported = msgspec.structs.replace(model, name=name, source=(source,), checkpoint=held)
    for _, message, hint in problems(imported):
        raise KvperfError(f"{source}: {message}", hint)
    return imported


def _stated(keys: Keys, outer: Keys | None, beside: Any) -> Any:
    """The one statement about quantisation.

    hf_quant_config.json is followed where the config says nothing, or names the same producer: a checkpoint that
    was quantised anew may still carry the text model's old statement beside its own.
    """
    stated = [
        held.values["quantization_config"] for held in (keys, outer) if held and held.given("quantization_config")
    ]
    if beside is not None:
        if stated and _producer(beside) not in [_producer(one) for one in stated]:
            problem = "stands beside a hf_quant_config.json of another producer"
            raise keys.error("quantization_config", problem, "remove the one that the weights do not have")
        return beside
    if outer is not None and len(stated) > 1 and stated[0] != stated[1]:
        raise outer.error("quantization_config", "disagrees with text_config", "remove the one the weights do not have")
    return stated[0] if stated else None


def _producer(stated: Any) -> str | None:
    """Who quantised the checkpoint: modelopt names itself, as the method or as the producer."""
    if not isinstance(stated, dict):
        return None
    producer = stated.get("producer")
    name = producer.get("name") if isinstance(producer, dict) else stated.get("quant_method")
    return name if isinstance(name, str) else None


def _all_unknown(
    first: UnknownKeysError, config: Mapping[str, Any], name: str, source: str, quantization: Any
) -> KvperfError:
    """One error for the unknown keys of all objects: each object is read once those before it hold no such key."""
    found, missing, rest = [first], "", copy.deepcopy((dict(config), quantization))
    while _removed(found[-1], *rest):
        try:
            _import(rest[0], name, source, rest[1])
            break
        except UnknownKeysError as more:
            found.append(more)
        except MissingKeysError as problem:
            missing = "; missing: " + ", ".join(repr(key) for key in problem.keys)
            break
        except KvperfError:  # it may come from what was removed
            break
    keys = {one.where + key: one.close[key] for one in found for key in one.keys}
    message = f"{source}: unknown config key{'s' if len(keys) > 1 else ''} {', '.join(map(repr, keys))}{missing}"
    return KvperfError(message, "; ".join([*_advice(keys), REMOVE]).replace("?;", "?"))


def _removed(unknown: UnknownKeysError, config: Any, quantization: Any) -> bool:
    """Take the unknown keys out of the object they stand in; False where that object is not found."""
    steps = [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", unknown.where)]
    roots = [(config, steps)]
    if "quantization_config" in steps:  # it may stand in hf_quant_config.json
        below = steps[steps.index("quantization_config") + 1 :]
        roots += [(quantization, below), (quantization, ["quantization", *below])]
    for held, path in roots:
        try:
            for step in path:
                held = held[step]
            for key in unknown.keys:
                del held[key]
        except (KeyError, IndexError, TypeError):
            continue
        return True
    return False


_SHOWN_FAMILIES = 4


def _advice(keys: Mapping[str, str | None]) -> Iterator[str]:
    """What to make of unknown keys: the families that know one, else the key of this family that is close to it."""
    for path, close in keys.items():
        key = path.removeprefix("text_config.")
        families = [kind for kind, family in FAMILIES.items() if key in family.table.known()]
        if families:
            more = ", …" if len(families) > _SHOWN_FAMILIES else ""
            yield f"{key} is known for {', '.join(families[:_SHOWN_FAMILIES])}{more}"
        elif close:
            yield f"did you mean '{close}'?" if len(keys) == 1 else f"'{key}' may be '{close}'"


def _nested(config: Mapping[str, Any], source: str, text_type: str) -> tuple[Keys, Family, Keys]:
    outer = Keys(config, MULTIMODAL, source)
    text = outer.values["text_config"]
    if not isinstance(text, dict):
        raise outer.error("text_config", f"is {text!r}", "a JSON object is needed")
    if "model_type" not in text:
        raise outer.error("text_config.model_type", "is missing", f"'{text_type}' stands there in published configs")
    if text["model_type"] != text_type:
        raise outer.error("text_config.model_type", f"is {text['model_type']!r}", f"'{text_type}' is expected here")
    # Some families state the tie outside, some inside, some on both sides.
    tie = outer.values["tie_word_embeddings"]
    if tie is not None and text.get("tie_word_embeddings", tie) != tie:
        raise outer.error("tie_word_embeddings", "disagrees with text_config", "correct one of them")
    family = FAMILIES[text_type]
    inner = text if tie is None else {"tie_word_embeddings": tie} | text
    return Keys(inner, family.table, source, "text_config."), family, outer


def _family(kind: Any, source: str) -> Family:
    known = [*FAMILIES, *NESTED]
    if kind is None:
        raise KvperfError(f"{source}: the config key 'model_type' is missing", f"one of {', '.join(known)}")
    if not isinstance(kind, str) or kind not in FAMILIES:
        close = nearest(str(kind), known)
        hint = f"did you mean '{close}'? " if close else ""
        raise KvperfError(f"{source}: unknown model_type {kind!r}", f"{hint}write the model as YAML by hand")
    return FAMILIES[kind]


def _dtype(keys: Keys, outer: Keys | None) -> str:
    """The dtype the config states, bf16 where it states none."""
    for held in (keys, outer):
        for key in ("dtype", "torch_dtype"):
            if held is not None and held.given(key):
                return held.choice(key, _DTYPES)
    return "bf16"


def _json(path: Path) -> Any:
    """The value of a JSON file. Raises KvperfError where it is not there or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise KvperfError(f"{path}: {problem.strerror}", "give a config.json or a directory that holds one") from None
    except json.JSONDecodeError as problem:
        where = f"{path}:{problem.lineno}:{problem.colno}"
        raise KvperfError(f"{where}: not JSON: {problem.msg}", "the file may be cut off; fetch it again") from None
    except RecursionError:
        raise KvperfError(f"{path}: nested too deeply for a config", "give the config.json of a model") from None
    except UnicodeDecodeError:
        raise KvperfError(f"{path}: not UTF-8 text", "give the config.json of a model") from None
