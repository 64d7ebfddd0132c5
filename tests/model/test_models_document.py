"""docs/models.md has every kind of part, every key with its default, and an example that loads."""

from __future__ import annotations

import re
import shlex
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvperf.cli import run
from kvperf.dtypes import DTYPES
from kvperf.errors import KvperfError
from kvperf.model import load_model
from kvperf.model.architecture import MODULES, Ffn, Mixer, Model
from kvperf.model.hub import import_config
from kvperf.model.parameters import parameters
from tests.model.configs import FOLDER, config

TEXT = (Path(__file__).parent.parent.parent / "docs" / "models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
(EXAMPLE,) = (body for language, body in BLOCKS if language == "yaml")
COMMANDS = [line for _, body in BLOCKS for line in body.splitlines() if line.startswith("kvperf ")]
TITLES = {"MultiToken": "MTP"}


def structs(root: Any) -> set[type[msgspec.Struct]]:
    """Every struct that a model file is made of."""
    found: set[type[msgspec.Struct]] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, msgspec.Struct) and one not in found:
            found.add(one)
            waiting += typing.get_type_hints(one).values()
        waiting += typing.get_args(one)
    return found


def heading(struct: type[msgspec.Struct]) -> str:
    if struct.__struct_config__.tag is None:
        return TITLES.get(struct.__name__, struct.__name__)
    kind = f"`{struct.__struct_config__.tag}`"
    return f"{kind} ({'mixer' if struct in typing.get_args(Mixer) else 'ffn'})" if kind == "`none`" else kind


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    found = re.findall(rf"^##+ {re.escape(title)}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert len(found) == 1, f"{title} stands {len(found)} times"
    return found[0]


def default(field: Any) -> str:
    value = field.default
    if field.required:
        return "needed"
    if value is None or value == () or isinstance(value, msgspec.Struct):
        return "–"
    return str(value).lower() if isinstance(value, bool) else str(value)


STRUCTS = sorted(structs(Model), key=lambda struct: struct.__name__)


def test_the_walk_finds_all_parts() -> None:
    assert {*typing.get_args(Mixer), *typing.get_args(Ffn)} < set(STRUCTS)


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_key_stands_there_with_its_default(struct: type[msgspec.Struct]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", section(heading(struct)), re.MULTILINE)
    assert sorted(rows) == sorted((field.encode_name, default(field)) for field in msgspec.structs.fields(struct))


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_word_that_a_key_may_be_is_named(struct: type[msgspec.Struct]) -> None:
    for field in msgspec.structs.fields(struct):
        if typing.get_origin(field.type) is typing.Literal:
            row = next(
                line for line in section(heading(struct)).splitlines() if line.startswith(f"| `{field.encode_name}`")
            )
            assert set(re.findall(r"`([^`]+)`", row)[1:]) >= set(typing.get_args(field.type))


def test_modules_and_number_formats_are_those_of_the_program() -> None:
    (row,) = re.findall(r"^\| `module` \|.*$", TEXT, re.MULTILINE)
    assert re.findall(r"`([^`]+)`", row)[1:] == list(MODULES)
    (formats,) = re.findall(r"^Number formats: (.*?)\n\n", TEXT, re.MULTILINE | re.DOTALL)
    assert re.findall(r"`([^`]+)`", formats) == list(DTYPES)


def test_no_section_is_without_a_part() -> None:
    titles = re.findall(r"^##+ (.*)$", TEXT, re.MULTILINE)
    others = {"From a config.json", "A whole file", "Layers", "Mixers", "FFNs"}
    assert set(titles) - others == {heading(struct) for struct in STRUCTS}


def test_the_example_loads_and_the_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my-model.yaml").write_text(EXAMPLE, encoding="utf-8")
    model = load_model("./my-model.yaml")
    assert len(model.layer_sequence()) == 28
    assert [layer.mixer for layer in model.layer_sequence()].count("full") == 10
    assert len(COMMANDS) == 4
    for command in COMMANDS:
        own = command.replace("path/to/config.json", str(FOLDER / "llama-3.1-8b.json"))
        assert run(shlex.split(own)[1:]) == 0, capsys.readouterr().err
    (line,) = re.findall(r"^wrote .*$", TEXT, re.MULTILINE)
    assert capsys.readouterr().err == f"{line}\n"
    assert parameters(load_model("./mine.yaml")) == parameters(load_model("llama-3.1-8b"))


def test_the_error_it_quotes_is_the_programs() -> None:
    (quoted,) = re.findall(r"^error: (.*)\nhint: (.*)$", TEXT, re.MULTILINE)
    with pytest.raises(KvperfError) as problem:
        import_config(config("llama-3.1-8b") | {"sliding_window": 4096, "my_note": 1}, "x")
    assert (problem.value.message, problem.value.hint) == quoted
