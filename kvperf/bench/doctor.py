"""What of a bench's needs is there: driver, GPU, CuPy, NVRTC, NVML, disassembler, and what is missing for what."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable
from typing import Literal

import msgspec

import kvperf
from kvperf.errors import KvperfError


class Finding(msgspec.Struct, frozen=True):
    """One part: what was found, or what to do where it is missing. `serves`: what needs it."""

    part: str
    there: bool
    found: str
    serves: str


class Diagnosis(msgspec.Struct, frozen=True, rename={"schema_version": "schema"}):
    """All parts, in the order of need."""

    schema_version: Literal["kvperf.doctor/1"]
    version: str
    findings: tuple[Finding, ...]


PARTS: tuple[tuple[str, str, str], ...] = (
    ("NVRTC", "kernel show, verify, bench", "pip install 'kvperf[kernels]'"),
    ("disassembler", "instruction counts of kernel show", "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"),
    ("driver", "bench", "install NVIDIA's driver; without a GPU, bench attention --emulate"),
    ("CuPy", "bench", "pip install 'kvperf[gpu]'"),
    ("GPU", "bench", "a GPU of compute capability 8.0 or later"),
    ("cuBLAS", "bench stages, bench step", "pip install nvidia-cublas"),
    ("NVML", "clocks, power and slowdowns of bench", "pip install nvidia-ml-py"),
    ("PyTorch", "bench --against torch", "pip install torch"),
    ("FlashInfer", "bench --against flashinfer", "pip install flashinfer-python"),
)


def diagnose() -> Diagnosis:
    """Ask for every part. Nothing that is missing or broken is an error here."""
    asked: dict[str, Callable[[], str]] = {
        "NVRTC": _nvrtc,
        "disassembler": _disassembler,
        "driver": _driver,
        "CuPy": lambda: _package("cupy"),
        "GPU": _gpu,
        "cuBLAS": _cublas,
        "NVML": _nvml,
        "PyTorch": lambda: _package("torch"),
        "FlashInfer": lambda: _package("flashinfer"),
    }
    found = tuple(_finding(part, serves, remedy, asked[part]) for part, serves, remedy in PARTS)
    return Diagnosis("kvperf.doctor/1", kvperf.__version__, found)


def _finding(part: str, serves: str, remedy: str, ask: Callable[[], str]) -> Finding:
    try:
        return Finding(part, True, ask(), serves)
    except Exception as problem:  # whatever is wrong with a part, the others are still asked
        why = problem.message if isinstance(problem, KvperfError) else str(problem).split("\n")[0]
        return Finding(part, False, f"{why}; {remedy}" if why else remedy, serves)


def _nvrtc() -> str:
    from kvperf.kernel import toolkit

    return str(toolkit.nvrtc().library)


def _disassembler() -> str:
    from kvperf.kernel import toolkit

    found = [toolkit.tool(name) for name in ("cuobjdump", "nvdisasm")]
    if None in found:
        raise KvperfError("cuobjdump or nvdisasm is missing", "")
    return str(found[0])


def _driver() -> str:
    version = ctypes.c_int()
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise KvperfError("no libcuda.so.1", "") from None
    if library.cuDriverGetVersion(ctypes.byref(version)):
        raise KvperfError("the driver does not answer", "")
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _package(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, packages_distributions, version

    if importlib.util.find_spec(name) is None:
        raise KvperfError("not installed", "")
    try:
        return version(packages_distributions()[name][0])
    except (PackageNotFoundError, KeyError, IndexError):
        return "version unknown"


def _gpu() -> str:
    from kvperf.bench.device import Device

    facts = Device().facts
    return f"{facts.name}, sm_{facts.capability}, {facts.sms} SMs"


def _cublas() -> str:
    from kvperf.bench.cublas import library

    return library()._name


def _nvml() -> str:
    _package("pynvml")
    import pynvml  # pyright: ignore[reportMissingImports]

    pynvml.nvmlInit()
    return f"driver {pynvml.nvmlSystemGetDriverVersion()}"
