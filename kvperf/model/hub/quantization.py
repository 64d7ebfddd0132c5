"""`quantization_config` (or `hf_quant_config.json`) as the precision of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kvperf.model.architecture import Checkpoint, Experts, Kept, Model
from kvperf.model.hub.keys import Keys, table
from kvperf.model.hub.matrices import Naming, kept_modules

_FP8 = table(
    "quant_method weight_block_size activation_scheme",
    {"modules_to_not_convert": (), "ignored_layers": ()},
    only={"fmt": ("e4m3",), "dequantize": (False,)},
    inert="scale_fmt kv_cache_scheme",
)
_FBGEMM = table("quant_method", {"modules_to_not_convert": ()}, inert="activation_scale_ub")
_MXFP4 = table("quant_method", {"modules_to_not_convert": ()}, only={"dequantize": (False,)})
_AWQ = table(
    "quant_method bits group_size zero_point",
    {"modules_to_not_convert": ()},
    inert="version backend do_fuse exllama_config fuse_max_seq_len modules_to_fuse",
)
_GPTQ = table(
    "quant_method bits group_size sym",
    only={"lm_head": (False,), "dynamic": (None,), "modules_in_block_to_quantize": (None,)},
    inert="desc_act damp_percent static_groups true_sequential model_name_or_path model_file_base_name "
    "quantizer meta checkpoint_format pack_dtype is_marlin_format use_exllama exllama_config cache_block_outputs "
    "tokenizer dataset max_input_length module_name_preceding_first_block batch_size block_name_to_quantize "
    "use_cuda_fp16 model_seqlen backend",
)
_MODELOPT = table(
    "quant_algo",
    {"quant_method": "modelopt", "group_size": None, "exclude_modules": (), "ignore": ()},
    only={"quantized_layers": (None,), "has_zero_point": (False,), "pre_quant_scale": (False,)},
    # The cache's precision is the server's choice, not the checkpoint's.
    inert="kv_cache_quant_algo kv_cache_scheme producer config_groups",
)
_COMPRESSED = table(
    "quant_method config_groups ignore",
    {"format": None},
    only={
        "quantization_status": ("compressed", "frozen"),
        "sparsity_config": ({}, None),
        "transform_config": ({}, None),
    },
    inert="kv_cache_scheme global_compression_ratio version",
)
_GROUP = table("weights targets", {"input_activations": None}, only={"output_activations": (None,)}, inert="format")
_ARGUMENTS = table(
    "num_bits type strategy",
    {"group_size": None, "block_structure": None, "symmetric": True},
    inert="actorder dynamic observer observer_kwargs scale_dtype zp_dtype",
)

# modelopt's algorithms: dtype of the weights and of the inputs.
_ALGORITHMS: dict[str, tuple[str, str | None]] = {
    "FP8": ("fp8", "fp8"),
    "FP8_PB_WO": ("fp8-block", None),
    "NVFP4": ("nvfp4", "nvfp4"),
    "W4A16_NVFP4": ("nvfp4", None),
    "W4A16_AWQ": ("int4", None),
    "W4A8_MXFP4_FP8": ("mxfp4", "fp8"),
    "MXFP8": ("mxfp8", "mxfp8"),
}
_INT4 = {32: "int4-g32", 64: "int4-g64", 128: "int4"}


def checkpoint(config: Any, keys: Keys, model: Model, naming: Naming, dtype: str) -> Checkpoint:
    """The precision a quantization_config states for `model`, stored in `dtype` otherwise.

    Routers are kept by every method (servers run them in 16 or 32 bits), the embedding table is no
    linear layer, and a tied head is that table.
    """
    if config is None:
        return Checkpoint(dtype=dtype)
    if not isinstance(config, dict):
        raise keys.error("quantization_config", f"is {config!r}", "a JSON object is needed")
    config, method = _method(config, keys)
    where = f"{keys.name}: the config key '{keys.where}quantization_config'"
    weights, activation, ignored, head_kept = _READERS[method](keys, config)
    found = kept_modules(model, naming, ignored, where)
    if method == "mxfp4":
        found += [Kept(module) for module in ("attention", "mlp", "shared_experts")]
    always = ["router", "embedding"] + (["lm_head"] if head_kept or model.tied_embeddings else [])
    kept = _ordered([*found, *(Kept(module) for module in always)], model)
    return Checkpoint(dtype=dtype, quantised=weights, activation=activation, kept=kept)


def _method(config: dict[str, Any], keys: Keys) -> tuple[dict[str, Any], str]:
    """The flat config and its method; `hf_quant_config.json` nests it below `quantization`."""
    if "producer" in config and isinstance(config.get("quantization"), dict):
        config = {"quant_method": "modelopt"} | config["quantization"]
    method = config.get("quant_method", "is missing")
    if not isinstance(method, str) or method not in _READERS:
        problem = "is missing" if "quant_method" not in config else f"is {method!r}"
        raise keys.error("quantization_config.quant_method", problem, f"one of {', '.join(_READERS)} can be expressed")
    return config, method


Reading = tuple[str, str | None, list[str], bool]  # weights, inputs, ignored modules, whether the head is kept


def _section(keys: Keys, config: dict[str, Any], declared: Any) -> Keys:
    return Keys(config, declared, keys.name, f"{keys.where}quantization_config.")


def _patterns(keys: Keys, *names: str) -> list[str]:
    found: list[str] = []
    for name in names:
        value = keys.values[name] or ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise keys.error(name, f"is {value!r}", "a list of module names is needed")
        found += value
    return found


def _fp8(keys: Keys, config: dict[str, Any]) -> Reading:
    inner = _section(keys, config, _FP8)
    block = inner.values["weight_block_size"]
    if block not in (None, [128, 128]):
        raise inner.error("weight_block_size", f"is {block!r}", "only [128, 128] or null can be expressed")
    if inner.values["activation_scheme"] not in ("dynamic", "static"):
        scheme = inner.values["activation_scheme"]
        raise inner.error("activation_scheme", f"is {scheme!r}", "only 'dynamic' or 'static' can be expressed")
    ignored = _patterns(inner, "modules_to_not_convert", "ignored_layers")
    return "fp8-block" if block else "fp8", "fp8", ignored, True


def _fbgemm(keys: Keys, config: dict[str, Any]) -> Reading:
    return "fp8", "fp8", _patterns(_section(keys, config, _FBGEMM), "modules_to_not_convert"), True


def _mxfp4(keys: Keys, config: dict[str, Any]) -> Reading:
    """Only the matrices of the routed experts."""
    return "mxfp4", None, _patterns(_section(keys, config, _MXFP4), "modules_to_not_convert"), True


def _awq(keys: Keys, config: dict[str, Any]) -> Reading:
    inner = _section(keys, config, _AWQ)
    weights = _integer(inner, inner.count("bits"), inner.count("group_size"), not inner.flag("zero_point"))
    return weights, None, _patterns(inner, "modules_to_not_convert"), True


def _gptq(keys: Keys, config: dict[str, Any]) -> Reading:
    inner = _section(keys, config, _GPTQ)
    return _integer(inner, inner.count("bits"), inner.values["group_size"], inner.flag("sym")), None, [], True


def _integer(keys: Keys, bits: int, group: Any, symmetric: bool, bits_key: str = "bits") -> str:
    """Integer weights with one scale a group, and a zero-point where they are not symmetric."""
    if bits != 4:
        raise keys.error(bits_key, f"is {bits}", "only 4 can be expressed")
    if symmetric and isinstance(group, int) and group in _INT4:
        return _INT4[group]
    if group == 128:
        return "int4-awq"
    allowed = ", ".join(map(str, _INT4)) if symmetric else "128 (with zero-points)"
    raise keys.error("group_size", f"is {group!r}", f"only {allowed} can be expressed")


def _modelopt(keys: Keys, config: dict[str, Any]) -> Reading:
    inner = _section(keys, config, _MODELOPT)
    weights, activation = inner.choice("quant_algo", _ALGORITHMS)
    group = inner.values["group_size"]
    expected = {"nvfp4": (None, 16), "int4": (None, 128), "mxfp4": (None, 32), "mxfp8": (None, 32)}
    if group not in expected.get(weights, (None, group)):
        raise inner.error("group_size", f"is {group!r}", f"{weights} has groups of {expected[weights][1]}")
    return weights, activation, _patterns(inner, "exclude_modules", "ignore"), False


def _compressed(keys: Keys, config: dict[str, Any]) -> Reading:
    inner = _section(keys, config, _COMPRESSED)
    groups = inner.values["config_groups"]
    if not isinstance(groups, dict) or len(groups) != 1:
        count = len(groups) if isinstance(groups, dict) else repr(groups)
        raise inner.error("config_groups", f"has {count} groups", "only one format for all matrices can be expressed")
    name, held = next(iter(groups.items()))
    group = Keys(held, _GROUP, keys.name, f"{inner.where}config_groups.{name}.")
    if group.values["targets"] != ["Linear"]:
        raise group.error("targets", f"is {group.values['targets']!r}", "only ['Linear'] can be expressed")
    weights = _format(group.section("weights", _ARGUMENTS), _WEIGHTS)
    inputs = group.section("input_activations", _ARGUMENTS) if group.given("input_activations") else None
    activation = _format(inputs, _INPUTS) if inputs is not None else None
    return weights, activation, _patterns(inner, "ignore"), False


# type, bits, strategy, group size → format
_WEIGHTS: dict[tuple[Any, ...], str] = {
    ("float", 8, "tensor", None): "fp8",
    ("float", 8, "channel", None): "fp8",
    ("float", 8, "block", None): "fp8-block",
    ("float", 8, "group", 32): "mxfp8",
    ("int", 8, "channel", None): "int8",
    ("float", 4, "tensor_group", 16): "nvfp4",
    ("float", 4, "group", 32): "mxfp4",
}
_INPUTS: dict[tuple[Any, ...], str] = {
    ("float", 8, "tensor", None): "fp8",
    ("float", 8, "token", None): "fp8",
    ("float", 8, "group", 128): "fp8",
    ("float", 8, "group", 32): "mxfp8",
    ("int", 8, "token", None): "int8",
    ("int", 8, "tensor", None): "int8",
    ("float", 4, "tensor_group", 16): "nvfp4",
    ("float", 4, "group", 32): "mxfp4",
}


def _format(keys: Keys, known: dict[tuple[Any, ...], str]) -> str:
    kind, strategy, group = keys.values["type"], keys.values["strategy"], keys.values["group_size"]
    bits, block = keys.count("num_bits"), keys.values["block_structure"]
    if kind == "int" and strategy == "group" and known is _WEIGHTS:
        return _integer(keys, bits, group, keys.flag("symmetric"), "num_bits")
    if strategy == "block" and block != [128, 128]:
        raise keys.error("block_structure", f"is {block!r}", "only [128, 128] can be expressed")
    plain = all(isinstance(value, (str, int, type(None))) for value in (kind, strategy, group))
    found = known.get((kind, bits, strategy, group)) if plain else None
    if found is None:
        told = f"holds {bits}-bit {kind!r} by {strategy!r}, groups of {group!r}"
        raise keys.error("num_bits", told, "no number format is known for that")
    return found


def _ordered(kept: list[Kept], model: Model) -> tuple[Kept, ...]:
    """One entry a module, whole where any entry is, in a fixed order; modules the model lacks are left out."""
    order = ("attention", "indexer", "mlp", "experts", "shared_experts", "router", "embedding", "lm_head")
    experts = [ffn for ffn in model.ffns.values() if isinstance(ffn, Experts)]
    absent = set() if experts else {"router", "experts", "shared_experts"}
    if not any(ffn.shared_intermediate for ffn in experts):
        absent.add("shared_experts")
    if all(isinstance(ffn, Experts) and ffn.dense is None and ffn.latent is None for ffn in model.ffns.values()):
        absent.add("mlp")
    found = []
    for module in order:
        entries = [entry for entry in kept if entry.module == module]
        if not entries or module in absent:
            continue
        whole = any(entry.layers is None for entry in entries)
        found.append(Kept(module) if whole else entries[0])
    return tuple(found)


_READERS = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "mxfp4": _mxfp4,
    "awq": _awq,
    "gptq": _gptq,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed,
}
