"""Strict YAML: duplicate keys, unknown keys and wrong types are errors with file, line and column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from kvperf.errors import KvperfError

T = TypeVar("T")
Mark = tuple[int, int]  # line and column, both from 1


# Plain scalars are read by what they look like in YAML 1.2: `no`, `on`, `10:30` and `3.35e12` stay text.
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?[0-9]+\.[0-9]+")
_TAG = "tag:yaml.org,2002:"


class Document:
    """The plain value of a YAML file, and where in the file each part of it stands."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._marks: dict[str, Mark] = {}
        try:
            root = yaml.compose(text, yaml.CSafeLoader)
        except yaml.YAMLError as problem:
            mark = getattr(problem, "problem_mark", None)
            where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
            reason = getattr(problem, "problem", None) or "it cannot be parsed"
            if '"model_type"' in text:  # JSON that is indented with tabs is no YAML
                from kvperf.yaml_errors import model_config

                raise model_config(path) from None
            raise KvperfError(f"{path}{where}: not YAML: {reason}", "check indentation and quotes") from None
        if root is None:
            raise KvperfError(f"{path}: the file is empty", "compare it with a file that loads")
        self._root = root
        try:
            self.value = self._plain(root)
        except RecursionError:
            raise KvperfError(f"{path}: an anchor contains itself", "write the part out") from None

    @property
    def marks(self) -> dict[str, Mark]:
        """Line and column of every part, by path; `PATH (key)` is where a mapping's key stands."""
        if not self._marks:  # only errors and checks ask
            self._mark(self._root, "$")
        return self._marks

    def at(self, path: str) -> str:
        """`FILE:LINE:COLUMN` of a part, `path` written as msgspec does (`$.memory.hbm`, `$.peaks[0]`)."""
        while path not in self.marks and path != "$":
            path = re.sub(r"(\.[^.\[\]]*|\[[^\]]*\])$", "", path) or "$"
        line, column = self.marks.get(path, (1, 1))
        return f"{self.path}:{line}:{column}"

    def part(self, path: str) -> Any:
        """The plain value at a path as `at` takes it, None where there is nothing."""
        part: Any = self.value
        for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]", path[1:]):
            try:
                part = part[int(index)] if index else part[name]
            except (KeyError, IndexError, TypeError):
                return None
        return part

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item) for item in node.value]
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in mapping:
                first = next(k for k, _ in node.value if str(k.value) == key)
                raise KvperfError(
                    f"{self._where(key_node)}: the key '{key}' stands twice",
                    f"it is already on line {first.start_mark.line + 1}; delete one of them",
                )
            mapping[key] = self._plain(value_node)
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        if kind == "int" and _INTEGER.fullmatch(text):
            return int(text)
        if kind == "float" and _DECIMAL.fullmatch(text):
            return float(text)
        if kind == "bool" and text in ("true", "false"):
            return text == "true"
        if kind == "null":
            return None
        if kind == node.tag:
            raise KvperfError(f"{self._where(node)}: the tag {node.tag} is not known here", "delete the tag")
        return text

    def _where(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"

    def _mark(self, node: yaml.Node, path: str) -> None:
        self._marks[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self._mark(item, f"{path}[{i}]")
        if isinstance(node, yaml.MappingNode):
            for key_node, value_node in node.value:
                inner = f"{path}.{key_node.value}"
                self._marks[f"{inner} (key)"] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
                self._mark(value_node, inner)


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
        from kvperf.yaml_errors import explained

        raise explained(document, kind, str(problem), dec_hook) from None
