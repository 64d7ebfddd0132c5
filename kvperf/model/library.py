"""Models by name, hub id or path."""

from __future__ import annotations

import re
from pathlib import Path

from kvperf.errors import KvperfError, nearest, unknown_name
from kvperf.files import folder
from kvperf.model.architecture import Model
from kvperf.model.validation import validate
from kvperf.yaml_file import decode, read

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_names() -> list[str]:
    """The names of the shipped models, sorted."""
    return sorted(path.stem for path in folder("models").glob("*.yaml"))


def load_model(name_or_path: str | Path) -> Model:
    """One model, from

    - the name of a shipped model (`llama-3.1-8b`, in any case) or its hub id (`meta-llama/Llama-3.1-8B`),
    - the path of a model YAML, of a `config.json`, or of a directory that holds one,
    - the hub id of any other model (needs the package `huggingface_hub` and the network).

    Raises KvperfError where there is no such model, or its file is wrong.
    """
    if isinstance(name_or_path, str):
        shipped = _shipped(name_or_path)
        if shipped is not None:
            return load_yaml(shipped)
    path = Path(name_or_path)
    if path.is_dir() or (path.suffix == ".json" and path.is_file()):
        from kvperf.model.hub import import_path

        return import_path(path)
    if path.suffix in (".yaml", ".yml", ".json") or path.is_file() or path.is_absolute():
        return load_yaml(path)
    name, file = str(name_or_path), _file_of(path)
    if name.startswith("."):  # ./NAME is a path whatever it ends in
        hint = f"for a file write {file}" if file else "give a model YAML, a config.json or a directory that holds one"
        raise KvperfError(f"{name}: No such file or directory", hint)
    if _HUB_ID.fullmatch(name):
        from kvperf.model.hub.download import import_hub_id

        close = _nearest_hub_id(name)
        meant = f"for a file write {file}; " if file else f"did you mean '{close}'? " if close else ""
        return import_hub_id(name, meant)
    if file:
        raise KvperfError(f"unknown model '{name}'", f"for a file write {file}")
    raise unknown_name("model", name, model_names(), "`kvperf models`")


def _file_of(path: Path) -> str | None:
    """The file that was meant by a path without its suffix, as one would have to write it."""
    for suffix in (".yaml", ".yml", ".json"):
        file = path.with_name(path.name + suffix)
        if file.is_file():
            return str(file) if file.parts[0] == ".." else f"./{file}"
    return None


def load_yaml(path: Path) -> Model:
    """The model a YAML file describes. Wrong types and impossible shapes are errors with line and column."""
    document = read(path)
    model = decode(document, Model)
    validate(document, model)
    return model


def _shipped(name: str) -> Path | None:
    """The file of the shipped model with this name or hub id."""
    if "/" not in name:
        path = folder("models") / f"{name.lower()}.yaml"
        return path if path.is_file() else None
    return next((path for path, hub_id in _hub_ids() if hub_id.lower() == name.lower()), None)


def _hub_ids() -> list[tuple[Path, str]]:
    found = []
    for path in sorted(folder("models").glob("*.yaml")):
        matched = re.search(r"^hub_id: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        if matched:
            found.append((path, matched.group(1)))
    return found


def _nearest_hub_id(hub_id: str) -> str | None:
    return nearest(hub_id, [known for _, known in _hub_ids()])
