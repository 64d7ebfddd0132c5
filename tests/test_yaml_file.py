"""Strict YAML: every mistake is an error with file, line and column."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from kvperf import yaml_file
from kvperf.errors import KvperfError
from kvperf.yaml_file import Document


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    value: int
    note: str | None = None


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parts: tuple[Inner, ...] = ()
    named: dict[str, Inner] = {}


class Metres(float):
    pass


class Length(msgspec.Struct):
    length: Metres


def document(text: str) -> Document:
    return Document(Path("file.yaml"), text)


def decoded(text: str) -> Outer:
    return yaml_file.decode(document(text), Outer)


def refusal(text: str) -> KvperfError:
    with pytest.raises(KvperfError) as problem:
        decoded(text)
    return problem.value


def test_decodes_and_knows_where_things_stand() -> None:
    text = "name: a\nparts:\n- {value: 1}\n- {value: 2, note: b}\n"
    assert decoded(text) == Outer("a", (Inner(1), Inner(2, "b")))
    assert document(text).at("$.parts[1].note") == "file.yaml:4:20"
    assert document(text).at("$.parts[1].absent.deeper") == "file.yaml:4:3"
    assert document(text).at("$") == "file.yaml:1:1"


def test_duplicate_key() -> None:
    problem = refusal("name: a\nparts:\n- {value: 1, value: 2}\n")
    assert problem.message == "file.yaml:3:14: the key 'value' stands twice"
    assert "line 3" in problem.hint


def test_unknown_key_names_the_nearest() -> None:
    problem = refusal("name: a\nparts:\n- {value: 1, notte: b}\n")
    assert problem.message == "file.yaml:3:14: unknown key 'notte'"
    assert problem.hint == "did you mean 'note'?"


def test_unknown_key_inside_a_mapping_of_free_names() -> None:
    problem = refusal("name: a\nnamed:\n  one: {value: 1}\n  two: {value: 1, notte: b}\n")
    assert problem.message == "file.yaml:4:19: unknown key 'notte'"


def test_missing_key_and_wrong_type_say_where() -> None:
    assert refusal("name: a\nparts:\n- {note: b}\n").message.startswith("file.yaml:3:3: parts[0]: ")
    assert refusal("name: a\nparts:\n- {value: b}\n").message.startswith("file.yaml:3:11: parts[0].value: ")
    assert refusal("- a\n").message.startswith("file.yaml:1:1: file: ")


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1", 1),
        ("-1", -1),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("10:30", "10:30"),
        ("3.35e12", "3.35e12"),
        ("1.5e+3", "1.5e+3"),
        ("1_000", "1_000"),
        ("0o17", "0o17"),
        ("010", "010"),
        ("0x10", "0x10"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("2026-01-01", "2026-01-01"),
        ('"1"', "1"),
    ],
)
def test_scalars_are_what_they_look_like(written: str, value: object) -> None:
    read = document(f"key: {written}\n").value["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["key: [1\n", "key: 'a\n", "a: b: c\n", "\tkey: 1\n"])
def test_broken_yaml_says_where(text: str) -> None:
    with pytest.raises(KvperfError, match=r"^file\.yaml:\d+:\d+: not YAML: "):
        document(text)


def test_empty_file_tag_and_recursion() -> None:
    for text, message in (
        ("# nothing\n", "the file is empty"),
        ("key: !python/object:os.system x\n", "file.yaml:1:6: the tag !python/object:os.system is not known here"),
        ("key: &a [*a]\n", "an anchor contains itself"),
    ):
        with pytest.raises(KvperfError) as problem:
            document(text)
        assert message in problem.value.message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(KvperfError, match="No such file"):
        yaml_file.read(tmp_path / "absent.yaml")
    with pytest.raises(KvperfError, match="directory"):
        yaml_file.read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
    with pytest.raises(KvperfError, match="not UTF-8"):
        yaml_file.read(tmp_path / "latin.yaml")


def test_a_decoding_hook_can_give_a_hint() -> None:
    def hook(kind: type, value: object) -> Metres:
        raise ValueError(f"'{value}' is no length | hint: write it like '3 m'")

    with pytest.raises(KvperfError) as problem:
        yaml_file.decode(document("length: 3\n"), Length, hook)
    assert problem.value.message == "file.yaml:1:9: length: '3' is no length"
    assert problem.value.hint == "write it like '3 m'"
