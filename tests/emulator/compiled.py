"""Sources of this folder compiled to PTX; tests that need it skip where NVRTC is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvperf.errors import KvperfError
from kvperf.kernel import toolkit
from kvperf.kernel.compile import compile_kernel

FOLDER = Path(__file__).parent


def has_nvrtc() -> bool:
    try:
        toolkit.nvrtc()
    except KvperfError:
        return False
    return True


needs_nvrtc = pytest.mark.skipif(not has_nvrtc(), reason="NVRTC is not installed: pip install kvperf[kernels]")


def ptx(source: str | Path, arch: str = "90", **defines: str | int) -> str:
    return compile_kernel(FOLDER / source, defines, arch, ptx_only=True).ptx
