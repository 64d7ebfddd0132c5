"""Compiled kernels on disk, by content hash. A damaged entry or a folder that cannot be written is no error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

Entry = TypeVar("Entry")
FORMAT = "kvperf-kernel-1"


def folder() -> Path:
    """$KVPERF_CACHE, else $XDG_CACHE_HOME/kvperf, else ~/.cache/kvperf."""
    if own := os.environ.get("KVPERF_CACHE"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path("~/.cache").expanduser()) / "kvperf"


def key(parts: Iterable[str]) -> str:
    """Hash of the parts, each told from its neighbour."""
    digest = hashlib.sha256(FORMAT.encode())
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def headers(text: str, include: Path, seen: set[Path] | None = None) -> Iterator[str]:
    """The texts of the headers of `include` that a source quotes, and of those that they quote."""
    seen = set() if seen is None else seen
    for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE):
        file = include / name
        if file not in seen and file.is_file():
            seen.add(file)
            header = file.read_text(encoding="utf-8")
            yield header
            yield from headers(header, include, seen)


def load(key: str, kind: type[Entry]) -> Entry | None:
    """The entry, or None where there is none or it is damaged."""
    try:
        checksum, body = (folder() / "kernels" / f"{key}.json").read_bytes().split(b"\n", 1)
        if checksum.decode() != hashlib.sha256(body).hexdigest():
            return None
        return msgspec.json.decode(body, type=kind)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def store(key: str, entry: object) -> None:
    """Written beside its place and moved there, so that a reader sees all of it or nothing."""
    body = msgspec.json.encode(entry)
    place = folder() / "kernels"
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=place, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
            os.replace(scratch, place / f"{key}.json")
        except OSError:
            Path(scratch).unlink(missing_ok=True)
