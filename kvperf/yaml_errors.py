"""What is wrong with a YAML file, in plain words, and what to write instead.

msgspec says which type it wanted at which path; here that becomes a line and column, the legal values,
the nearest key, and an example with the user's own values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from kvperf import units
from kvperf.errors import KvperfError, nearest

if TYPE_CHECKING:
    from kvperf.yaml_file import Document

# The files of a schema: what one is, where it belongs, and where to find a whole one.
_FAMILIES = {
    "kvperf.gpu": ("a GPU profile", "give it to --gpu", "`kvperf gpus show h100` says where a whole profile lies"),
    "kvperf.model": ("a model", "give it to --model", "`kvperf models import config.json` writes a whole one"),
    "kvperf.architecture": (
        "a GPU architecture",
        "a GPU profile names it under 'architecture'; give that profile to --gpu",
        "`kvperf gpus show h100` names the folder of the shipped ones",
    ),
}
_LONGEST_EXAMPLE = 120


class _Place(msgspec.Struct):
    """A part of a file: its path, the type that the file's Struct asks for there, and the value that stands there."""

    path: str
    kind: Any
    value: Any

    @property
    def name(self) -> str:
        return self.path[2:] or "file"


def explained(document: Document, kind: type, text: str, dec_hook: Any) -> KvperfError:
    """msgspec's text in plain words, with what to write instead."""
    elsewhere = _of_another_kind(document, kind)
    if elsewhere:
        return elsewhere
    reason, _, path = text.partition(" - at `")
    reason, _, hint = reason.partition(" | hint: ")
    place = _locate(document, kind, path.rstrip("`") or "$", dec_hook)
    where = document.at(place.path)
    key = re.search(r"field `(.+?)`", reason)
    if key and "unknown" in reason:
        where, names = document.at(f"{place.path}.{key[1]} (key)"), list(_fields(place.kind, place.value))
        close = nearest(key[1], names)
        hint = f"did you mean '{close}'?" if close else f"delete it; known here: {', '.join(names)}"
        return KvperfError(f"{where}: unknown key '{key[1]}'", hint)
    if key:
        reason, hint = f"'{key[1]}' is missing", _to_add(place, key[1])
    elif reason.startswith("Invalid "):
        reason = reason.replace("enum value", "value")
        hint = _to_choose(place.value, [str(value) for value in _legal(place.kind)])
    elif reason.startswith("Expected "):
        reason, hint = _expected(reason, place.value), _to_write(place)
    return KvperfError(f"{where}: {place.name}: {reason}", hint or _whole_file(kind))


def _of_another_kind(document: Document, kind: type) -> KvperfError | None:
    """The error for a file of another schema: the model where a GPU is wanted, or the other way round."""
    value, wanted = document.value, _legal(_fields(kind, None).get("schema"))
    if not isinstance(value, dict) or not wanted:
        return None
    if "schema" not in value and ("model_type" in value or "architectures" in value):
        return model_config(document.path, rename=wanted[0].startswith("kvperf.model/"))
    family = str(value.get("schema")).rpartition("/")[0]
    if family not in _FAMILIES or family == wanted[0].rpartition("/")[0]:
        return None
    what, where, _ = _FAMILIES[family]
    return KvperfError(f"{document.at('$.schema')}: this is {what} ({value['schema']})", where)


def model_config(path: Path, rename: bool = False) -> KvperfError:
    """The error for a `config.json` where a YAML file is wanted."""
    hint = "its name must end in .json" if rename else "give it to --model"
    return KvperfError(f"{path}: this is a model's config.json", hint)


def _whole_file(kind: type) -> str:
    schema = _legal(_fields(kind, None).get("schema"))
    family = schema[0].rpartition("/")[0] if schema else ""
    return _FAMILIES[family][2] if family in _FAMILIES else "compare it with a file that loads"


