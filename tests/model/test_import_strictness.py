"""No key of a config or of a model file can be lost unnoticed: each is deleted and renamed, one at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import yaml

from kvperf.errors import KvperfError
from kvperf.files import folder
from kvperf.model import model_names
from kvperf.model.architecture import Model
from kvperf.model.hub import import_config
from kvperf.model.hub.keys import Keys, Table
from kvperf.model.validation import problems
from tests.model.configs import NAMES, config, shape

Path = tuple[Any, ...]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> dict[str, Table]:
    """Every JSON object the importer reads, by its path, with the table it is checked against."""
    found: dict[str, Table] = {}
    original = Keys.__init__

    def recording(self: Keys, values: Any, declared: Table, name: str, where: str = "") -> None:
        found[where] = declared
        original(self, values, declared, name, where)

    monkeypatch.setattr(Keys, "__init__", recording)
    return found


def keys_of(value: Any, tables: dict[str, Table], where: str = "", path: Path = ()) -> Iterator[tuple[str, Path]]:
    """(path of the object, path of the key) for every key of every object that is read."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and where in tables:
            yield where, (*path, key)
        below = f"{where}{key}." if isinstance(value, dict) else f"{where.removesuffix('.')}[{key}]."
        if isinstance(inner, (dict, list)) and any(known.startswith(below.removesuffix(".")) for known in tables):
            yield from keys_of(inner, tables, below, (*path, key))


def without(value: Any, path: Path, rename: bool = False) -> Any:
    changed = copy.deepcopy(value)
    holder = changed
    for step in path[:-1]:
        holder = holder[step]
    held = holder.pop(path[-1])
    if rename:
        holder[f"{path[-1]}_x"] = held
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_a_deleted_or_renamed_key_of_a_config_is_noticed(name: str, tables: dict[str, Table]) -> None:
    whole = config(name)
    expected = shape(import_config(whole, name))
    declared = dict(tables)
    paths = list(keys_of(whole, declared))
    assert len(paths) >= len(whole)
    for where, path in paths:
        key = path[-1]
        with pytest.raises(KvperfError) as problem:
            import_config(without(whole, path, rename=True), name)
        assert key in problem.value.message, f"{path} renamed: {problem.value.message}"
        try:
            imported = shape(import_config(without(whole, path), name))
        except KvperfError as error:
            assert key in error.message + error.hint, f"{path} deleted: {error.message}"
            continue
        if key == "quantization_config":  # absent: the checkpoint is not quantised
            assert imported | {"checkpoint": None} == expected | {"checkpoint": None}
            continue
        assert imported == expected, f"{path} deleted changes the model unnoticed"
        table = declared[where]
        stated_outside = where == "text_config." and key in whole
        assert stated_outside or key in table.inert | set(table.optional) | set(table.only), f"{path} is not declared"


DESCRIPTIVE = {"published", "notes", "hub_id"}


@pytest.mark.parametrize("name", model_names())
def test_a_deleted_or_renamed_key_of_a_model_file_is_noticed(name: str) -> None:
    whole = yaml.load((folder("models") / f"{name}.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    expected = msgspec.convert(whole, Model)
    assert not list(problems(expected))
    for path in every_key(whole):
        for rename in (True, False):
            changed = without(whole, path, rename)
            try:
                model = msgspec.convert(changed, Model)
            except msgspec.ValidationError:
                continue
            assert not rename or list(problems(model)), f"{path} renamed"
            noticed = list(problems(model)) or model != expected
            assert noticed or path[0] in DESCRIPTIVE, f"{path} deleted"


def every_key(value: Any, path: Path = ()) -> Iterator[Path]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict):
            yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from every_key(inner, (*path, key))


ODD: tuple[Any, ...] = (None, -1, 1.5, True, "x", [None], {})
ONE_OF_EACH_FAMILY = {config(name)["model_type"]: name for name in reversed(NAMES)}


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY.values())
def test_an_odd_value_is_a_model_or_an_error_for_the_user(name: str, tables: dict[str, Table]) -> None:
    whole = config(name)
    import_config(whole, name)
    for where, path in list(keys_of(whole, dict(tables))):
        holder = whole
        for step in path[:-1]:
            holder = holder[step]
        held = holder[path[-1]]
        for odd in ODD:
            holder[path[-1]] = odd
            try:
                import_config(whole, name)
            except KvperfError as problem:
                assert problem.hint, f"{where}{path[-1]} = {odd!r}"
        holder[path[-1]] = held


