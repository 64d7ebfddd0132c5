"""quantization_config and hf_quant_config.json as the precision of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvperf.errors import KvperfError
from kvperf.model.architecture import Checkpoint, Kept
from kvperf.model.hub import import_config, import_path
from tests.model.configs import config

OUTER = (Kept("router"), Kept("embedding"), Kept("lm_head"))
FP8: dict[str, Any] = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
    "fmt": "e4m3",
}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}


def checkpoint(name: str, quantization: Any) -> Checkpoint:
    return import_config(config(name) | {"quantization_config": quantization}, name).checkpoint


def compressed(weights: Any, inputs: Any = None, ignore: Any = ("lm_head",), **more: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": list(ignore)} | more


def test_deepseek_fp8_keeps_router_embedding_and_head() -> None:
    assert checkpoint("deepseek-v3", FP8) == Checkpoint("bf16", "fp8-block", None, "fp8", OUTER)


def test_fp8_by_tensor() -> None:
    held = checkpoint("llama-3.1-8b", FP8 | {"weight_block_size": None, "activation_scheme": "static"})
    assert held == Checkpoint("bf16", "fp8", None, "fp8", (Kept("embedding"), Kept("lm_head")))


@pytest.mark.parametrize("key", ["modules_to_not_convert", "ignored_layers"])
def test_ignored_modules_are_kept_layer_by_layer(key: str) -> None:
    projections = [f"model.layers.0.mlp.{name}_proj" for name in ("gate", "up", "down")]
    whole = ["model.layers.3.self_attn", "model.layers.4.mlp", "model.norm", "model.layers.5.input_layernorm"]
    held = checkpoint("llama-3.1-8b", FP8 | {key: projections + whole})
    assert held.kept == (Kept("attention", (3,)), Kept("mlp", (0, 4)), Kept("embedding"), Kept("lm_head"))


def test_a_module_ignored_in_every_layer_is_kept_whole() -> None:
    held = checkpoint("qwen3-30b-a3b", FP8 | {"modules_to_not_convert": ["self_attn", "lm_head"]})
    assert held.kept == (Kept("attention"), *OUTER)


def test_a_module_ignored_in_part_cannot_be_expressed() -> None:
    with pytest.raises(KvperfError, match="keeps some matrices of the attention of layer 7"):
        checkpoint("llama-3.1-8b", FP8 | {"ignored_layers": ["model.layers.7.self_attn.o_proj"]})


def test_an_ignored_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(KvperfError, match=r"names 'model\.layers\.0\.ffn', which is no module"):
        checkpoint("llama-3.1-8b", FP8 | {"ignored_layers": ["model.layers.0.ffn"]})


def test_towers_and_draft_layers_may_be_ignored() -> None:
    names = ["model.visual.blocks.0", "vision_tower", "mtp.fc", "model.layers.61.eh_proj", "re:.*visual.*"]
    assert checkpoint("deepseek-v3", FP8 | {"ignored_layers": names}).kept == OUTER


def test_kimi_quantises_its_routed_experts_alone() -> None:
    held = import_config(config("kimi-k2.5"), "kimi").checkpoint
    kept = (Kept("attention"), Kept("mlp"), Kept("shared_experts"), *OUTER)
    assert held == Checkpoint("bf16", "int4-g32", None, None, kept)


@pytest.mark.parametrize(
    ("weights", "inputs", "expected"),
    [
        (INT4, None, ("int4", None)),
        (INT4 | {"group_size": 64}, None, ("int4-g64", None)),
        (INT4 | {"symmetric": False}, None, ("int4-awq", None)),
        (
            {"num_bits": 8, "type": "int", "strategy": "channel"},
            {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True},
            ("int8", "int8"),
        ),
        (
            {"num_bits": 8, "type": "float", "strategy": "channel"},
            {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True},
            ("fp8", "fp8"),
        ),
        (
            {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]},
            {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128},
            ("fp8-block", "fp8"),
        ),
        (
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16},
            {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "dynamic": "local"},
            ("nvfp4", "nvfp4"),
        ),
    ],
)
def test_compressed_tensors_formats(weights: Any, inputs: Any, expected: tuple[str, str | None]) -> None:
    held = checkpoint("llama-3.1-8b", compressed(weights, inputs, format="x"))
    assert (held.quantised, held.activation) == expected
    assert held.kept == (Kept("embedding"), Kept("lm_head"))


def test_compressed_tensors_quantise_a_head_that_is_not_ignored() -> None:
    assert checkpoint("llama-3.1-8b", compressed(INT4, ignore=())).kept == (Kept("embedding"),)
    assert checkpoint("llama-3.2-1b", compressed(INT4, ignore=())).kept == (Kept("embedding"), Kept("lm_head"))


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "quant_method' is 'bitsandbytes'"),
        ({"load_in_8bit": True}, "quant_method' is missing"),
        ("fp8", "quantization_config' is 'fp8'"),
        (FP8 | {"fmt": "e5m2"}, "fmt' is 'e5m2'"),
        (FP8 | {"weight_block_size": [64, 64]}, r"weight_block_size' is \[64, 64\]"),
        (FP8 | {"activation_scheme": "none"}, "activation_scheme' is 'none'"),
        (FP8 | {"surprise": 1}, r"unknown config key 'quantization_config\.surprise'"),
        (FP8 | {"ignored_layers": "lm_head"}, "ignored_layers' is 'lm_head'"),
        (compressed(INT4 | {"num_bits": 3}), "num_bits' is 3"),
        (compressed(INT4 | {"group_size": 96}), "group_size' is 96"),
        (compressed(INT4, config_groups={}), "config_groups' has 0 groups"),
        (compressed({"num_bits": 6, "type": "float", "strategy": "tensor"}), "6-bit 'float' by 'tensor'"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quant_algo' is 'MIXED_PRECISION'"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 32}, "group_size' is 32"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128, "sym": True}, "bits' is 3"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1, "sym": True}, "group_size' is -1"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True, "lm_head": True}, "lm_head' is True"),
    ],
)
def test_what_cannot_be_expressed_is_named(quantization: Any, message: str) -> None:
    with pytest.raises(KvperfError, match=message):
        checkpoint("llama-3.1-8b", quantization)


def test_gptq_and_awq() -> None:
    kept = (Kept("embedding"), Kept("lm_head"))
    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 64, "sym": True, "desc_act": False}
    assert checkpoint("llama-3.1-8b", gptq) == Checkpoint("bf16", "int4-g64", None, None, kept)
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}
    assert checkpoint("llama-3.1-8b", awq) == Checkpoint("bf16", "int4-awq", None, None, kept)
    experts = checkpoint("mixtral-8x7b", awq | {"modules_to_not_convert": ["gate"]})
    assert experts.kept == OUTER


def test_mxfp4_quantises_the_experts_alone() -> None:
    written = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    for quantization in ({"quant_method": "mxfp4"}, {"quant_method": "mxfp4", "modules_to_not_convert": written}):
        held = checkpoint("gpt-oss-120b", quantization)
        assert held == Checkpoint("bf16", "mxfp4", None, None, (Kept("attention"), *OUTER))


def test_modelopt_beside_the_config(tmp_path: Path) -> None:
    """The list of nvidia/DeepSeek-V3-0324-NVFP4: attention, routers, norms, the draft layer and the head."""
    names = ["lm_head", "model.embed_tokens", "model.norm", "model.layers.61*"]
    for layer in range(61):
        names += [f"model.layers.{layer}.{name}" for name in ("self_attn*", "input_layernorm")]
        names += [f"model.layers.{layer}.mlp.gate"] if layer >= 3 else []
    stated = {"quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16, "exclude_modules": names}
    held = config("deepseek-v3")
    del held["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(held))
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"producer": {"name": "modelopt", "version": "0.27.0"}, "quantization": stated})
    )
    expected = Checkpoint("bf16", "nvfp4", None, "nvfp4", (Kept("attention"), *OUTER))
    assert import_path(tmp_path).checkpoint == expected


def test_two_descriptions_that_disagree_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config("deepseek-v3")))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {}}))
    with pytest.raises(KvperfError, match=r"stands beside a hf_quant_config\.json"):
        import_path(tmp_path)


MODELOPT = {
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head", "*self_attn*"]},
}


def test_a_text_model_quantised_anew_follows_the_producer_that_its_config_names() -> None:
    """Kimi-K2.5-NVFP4: the text config still states the int4 of the original."""
    held = config("kimi-k2.5")
    assert held["text_config"]["quantization_config"]["quant_method"] == "compressed-tensors"
    with pytest.raises(KvperfError, match=r"'text_config\.quantization_config' stands beside a hf_quant_config\.json"):
        import_config(held, "x", quantization=MODELOPT)
    named = held | {"quantization_config": {"quant_method": "modelopt"} | MODELOPT["quantization"]}
    model = import_config(named, "x", quantization=MODELOPT)
    assert (model.checkpoint.quantised, model.checkpoint.activation) == ("nvfp4", "nvfp4")
    with pytest.raises(KvperfError, match="'quantization_config' disagrees with text_config") as problem:
        import_config(named, "x")
    assert "remove" in problem.value.hint


def test_deepseek_v4_has_fp4_experts_in_an_fp8_checkpoint() -> None:
    held = import_config(config("deepseek-v4-pro"), "x").checkpoint
    assert (held.quantised, held.experts, held.activation) == ("fp8-block", "mxfp4", "fp8")
    fp8 = import_config(config("deepseek-v4-pro") | {"expert_dtype": "fp8"}, "x").checkpoint
    assert fp8.experts is None
    with pytest.raises(KvperfError, match="expert_dtype"):
        import_config(config("deepseek-v4-pro") | {"quantization_config": None}, "x")


def test_qwen_next_ignores_its_small_projections() -> None:
    """As in Qwen3-Next's fp8 checkpoint: gates and convolutions stay, the large matrices are quantised."""
    ignored = ["lm_head", "mtp.fc"]
    for layer in range(48):
        ignored += [f"model.layers.{layer}.mlp.gate", f"model.layers.{layer}.mlp.shared_expert_gate"]
        if (layer + 1) % 4:
            ignored += [f"model.layers.{layer}.linear_attn.{name}" for name in ("conv1d", "in_proj_ba")]
    assert checkpoint("qwen3-next-80b-a3b", FP8 | {"modules_to_not_convert": ignored}).kept == OUTER
