"""Every config of the fixtures imports to the model that ships."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from kvperf.errors import KvperfError
from kvperf.model import load_model, model_names
from kvperf.model.hub import FAMILIES, NESTED, import_config, import_path
from kvperf.model.parameters import parameters
from tests.model.configs import FOLDER, NAMES, PADDED_VOCABULARY, config, shape


def test_every_model_but_grok_has_a_config() -> None:
    """Grok-1 was published without a config.json."""
    assert set(model_names()) - set(NAMES) == {"grok-1"}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_imports_to_the_shipped_model(name: str) -> None:
    imported, shipped = import_config(config(name), name), load_model(name)
    if name in PADDED_VOCABULARY:
        shipped = msgspec.structs.replace(shipped, vocab_size=PADDED_VOCABULARY[name])
    assert shape(imported) == shape(shipped)
    assert imported.layers and [run.repeat for run in imported.layers] == [run.repeat for run in shipped.layers]
    assert parameters(imported) == parameters(shipped)


def test_a_truncated_config_is_an_error_with_a_place(tmp_path: Path) -> None:
    text = (FOLDER / "llama-3.1-8b.json").read_text()
    (tmp_path / "config.json").write_text(text[: len(text) // 2])
    with pytest.raises(KvperfError, match=r"config\.json:\d+:\d+: not JSON") as problem:
        load_model(tmp_path)
    assert problem.value.hint


def test_a_directory_without_a_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KvperfError, match=r"config\.json: No such file") as problem:
        load_model(tmp_path)
    assert "config.json" in problem.value.hint


@pytest.mark.parametrize("text", ["[]", "7", '"llama"', "null"])
def test_json_that_is_no_object_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(KvperfError, match="not a JSON object"):
        import_path(path)


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(KvperfError, match="not UTF-8"):
        import_path(path)


def test_an_unknown_model_type_is_named_with_the_nearest() -> None:
    with pytest.raises(KvperfError, match="unknown model_type 'qwen4'") as problem:
        import_config({"model_type": "qwen4"}, "x")
    assert "qwen" in problem.value.hint
    with pytest.raises(KvperfError, match="'model_type' is missing"):
        import_config({}, "x")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama-3.1-8b", "hidden_act", "snake"),
        ("llama-3.1-8b", "num_hidden_layers", 0),
        ("llama-3.1-8b", "num_hidden_layers", "32"),
        ("llama-3.1-8b", "attention_bias", "no"),
        ("llama-3.1-8b", "torch_dtype", "float8"),
        ("deepseek-v3", "attention_bias", True),
        ("deepseek-v3", "moe_layer_freq", 2),
        ("deepseek-v3", "topk_method", "hash"),
        ("deepseek-v4-flash", "compress_ratios", [16] * 43),
        ("deepseek-v4-flash", "expert_dtype", "int2"),
        ("gemma-4-31b", "num_kv_shared_layers", 10),
        ("gemma-4-31b", "hidden_size_per_layer_input", 256),
        ("glm-5.2", "mlp_layer_types", ["sparse"] * 78),
        ("gpt-oss-120b", "layer_types", ["full_attention"]),
        ("gpt-oss-120b", "layer_types", ["linear_attention"] * 36),
        ("minimax-m1", "shared_intermediate_size", 4096),
        ("nemotron-3-nano-30b-a3b", "hybrid_override_pattern", "M" * 51),
        ("nemotron-3-nano-30b-a3b", "mlp_hidden_act", "silu"),
        ("nemotron-3-nano-30b-a3b", "use_bias", True),
        ("opt-13b", "word_embed_proj_dim", 512),
        ("qwen3.5-27b", "full_attention_interval", 3),
        ("qwen3.5-27b", "mamba_ssm_dtype", "bfloat16"),
        ("mimo-v2-flash", "sliding_window_size", 256),
    ],
)
def test_a_value_that_cannot_be_expressed_is_named(name: str, key: str, value: object) -> None:
    changed = config(name)
    target = changed if key in changed else changed["text_config"]
    target[key] = value
    with pytest.raises(KvperfError, match=f"'(text_config\\.)?{key}'"):
        import_config(changed, name)


def test_attention_and_mlp_biases_are_imported() -> None:
    biased = config("llama-3.1-8b") | {"attention_bias": True, "mlp_bias": True}
    plain, model = load_model("llama-3.1-8b"), import_config(biased, "x")
    added = 32 * ((32 + 2 * 8) * 128 + 4096 + 2 * 14336 + 4096)
    assert parameters(model).total == parameters(plain).total + added


def test_windows_begin_where_max_window_layers_says() -> None:
    changed = config("qwen2.5-7b") | {"use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 21}
    model = import_config(changed, "x")
    windows = [getattr(model.mixers[layer.mixer], "window", 0) for layer in model.layer_sequence()]
    assert windows == [None] * 21 + [4096] * 7


def test_sparse_steps_and_dense_layers_of_qwen_moe() -> None:
    changed = config("qwen3-30b-a3b") | {"decoder_sparse_step": 2, "mlp_only_layers": [1]}
    layers = import_config(changed, "x").layer_sequence()
    assert [layer.ffn for layer in layers[:4]] == ["dense", "dense", "dense", "moe"]


def test_other_families_import() -> None:
    """Families without a shipped model: their published counts."""
    neox = {
        "model_type": "gpt_neox", "hidden_size": 6144, "vocab_size": 50432, "max_position_embeddings": 2048,
        "num_hidden_layers": 44, "num_attention_heads": 64, "intermediate_size": 24576, "hidden_act": "gelu_fast",
        "rotary_pct": 0.25, "tie_word_embeddings": False,
    }  # fmt: skip
    assert parameters(import_config(neox, "gpt-neox-20b")).total == 20_554_567_680
    qwen = {
        "model_type": "qwen2_moe", "hidden_size": 2048, "vocab_size": 151936, "max_position_embeddings": 8192,
        "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 5632,
        "hidden_act": "silu", "tie_word_embeddings": False, "num_experts": 60, "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    }  # fmt: skip
    assert parameters(import_config(qwen, "qwen1.5-moe-a2.7b")).total == 14_315_784_192
    minimax = {
        "model_type": "minimax_m2", "hidden_size": 3072, "vocab_size": 200064, "max_position_embeddings": 196608,
        "num_hidden_layers": 62, "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128,
        "rotary_dim": 64, "intermediate_size": 1536, "hidden_act": "silu", "use_qk_norm": True,
        "num_local_experts": 256, "num_experts_per_tok": 8, "use_routing_bias": True, "attn_type_list": [1] * 62,
    }  # fmt: skip
    count = parameters(import_config(minimax, "minimax-m2"))
    assert count.active_core == pytest.approx(9.80e9, rel=1e-3)


def test_llama_4_maverick_alternates_dense_and_sparse_layers() -> None:
    """ai-dynamo/aiconfigurator, meta-llama--Llama-4-Maverick-17B-128E-Instruct_config.json: text tower of 400.7B."""
    held = config("llama-4-scout")
    held["text_config"] |= {"interleave_moe_layer_step": 2, "num_local_experts": 128, "use_qk_norm": False}
    model = import_config(held, "llama-4-maverick")
    assert parameters(model).total == 400_711_848_960
    assert [layer.ffn for layer in model.layer_sequence()[:4]] == ["dense", "moe", "dense", "moe"]
    held["text_config"]["no_rope_layers"] = [1, 1, 1, 0] * 12
    assert import_config(held, "llama-4-maverick").layers == model.layers


def test_deepseek_v2_lite_projects_queries_at_once() -> None:
    """HF safetensors total of DeepSeek-V2-Lite: 15,706,484,224."""
    held = config("deepseek-v2") | {
        "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16, "q_lora_rank": None,
        "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64, "topk_method": "greedy",
    }  # fmt: skip
    count = parameters(import_config(held, "deepseek-v2-lite"))
    assert count.total == 15_706_484_224
    assert count.active_streamed == pytest.approx(2.45e9, rel=2e-3)


def test_a_config_in_a_directory_is_named_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config("llama-3.1-8b")))
    assert load_model(folder).name == "my-model"
    assert load_model(str(folder / "config.json")).name == "my-model"


@pytest.mark.parametrize(
    ("file", "stated", "name"),
    [
        ("To/config.json", "Some-Org/My-Qwen", "my-qwen"),
        ("models--Some-Org--My-Qwen/snapshots/0123456789abcdef/config.json", None, "my-qwen"),
        ("0123456789abcdef/config.json", "Some-Org/My-Qwen", "my-qwen"),
        ("tuned/config.json", "Some-Org/My-Qwen", "tuned"),
        ("model/config.json", "/home/me/run7", "model"),
        ("model/config.json", 7, "model"),
        ("model/My-Qwen.json", "Some-Org/Other", "my-qwen"),
    ],
)
def test_a_model_is_named_after_what_tells_most(tmp_path: Path, file: str, stated: object, name: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(config("qwen3-8b") | {"_name_or_path": stated}))
    assert load_model(path).name == name


def test_a_tie_that_disagrees_inside_and_outside_is_an_error() -> None:
    changed = config("gemma-4-31b")
    changed["tie_word_embeddings"] = False
    with pytest.raises(KvperfError, match="'tie_word_embeddings' disagrees"):
        import_config(changed, "x")


def test_every_family_reads_a_whole_config_only() -> None:
    for kind in [*FAMILIES, *NESTED]:
        with pytest.raises(KvperfError, match=r"(is|are) missing"):
            import_config({"model_type": kind}, "x")


def test_importing_the_model_room_loads_no_importer() -> None:
    heavy = "{'numpy', 'rich', 'typer', 'difflib', 'kvperf.model.hub', 'json', 'matplotlib'}"
    code = f"import sys, kvperf.model; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
