"""Sources of this folder compiled to PTX; tests that need it skip where NVRTC is not installed."""

from __future__ import annotations

from pathlib import Path

from kvperf.kernel.compile import compile_kernel

FOLDER = Path(__file__).parent


def ptx(source: str | Path, arch: str = "90", **defines: str | int) -> str:
    return compile_kernel(FOLDER / source, defines, arch, ptx_only=True).ptx
