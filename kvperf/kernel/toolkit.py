"""Where NVRTC, the CUDA headers and the disassembler lie: in the wheels from PyPI, or in a CUDA toolkit."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvperf.errors import KvperfError


class Nvrtc(msgspec.Struct, frozen=True):
    """The compiler's library, the built-in headers it loads, and the CUDA headers."""

    library: Path
    builtins: Path | None
    include: Path

    @property
    def identity(self) -> str:
        """Changes whenever another build of the compiler or of its headers is installed."""
        files = [self.library, self.builtins, self.include / "cuda_fp16.h", self.include / "cuda_fp8.h"]
        return " ".join(f"{file.name}:{file.stat().st_size}" for file in files if file is not None and file.exists())


def nvrtc() -> Nvrtc:
    """The installed compiler; a KvperfError where there is none."""
    for root in _roots():
        for library in _newest_first(root.glob("lib*/libnvrtc.so.*")):
            builtins = _newest_first(library.parent.glob("libnvrtc-builtins.so.*"))
            include = next((f for f in (root / "include", *_includes()) if (f / "cuda_fp16.h").exists()), None)
            if include is not None:
                return Nvrtc(library=library, builtins=builtins[0] if builtins else None, include=include)
    raise KvperfError(
        "NVRTC is not installed",
        'pip install "kvperf[kernels]" (the wheels nvidia-cuda-nvrtc and nvidia-cuda-runtime; no GPU is needed)',
    )


def tool(name: str) -> Path | None:
    """The program `name` (cuobjdump, nvdisasm) of the wheels or on PATH, or None."""
    for root in _roots():
        if os.access(root / "bin" / name, os.X_OK):
            return root / "bin" / name
    found = shutil.which(name)
    return Path(found) if found else None


def _roots() -> Iterator[Path]:
    """Folders that have a lib, an include or a bin: the wheels' (`nvidia/cu13`) first, then a toolkit's."""
    yield from _wheels()
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])


def _wheels() -> Iterator[Path]:
    """CUDA 13 wheels share `nvidia/cu13`; those of CUDA 12 have a folder each (`nvidia/cuda_nvrtc`)."""
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folders = [folder for folder in Path(place).iterdir() if folder.is_dir()]
        yield from sorted(folders, key=lambda folder: (folder.name.startswith("cu1"), folder.name), reverse=True)


def _includes() -> Iterator[Path]:
    return (root / "include" for root in _roots())


def _newest_first(files: Iterator[Path]) -> list[Path]:
    """By the version behind `.so`; the alternative build (`libnvrtc.alt.so`) does not match the patterns."""
    return sorted(files, key=lambda file: [int(part) for part in re.findall(r"\d+", file.name)], reverse=True)