def _locate(document: Document, kind: Any, path: str, dec_hook: Any) -> _Place:
    """The place at msgspec's path, which writes `[...]` for the key of a mapping with free names."""
    place = _Place("$", kind, document.value)
    for name, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", path[1:]):
        value = place.value
        if name:
            inner = value.get(name) if isinstance(value, dict) else None
            place = _Place(f"{place.path}.{name}", _fields(place.kind, value).get(name), inner)
        elif index == "...":
            items = value.items() if isinstance(value, dict) else ()
            element = _element(place.kind, -1)
            wrong = next(((key, item) for key, item in items if not _fits(item, element, dec_hook)), None)
            if wrong is None:
                return place
            place = _Place(f"{place.path}.{wrong[0]}", element, wrong[1])
        else:
            place = _Place(f"{place.path}[{index}]", _element(place.kind, int(index)), value[int(index)])
    return place


def _fits(value: Any, kind: Any, dec_hook: Any) -> bool:
    try:
        msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError:
        return False
    return True


def _alternatives(kind: Any) -> list[Any]:
    """The types that a type stands for: those of a union without None, that of an annotation, else itself."""
    import types

    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return [inner for argument in get_args(kind) for inner in _alternatives(argument)]
    return [] if kind in (None, type(None)) else [kind]


def _structs(kind: Any) -> list[Any]:
    alternatives = [(inner, get_origin(inner) or inner) for inner in _alternatives(kind)]
    return [inner for inner, base in alternatives if isinstance(base, type) and issubclass(base, msgspec.Struct)]


def _config(struct: Any) -> Any:
    return (get_origin(struct) or struct).__struct_config__


def _struct(kind: Any, value: Any) -> Any:
    """The Struct that a value is meant to be; of a tagged union the one whose tag it has, None where it has none."""
    structs = _structs(kind)
    if len(structs) < 2:
        return structs[0] if structs else None
    tags = {_config(struct).tag: struct for struct in structs}
    tag = value.get(_config(structs[0]).tag_field) if isinstance(value, dict) else None
    return tags.get(tag) if isinstance(tag, str) else None


def _fields(kind: Any, value: Any) -> dict[str, Any]:
    """The keys that a value of this type may have, each with its type; a tag is one of its Literals."""
    struct, structs = _struct(kind, value), _structs(kind)
    fields: dict[str, Any] = {}
    if structs and _config(structs[0]).tag_field:
        fields[_config(structs[0]).tag_field] = Literal[tuple(_config(inner).tag for inner in structs)]
    if struct is not None:
        fields |= {field.encode_name: field.type for field in msgspec.structs.fields(struct)}
    return fields


def _required(struct: Any) -> list[str]:
    tag = [_config(struct).tag_field] if _config(struct).tag_field else []
    return tag + [field.encode_name for field in msgspec.structs.fields(struct) if field.required]


def _element(kind: Any, index: int) -> Any:
    """The type of the elements of a list, or of the values of a mapping with free names."""
    for inner in _alternatives(kind):
        arguments = [argument for argument in get_args(inner) if argument is not Ellipsis]
        if arguments and get_origin(inner) in (tuple, list, dict, set, frozenset):
            return arguments[index] if -1 <= index < len(arguments) else arguments[-1]
    return None


def _legal(kind: Any) -> list[Any]:
    """The only values that a type allows, where it lists them."""
    import enum

    legal: list[Any] = []
    for inner in _alternatives(kind):
        if get_origin(inner) is Literal:
            legal += get_args(inner)
        elif isinstance(inner, type) and issubclass(inner, enum.Enum):
            legal += [member.value for member in inner]
    return legal


def _to_add(place: _Place, key: str) -> str:
    """What to write for a missing key."""
    struct = _struct(place.kind, place.value)
    if struct is not None and "source" in _required(struct) and len(_required(struct)) == 3:
        return f"write {_example(struct, place.value)}"  # a reading: shown whole
    kind = _fields(place.kind, place.value).get(key)
    legal = _legal(kind)
    if len(legal) > 1:
        return f"'{key}' is one of {', '.join(map(str, legal))}"
    plain = next((word for inner, word in _PLAIN.items() if inner in _alternatives(kind)), None)
    if plain:
        return f"add '{key}', {plain}"
    example = f"write {key}: {_example(kind, name=key)}"
    return example if kind is not None and len(example) <= _LONGEST_EXAMPLE else ""


def _to_choose(value: Any, legal: list[str]) -> str:
    if len(legal) == 1:
        return f"write {legal[0]}"
    close = _only_nearest(str(value), legal)
    return (f"did you mean '{close}'? " if close else "") + (f"known: {', '.join(legal)}" if legal else "")


