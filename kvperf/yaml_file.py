"""Strict YAML: duplicate keys, unknown keys and wrong types are errors with file, line and column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from kvperf.errors import KvperfError, nearest

T = TypeVar("T")
Mark = tuple[int, int]  # line and column, both from 1


class Document:
    """The plain value of a YAML file, and where in the file each part of it stands."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.marks: dict[str, Mark] = {}
        try:
            root = yaml.compose(text, yaml.CSafeLoader)
        except yaml.YAMLError as problem:
            mark = getattr(problem, "problem_mark", None)
            where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
            reason = getattr(problem, "problem", None) or "it cannot be parsed"
            raise KvperfError(f"{path}{where}: not YAML: {reason}", "check indentation and quotes") from None
        if root is None:
            raise KvperfError(f"{path}: the file is empty", "see `kvperf gpus show h100` for a whole one")
        self._constructor = yaml.CSafeLoader("")
        self.value = self._construct(root, "$")

    def at(self, path: str) -> str:
        """`FILE:LINE:COLUMN` of a part, `path` written as msgspec does (`$.memory.hbm`, `$.peaks[0]`)."""
        while path not in self.marks and path != "$":
            path = re.sub(r"(\.[^.\[\]]*|\[[^\]]*\])$", "", path) or "$"
        line, column = self.marks.get(path, (1, 1))
        return f"{self.path}:{line}:{column}"

    def _construct(self, node: yaml.Node, path: str) -> Any:
        self.marks[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._construct(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        return self._constructor.construct_object(node)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            inner = f"{path}.{key}"
            if key in mapping:
                line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1
                first = self.marks[f"{inner} (key)"][0]
                raise KvperfError(
                    f"{self.path}:{line}:{column}: the key '{key}' stands twice",
                    f"it is already on line {first}; delete one of them",
                )
            self.marks[f"{inner} (key)"] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            mapping[key] = self._construct(value_node, inner)
        return mapping


def read(path: Path) -> Document:
    """Parse one YAML file. Raises KvperfError where it cannot be read or is not strict YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "it is not UTF-8 text"
        raise KvperfError(f"{path}: {reason}", "give the path of a YAML file that can be read") from None
    return Document(path, text)


def decode(document: Document, kind: type[T], dec_hook: Any = None) -> T:
    """The document as a msgspec Struct; a wrong or unknown key is an error that says where it stands."""
    try:
        return msgspec.convert(document.value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as problem:
        raise _explained(document, kind, str(problem)) from None


def _explained(document: Document, kind: type, text: str) -> KvperfError:
    reason, _, path = text.partition(" - at `")
    path = path.rstrip("`") or "$"
    unknown = re.search(r"unknown field `(.+?)`", reason)
    if unknown:
        key = unknown.group(1)
        where = document.at(f"{path}.{key} (key)")
        close = nearest(key, _field_names(kind))
        return KvperfError(f"{where}: unknown key '{key}'", f"did you mean '{close}'?" if close else "delete it")
    reason, _, hint = reason.partition(" | hint: ")
    return KvperfError(f"{document.at(path)}: {path[2:] or 'file'}: {reason}", hint or "see docs/profiles.md")


def _field_names(kind: Any, seen: set[Any] | None = None) -> set[str]:
    """Every key that stands anywhere in a Struct type."""
    seen = set() if seen is None else seen
    names: set[str] = set()
    if kind in seen:
        return names
    seen.add(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        for field in msgspec.structs.fields(kind):
            names.add(field.encode_name)
            names |= _field_names(field.type, seen)
    for inner in getattr(kind, "__args__", ()):
        names |= _field_names(inner, seen)
    return names
