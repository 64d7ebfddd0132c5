"""From a name, an alias or a path to a Gpu."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kvperf import files, yaml_file
from kvperf.errors import KvperfError, unknown_name
from kvperf.hardware import peaks, quantity
from kvperf.hardware.architecture import Architecture
from kvperf.hardware.gpu import Gpu
from kvperf.hardware.profile import Profile
from kvperf.yaml_file import Document

_ALIASES = re.compile(r"^aliases:\s*\[([^\]]*)\]", re.MULTILINE)


def gpu_names() -> list[str]:
    """The shipped GPUs, sorted."""
    return sorted(path.stem for path in files.folder("hardware").glob("*.yaml"))


def load_gpu(name: str) -> Gpu:
    """The GPU called `name`, or described by the profile at that path. Raises KvperfError."""
    path = profile_path(name)
    document = yaml_file.read(path)
    profile, architecture = decode(document)
    for i, stated in enumerate(profile.peaks):
        problem = peaks.disagreement(stated, profile, architecture)
        if problem:
            hint = "correct the peak, the SM count or the clock, or say why in 'stated_reason'"
            raise KvperfError(f"{document.at(f'$.peaks[{i}].value')}: {problem}", hint)
    return Gpu(profile, architecture, path)


def profile_path(name: str) -> Path:
    """The file of a shipped name or alias (case, spaces and underscores do not matter), or `name` itself as a path."""
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = files.folder("hardware")
    wanted = _folded(name)
    path = folder / f"{wanted}.yaml"
    if wanted and path.is_file():
        return path
    for alias, path in _aliases(folder):
        if alias == wanted:
            return path
    # The long names that nvidia-smi prints would win over the short ones people type.
    short = [alias for alias, _ in _aliases(folder) if alias.count("-") < 2]
    raise unknown_name("GPU", name, [*gpu_names(), *short], "`kvperf gpus`")


def decode(document: Document) -> tuple[Profile, Architecture]:
    """The profile in a document and its architecture. Raises KvperfError with file, line and column."""
    profile = yaml_file.decode(document, Profile, quantity.decode)
    check_sources(document)
    folder = files.folder("hardware") / "architectures"
    if not (folder / f"{profile.architecture}.yaml").is_file():
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        problem = unknown_name("architecture", profile.architecture, known, f"one of {', '.join(known)};")
        raise KvperfError(f"{document.at('$.architecture')}: {problem.message}", problem.hint)
    return profile, load_architecture(folder / f"{profile.architecture}.yaml")


@functools.cache
def load_architecture(path: Path) -> Architecture:
    """One file of `hardware/architectures`. Raises KvperfError with file, line and column."""
    document = yaml_file.read(path)
    architecture = yaml_file.decode(document, Architecture, quantity.decode)
    check_sources(document)
    return architecture


def check_sources(document: Document) -> None:
    """Every `source` must be a key of the file's own `sources`. Raises KvperfError."""
    known = document.value["sources"]
    for path, key in source_keys(document.value, "$"):
        if key not in known:
            problem = unknown_name("source", key, known, "'sources' at the end of the file")
            raise KvperfError(f"{document.at(path)}: {problem.message}", problem.hint)


def source_keys(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each key under a `source` of a plain value, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "source":
                yield from ((f"{path}.source[{i}]", name) for i, name in enumerate(inner))
            elif isinstance(inner, (dict, list)):
                yield from source_keys(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from source_keys(inner, f"{path}[{i}]")


def _aliases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every alias of the shipped profiles, found in their text: parsing them all would take a tenth of a second."""
    for path in sorted(folder.glob("*.yaml")):
        matched = _ALIASES.search(path.read_text(encoding="utf-8"))
        for alias in matched[1].split(",") if matched else ():
            yield _folded(alias.strip(" \n\"'")), path


def _folded(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").split())