def _only_nearest(name: str, known: Iterable[str]) -> str | None:
    """The nearest name, unless another is as near: `mqa` is no more `mla` than `gqa`."""
    from difflib import SequenceMatcher

    known = set(known)
    close = nearest(name, known)
    rival = nearest(name, known - {close}) if close else None
    if close is None or rival is None:
        return close
    near, nearly = (SequenceMatcher(None, other.lower(), name.lower()).ratio() for other in (close, rival))
    return close if near > nearly else None


# What a plain value is, and the words for msgspec's names of types.
_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_WORDS = {
    "object": "a mapping {…}",
    "array": "a list […]",
    "str": "text",
    "int": "`int`, a whole number",
    "float": "a number",
    "bool": "true or false",
}


def _expected(reason: str, value: Any) -> str:
    """`Expected a list […], got 'stas'` for msgspec's "Expected `array`, got `str`"."""
    wanted, got, _ = reason.partition(", got ")
    named = re.search(r"`(.+?)`", wanted)
    names = [name for name in named[1].split(" | ") if name != "null"] if named else []
    wanted = wanted.replace(named[0] if named else "", " or ".join(_WORDS.get(name, name) for name in names), 1)
    wanted = wanted.replace("of length >= 1", "with at least one entry")
    return f"{wanted}, got {_seen(value)}" if got else wanted


def _seen(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "a mapping"
    return "nothing" if value is None else f"'{value}'" if isinstance(value, str) else _scalar(value)


def _to_write(place: _Place) -> str:
    """What to write instead of a value of the wrong type."""
    value, alternatives = place.value, _alternatives(place.kind)
    struct = _structs(place.kind)[0] if len(_structs(place.kind)) == 1 else None
    if any((get_origin(inner) or inner) in (tuple, list) for inner in alternatives):
        one = isinstance(value, (str, int, float)) and not _structs(_element(place.kind, 0))
        example = f"[{_scalar(value)}]" if one else _example(place.kind, name=place.name.rpartition(".")[2])
        return f"write {example}" if len(example) <= _LONGEST_EXAMPLE else ""
    if struct is not None:
        if not _required(struct):
            return f"its keys: {', '.join(_fields(struct, value))}"
        example = _example(struct, {} if isinstance(value, (list, dict)) else {"value": value})
        return f"write {example}" if len(example) <= _LONGEST_EXAMPLE else ""
    if str in alternatives and isinstance(value, (int, float)):
        return f'write "{_scalar(value)}"'
    if int in alternatives:
        number = re.match(r"\d+", str(value))
        return f"write {number[0]}" if number else "write a whole number without a unit"
    if bool in alternatives:
        return "write true or false"
    legal = _legal(place.kind)
    return f"known: {', '.join(map(str, legal))}" if legal else ""


def _example(kind: Any, given: Any = None, name: str = "") -> str:
    """How a value of a type may be written, with what is `given` already; the value of key `name`."""
    if isinstance(given, (str, int, float)):
        return _scalar(given)
    if isinstance(given, list) and given and all(isinstance(item, (str, int, float)) for item in given):
        return f"[{', '.join(map(_scalar, given))}]"
    first = next(iter(_alternatives(kind)), str)
    unit = getattr(first, "unit", None)
    if isinstance(unit, str) and unit in units.EXAMPLES:
        return units.EXAMPLES[unit]
    if _legal(first):
        return str(_legal(first)[0])
    if _structs(first):
        written, fields = given if isinstance(given, dict) else {}, _fields(first, None)
        keys = _required(first) or list(fields)[:1]
        parts = [f"{key}: {_example(fields[key], written.get(key), key)}" for key in keys]
        return f"{{{', '.join(parts)}}}"
    if get_origin(first) in (tuple, list):
        return f"[{_example(_element(first, 0), name=name)}]"
    if get_origin(first) is dict:
        return f"{{name: {_example(_element(first, -1))}}}"
    plain = {bool: "true", int: "1", float: "1.5"}
    return plain.get(first) or ("datasheet" if name == "source" else "text")


def _scalar(value: Any) -> str:
    """A plain value as YAML inside braces writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return f'"{text}"' if isinstance(value, str) and re.search(r"[\[\]{},#\"]|: |^$", text) else text