def complaint(changed: Any, quantization: Any = None) -> tuple[str, str]:
    with pytest.raises(KvperfError) as problem:
        import_config(changed, "x", quantization=quantization)
    return problem.value.message, problem.value.hint


REMOVE = "remove a key only if it changes no tensor or mask"


def test_all_unknown_keys_are_named_at_once() -> None:
    changed = config("qwen3.5-27b")
    changed["aaa"] = 1
    text = changed["text_config"]
    text["bbb"] = 2
    text["rope_parameters"]["ccc"] = 3
    fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128], "ddd": 4}
    text["quantization_config"] = fp8
    message, hint = complaint(changed)
    keys = ("aaa", "text_config.bbb", "text_config.rope_parameters.ccc", "text_config.quantization_config.ddd")
    assert message == f"config.json: unknown config keys {', '.join(map(repr, keys))}"
    assert hint == REMOVE
    assert (fp8["ddd"], text["bbb"]) == (4, 2), "the caller's config is left as it was"


def test_unknown_keys_of_lists_and_of_a_file_beside_are_named() -> None:
    changed = config("nemotron-super-49b")
    changed["block_configs"][3]["attention"]["aaa"] = 1
    changed["block_configs"][7]["ffn"]["bbb"] = 1
    assert complaint(changed)[0].endswith("'block_configs[3].attention.aaa', 'block_configs[7].ffn.bbb'")
    plain = config("llama-3.1-8b") | {"ccc": 1}
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "ddd": 1}}
    assert complaint(plain, beside)[0].endswith("unknown config keys 'ccc', 'quantization_config.ddd'")
    assert beside["quantization"] == {"quant_algo": "NVFP4", "ddd": 1}, "the caller's object is left as it was"


def test_an_unknown_key_that_other_families_know_is_named_with_them() -> None:
    message, hint = complaint(config("llama-3.1-8b") | {"sliding_window": 4096})
    assert message == "config.json: unknown config key 'sliding_window'"
    assert hint == f"sliding_window is known for mistral, mixtral, phi3, qwen2, …; {REMOVE}"
    assert "o_lora_rank is known for deepseek_v4;" in complaint(config("llama-3.1-8b") | {"o_lora_rank": 1})[1]


def test_a_slip_is_named_with_the_key_that_is_missing() -> None:
    changed = without(config("llama-3.1-8b"), ("hidden_size",), rename=True)
    message, hint = complaint(changed)
    assert message == "config.json: unknown config key 'hidden_size_x'; missing: 'hidden_size'"
    assert hint == f"did you mean 'hidden_size'? {REMOVE}"
    changed["wonder"] = 1
    assert complaint(changed)[1] == f"'hidden_size_x' may be 'hidden_size'; {REMOVE}"
    # A key that stands there already is not what was meant, nor is one that merely looks a little like it.
    assert complaint(config("llama-3.1-8b") | {"hidden_sizes": 1})[1] == REMOVE
    assert complaint(config("llama-3.1-8b") | {"rope_local": 1})[1] == REMOVE


def test_all_missing_keys_are_named_at_once() -> None:
    changed = without(without(config("llama-3.1-8b"), ("hidden_size",)), ("vocab_size",))
    message, hint = complaint(changed)
    assert message == "config.json: the config keys 'hidden_size', 'vocab_size' are missing"
    assert "add what is missing" in hint
