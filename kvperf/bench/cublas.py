"""cuBLAS by its C interface: CuPy's own binding refuses to be captured in a CUDA graph.

The workspace is ours, so that a captured product allocates nothing.
"""

from __future__ import annotations

import ctypes
from typing import Any

from kvperf.errors import KvperfError

WORKSPACE_BYTES = 32 << 20  # what NVIDIA recommends for sm_90
# cudaDataType of operands, CUBLAS_COMPUTE_32F, the default algorithm, no transposition and transposition.
CUDA_TYPES = {"fp32": 0, "fp16": 2, "bf16": 14}
COMPUTE_32F, DEFAULT_ALGORITHM, OP_N, OP_T = 68, -1, 0, 1
NO_REDUCED_PRECISION = 16  # sums of parts stay fp32, too
LIBRARIES = ("libcublas.so.13", "libcublas.so.12", "libcublas.so")


class Cublas:
    """A handle on one stream. `workspace`: a device buffer, kept as long as the handle."""

    def __init__(self, stream_pointer: int, workspace: Any) -> None:
        self._library, self._workspace = library(), workspace
        self._handle = ctypes.c_void_p()
        self._call("cublasCreate_v2", ctypes.byref(self._handle))
        self._call("cublasSetStream_v2", self._handle, ctypes.c_void_p(stream_pointer))
        space = ctypes.c_void_p(workspace.data.ptr)
        self._call("cublasSetWorkspace_v2", self._handle, space, ctypes.c_size_t(WORKSPACE_BYTES))
        self._call("cublasSetMathMode", self._handle, NO_REDUCED_PRECISION)
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)

    def product(self, x: int, weight: int, out: int, T: int, n: int, k: int, dtype: str, out_dtype: str) -> None:
        """Enqueue out [T, n] = x [T, k] · weight [n, k]ᵀ; row-major here is column-major transposed there."""
        kind, out_kind = CUDA_TYPES[dtype], CUDA_TYPES[out_dtype]
        one, zero = ctypes.byref(self._one), ctypes.byref(self._zero)
        pointers = [ctypes.c_void_p(pointer) for pointer in (weight, x, out)]
        sizes = (OP_T, OP_N, n, T, k, one, pointers[0], kind, k, pointers[1], kind, k, zero, pointers[2], out_kind, n)
        self._call("cublasGemmEx", self._handle, *sizes, COMPUTE_32F, DEFAULT_ALGORITHM)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise KvperfError(f"{name} failed with status {status}", "is cuBLAS of this CUDA version installed?")


def library() -> ctypes.CDLL:
    """cuBLAS from its wheel, or wherever the loader finds it."""
    import contextlib

    with contextlib.suppress(Exception):  # what CuPy finds its libraries with; its own binding loads them late
        from cuda.pathfinder import load_nvidia_dynamic_lib  # pyright: ignore[reportMissingImports]

        return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
    for name in LIBRARIES:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    raise KvperfError("cuBLAS is not installed", "pip install nvidia-cublas, or a CUDA toolkit")
