"""Models by name, hub id and path, and what a wrong one says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kvperf.errors import KvperfError
from kvperf.files import folder
from kvperf.model import load_model, model_names
from kvperf.model.runs import runs
from kvperf.render.model_yaml import yaml_text
from tests.model.configs import config

LLAMA = (folder("models") / "llama-3.1-8b.yaml").read_text(encoding="utf-8")


def test_names_in_any_case_hub_ids_and_paths_give_the_same_model() -> None:
    model = load_model("llama-3.1-8b")
    assert load_model("Llama-3.1-8B") == model
    assert load_model("meta-llama/Llama-3.1-8B") == model
    assert load_model("META-LLAMA/llama-3.1-8b") == model
    assert load_model(folder("models") / "llama-3.1-8b.yaml") == model
    assert load_model(str(folder("models") / "llama-3.1-8b.yaml")) == model


def test_the_library_has_66_models_with_their_own_names_and_sources() -> None:
    assert len(model_names()) == 66
    for name in model_names():
        model = load_model(name)
        assert model.name == name
        assert model.source and model.published is not None and model.published.source
        assert runs(model.layer_sequence()) == model.layers


@pytest.mark.parametrize("name", model_names())
def test_the_files_are_what_the_writer_writes(name: str) -> None:
    assert yaml_text(load_model(name)) == (folder("models") / f"{name}.yaml").read_text(encoding="utf-8")


def test_a_wrong_name_says_the_nearest() -> None:
    with pytest.raises(KvperfError, match=r"unknown model 'llama-3\.1-8'") as problem:
        load_model("llama-3.1-8")
    assert problem.value.hint == "did you mean 'llama-3.1-8b'? `kvperf models` lists what there is"


def test_a_path_that_is_not_there_is_an_error() -> None:
    for path in ("nowhere/model.yaml", "nowhere/config.json", "/nowhere"):
        with pytest.raises(KvperfError, match="No such file"):
            load_model(path)


def test_a_hub_id_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(KvperfError, match="huggingface_hub is not installed") as problem:
        load_model("meta-llama/Llama-3.1-9B")
    hint = problem.value.hint
    assert "`pip install huggingface_hub`" in hint and "meta-llama/Llama-3.1-8B" in hint
    assert "download its config.json and give the path" in hint


@pytest.mark.parametrize("name", ["my-qwen", "./my-qwen", "deep/my-qwen", "../here/my-qwen"])
def test_a_file_without_its_suffix_is_named_with_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    file = Path(f"{name}.yaml")
    file.write_text(LLAMA)
    with pytest.raises(KvperfError, match="my-qwen") as problem:
        load_model(name)
    (written,) = re.findall(r"for a file write (\S+?)(?:;|$)", problem.value.hint)
    assert written == {"../here/my-qwen": "../here/my-qwen.yaml"}.get(name, f"./{file}")
    assert load_model(written) == load_model("llama-3.1-8b")
    file.unlink()
    with pytest.raises(KvperfError) as problem:
        load_model(name)
    assert "for a file" not in problem.value.hint


def test_a_folder_with_a_config_is_a_model_by_its_bare_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my-qwen").mkdir()
    Path("my-qwen/config.json").write_text(json.dumps(config("qwen3-8b")))
    assert load_model("my-qwen").mixers == load_model("qwen3-8b").mixers


def fake_hub(monkeypatch: pytest.MonkeyPatch, download: object) -> type[Exception]:
    class EntryNotFoundError(Exception):
        pass

    hub, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    vars(hub)["hf_hub_download"] = download
    vars(errors)["EntryNotFoundError"] = EntryNotFoundError
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return EntryNotFoundError


def test_a_hub_id_that_cannot_be_fetched_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(hub_id: str, file: str) -> str:
        raise ConnectionError("no route to host\nand more")

    fake_hub(monkeypatch, download)
    with pytest.raises(KvperfError, match=r"cannot fetch config\.json of 'some/model': no route to host$"):
        load_model("some/model")


def test_a_hub_id_is_fetched_and_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(hub_id: str, file: str) -> str:
        if file != "config.json":
            raise missing(file)
        return str(Path(__file__).parent.parent / "data" / "configs" / "qwen3-8b.json")

    missing = fake_hub(monkeypatch, download)
    model = load_model("some/Qwen3-8B-tuned")
    assert (model.name, model.hub_id) == ("qwen3-8b-tuned", "some/Qwen3-8B-tuned")
    assert model.mixers == load_model("qwen3-8b").mixers


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("mixer: full", "mixer: ful", "15:34: no mixer is called 'ful'", "did you mean 'full'?"),
        ("ffn: dense}", "ffn: other}", "no ffn is called 'other'", "define it under 'ffns'"),
        ("kv_heads: 8", "kv_heads: 7", "11:42: mixers.full: 32 heads cannot share 7 KV heads", "must divide"),
        ("kv_heads: 8", "kv_heads: 0", "11:42: mixers.full.kv_heads is 0", "at least 1"),
        ("repeat: 32", "repeat: 0", "repeat is 0", "at least 1"),
        ("hidden_size: 4096", "hidden_size: -1", "6:14: hidden_size is -1", "at least 1"),
        ("rotary_dim: 128", "rotary_dim: 129", "rotary_dim 129 is more than head_dim 128", "at most"),
        ("rotary_dim: 128", "rotary_dims: 128", "unknown key 'rotary_dims'", "did you mean 'rotary_dim'?"),
        ("kind: gqa", "kind: gqq", "Invalid value 'gqq'", ""),
        ("intermediate: 14336", "intermediate: many", "Expected `int`", ""),
        ("intermediate: 14336}", "intermediate: 1}\n  other: {kind: none}", "no layer uses the ffn 'other'", "delete"),
        ("[{mixer: full, ffn: dense}]", "[]", "the block is empty", "at least one"),
        ("tied_embeddings: false", "checkpoint: {quantised: fp9}\ntied_embeddings: false", "format 'fp9'", "fp8"),
        (
            "tied_embeddings: false",
            "checkpoint: {quantised: fp8, kept: [{module: mlp, layers: [32]}]}\ntied_embeddings: false",
            "layer 32 does not exist",
            "0 to 31",
        ),
        (
            "tied_embeddings: false",
            "checkpoint: {quantised: fp8, kept: [{module: mpl}]}\ntied_embeddings: false",
            "unknown module 'mpl'",
            "did you mean 'mlp'?",
        ),
        ("tied_embeddings: false", "checkpoint: {activation: fp8}\ntied_embeddings: false", "nothing is", "quantised"),
    ],
)
def test_a_wrong_model_file_says_where(tmp_path: Path, old: str, new: str, message: str, hint: str) -> None:
    assert old in LLAMA
    lines = LLAMA.splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("hidden_size"))
    path = tmp_path / "model.yaml"
    # A fixed head of five lines keeps the line numbers below it, whatever the sources are.
    path.write_text("schema: kvperf.model/1\nname: m\nsource: [here]\n\n\n" + "".join(lines[start:]).replace(old, new))
    with pytest.raises(KvperfError) as problem:
        load_model(path)
    assert problem.value.message.startswith(f"{path}:")
    assert message in problem.value.message
    assert hint in problem.value.hint


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("repeat: 32", "repeat: 1000000000000000000", "layers"),
        ("heads: 32", "heads: 1000000000000", "mixers.full.heads is"),
    ],
)
def test_no_model_is_that_large(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (folder("models") / "llama-3.1-8b.yaml").read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "huge.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(KvperfError, match=message):
        load_model(str(path))


@pytest.mark.parametrize(
    ("key", "value"), [("num_hidden_layers", 10**9), ("first_k_dense_replace", 100), ("first_k_dense_replace", 61)]
)
def test_a_config_that_no_model_has_is_refused(tmp_path: Path, key: str, value: int) -> None:
    values = {**config("deepseek-v3"), key: value}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    with pytest.raises(KvperfError, match=key):
        load_model(str(path))


def test_a_byte_order_mark_is_read_and_a_bottomless_file_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config("llama-3.1-8b")), encoding="utf-8-sig")
    assert load_model(str(path)).hidden_size == 4096
    path.write_text("[" * 100_000)
    with pytest.raises(KvperfError, match="nested too deeply"):
        load_model(str(path))
