"""From a name, an alias or a path to a Gpu."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from kvperf import files, yaml_file
from kvperf.errors import KvperfError, nearest, unknown_name
from kvperf.hardware import peaks, quantity
from kvperf.hardware.architecture import Architecture
from kvperf.hardware.gpu import Gpu
from kvperf.hardware.profile import Profile
from kvperf.yaml_file import Document

_TITLE = re.compile(r"^title: (.*)$", re.MULTILINE)
_ALIASES = re.compile(r"^aliases:\s*\[([^\]]*)\]", re.MULTILINE)


def gpu_names() -> list[str]:
    """The shipped GPUs, sorted."""
    return names(files.folder("hardware"))


def load_gpu(name: str) -> Gpu:
    """The GPU called `name`, or described by the profile at that path. Raises KvperfError."""
    path = profile_path(name)
    document = yaml_file.read(path)
    profile, architecture = decode(document)
    for i, stated in enumerate(profile.peaks):
        if peaks.disagreement(stated, profile, architecture):
            place = f"$.peaks[{i}].value"
            problem = peaks.disagreement(stated, profile, architecture, str(document.part(place)))
            hint = f"correct the peak, the {profile.unit} count or the clock, or say why in 'stated_reason'"
            raise KvperfError(f"{document.at(place)}: {problem}", hint)
    return Gpu(profile, architecture, path)


def profile_path(name: str) -> Path:
    """The file of a shipped name or alias (case, spaces and underscores do not matter), or `name` itself as a path."""
    folder = files.folder("hardware")
    return as_path(name) or shipped(folder, name) or no_such("GPU", name, folder, "`kvperf gpus`")


def as_path(name: str) -> Path | None:
    """`name` where it is written as a path (with a `/`, or the ending of a profile). Raises KvperfError."""
    if "/" not in name and not name.endswith((".yaml", ".yml", ".json")):
        return None
    if not Path(name).exists() and (file := _file_called(name)):
        raise KvperfError(f"{name}: No such file or directory", f"for a file write {file}")
    return Path(name)


def shipped(folder: Path, name: str) -> Path | None:
    """The file of a name or an alias in a folder of shipped files."""
    wanted = _folded(name)
    path = folder / f"{wanted}.yaml"
    if wanted and path.is_file():
        return path
    return next((path for alias, path in _aliases(folder) if alias == wanted), None)


def names(folder: Path) -> list[str]:
    """The files of a folder of shipped files, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def no_such(kind: str, name: str, folder: Path, listing: str | None = None) -> NoReturn:
    """Raise the KvperfError for a name that no file of the folder has."""
    # The long names that nvidia-smi prints would win over the short ones people type.
    short = [alias for alias, _ in _aliases(folder) if alias.count("-") < 2]
    problem = unknown_name(kind, name, [*names(folder), *short], listing)
    if file := _file_called(name):
        problem.hint = f"for a file write ./{file}"
    raise problem


def decode(document: Document) -> tuple[Profile, Architecture]:
    """The profile in a document and its architecture. Raises KvperfError with file, line and column."""
    profile = yaml_file.decode(document, Profile, quantity.decode)
    check_sources(document)
    _check_network(document, profile)
    folder = files.folder("hardware") / "architectures"
    if not (folder / f"{profile.architecture}.yaml").is_file():
        problem = _unknown_architecture(profile.architecture, folder)
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
            close = nearest(key, known)
            hint = f"did you mean '{close}'? if not, " if close else ""
            hint += f"add {key}: {{document: …, page: …}} to 'sources'"
            raise KvperfError(f"{document.at(path)}: unknown source '{key}'", hint)


def source_keys(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Each key under a `source` of a plain value, with where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "source":
                yield from ((f"{path}.source[{i}]", name) for i, name in enumerate(inner))
            elif isinstance(inner, (dict, list)) and key != "sources":  # whose own keys are free
                yield from source_keys(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from source_keys(inner, f"{path}[{i}]")


def _check_network(document: Document, profile: Profile) -> None:
    """A profile's network is one of `hardware/networks`; the file itself is not read."""
    network, folder = profile.links.network, files.folder("hardware") / "networks"
    if network is not None and shipped(folder, network.name) is None:
        problem = unknown_name("network", network.name, names(folder))
        raise KvperfError(f"{document.at('$.links.network.name')}: {problem.message}", problem.hint)


def _file_called(name: str) -> str | None:
    """The file that `name` is, but for the ending of a profile."""
    return next((file for file in (name, f"{name}.yaml", f"{name}.yml") if name.strip() and Path(file).is_file()), None)


def _unknown_architecture(name: str, folder: Path) -> KvperfError:
    """People call an architecture by a word of its title: `ada` is sm_89, NVIDIA Ada Lovelace."""
    known = names(folder)
    problem = unknown_name("architecture", name, known)
    meant = []
    for stem in known:
        title = _TITLE.search((folder / f"{stem}.yaml").read_text(encoding="utf-8"))
        if title and name.lower() in re.findall(r"\w+", title[1].lower()):
            meant.append(f"'{stem}', {title[1]}")
    if meant:
        problem.hint = f"did you mean {' or '.join(meant)}?"
    return problem


def _aliases(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every alias of the shipped profiles, found in their text: parsing them all would take a tenth of a second."""
    for path in sorted(folder.glob("*.yaml")):
        matched = _ALIASES.search(path.read_text(encoding="utf-8"))
        for alias in matched[1].split(",") if matched else ():
            yield _folded(alias.strip(" \n\"'")), path


def _folded(name: str) -> str:
    return "-".join(name.lower().replace("_", " ").split())
