"""Where the KV bytes come from: every product that is printed multiplies out to the engine's bytes."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given

from kvperf.capacity import footprint
from kvperf.cli import run
from kvperf.model import load_model, model_names
from kvperf.model.architecture import Model
from kvperf.render.model_cache import Cache, cache, cache_rows
from kvperf.render.models import record, summary
from kvperf.units import binary
from tests.strategies import models

LONG = 1 << 21  # longer than every window, and a multiple of every compression ratio


def evaluated(product: str) -> float:
    """The value of `12 layers × 2 heads × (256 + 256) × 2 B`."""
    plain = re.sub(r" (layers?|heads?|B)\b", "", product).replace("×", "*")
    assert re.fullmatch(r"[0-9 .+*/()]+", plain), plain
    return eval(plain)


def check(model: Model) -> None:
    held = cache(model)
    for part in held.kv_parts:
        shown = part.bytes_per_token if part.bytes_per_sequence is None else part.bytes_per_sequence
        assert evaluated(part.product) == pytest.approx(shown, rel=1e-12), part
    whole = footprint(model)
    assert held.kv_bytes_per_token == whole.kv_bytes_per_token
    assert sum(part.bytes_per_token or 0 for part in held.kv_parts) == pytest.approx(whole.kv_bytes_per_token)
    growing = [part.bytes_per_token or 0 for part in held.kv_parts if part.bytes_per_sequence is None]
    assert held.kv_growth_bytes_per_token == whole.kv_growth_bytes_per_token == pytest.approx(sum(growing))
    assert held.state_bytes_per_sequence == whole.recurrent_state_bytes
    # The cache at a long context is what grew, and what does not.
    fixed = held.windowed_kv_bytes_per_sequence + held.state_bytes_per_sequence
    for context in (LONG, 2 * LONG):
        expected = held.kv_growth_bytes_per_token * context + fixed
        assert footprint(model, context).kv_cache_bytes == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", model_names())
def test_products_multiply_out_to_the_engines_bytes(name: str) -> None:
    check(load_model(name))


@given(models())
def test_products_of_any_model_multiply_out(model: Model) -> None:
    check(model)


def told(name: str) -> list[str]:
    model = load_model(name)
    return [f"{label}: {text}" for label, text in cache_rows(cache(model), len(model.layer_sequence()))]


def test_growing_layers_and_states() -> None:
    assert told("qwen3-next-80b-a3b") == [
        "KV cache (bf16): 12 of 48 layers grow: 24 KiB a token",
        ": 36 keep a state: 73.69 MiB a sequence",
        "  keys: 12 layers × 2 heads × (256 + 256) × 2 B = 24 KiB",
        "  states: 36 layers × (32 × 128 × 128 × 4 B + 3 × 8192 × 2 B)",
        ": = 73.69 MiB",
    ]


def test_windows() -> None:
    assert told("gemma-3-4b") == [
        "KV cache (bf16): 5 of 34 layers grow: 20 KiB a token",
        ": 29 layers stop at 1024 tokens: 116 MiB a sequence",
        ": a new token adds 136 KiB until they are full",
        "  keys: 5 layers × 4 heads × (256 + 256) × 2 B = 20 KiB",
        "  windows of 1024: 29 layers × 4 heads × (256 + 256) × 2 B × 1024 = 116 MiB",
    ]
    assert "  chunks of 8192: 36 layers × 8 heads × (128 + 128) × 2 B × 8192" in told("llama-4-scout")


def test_latents_and_index_keys() -> None:
    assert told("deepseek-v3")[1:] == ["  latents: 61 layers × (512 + 64) × 2 B = 68.62 KiB"]
    assert told("glm-5.2") == [
        "KV cache (bf16): all 78 layers grow: 90.46 KiB a token",
        "  latents: 78 layers × (512 + 64) × 2 B = 87.75 KiB",
        "  index keys: 21 layers × 132 B = 2.707 KiB",
    ]


def test_compressed_keys() -> None:
    assert told("deepseek-v4-flash") == [
        "KV cache (bf16): 41 of 43 layers grow: 6.719 KiB a token",
        ": 43 windows stop at 128 tokens: 5.375 MiB a sequence",
        ": a new token adds 49.72 KiB until they are full",
        "  compressed keys: 21 layers × 512 × 2 B / 4 = 5.250 KiB",
        ": 20 layers × 512 × 2 B / 128 = 160 B",
        "  index keys: 21 layers × 128 × 2 B / 4 = 1.312 KiB",
        "  windows of 128: 43 layers × 512 × 2 B × 128 = 5.375 MiB",
    ]


def test_a_model_of_windows_alone_does_not_grow() -> None:
    assert told("mistral-7b-v0.1")[0] == "KV cache (bf16): 32 layers stop at 4096 tokens: 512 MiB a sequence"
    assert summary(load_model("mistral-7b-v0.1"))["kv_growth_bytes_per_token"] == 0


def test_the_record_has_the_breakdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", "gemma-3-4b", "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    expected = {
        "kv_dtype": "bf16",
        "kv_bytes_per_token": 136 * 1024,
        "growing_layers": 5,
        "kv_growth_bytes_per_token": 20 * 1024,
        "windowed_layers": 29,
        "windowed_kv_bytes_per_sequence": 116 * 1024**2,
        "state_layers": 0,
        "state_bytes_per_sequence": 0,
    }
    assert {key: data[key] for key in expected} == expected
    assert [part["max_tokens"] for part in data["kv_parts"]] == [None, 1024]
    assert set(Cache.__struct_fields__) <= set(record(load_model("qwen3-8b")))


@pytest.mark.parametrize("name", ["qwen3-next-80b-a3b", "gemma-3-4b", "deepseek-v4-flash"])
def test_show_prints_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", name]) == 0
    text = capsys.readouterr().out
    for part in cache(load_model(name)).kv_parts:
        assert part.product in text
    assert f"{binary(cache(load_model(name)).kv_growth_bytes_per_token)} a token" in text
