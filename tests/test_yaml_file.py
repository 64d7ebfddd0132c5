"""Strict YAML: every mistake is an error with file, line and column."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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


class Round(msgspec.Struct, tag_field="shape", tag="round", forbid_unknown_fields=True):
    radius: float


class Square(msgspec.Struct, tag_field="shape", tag="square", forbid_unknown_fields=True):
    side: int
    corners: tuple[str, ...] = ()


class Figure(msgspec.Struct, frozen=True):
    value: int
    kind: Literal["spec", "measured"]
    source: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


class Sheet(msgspec.Struct, forbid_unknown_fields=True):
    shapes: dict[str, Round | Square] = {}
    figure: Figure | None = None
    figures: tuple[Figure, ...] = ()
    colour: Literal["red", "green"] = "red"
    flag: bool = False
    title: str | None = None
    parts: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("colour: gren", "1:9: colour: Invalid value 'gren'", "did you mean 'green'? known: red, green"),
        ("colour: 3", "1:9: colour: Expected text, got 3", "known: red, green"),
        ("flag: yes", "1:7: flag: Expected true or false, got 'yes'", "write true or false"),
        ("title: 4090", "1:8: title: Expected text, got 4090", 'write "4090"'),
        ("parts: one", "1:8: parts: Expected a list […], got 'one'", "write [one]"),
        ("parts: 'a: b'", "1:8: parts: Expected a list […], got 'a: b'", 'write ["a: b"]'),
        (
            "figure: 3",
            "1:9: figure: Expected a mapping {…}, got 3",
            "write {value: 3, kind: spec, source: [datasheet]}",
        ),
        (
            "figure: {value: 3, source: [a]}",
            "1:9: figure: 'kind' is missing",
            "write {value: 3, kind: spec, source: [a]}",
        ),
        (
            "figures: [{value: 3, kind: spec, source: []}]",
            "1:42: figures[0].source: Expected a list […] with at least one entry",
            "write [datasheet]",
        ),
        (
            "figures: {}",
            "1:10: figures: Expected a list […], got a mapping",
            "write [{value: 1, kind: spec, source: [datasheet]}]",
        ),
        (
            "shapes: {a: {shape: sqare}}",
            "1:21: shapes.a.shape: Invalid value 'sqare'",
            "did you mean 'square'? known: ",
        ),
        ("shapes: {a: {side: 3}}", "1:13: shapes.a: 'shape' is missing", "'shape' is one of round, square"),
        ("shapes: {a: {shape: square}}", "1:13: shapes.a: 'side' is missing", "add 'side', a whole number"),
        ("shapes: {a: {shape: square, side: 3 m}}", "1:35: shapes.a.side: Expected `int`, a whole number", "write 3"),
        ("shapes: {a: {shape: round, radius: x}}", "1:36: shapes.a.radius: Expected a number, got 'x'", "compare it"),
        ("- a", "1:1: file: Expected a mapping {…}, got a list", "its keys: shapes, figure"),
        ("colours: red", "1:1: unknown key 'colours'", "did you mean 'colour'?"),
        ("qqq: red", "1:1: unknown key 'qqq'", "delete it; known here: shapes, figure, figures,"),
        # A key belongs to the part it stands in, not to another one that has it too.
        (
            "shapes: {a: {shape: round, radius: 1.5, corners: []}}",
            "1:41: unknown key 'corners'",
            "known here: shape, rad",
        ),
        # The first part with a free name is right: the second is meant.
        (
            "shapes:\n  a: {shape: square, side: 1}\n  b: {shape: square, side: no}",
            "3:28: shapes.b.side: Expected `int`, a whole number, got 'no'",
            "write a whole number",
        ),
    ],
)
def test_plain_words_and_what_to_write(text: str, message: str, hint: str) -> None:
    with pytest.raises(KvperfError) as problem:
        yaml_file.decode(document(text + "\n"), Sheet)
    assert message in problem.value.message
    assert hint in problem.value.hint
    assert problem.value.hint and ".md" not in problem.value.hint


def test_two_names_as_near_are_no_guess() -> None:
    """`mqa` is no nearer to `mla` than to `gqa`."""

    class Mixer(msgspec.Struct):
        kind: Literal["gqa", "mla"]

    with pytest.raises(KvperfError) as problem:
        yaml_file.decode(document("kind: mqa\n"), Mixer)
    assert problem.value.hint == "known: gqa, mla"


def test_the_value_at_a_path() -> None:
    parts = document("a: {b: [1, {c: 2 GB}]}\n")
    assert parts.part("$.a.b[1].c") == "2 GB"
    assert parts.part("$.a.b[7].c") is parts.part("$.a.x.y") is parts.part("$.a.b.c") is None
