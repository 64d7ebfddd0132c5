"""A JSON Schema ships for every record, and is that of the record."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "schemas.py"
SPEC = importlib.util.spec_from_file_location("schemas", SCRIPT)
assert SPEC is not None and SPEC.loader is not None
schemas = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(schemas)


@pytest.mark.parametrize("name", schemas.RECORDS)
def test_the_schema_file_is_that_of_the_record(name: str) -> None:
    shipped = (schemas.FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert json.loads(shipped) == json.loads(schemas.text(schemas.RECORDS[name])), "run scripts/schemas.py"


def test_no_schema_is_of_nothing() -> None:
    assert {file.stem for file in schemas.FOLDER.glob("*.json")} == set(schemas.RECORDS)
