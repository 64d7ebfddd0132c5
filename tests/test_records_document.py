"""docs/records.md names every field of the record, once, under its struct."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec
import pytest

from kvperf import record
from kvperf.cli import run

TEXT = (Path(__file__).parent.parent / "docs" / "records.md").read_text(encoding="utf-8")


def documented() -> dict[str, list[str]]:
    """Fields under each heading of the second level, in their order."""
    found = {}
    for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        rows = re.findall(r"^\| (`.*?) \|", body, re.MULTILINE)
        found[heading] = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    return found


def structs(root: type) -> set[type]:
    """The record's struct, those it is made of, and the struct they extend."""
    found, waiting = set(), [root]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, msgspec.Struct) and one not in found and one is not msgspec.Struct:
            found.add(one)
            waiting += [*typing.get_type_hints(one).values(), *one.__bases__]
        waiting += typing.get_args(one)
    return found


def own_fields(struct: type[msgspec.Struct]) -> list[str]:
    """Names in JSON, without those of the struct it extends."""
    (base,) = struct.__bases__
    inherited = set() if base is msgspec.Struct else {f.encode_name for f in msgspec.structs.fields(base)}
    return [f.encode_name for f in msgspec.structs.fields(struct) if f.encode_name not in inherited]


STRUCTS = {struct.__name__: struct for struct in structs(record.Analysis)}


def test_every_struct_has_a_section() -> None:
    assert set(documented()) == set(STRUCTS)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_field_is_named_once(name: str) -> None:
    assert sorted(documented()[name]) == sorted(own_fields(STRUCTS[name]))


def test_the_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"^kvperf .*$", TEXT, re.MULTILINE)
    assert run(command.split()[1:]) == 0
    assert '"schema": "kvperf.analysis/1"' in capsys.readouterr().out
